//! What nodes agree on: a view, and the lives of the nodes in it.

use std::sync::Arc;

use crate::model::{Abstentions, NodeId, NodeSet, Overrides, StayKind, View};

pub(super) use crate::model::Life;

/// Digest of a configuration.
pub(super) type Digest = [u8; 16];

/// The life that is part of an incarnation: the low half of any number.
pub(super) fn life(incarnation: u64) -> Life {
    let [.., a, b, c, d] = incarnation.to_be_bytes();
    Life::from_be_bytes([a, b, c, d])
}

/// Which view. Of two, the higher goes first; no agent uses one twice, and a new agent of the node
/// has another incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct ViewId {
    pub(super) epoch: u64,
    pub(super) coordinator: NodeId,
    /// The coordinator's.
    pub(super) incarnation: u64,
}

/// A view as nodes name it to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Stamp {
    pub(super) id: ViewId,
    /// Over the id and all of the content.
    pub(super) hash: [u8; 16],
}

/// What a node's kernel accepts in a view, as its driver has read it back. Opaque to this machine,
/// which only carries it to the peers: nothing is decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Proof {
    /// Number of the view in which it was taken; 0 = none was.
    pub epoch: u64,
    /// Of what is accepted.
    pub digest: u64,
}

/// What a view says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Content {
    pub(super) alive: NodeSet,
    pub(super) idle: NodeSet,
    pub(super) digest: Digest,
    /// Of the members, in ascending order.
    pub(super) lives: Vec<Life>,
    pub(super) powers: Arc<Overrides>,
    pub(super) abstentions: Arc<Abstentions>,
}

impl Content {
    /// The member's life; `None` if the node is none.
    pub(super) fn life_of(&self, node: NodeId) -> Option<Life> {
        let before = self.alive.bits() & !(u64::MAX << node.index());
        let place = before.count_ones() as usize;
        self.lives.get(place).copied().filter(|_| self.alive.contains(node))
    }

    /// The members that may own buckets.
    pub(super) fn owners(&self) -> NodeSet {
        self.alive.difference(self.idle)
    }
}

/// A view proposed by its coordinator. A node that *promises* it accepts no bucket that is not its
/// own in it; a node *installs* it when all members have promised it.
#[derive(Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct Agreement {
    pub(super) stamp: Stamp,
    pub(super) content: Content,
}

impl Agreement {
    pub(super) fn new(id: ViewId, content: Content) -> Self {
        Self { stamp: Stamp { id, hash: hash(id, &content) }, content }
    }

    pub(super) fn id(&self) -> ViewId {
        self.stamp.id
    }

    pub(super) fn view(&self) -> View {
        let Content { alive, idle, digest, ref powers, ref abstentions, .. } = self.content;
        let ViewId { epoch, coordinator, .. } = self.stamp.id;
        let (powers, abstentions) = (Arc::clone(powers), Arc::clone(abstentions));
        View { epoch, coordinator, alive, idle, powers, abstentions, digest }
    }
}

fn hash(id: ViewId, content: &Content) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("vipfarm 4 view");
    hasher
        .update(&id.epoch.to_be_bytes())
        .update(&(id.coordinator.index() as u64).to_be_bytes())
        .update(&id.incarnation.to_be_bytes())
        .update(&content.alive.bits().to_be_bytes())
        .update(&content.idle.bits().to_be_bytes())
        .update(&content.digest);
    for life in &content.lives {
        hasher.update(&life.to_be_bytes());
    }
    let version = content.powers.version();
    hasher.update(&version.counter.to_be_bytes()).update(&[version.author]);
    for entry in content.powers.entries() {
        hasher
            .update(&(entry.node.index() as u64).to_be_bytes())
            .update(&[u8::from(entry.group.is_some()), entry.group.unwrap_or(0)])
            .update(&entry.power.to_be_bytes())
            .update(&[u8::from(entry.life.is_some())])
            .update(&entry.life.unwrap_or(0).to_be_bytes());
    }
    hasher.update(&(content.powers.stays().len() as u64).to_be_bytes());
    for stay in content.powers.stays() {
        hasher
            .update(&stay.vip.0.to_be_bytes())
            .update(&[u8::from(stay.kind == StayKind::Pinned)])
            .update(&(stay.node.index() as u64).to_be_bytes())
            .update(&[u8::from(stay.life.is_some())])
            .update(&stay.life.unwrap_or(0).to_be_bytes());
    }
    for (node, from) in content.abstentions.entries() {
        hasher.update(&(node.index() as u64).to_be_bytes()).update(&from.bits().to_be_bytes());
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Abstention, Override, Stay, VipId};

    #[test]
    fn lives_are_found_by_member() {
        let alive = NodeSet::from_bits(0b1000_0000_0000_1010);
        let content = Content { alive, lives: vec![10, 30, 50], ..Content::default() };
        let lives = [0, 1, 2, 3, 15, 63].map(|n| content.life_of(NodeId::new(n).expect("a node")));
        assert_eq!(lives, [None, Some(10), None, Some(30), Some(50), None]);
    }

    #[test]
    fn every_part_of_a_view_is_in_its_hash() {
        let (id, content) = (ViewId::default(), Content::default());
        let node = NodeId::new(1).expect("a node");
        let entry = Override::persistent(node, Some(0), 1);
        let powers = |entry| Arc::new(Overrides::default().with(node, entry).expect("room"));
        let abstain = |group| {
            let entry = (node, Abstention::NONE.and_from(group));
            Arc::new(Abstentions::new([entry]).expect("in order"))
        };
        let lives = [0, 1].map(|life| powers(Override { life: Some(life), ..entry }));
        let stay = Stay { vip: VipId(1), kind: StayKind::Pinned, node, life: None };
        let stays = [
            stay,
            Stay { vip: VipId(2), ..stay },
            Stay { kind: StayKind::Incumbent, ..stay },
            Stay { node: NodeId::default(), ..stay },
            Stay { life: Some(0), ..stay },
            Stay { life: Some(1), ..stay },
        ];
        let stays = stays.map(|stay| Overrides::default().and([stay]).expect("room"));
        let stays = stays.map(|powers| {
            Agreement::new(id, Content { powers: Arc::new(powers), ..content.clone() })
        });
        let others = [
            Agreement::new(ViewId { epoch: 1, ..id }, content.clone()),
            Agreement::new(ViewId { coordinator: node, ..id }, content.clone()),
            Agreement::new(ViewId { incarnation: 1, ..id }, content.clone()),
            Agreement::new(id, Content { alive: NodeSet::EMPTY.with(node), ..content.clone() }),
            Agreement::new(id, Content { idle: NodeSet::EMPTY.with(node), ..content.clone() }),
            Agreement::new(id, Content { digest: [1; 16], ..content.clone() }),
            Agreement::new(id, Content { lives: vec![1], ..content.clone() }),
            Agreement::new(id, Content { powers: powers(entry), ..content.clone() }),
            Agreement::new(id, Content { abstentions: abstain(0), ..content.clone() }),
            Agreement::new(id, Content { abstentions: abstain(1), ..content.clone() }),
        ];
        let lives = lives.map(|powers| Agreement::new(id, Content { powers, ..content.clone() }));
        let all = others.iter().chain(&lives).chain(&stays);
        let mut hashes: Vec<_> = all.map(|it| it.stamp.hash).collect();
        hashes.push(Agreement::new(id, content).stamp.hash);
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 19);
    }
}
