//! The demo's servers and clients, and what they have seen.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::runtime::Runtime;

use crate::{
    lab::{Lab, VIP},
    traffic::{GRACE, HttpLoad, HttpServer, Outage, Request, UdpEcho, UdpProbe},
};

/// Where the web servers listen.
pub(super) const HTTP: SocketAddrV4 = SocketAddrV4::new(VIP, 80);

/// Time-out of a request. Less than TCP's first retransmission, 1 s: whoever loses one packet of
/// the handshake shows as a failure instead of a slow success.
pub(super) const PATIENCE: Duration = Duration::from_millis(900);

const ECHO: SocketAddrV4 = SocketAddrV4::new(VIP, 7000);
const REQUESTS_PER_SECOND: u32 = 300;

/// With a quarter of the buckets lost, the chance that none of them is probed is 1 in a million.
const FLOWS: usize = 48;

const PERIOD: Duration = Duration::from_millis(5);

/// Probes of each flow that must have been answered in a row to call it served.
const SERVED: usize = 20;

/// Servers on every node and, once started, traffic from every client.
#[derive(Debug)]
pub(super) struct Traffic<'a> {
    lab: &'a Lab,
    runtime: &'a Runtime,
    servers: Servers,
}

#[derive(Debug)]
struct Servers {
    http: Vec<HttpServer>,
    /// Only held: they count nothing.
    _echo: Vec<UdpEcho>,
}

/// Traffic that flows.
#[derive(Debug)]
pub(super) struct Flowing<'a> {
    servers: Servers,
    runtime: &'a Runtime,
    load: HttpLoad,
    probe: UdpProbe,
}

/// All that was seen from the first request to the last.
#[derive(Debug)]
pub(super) struct Seen {
    /// All HTTP requests.
    pub(super) requests: Vec<Request>,
    /// HTTP requests served, and datagrams answered, more than once.
    pub(super) duplicates: usize,
    /// Datagrams sent.
    pub(super) probes: usize,
}

impl<'a> Traffic<'a> {
    /// Starts the servers of all nodes.
    pub(super) fn new(lab: &'a Lab, runtime: &'a Runtime) -> Result<Self> {
        let http = lab.nodes().iter().map(|node| HttpServer::start(node, HTTP.port()));
        let echo = lab.nodes().iter().map(|node| UdpEcho::start(node, ECHO));
        let servers =
            Servers { http: http.collect::<Result<_>>()?, _echo: echo.collect::<Result<_>>()? };
        Ok(Self { lab, runtime, servers })
    }

    /// Lets the clients begin.
    pub(super) fn start(self) -> Result<Flowing<'a>> {
        let clients = self.lab.clients();
        Ok(Flowing {
            servers: self.servers,
            runtime: self.runtime,
            load: HttpLoad::start(clients, HTTP, REQUESTS_PER_SECOND, PATIENCE)?,
            probe: UdpProbe::start(clients, ECHO, FLOWS, PERIOD)?,
        })
    }
}

impl Flowing<'_> {
    /// Answered requests by node, so far.
    pub(super) fn shares(&self) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for node in self.load.requests().into_iter().filter_map(|request| request.outcome.ok()) {
            *shares.entry(node).or_default() += 1;
        }
        shares
    }

    /// How many requests have ended so far.
    pub(super) fn count(&self) -> usize {
        self.load.count()
    }

    /// Whether every flow is being served.
    pub(super) fn all_served(&self) -> bool {
        self.probe.log().all_answered(SERVED, GRACE)
    }

    /// Whether every flow is being served, and none of them by `node`.
    pub(super) fn all_served_without(&self, node: &str) -> bool {
        let owners = self.probe.log().owners(Instant::now());
        self.all_served() && owners.into_values().all(|owner| *owner != *node)
    }

    /// What happened to the flows of `node`, and to the others; see [`crate::traffic::ProbeLog`].
    pub(super) fn outage(&self, from: Instant, until: Instant, node: &str) -> Outage {
        self.probe.log().outage(from, until, node)
    }

    /// The requests that failed so far and were under way at some time between two instants.
    pub(super) fn failed_between(&self, from: Instant, until: Instant) -> Vec<Request> {
        let under_way =
            |request: &Request| request.started < until && request.started + request.latency > from;
        let failed = self.load.requests().into_iter().filter(|request| request.outcome.is_err());
        failed.filter(under_way).collect()
    }

    /// Ends all traffic.
    pub(super) fn stop(self) -> Result<Seen> {
        let requests = self.runtime.block_on(self.load.stop())?;
        let log = self.runtime.block_on(self.probe.stop());
        let mut served: HashMap<u64, usize> = HashMap::new();
        for id in self.servers.http.iter().flat_map(HttpServer::served) {
            *served.entry(id).or_default() += 1;
        }
        let twice = served.values().filter(|&&times| times > 1).count();
        let duplicates = twice + log.duplicates().len();
        Ok(Seen { requests, duplicates, probes: log.counts().0 })
    }
}
