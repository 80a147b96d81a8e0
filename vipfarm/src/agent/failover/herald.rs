//! Tells the network whose MAC a failover VIP has now.

use std::{os::fd::OwnedFd, sync::Arc};

use anyhow::Context;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::time::sleep;

use super::{Held, holder_of};
use crate::{
    agent::{
        announce::{Announcing, BURST, frame, teller::Tellers, unspoken},
        configurations::Configurations,
        conflicts::send,
        engine::Latest,
        history::{History, Level},
    },
    model::NodeId,
    status::NodeState,
};

/// Announces what this node has.
pub(super) struct Herald {
    own: NodeId,
    socket: OwnedFd,
    configurations: Configurations,
    latest: Latest,
    history: Arc<History>,
    announcing: Arc<Announcing>,
}

impl Herald {
    /// One that can send.
    pub(super) fn new(
        own: NodeId,
        configurations: Configurations,
        latest: Latest,
        history: Arc<History>,
        announcing: Arc<Announcing>,
    ) -> anyhow::Result<Self> {
        // Protocol 0: it hears nothing.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot open a packet socket: run as root, or with CAP_NET_RAW")?;
        Ok(Self { own, socket, configurations, latest, history, announcing })
    }

    /// Has everybody on their networks send what is for those VIPs to this node, as long as it has them.
    pub(super) async fn tell_all(self: Arc<Self>, taken: Vec<Held>) {
        let config = self.configurations.get(self.latest.get().digest);
        let tellers = Tellers::now(&config.farm, taken.iter().map(|held| held.vip)).await;
        for (round, pause) in BURST.into_iter().enumerate() {
            sleep(pause).await;
            for held in taken.iter().filter(|held| self.has(held)) {
                let teller = tellers.of(&held.interface, held.vip);
                let frames = frame::to_all_and_sundry(teller, held.vip);
                if round == 0 && frames.is_empty() {
                    let why = unspoken(&held.interface, held.vip);
                    self.history.push(Level::Warn, "clients_not_told", why);
                }
                for frame in frames {
                    // The next one of the burst makes up for what cannot be sent.
                    let sent = send(&self.socket, held.interface.index, &frame).is_ok();
                    self.announcing.count_broadcast(sent);
                }
            }
        }
    }

    /// Whether this node has the VIP at this moment.
    fn has(&self, held: &Held) -> bool {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        snapshot.state == NodeState::Up
            && snapshot.converged
            && holder_of(&config, &snapshot, &held.vip) == Some(self.own)
    }
}
