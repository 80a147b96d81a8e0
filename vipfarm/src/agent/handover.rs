//! Old connections of buckets in a move: which buckets this node has given away and still serves
//! connections of (*lingering*), and which it has taken over while another node does (*inherited*).
//!
//! A node that gives a bucket away keeps it as lingering until it has no connection of it left, and
//! says so in its heartbeats. One that takes a bucket over takes it for inherited until all other nodes
//! of the view have said, in that view, what lingers with them, and as long as one of them names it.
//! A node that dies leaves the view, and what it named is inherited no more.
//!
//! A node whose agent is about to be replaced leaves the view as well, but first says for how long its
//! kernel will go on serving what lingers (its *hold*). What it named is inherited until then, or until
//! its next agent is in the view and says what lingers.

use std::time::Duration;

use vipfarm_common::layout::{NOBODY, SEVERAL};

use crate::{
    membership::BootTime,
    model::{BUCKETS, Bitmap, NodeId},
    plan::Owners,
};

/// What heartbeats say begins with this: those that say nothing have been written before the kernel had
/// let go.
const HEAD: [u8; 1] = [1];
/// Then comes a group after the other: its number, and its bitmap.
const ENTRY: usize = 1 + 32;
/// In place of a group's number: the first word is how long the node holds, in milliseconds. Agents
/// that do not know of it take it for a group that they do not have.
const HOLD: u8 = 0xff;

/// How long a node may hold at most, whatever it says: its peers answer some of its clients by silence
/// until then.
pub const LONGEST_HOLD: Duration = Duration::from_mins(1);

/// What becomes of old connections.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq, Hash))]
pub struct Handover {
    /// By kernel group.
    lingering: Vec<Bitmap>,
    /// Taken over, and not all others have said yet what lingers with them.
    unsaid: Vec<Bitmap>,
    /// What lingers with others.
    said: Vec<Named>,
    /// How long this node will hold.
    hold: Option<Duration>,
}

/// What lingers with another node, by kernel group.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq, Hash))]
struct Named {
    node: NodeId,
    lingering: Vec<Bitmap>,
    /// Until when that is so although the node is not in the view.
    held_until: Option<BootTime>,
}

/// What another node says: one of the view, or one that has left it and holds.
#[derive(Debug, Clone)]
pub struct Said<'a> {
    /// Who.
    pub node: NodeId,
    /// What lingers there, as heartbeats say it; `None` while it has not installed this view.
    pub lingering: Option<&'a [u8]>,
    /// Until when it holds, if it does.
    pub held_until: Option<BootTime>,
}

impl<'a> Said<'a> {
    /// What a node says in a view, which it has installed or not.
    pub fn of(node: NodeId, installed: bool, bytes: &'a [u8]) -> Self {
        let lingering = bytes.strip_prefix(&HEAD).filter(|_| installed);
        Self { node, lingering, held_until: None }
    }

    /// The same of a node that has nothing, whatever it says.
    #[must_use]
    pub fn as_nothing(self) -> Self {
        Self { lingering: self.lingering.map(|_| &[][..]), ..self }
    }

    /// A node that has said nothing, and may serve old connections.
    pub fn nothing_yet(node: NodeId) -> Self {
        Self { node, lingering: None, held_until: None }
    }

    /// What a node says that leaves: as above while it is in the view, else as long as it holds. `None`
    /// if it does not. It was heard at `heard`.
    pub fn by_who_leaves(self, in_view: bool, bytes: &'a [u8], heard: BootTime) -> Option<Self> {
        let entries = bytes.strip_prefix(&HEAD).unwrap_or_default();
        let hold = entries.chunks_exact(ENTRY).find(|entry| entry[0] == HOLD);
        let hold = hold.and_then(|entry| entry[1..].first_chunk());
        let hold = hold.map(|word| Duration::from_millis(u64::from_be_bytes(*word)));
        let held_until = hold.map(|hold| heard + hold.min(LONGEST_HOLD));
        match held_until {
            _ if in_view => Some(Self { held_until, ..self }),
            Some(_) => Some(Self { lingering: Some(entries), held_until, ..self }),
            None => None,
        }
    }
}

