//! The clients: of each family, connections that are open all the while, and short ones beside them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;

use super::Bench;
use crate::{
    lab::{Lab, VIP, VIP_V6},
    traffic::{Fate, HttpLoad, HttpServer, Request, StreamEcho, Streams},
};

/// Where connections that stay are served, and where short ones.
pub(super) const LONG: u16 = 5000;
pub(super) const SHORT: u16 = 80;

/// Between two blocks of a connection.
const PAUSE: Duration = Duration::from_millis(50);

/// New connections of each family in a second, each with one request.
const RATE: u32 = 60;

/// How long a request may take: a SYN or two may be lost with a node that dies.
const PATIENCE: Duration = Duration::from_secs(8);

/// Talk before the event.
const BEFORE: Duration = Duration::from_millis(300);

/// Servers on all nodes, and clients that talk to them.
pub(super) struct Traffic {
    echoes: Vec<StreamEcho>,
    _servers: Vec<HttpServer>,
    families: Vec<(&'static str, Streams, HttpLoad)>,
}

/// What became of the connections of one family.
pub(super) struct Fates {
    /// `ipv4` or `ipv6`.
    pub(super) family: &'static str,
    /// Of the connections that stayed.
    pub(super) long: Vec<Fate>,
    /// Of the short ones.
    pub(super) short: Vec<Request>,
    /// By node in the order of the lab, the clients whose connections it had.
    pub(super) served: Vec<BTreeSet<SocketAddr>>,
}

impl Traffic {
    pub(super) fn start(bench: &Bench<'_>, lab: &Lab) -> Result<Self> {
        let echoes = lab.nodes().iter().map(|node| StreamEcho::start(node, LONG));
        let servers = lab.nodes().iter().map(|node| HttpServer::start(node, SHORT));
        let (echoes, servers) = (echoes.collect::<Result<_>>()?, servers.collect::<Result<_>>()?);
        let mut families = Vec::new();
        for (name, vip) in [("ipv4", IpAddr::from(VIP)), ("ipv6", VIP_V6.into())] {
            let clients = lab.clients();
            let long = Streams::start(clients, (vip, LONG), bench.connections, PAUSE);
            let long = bench.runtime.block_on(long)?;
            families.push((name, long, HttpLoad::start(clients, (vip, SHORT), RATE, PATIENCE)?));
        }
        bench.interrupt.sleep(BEFORE)?;
        Ok(Self { echoes, _servers: servers, families })
    }

    /// Ends the clients, and says what they saw.
    pub(super) fn stop(self, bench: &Bench<'_>) -> Result<Vec<Fates>> {
        let served: Vec<_> = self.echoes.iter().map(StreamEcho::clients).collect();
        let stop = |(family, long, short): (_, Streams, HttpLoad)| {
            let short = bench.runtime.block_on(short.stop())?;
            Ok(Fates { family, long: long.stop(), short, served: served.clone() })
        };
        self.families.into_iter().map(stop).collect()
    }
}
