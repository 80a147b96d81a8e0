//! Old connections of buckets in a move: which buckets this node has given away and still serves
//! connections of (*lingering*), and which it has taken over while another node does (*inherited*).
//!
//! A node that gives a bucket away keeps it as lingering until it has no connection of it left, and
//! says so in its heartbeats. One that takes a bucket over takes it for inherited until all other nodes
//! of the view have said, in that view, what lingers with them, and as long as one of them names it.
//! A node that dies leaves the view, and what it named is inherited no more.

use vipfarm_common::layout::{NOBODY, SEVERAL};

use crate::{
    model::{Bitmap, NodeId},
    plan::Owners,
};

/// What heartbeats say begins with this: those that say nothing have been written before the kernel had
/// let go.
const HEAD: [u8; 1] = [1];
/// Then comes a group after the other: its number, and its bitmap.
const ENTRY: usize = 1 + 32;

/// What becomes of old connections.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq, Hash))]
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
pub struct Said<'a> {
    /// Who.
    pub node: NodeId,
    /// What lingers there, as heartbeats say it; `None` while it has not installed this view.
    pub lingering: Option<&'a [u8]>,
}

impl<'a> Said<'a> {
    /// What a node says in a view, which it has installed or not.
    pub fn of(node: NodeId, installed: bool, bytes: &'a [u8]) -> Self {
        Self { node, lingering: bytes.strip_prefix(&HEAD).filter(|_| installed) }
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
    pub fn hear(&mut self, others: &[Said<'_>]) {
        let groups = self.lingering.len();
        let before = std::mem::take(&mut self.said);
        // Who is not in this view yet, or in a later one, has what it had.
        let has = |said: &Said<'_>| match said.lingering {
            Some(bytes) => Some((said.node, decode(bytes, groups))),
            None => before.iter().find(|(node, _)| *node == said.node).cloned(),
        };
        self.said = others
            .iter()
            .filter_map(has)
            .filter(|(_, bitmaps)| bitmaps.iter().any(|bitmap| !bitmap.is_empty()))
            .collect();
        if others.iter().all(|said| said.lingering.is_some()) {
            self.hear_nothing_new();
        }
    }

    /// All have said what lingers with them.
    pub fn hear_nothing_new(&mut self) {
        self.unsaid.fill(Bitmap::default());
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

    /// Who has connections of each bucket, by kernel group.
    pub fn former(&self) -> Vec<Owners> {
        let mut former = vec![Owners::NONE; self.lingering.len()];
        for (node, bitmaps) in &self.said {
            let index = u8::try_from(node.index()).unwrap_or(u8::MAX);
            for (owners, bitmap) in former.iter_mut().zip(bitmaps) {
                let has = |bucket: &usize| bitmap.has(*bucket);
                for bucket in (0..256).filter(has) {
                    let before = owners.0[bucket];
                    owners.0[bucket] = if before == NOBODY { index } else { SEVERAL };
                }
            }
        }
        former
    }

    /// What heartbeats are to say of what lingers here.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
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
    for entry in bytes.chunks_exact(ENTRY) {
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
        let bytes = theirs.encode();
        handover.take_over(0, ALL);
        assert_eq!(handover.moving(&[ALL]), [ALL], "nobody has said anything");
        let silent = Said { node: node(2), lingering: None };
        let says = Said::of(node(1), true, &bytes);
        assert!(says.lingering.is_some());
        assert!(Said::of(node(1), false, &bytes).lingering.is_none(), "not installed");
        assert!(Said::of(node(1), true, &[]).lingering.is_none(), "nothing said yet");
        handover.hear(&[says.clone(), silent]);
        assert_eq!(handover.moving(&[ALL]), [ALL], "one has not");
        handover.hear(&[says, Said { node: node(2), lingering: Some(&[]) }]);
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
        assert_eq!(decode(&handover.encode()[HEAD.len()..], 3), [ALL, NONE, LOW]);
        assert_eq!(decode(&handover.encode()[HEAD.len()..], 1), [ALL]);
        assert_eq!(decode(&[7; 50], 3), [NONE; 3]);
    }
}
