//! The question and the answer of `trace`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::summary::Summary;

/// Whose frames: the parameters of `GET /v1/trace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceQuery {
    /// The client's address.
    pub client: IpAddr,
    /// Its port; absent = all, and what has no ports.
    pub client_port: Option<u16>,
}

impl TraceQuery {
    /// The query as the part of a URL after `?`; every character in it may stand there unescaped.
    pub fn to_url_query(&self) -> String {
        let Self { client, client_port } = self;
        let port = client_port.map_or_else(String::new, |port| format!("&client_port={port}"));
        format!("client={client}{port}")
    }
}

/// The answer of `GET /v1/trace`: what came since the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TraceReply {
    /// The frames, oldest first of each interface.
    pub frames: Vec<TracedFrame>,
    /// How many of them are missing, because there were too many in a moment.
    pub lost: u64,
}

/// One frame of the client that was for a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedFrame {
    /// RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// On which it came.
    pub interface: String,
    /// `pass`, `accept`, `drop` or `forward`: what the kernel did.
    pub verdict: String,
    /// The kernel's reason, one of the words of `packets`.
    pub reason: String,
    /// The bucket; absent if it did not come to one.
    pub bucket: Option<u8>,
    /// The group.
    pub group: Option<String>,
    /// The bucket's owner in the view in force.
    pub owner: Option<String>,
    /// The rule that matched, as in the file.
    pub rule: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub packet: Summary,
}
