//! Old connections of buckets in a move: which buckets this node has given away and still serves
//! connections of (*lingering*), and which it has taken over while another node does (*inherited*).
//!
//! A node that gives a bucket away keeps it as lingering until it has no connection of it left, and
//! says so in its heartbeats. One that takes a bucket over takes it for inherited until all other nodes
//! of the view have said, in that view, what lingers with them, and as long as one of them names it.
//! A node that dies leaves the view, and what it named is inherited no more.

use std::sync::Arc;

use crate::{
    membership::{BootTime, Membership, PeerStatus},
    model::{Bitmap, NodeId},
    plan::Owners,
};

/// What heartbeats say begins with the number of the view up to which it holds: a heartbeat that says
/// that a view is installed may have been written before the kernel had let go.
const EPOCH: usize = 8;
/// Then comes a group after the other: its number, and its bitmap.
const ENTRY: usize = 1 + 32;

/// What becomes of old connections.
#[derive(Debug, Clone)]
pub struct Handover {
    /// By kernel group.
    lingering: Vec<Bitmap>,
    /// Taken over, and not all others have said yet what lingers with them.
    unsaid: Vec<Bitmap>,
    /// What lingers with others, by node.
    said: Vec<(NodeId, Vec<Bitmap>)>,
}

/// What another node of the view says.
#[derive(Debug, Clone)]
pub struct Said {
    /// Who.
    pub node: NodeId,
    /// What lingers there, as heartbeats say it; `None` while it has not installed this view.
    pub lingering: Option<Arc<[u8]>>,
}

impl Said {
    /// What a node says in the view of that number, which it has installed or not.
    pub fn of(node: NodeId, installed: bool, bytes: &Arc<[u8]>, epoch: u64) -> Self {
        let said = bytes.first_chunk::<EPOCH>();
        let holds = installed && said.is_some_and(|of| u64::from_be_bytes(*of) == epoch);
        Self { node, lingering: holds.then(|| Arc::clone(bytes)) }
    }

    /// What all other nodes of the view in force say; `None` while there is none.
    pub fn by_all(membership: &Membership, now: BootTime) -> Option<Vec<Self>> {
        let view = membership.view()?;
        let others = membership.peers(now).filter(|peer| view.alive.contains(peer.node));
        let said = |peer: PeerStatus| Self::of(peer.node, peer.agrees, &peer.lingering, view.epoch);
        Some(others.map(said).collect())
    }
}

impl Handover {
    /// Nothing in a move, of so many kernel groups.
    pub fn of(groups: usize) -> Self {
        let none = vec![Bitmap::default(); groups];
        Self { lingering: none.clone(), unsaid: none, said: Vec::new() }
    }

    /// Those buckets of the group are not this node's any more.
    pub fn give_away(&mut self, group: usize, buckets: Bitmap) {
        self.lingering[group] = self.lingering[group].or(buckets);
        self.unsaid[group] = self.unsaid[group].without(buckets);
    }

    /// Those buckets of the group are this node's from now on, and others may have connections.
    pub fn take_over(&mut self, group: usize, buckets: Bitmap) {
        self.lingering[group] = self.lingering[group].without(buckets);
        self.unsaid[group] = self.unsaid[group].or(buckets);
    }

    /// Forgets everything: the node serves nothing any more.
    pub fn forget(&mut self) {
        *self = Self::of(self.lingering.len());
    }

    /// Whether anything is in a move.
    pub fn is_over(&self) -> bool {
        let none = |bitmaps: &[Bitmap]| bitmaps.iter().all(|bitmap| bitmap.is_empty());
        none(&self.lingering) && none(&self.unsaid) && self.said.is_empty()
    }

    /// What lingers here, by kernel group.
    pub fn lingering(&self) -> &[Bitmap] {
        &self.lingering
    }

    /// Only those buckets, by kernel group, still have connections here.
    pub fn keep(&mut self, buckets: &[Bitmap]) {
        for (group, lingering) in self.lingering.iter_mut().enumerate() {
            *lingering = lingering.and(buckets.get(group).copied().unwrap_or_default());
        }
    }

    /// Takes what the other nodes of the view say.
    pub fn hear(&mut self, others: &[Said]) {
        let groups = self.lingering.len();
        let before = std::mem::take(&mut self.said);
        // Who is not in this view yet, or in a later one, has what it had.
        let has = |said: &Said| match &said.lingering {
            Some(bytes) => Some((said.node, decode(bytes, groups))),
            None => before.iter().find(|(node, _)| *node == said.node).cloned(),
        };
        self.said = others
            .iter()
            .filter_map(has)
            .filter(|(_, bitmaps)| bitmaps.iter().any(|bitmap| !bitmap.is_empty()))
            .collect();
        if others.iter().all(|said| said.lingering.is_some()) {
            self.unsaid.fill(Bitmap::default());
        }
    }

    /// The buckets in a move, by kernel group, of a node that accepts those.
    pub fn moving(&self, accept: &[Bitmap]) -> Vec<Bitmap> {
        let group = |(group, accept): (usize, &Bitmap)| {
            let others = self.said.iter().map(|(_, bitmaps)| bitmaps[group]);
            let inherited = others.fold(self.unsaid[group], Bitmap::or).and(*accept);
            self.lingering[group].without(*accept).or(inherited)
        };
        accept.iter().enumerate().map(group).collect()
    }

