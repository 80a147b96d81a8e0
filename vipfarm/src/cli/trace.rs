//! The arguments of `trace`.

use std::time::Duration;

use clap::Args;

use super::TalkArgs;
use crate::status::{HostPort, TraceQuery};

/// The longest time that a trace may take.
const LONGEST: Duration = Duration::from_hours(1);

/// Arguments of `trace`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TraceArgs {
    /// The client; with a port only that of its TCP and UDP packets
    #[arg(value_name = "CLIENT[:PORT]")]
    pub client: HostPort,

    /// How long; an hour at most
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub duration: Duration,

    /// Which agent, in what form.
    #[command(flatten)]
    pub talk: TalkArgs,
}

impl TraceArgs {
    /// Whose packets.
    pub fn query(&self) -> TraceQuery {
        TraceQuery { client: self.client.addr, client_port: self.client.port }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = super::humantime(text)?;
    if duration > LONGEST {
        return Err("a trace slows down all traffic of the VIPs: an hour at most".into());
    }
    Ok(duration)
}
