//! What others claim of what is the farm's: asked for, heard, and told.

use std::time::Instant;

use vipfarm_common::layout::{Claim, ClaimKind};

use super::{Reporter, Watched};
use crate::{
    agent::{
        conflicts::{Prober, among, words},
        history::Level,
    },
    model::Mac,
    status::NodeState,
};

impl Reporter {
    /// Takes note of strangers and other farms that have claimed a VIP or its MAC since the last time,
    /// and tells of them now and then.
    pub(in crate::agent) fn note_conflicts(&self) {
        let snapshot = self.latest.get();
        self.health.note_asking(snapshot.state == NodeState::Up);
        if snapshot.state == NodeState::Joining {
            return; // The members' MACs may not be known yet.
        }
        let peers = || snapshot.peers.iter().flat_map(|peer| peer.macs.iter().flatten());
        let is_member = |mac| self.own_macs.iter().chain(peers()).any(|member| *member == mac);
        let is_stranger = |claim: &Claim| !is_member(Mac(claim.mac));
        let config = self.configurations.get(snapshot.digest);
        for (Watched { counters, conflicts, .. }, port) in self.watched.iter().zip(&config.ports) {
            // What has been counted has left its claim before.
            let (Ok(packets), Ok(claims)) = (counters.packets(), counters.take_claims()) else {
                continue;
            };
            let mut last = None;
            for claim in claims.into_iter().filter(is_stranger) {
                let vip = port.plan().services.vip(claim.vip).map(|(_, vip)| vip);
                let words = words(claim, vip);
                if let Some(vip) = vip.filter(|_| claim.kind != ClaimKind::Asks) {
                    self.health.note_claim(vip, words.clone());
                }
                last = Some(words);
            }
            if let Some(message) = conflicts.untold(Instant::now(), among(&packets), last) {
                self.history.push(Level::Warn, "address_conflict", message);
            }
        }
    }

    /// Asks whether somebody else has the farm's VIPs: for all of them, if that is this node's part, and
    /// for those of which a check wants to know. A machine's answer comes to the node alone that asked;
    /// and a node that serves nothing because of that check must hear when the claim has ended.
    pub(in crate::agent) async fn probe(&self, prober: &Prober) {
        let snapshot = self.latest.get();
        if snapshot.state != NodeState::Up {
            return;
        }
        let is_first = snapshot.view.owners().iter().next() == Some(self.own);
        let config = self.configurations.get(snapshot.digest);
        let vips = config.vips_if(|block| is_first || config.farm.must_be_unclaimed(block));
        let interfaces = &self.reloader.lock().await.interfaces;
        prober.probe(vips.map(|(at, vip)| (&interfaces[at], vip)));
    }
}