impl Handover {
    /// Nothing in a move, of so many kernel groups.
    pub fn of(groups: usize) -> Self {
        let none = vec![Bitmap::default(); groups];
        Self { lingering: none.clone(), unsaid: none, said: Vec::new(), hold: None }
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

    /// Forgets all but what lingers here: the node serves nothing any more.
    pub fn forget_others(&mut self) {
        let lingering = std::mem::take(&mut self.lingering);
        *self = Self { lingering, ..Self::of(self.unsaid.len()) };
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

    /// What lingers with which other nodes, by kernel group.
    pub(super) fn said(&self) -> impl Iterator<Item = (NodeId, &[Bitmap])> + Clone {
        self.said.iter().map(|named| (named.node, &named.lingering[..]))
    }

    /// Only those buckets, by kernel group, still have connections here.
    pub fn keep(&mut self, buckets: &[Bitmap]) {
        for (group, lingering) in self.lingering.iter_mut().enumerate() {
            *lingering = lingering.and(buckets.get(group).copied().unwrap_or_default());
        }
    }

    /// Has the next heartbeats say that this node holds, for so long from then on.
    pub fn hold(&mut self, hold: Duration) {
        self.hold = Some(hold);
    }

    /// Takes what the other nodes say.
    pub fn hear(&mut self, others: &[Said<'_>], now: BootTime) {
        let groups = self.lingering.len();
        let mut before = std::mem::take(&mut self.said);
        let mut of = |node| {
            let at = before.iter().position(|named| named.node == node);
            at.map(|at| before.swap_remove(at))
        };
        let has = |said: &Said<'_>| {
            let had = of(said.node);
            match said.lingering {
                Some(bytes) => Some(Named {
                    node: said.node,
                    lingering: decode(bytes, groups),
                    held_until: said.held_until,
                }),
                // Who is not in this view yet, or in a later one, has what it had.
                None => had,
            }
        };
        self.said = others.iter().filter_map(has).collect();
        // Nobody hears of those any more, but they hold.
        self.said.extend(before.into_iter().filter(|named| named.held_until > Some(now)));
        let is_over = |named: &Named| named.lingering.iter().all(|bitmap| bitmap.is_empty());
        let has_ended = |named: &Named| named.held_until.is_some_and(|until| until <= now);
        self.said.retain(|named| !is_over(named) && !has_ended(named));
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
            let others = self.said.iter().map(|named| named.lingering[group]);
            let inherited = others.fold(self.unsaid[group], Bitmap::or).and(*accept);
            self.lingering[group].without(*accept).or(inherited)
        };
        accept.iter().enumerate().map(group).collect()
    }

    /// Who has connections of each bucket, by kernel group: also who is likely to, where not all have said.
    /// Where that is wrong, it costs a frame.
    pub fn former(&self, likely: &[Owners]) -> Vec<Owners> {
        let mut former = vec![Owners::NONE; self.lingering.len()];
        let mut add = |group: usize, buckets: Bitmap, node: &dyn Fn(usize) -> u8| {
            for bucket in (0..BUCKETS).filter(|bucket| buckets.has(*bucket)) {
                let (before, node) = (&mut former[group].0[bucket], node(bucket));
                if node != NOBODY && node != *before {
                    *before = if *before == NOBODY { node } else { SEVERAL };
                }
            }
        };
        for Named { node, lingering, .. } in &self.said {
            let index = Owners::index(Some(*node));
            for (group, buckets) in lingering.iter().enumerate() {
                add(group, *buckets, &|_| index);
            }
        }
        for (group, (unsaid, likely)) in self.unsaid.iter().zip(likely).enumerate() {
            add(group, *unsaid, &|bucket| likely.0[bucket]);
        }
        former
    }

    /// What heartbeats are to say of what lingers here.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        if let Some(hold) = self.hold {
            let hold = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
            bytes.push(HOLD);
            bytes.extend(hold.to_be_bytes());
            bytes.extend([0; ENTRY - 1 - size_of::<u64>()]);
        }
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
            said: self
                .said
                .iter()
                .map(|named| Named { lingering: take(&named.lingering), ..named.clone() })
                .collect(),
            hold: self.hold,
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
    const NOW: BootTime = BootTime::from_nanos(1_000_000_000);

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
        let silent = Said { node: node(2), lingering: None, held_until: None };
        let nothing = Said { lingering: Some(&[]), ..silent.clone() };
        let ahead = Said { node: node(1), ..silent.clone() };
        let says = Said::of(node(1), true, &bytes);
        assert!(says.lingering.is_some());
        assert!(Said::of(node(1), false, &bytes).lingering.is_none(), "not installed");
        assert!(Said::of(node(1), true, &[]).lingering.is_none(), "nothing said yet");
        handover.hear(&[says.clone(), silent], NOW);
        assert_eq!(handover.moving(&[ALL]), [ALL], "one has not");
        handover.hear(&[says, nothing], NOW);
        assert_eq!(handover.moving(&[ALL]), [LOW]);
        handover.hear(&[ahead], NOW);
        assert_eq!(handover.moving(&[ALL]), [LOW], "a view ahead");
        let former = |of: &Handover, likely| of.former(&[Owners([likely; 256])])[0].0;
        assert_eq!(former(&handover, 2)[7..9], [1, NOBODY], "all have said");
        let mut unsaid = handover.clone();
        unsaid.take_over(0, ALL);
        assert_eq!(former(&unsaid, 1)[7..9], [1, 1]);
        assert_eq!(former(&unsaid, 2)[7..9], [SEVERAL, 2]);
        assert_eq!(former(&unsaid, NOBODY)[7..9], [1, NOBODY]);
        handover.hear(&[], NOW);
        assert_eq!(handover.moving(&[ALL]), [NONE], "node2 is dead: a reset is right");
        assert!(handover.is_over());
    }

    /// What a node that leaves says.
    fn leaving(bytes: &[u8], in_view: bool) -> Option<Said<'_>> {
        Said::of(node(1), in_view, bytes).by_who_leaves(in_view, bytes, NOW)
    }

    #[test]
    fn what_a_node_holds_is_inherited_until_the_hold_ends_or_its_next_agent_says_more() {
        let second = Duration::from_secs(1);
        let mut theirs = Handover::of(1);
        theirs.give_away(0, LOW);
        assert!(leaving(&theirs.encode(), false).is_none(), "it stops, and holds nothing");
        theirs.hold(second);
        let bytes = theirs.encode();
        let mut handover = Handover::of(1);
        handover.take_over(0, ALL);
        handover.hear(&[leaving(&bytes, true).expect("in the view")], NOW);
        assert_eq!(handover.moving(&[ALL]), [LOW]);
        handover.hear(&[], NOW);
        assert_eq!(handover.moving(&[ALL]), [LOW], "it has left, and is silent");
        handover.hear(&[leaving(&bytes, false).expect("it holds")], NOW);
        assert_eq!(handover.moving(&[ALL]), [LOW], "it has left, and still talks");
        let mut over = handover.clone();
        over.hear(&[leaving(&bytes, false).expect("it was heard")], NOW + second);
        assert_eq!(over.moving(&[ALL]), [NONE], "the hold has ended");
        assert!(over.is_over());
        let back = Said { node: node(1), lingering: None, held_until: None };
        handover.hear(std::slice::from_ref(&back), NOW);
        assert_eq!(handover.moving(&[ALL]), [LOW], "back, and nothing said");
        handover.hear(&[Said { lingering: Some(&[]), ..back }], NOW);
        assert!(handover.is_over(), "it has none left");
    }

    #[test]
    fn nobody_holds_for_longer_than_all_allow() {
        let mut theirs = Handover::of(1);
        theirs.hold(Duration::from_hours(1));
        let bytes = theirs.encode();
        let said = leaving(&bytes, false).expect("it holds");
        assert_eq!(said.held_until, Some(NOW + LONGEST_HOLD));
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
