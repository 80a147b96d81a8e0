//! What nodes do not serve for now by their own word: it is part of what each says of itself, and so
//! of the next view, beside the powers that operators set and never instead of them.

use std::sync::Arc;

use super::{Membership, time::BootTime, view::Digest};
use crate::model::{Abstention, Abstentions, NodeId, NodeSet};

impl Membership {
    /// Says what this node does not serve until told otherwise, by configuration: kernel groups have
    /// other numbers in another file. Of one that is not named it serves everything. A view with it
    /// will be installed by all.
    pub fn abstain(&mut self, now: BootTime, abstains: Arc<[([u8; 16], Abstention)]>) {
        self.begin_turn(now);
        if self.abstains != abstains {
            self.abstains = abstains;
            self.news(now);
        }
    }

    /// What this node does not serve with that configuration.
    pub(super) fn own_abstention(&self, digest: Digest) -> Abstention {
        let known = self.abstains.iter().find(|(of, _)| *of == digest);
        known.map_or(Abstention::NONE, |&(_, from)| from)
    }

    /// What the next view of these members is to say, if it names that configuration.
    pub(super) fn abstentions_due(&self, alive: NodeSet, digest: Digest) -> Arc<Abstentions> {
        let entries = alive.iter().map(|node| (node, self.abstention_of(node, digest)));
        let due = Abstentions::new(entries).expect("a set is in ascending order");
        let promised = &self.promised.content.abstentions;
        if **promised == due { Arc::clone(promised) } else { Arc::new(due) }
    }

    /// As the node says itself or, of one that is two links away, as agreed.
    fn abstention_of(&self, node: NodeId, digest: Digest) -> Abstention {
        if node == self.config.own {
            return self.own_abstention(digest);
        }
        let promised = &self.promised.content;
        let peer = self.peers.get(node.index()).filter(|_| self.hears.contains(node));
        match peer.and_then(|peer| peer.state()) {
            Some(state) if state.digest == digest => state.abstains,
            Some(state) if state.staged == Some(digest) => state.abstains_next,
            None if promised.digest == digest => promised.abstentions.of(node),
            _ => Abstention::NONE,
        }
    }
}
