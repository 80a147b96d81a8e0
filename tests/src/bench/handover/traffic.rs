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
    traffic::{Fate, HttpLoad, HttpServer, Request, StreamEcho, Streams, Talk},
};

/// Where connections that stay are served, where those that are sent to unasked, and where short ones.
pub(super) const LONG: u16 = 5000;
pub(super) const PUSHED: u16 = 5001;
pub(super) const SHORT: u16 = 80;

/// Of so many connections that stay, one is a bulk transfer, and two are sent to unasked.
const MIX: usize = 10;

/// Between two blocks of a connection.
const PAUSE: Duration = Duration::from_millis(50);

/// New connections of each family in a second, each with one request.
const RATE: u32 = 300;

/// How long a request may take: a SYN or two may be lost with a node that dies.
const PATIENCE: Duration = Duration::from_secs(8);

/// Talk before the event.
const BEFORE: Duration = Duration::from_millis(300);

/// Servers on all nodes, and clients that talk to them.
pub(super) struct Traffic {
    echoes: Vec<StreamEcho>,
    pushers: Vec<StreamEcho>,
    servers: Vec<HttpServer>,
    families: Vec<(&'static str, Vec<Streams>, HttpLoad)>,
}

/// What became of the connections of one family.
pub(super) struct Fates {
    /// `ipv4` or `ipv6`.
    pub(super) family: &'static str,
    /// Of the connections that stayed.
    pub(super) long: Vec<Fate>,
    /// Of the short ones.
    pub(super) short: Vec<Request>,
    /// The numbers of requests, of either family, that were served more than once.
    pub(super) repeated: BTreeSet<u64>,
    /// By node in the order of the lab, the clients whose connections it had.
    pub(super) served: Vec<BTreeSet<SocketAddr>>,
}

impl Traffic {
    pub(super) fn start(bench: &Bench<'_>, lab: &Lab) -> Result<Self> {
        let echoes = lab.nodes().iter().map(|node| StreamEcho::start(node, LONG));
        let pushers = lab.nodes().iter().map(|node| StreamEcho::pushing(node, PUSHED));
        let servers = lab.nodes().iter().map(|node| HttpServer::start(node, SHORT));
        let (echoes, pushers) = (echoes.collect::<Result<_>>()?, pushers.collect::<Result<_>>()?);
        let servers = servers.collect::<Result<_>>()?;
        let (bulk, pushed) = (bench.connections.div_ceil(MIX), (2 * bench.connections) / MIX);
        let blocks = bench.connections.saturating_sub(bulk + pushed);
        let mut families = Vec::new();
        for (name, vip) in [("ipv4", IpAddr::from(VIP)), ("ipv6", VIP_V6.into())] {
            let clients = lab.clients();
            let long = |(talk, port, count)| {
                let streams = Streams::talking(talk, clients, (vip, port), count, PAUSE);
                bench.runtime.block_on(streams)
            };
            let kinds = [
                (Talk::Blocks, LONG, blocks),
                (Talk::Bulk, LONG, bulk),
                (Talk::Pushed, PUSHED, pushed),
            ];
            let long = kinds.into_iter().map(long).collect::<Result<_>>()?;
            families.push((name, long, HttpLoad::start(clients, (vip, SHORT), RATE, PATIENCE)?));
        }
        bench.interrupt.sleep(BEFORE)?;
        Ok(Self { echoes, pushers, servers, families })
    }

    /// Ends the clients, and says what they saw.
    pub(super) fn stop(self, bench: &Bench<'_>) -> Result<Vec<Fates>> {
        let nodes = self.echoes.iter().zip(&self.pushers);
        let served = nodes.map(|(echo, pusher)| &echo.clients() | &pusher.clients());
        let served: Vec<_> = served.collect();
        let ended = self.families.into_iter().map(|(family, long, short)| {
            let short = bench.runtime.block_on(short.stop())?;
            Ok((family, long.into_iter().flat_map(Streams::stop).collect(), short))
        });
        let ended: Vec<(_, Vec<_>, _)> = ended.collect::<Result<_>>()?;
        let mut seen = BTreeSet::new();
        let answered = self.servers.iter().flat_map(HttpServer::served);
        let repeated: BTreeSet<_> = answered.filter(|&number| !seen.insert(number)).collect();
        let fates = |(family, long, short)| {
            let (served, repeated) = (served.clone(), repeated.clone());
            Fates { family, long, short, repeated, served }
        };
        Ok(ended.into_iter().map(fates).collect())
    }
}