    /// Who has connections of each bucket, by kernel group; the last one to say so where several do.
    pub fn former(&self) -> Vec<Owners> {
        let mut former = vec![Owners::NONE; self.lingering.len()];
        for (node, bitmaps) in &self.said {
            let index = u8::try_from(node.index()).unwrap_or(u8::MAX);
            for (owners, bitmap) in former.iter_mut().zip(bitmaps) {
                let has = |bucket: &usize| bitmap.has(*bucket);
                (0..256).filter(has).for_each(|bucket| owners.0[bucket] = index);
            }
        }
        former
    }

    /// What heartbeats are to say of what lingers here since the view of that number.
    pub fn encode(&self, epoch: u64) -> Vec<u8> {
        let mut bytes = epoch.to_be_bytes().to_vec();
        for (group, bitmap) in (0u8..).zip(&self.lingering) {
            if !bitmap.is_empty() {
                bytes.push(group);
                bytes.extend(bitmap.0.iter().flat_map(|word| word.to_be_bytes()));
            }
        }
        bytes
    }

    /// The same with other kernel groups: `former` tells which one each of the `groups` was before.
    #[must_use]
    pub fn renumbered(&self, former: impl Fn(usize) -> Option<usize>, groups: usize) -> Self {
        let take = |bitmaps: &[Bitmap]| -> Vec<Bitmap> {
            let bitmap = |group| former(group).and_then(|group| bitmaps.get(group).copied());
            (0..groups).map(|group| bitmap(group).unwrap_or_default()).collect()
        };
        Self {
            lingering: take(&self.lingering),
            unsaid: take(&self.unsaid),
            said: self.said.iter().map(|(node, bitmaps)| (*node, take(bitmaps))).collect(),
        }
    }
}

/// What another node's heartbeat says. It has the same groups; what it should not say is nothing.
fn decode(bytes: &[u8], groups: usize) -> Vec<Bitmap> {
    let mut bitmaps = vec![Bitmap::default(); groups];
    for entry in bytes.get(EPOCH..).unwrap_or_default().chunks_exact(ENTRY) {
        if let (Some(bitmap), (words, [])) =
            (bitmaps.get_mut(usize::from(entry[0])), entry[1..].as_chunks::<8>())
        {
            *bitmap = Bitmap(std::array::from_fn(|word| u64::from_be_bytes(words[word])));
        }
    }
    bitmaps
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: Bitmap = Bitmap([0xff, 0, 0, 0]);
    const ALL: Bitmap = Bitmap([u64::MAX; 4]);
    const NONE: Bitmap = Bitmap([0; 4]);

    fn node(index: usize) -> NodeId {
        NodeId::new(index).expect("in range")
    }

    #[test]
    fn what_is_given_away_lingers_until_it_has_no_connection_or_comes_back() {
        let mut handover = Handover::of(2);
        handover.give_away(1, LOW);
        assert_eq!(handover.moving(&[ALL, ALL.without(LOW)]), [NONE, LOW]);
        handover.keep(&[NONE, Bitmap([0x0f, 0, 0, 0])]);
        assert_eq!(handover.lingering(), [NONE, Bitmap([0x0f, 0, 0, 0])]);
        handover.take_over(1, LOW);
        assert!(handover.lingering()[1].is_empty(), "it is this node's again");
    }

    #[test]
    fn what_is_taken_over_is_inherited_until_all_have_said_that_they_have_nothing_of_it() {
        let mut handover = Handover::of(1);
        let mut theirs = Handover::of(1);
        theirs.give_away(0, LOW);
        let bytes = theirs.encode(7).into();
        handover.take_over(0, ALL);
        assert_eq!(handover.moving(&[ALL]), [ALL], "nobody has said anything");
        let silent = Said { node: node(2), lingering: None };
        let says = Said::of(node(1), true, &bytes, 7);
        assert!(says.lingering.is_some());
        assert!(Said::of(node(1), true, &bytes, 8).lingering.is_none(), "of the view before");
        assert!(Said::of(node(1), false, &bytes, 7).lingering.is_none(), "not installed");
        assert!(Said::of(node(1), true, &Arc::default(), 7).lingering.is_none(), "nothing said yet");
        handover.hear(&[says.clone(), silent]);
        assert_eq!(handover.moving(&[ALL]), [ALL], "one has not");
        handover.hear(&[says, Said { node: node(2), lingering: Some(Arc::default()) }]);
        assert_eq!(handover.moving(&[ALL]), [LOW]);
        handover.hear(&[Said { node: node(1), lingering: None }]);
        assert_eq!(handover.moving(&[ALL]), [LOW], "a view ahead");
        assert_eq!((handover.former()[0].0[7], handover.former()[0].0[8]), (1, u8::MAX));
        handover.hear(&[]);
        assert_eq!(handover.moving(&[ALL]), [NONE], "node2 is dead: a reset is right");
        assert!(handover.is_over());
    }

    #[test]
    fn what_is_said_is_read_and_nonsense_is_nothing() {
        let mut handover = Handover::of(3);
        handover.give_away(2, LOW);
        handover.give_away(0, ALL);
        assert_eq!(decode(&handover.encode(0), 3), [ALL, NONE, LOW]);
        assert_eq!(decode(&handover.encode(0), 1), [ALL]);
        assert_eq!(decode(&[7; 50], 3), [NONE; 3]);
    }
}
