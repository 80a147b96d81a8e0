//! A steady stream of numbered datagrams from many flows.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use super::{Task, probe_log::ProbeLog, udp_echo::RECEIVE_BUFFER};
use crate::host::Host;

/// What an answer may take before its probe counts as lost.
pub const GRACE: Duration = Duration::from_millis(200);

/// Groups of flows that are sent in turn, spread over the period: all flows at once would leave a
/// short interruption of all of them unseen between two probes.
const PHASES: u32 = 5;

/// Running probes; they end with [`UdpProbe::stop`] or when dropped.
#[derive(Debug)]
pub struct UdpProbe {
    log: Arc<ProbeLog>,
    senders: Vec<Task>,
    receivers: Vec<Task>,
}

impl UdpProbe {
    /// Sends to `target` one datagram of each of `flows` flows every `period`. A flow is one
    /// address of one client, in turn, with a port of the kernel's choice.
    pub fn start(
        clients: &[Host],
        target: impl Into<SocketAddr>,
        flows: usize,
        period: Duration,
    ) -> Result<Self> {
        let target = target.into();
        ensure!(!clients.is_empty() && flows > 0, "probing needs clients and flows");
        let mut sockets = Vec::new();
        for (i, client) in clients.iter().enumerate() {
            let own = (0..flows).skip(i).step_by(clients.len()).count();
            let made = client.in_ns(|| connect(client, target, own));
            sockets.extend(made.with_context(|| format!("{}: probe sockets", client.name()))?);
        }
        let (sockets, addresses): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        let sockets = sockets.into_iter().map(|s| tokio::net::UdpSocket::from_std(s).map(Arc::new));
        let sockets: Vec<_> = sockets.collect::<Result<_, _>>()?;
        let log = Arc::new(ProbeLog::new(period, addresses));
        let receive = |(flow, socket): (usize, &Arc<tokio::net::UdpSocket>)| {
            Task::spawn(receive(Arc::clone(socket), flow, Arc::clone(&log)))
        };
        let receivers = sockets.iter().enumerate().map(receive).collect();
        let flows: Vec<_> = sockets.into_iter().enumerate().collect();
        let phase = |phase: u32| {
            let own = flows.iter().skip(phase as usize).step_by(PHASES as usize).cloned().collect();
            Task::spawn(send(own, Arc::clone(&log), period, period * phase / PHASES))
        };
        let senders = (0..PHASES).map(phase).collect();
        Ok(Self { log, senders, receivers })
    }

    /// What is known so far. Probes younger than [`GRACE`] may still be answered.
    pub fn log(&self) -> &ProbeLog {
        &self.log
    }

    /// Ends sending, waits [`GRACE`] for answers, and returns what is known then.
    pub async fn stop(self) -> Arc<ProbeLog> {
        drop(self.senders);
        sleep(GRACE).await;
        drop(self.receivers);
        self.log
    }
}

async fn send(
    flows: Vec<(usize, Arc<tokio::net::UdpSocket>)>,
    log: Arc<ProbeLog>,
    period: Duration,
    delay: Duration,
) {
    let mut tick = interval_at(tokio::time::Instant::now() + delay, period);
    // No burst after a delay, and no drift by the little that every tick is late.
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        for (flow, socket) in &flows {
            let tag = log.sending(*flow, Instant::now());
            // What cannot be sent stays unanswered in the log, as a user would see it.
            let _ = socket.send(&tag).await;
        }
    }
}

async fn receive(socket: Arc<tokio::net::UdpSocket>, flow: usize, log: Arc<ProbeLog>) {
    let mut buffer = [0; 64];
    loop {
        // An error says that an earlier datagram was refused: it stays unanswered.
        if let Ok(length) = socket.recv(&mut buffer).await {
            log.answered(flow, &buffer[..length], Instant::now());
        }
    }
}

fn connect(
    client: &Host,
    target: SocketAddr,
    count: usize,
) -> Result<Vec<(UdpSocket, SocketAddr)>> {
    let one = |address| {
        let socket = UdpSocket::bind((address, 0))?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        let own = socket.local_addr()?;
        Ok((socket, own))
    };
    client.addresses_like(target.ip()).into_iter().cycle().take(count).map(one).collect()
}
