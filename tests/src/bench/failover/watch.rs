//! Probes from many flows, before, during and after what is done to the servers.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{Bench, PATIENCE};
use crate::{
    host::Host,
    lab::VIP,
    traffic::{GRACE, ProbeLog, UdpProbe},
};

/// Where the servers answer.
pub(super) const ECHO: SocketAddrV4 = SocketAddrV4::new(VIP, 7000);

/// Twenty for each of three nodes: the chance that one of them serves none is 1 in 10^10.
const FLOWS: usize = 60;

const PERIOD: Duration = Duration::from_millis(5);

/// Probes of each flow that must have been answered in a row to call it served.
const SERVED: usize = 20;

/// Traffic that is watched after an event, when everything is served again.
const AFTERMATH: Duration = Duration::from_millis(400);

/// Who served each flow last.
pub(super) type Owners = BTreeMap<SocketAddr, Arc<str>>;

/// Clients that are being served.
pub(super) struct Watch<'a> {
    bench: &'a Bench<'a>,
    probe: UdpProbe,
    from: Instant,
}

/// What they have seen.
pub(super) struct Seen {
    /// All probes.
    pub(super) log: Arc<ProbeLog>,
    /// Before what was done.
    pub(super) from: Instant,
    /// After its consequences.
    pub(super) until: Instant,
}

impl<'a> Watch<'a> {
    /// Lets the clients send, and waits until all of them are served by whom they should be, and for
    /// `phase` more: see [`super::phase`].
    pub(super) fn start(
        bench: &'a Bench<'a>,
        clients: &[Host],
        phase: Duration,
        expected: impl Fn(&Owners) -> bool,
    ) -> Result<Self> {
        let probe = UdpProbe::start(clients, ECHO, FLOWS, PERIOD)?;
        let mut watch = Self { bench, probe, from: Instant::now() };
        watch.until_served(expected)?;
        bench.interrupt.sleep(phase)?;
        watch.from = Instant::now();
        Ok(watch)
    }

    /// Waits until all clients are served, by whom they should be.
    pub(super) fn until_served(&self, expected: impl Fn(&Owners) -> bool) -> Result<()> {
        let log = self.probe.log();
        self.bench.until(PATIENCE, Duration::from_millis(20), || {
            let owners = log.owners(Instant::now());
            let served = owners.len() == FLOWS && log.all_answered(SERVED, GRACE);
            ensure!(served, "some clients are not served");
            ensure!(expected(&owners), "the clients are served by others than expected");
            Ok(())
        })
    }

    /// Watches the aftermath, and ends.
    pub(super) fn finish(self) -> Result<Seen> {
        self.bench.interrupt.sleep(AFTERMATH)?;
        self.until_served(|_| true)?;
        let until = Instant::now();
        let log = self.bench.runtime.block_on(self.probe.stop());
        Ok(Seen { log, from: self.from, until })
    }
}
