//! Clients that number their requests, while something is done to the farm.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vipfarm_lab::{
    Host, Lab,
    farm::PATIENCE,
    traffic::{GRACE, ProbeLog, UdpEcho, UdpProbe},
};

use crate::ECHO;

/// With a third of the buckets lost, the chance that none of them is probed is 1 in 10 million.
const FLOWS: usize = 40;

/// How often each flow asks.
pub(crate) const PERIOD: Duration = Duration::from_millis(4);

/// What a client may wait for when nodes come, leave or change their powers: its buckets change hands
/// in a few milliseconds, and one datagram may fall between.
pub(crate) const HANDOVER: Duration = Duration::from_millis(50);

/// Steady datagrams to the VIP of a farm whose nodes all echo.
pub(crate) struct Probed {
    _echoes: Vec<UdpEcho>,
    probe: UdpProbe,
}

impl Probed {
    /// Traffic that nobody need serve yet.
    pub(crate) fn begin(lab: &Lab, period: Duration) -> Self {
        Self::begin_to(lab, lab.clients(), ECHO.into(), period)
    }

    fn begin_to(lab: &Lab, clients: &[Host], to: SocketAddr, period: Duration) -> Self {
        let echoes = lab.nodes().iter().map(|node| UdpEcho::start(node, to).unwrap()).collect();
        let probe = UdpProbe::start(clients, to, FLOWS, period).unwrap();
        Self { _echoes: echoes, probe }
    }

    /// Traffic to nodes that echo anyway, which is served.
    pub(crate) async fn start_anew(lab: &Lab, to: SocketAddr, period: Duration) -> Self {
        let probe = UdpProbe::start(lab.clients(), to, FLOWS, period).unwrap();
        let probed = Self { _echoes: Vec::new(), probe };
        probed.all_served().await;
        probed
    }

    /// Traffic that is served.
    pub(crate) async fn start(lab: &Lab) -> Self {
        Self::start_to(lab, ECHO.into()).await
    }

    /// As [`Probed::start`], to that VIP and port.
    pub(crate) async fn start_to(lab: &Lab, to: SocketAddr) -> Self {
        Self::start_from(lab, lab.clients(), to, PERIOD).await
    }

    /// As [`Probed::start_to`], of those clients, each flow once a period.
    pub(crate) async fn start_from(
        lab: &Lab,
        clients: &[Host],
        to: SocketAddr,
        period: Duration,
    ) -> Self {
        let probed = Self::begin_to(lab, clients, to, period);
        probed.all_served().await;
        probed
    }

    /// Waits until every flow is served.
    pub(crate) async fn all_served(&self) {
        let begin = Instant::now();
        while !self.probe.log().all_answered(20, GRACE) {
            assert!(begin.elapsed() < PATIENCE, "some clients are not served");
            sleep(PERIOD).await;
        }
    }

    pub(crate) fn log(&self) -> &ProbeLog {
        self.probe.log()
    }

    pub(crate) fn is_served_by(&self, node: &str) -> bool {
        self.log().owners(Instant::now()).values().any(|owner| **owner == *node)
    }

    /// Ends the traffic: nothing was answered twice.
    pub(crate) async fn stop(self) -> Arc<ProbeLog> {
        let log = self.end().await;
        let twice = log.duplicates();
        assert!(twice.is_empty(), "{} datagrams were answered twice: {twice:?}", twice.len());
        log
    }

    /// As [`Probed::stop`], of traffic that nobody's death has disturbed since then.
    pub(crate) async fn stop_unharmed(self, since: Instant) -> Arc<ProbeLog> {
        let until = Instant::now();
        let log = self.stop().await;
        let longest = log.longest_gap(since, until);
        println!("{} of {} datagrams lost, {longest:?}", log.lost(since, until), log.counts().0);
        assert!(longest < HANDOVER, "some client waited for {longest:?}, and nobody died");
        log
    }

    /// Ends the traffic, whatever it saw.
    pub(crate) async fn end(self) -> Arc<ProbeLog> {
        let log = self.probe.stop().await;
        assert!(log.counts().0 > 1000, "hardly anything was asked: {:?}", log.counts());
        log
    }
}
