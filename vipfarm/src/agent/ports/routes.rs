//! To whom the frames of other nodes' buckets go, where nodes hand them over.

use serde::{Deserialize, Serialize};
use vipfarm_common::layout::{NOBODY, SEVERAL};

use super::Share;
use crate::{
    model::{BUCKETS, Bitmap, Mac, NodeId, NodeSet, Table, View},
    placement::Origin,
    plan::{Owners, Peers},
};

/// Where an interface's frames go that are not this node's. All is by kernel group, and empty where nobody hands
/// frames over.
#[derive(Debug, Clone)]
pub(super) struct Routes {
    /// Whether nodes hand frames over, for any of the VIPs.
    directed: bool,
    /// To whom frames go that are another's.
    owners: Vec<Owners>,
    /// To whom they went before they were this node's.
    former: Vec<Owners>,
    /// The buckets that may be this node's as soon as all have promised a view: who knows before this one sends
    /// it their frames already.
    awaited: Vec<Bitmap>,
    /// Those that it has let go of since it installed a view: who does not know yet sends it their frames still.
    released: Vec<Bitmap>,
    peers: Peers,
}

/// Where frames of others' buckets go, for the next agent of that configuration: it would have to hear of the
/// others first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// By kernel group and bucket, as in [`Owners`].
    owners: Vec<Vec<u8>>,
    /// By node.
    macs: Vec<Option<[u8; 6]>>,
}

impl Routes {
    /// Nowhere, among so many nodes of which none is known.
    pub(super) fn new(directed: bool, nodes: usize) -> Self {
        Self {
            directed,
            owners: Vec::new(),
            former: Vec::new(),
            awaited: Vec::new(),
            released: Vec::new(),
            peers: Peers::unknown(nodes),
        }
    }

    /// The view is promised: what was accepted `before` and is no more goes to who is to have it. The rest goes
    /// to whom it went.
    pub(super) fn release(
        &mut self,
        own: NodeId,
        view: &View,
        tables: &[Table],
        before: &[Bitmap],
        accept: &[Bitmap],
        lingers: &[bool],
    ) {
        self.released.resize(before.len(), Bitmap::default());
        for ((released, before), accept) in self.released.iter_mut().zip(before).zip(accept) {
            *released = released.or(before.without(*accept));
        }
        self.hand_over_released(own, tables, accept);
        self.awaited = self.awaited_in(own, view, tables, accept, lingers);
    }

    /// The view is in force.
    pub(super) fn acquire(&mut self, own: NodeId, tables: &[Table]) {
        self.note_former(own);
        self.forget_promise();
        self.hand_over(tables);
    }

    /// Notes to whom frames go that are not the node's.
    pub(super) fn hand_over(&mut self, tables: &[Table]) {
        if self.directed {
            self.owners = tables.iter().map(Owners::of).collect();
        }
    }

    /// Goes on where those of another configuration were, by where its kernel groups come from. Knows the same
    /// peers.
    pub(super) fn follow(&mut self, before: &Self, origins: &[Origin]) {
        let owners = |origin: &Origin| match *origin {
            Origin::Group(group) => before.owners.get(group).copied().unwrap_or(Owners::NONE),
            Origin::Elsewhere => Owners([SEVERAL; BUCKETS]),
            Origin::Nowhere => Owners::NONE,
        };
        self.owners = origins.iter().filter(|_| self.directed).map(owners).collect();
        self.former.clear();
        self.forget_promise();
        self.peers.clone_from(&before.peers);
    }

    /// There is no promised view any more that is to be installed.
    pub(super) fn forget_promise(&mut self) {
        self.awaited.clear();
        self.released.clear();
    }

    /// Where frames of others' buckets go.
    pub(super) fn route(&self) -> Route {
        Route {
            owners: self.owners.iter().map(|owners| owners.0.to_vec()).collect(),
            macs: self.peers.macs().iter().map(|mac| mac.map(|Mac(mac)| mac)).collect(),
        }
    }

    /// Hands over as a former agent did, if it had so many kernel groups.
    pub(super) fn follow_route(&mut self, route: Route, groups: usize) {
        let macs = route.macs.into_iter().enumerate();
        for (node, mac) in macs.filter_map(|(node, mac)| Some((node, mac?))) {
            self.peers.learn(node, Mac(mac));
        }
        let owners = route.owners.into_iter().map(|owners| owners.try_into().map(Owners));
        let owners: Result<Vec<_>, _> = owners.collect();
        if let Some(owners) = owners.ok().filter(|it| it.len() == groups) {
            self.owners = owners;
        }
    }

    /// To whom frames go, as far as that is known.
    pub(super) fn next_hops(&self) -> NodeSet {
        let owners = self.owners.iter().flat_map(|owners| owners.0);
        owners.filter_map(|owner| NodeId::new(usize::from(owner))).collect()
    }

    /// Who has old connections of what is this node's, or was or is to be while a view is not installed, if
    /// frames are handed over; of what is to be at least who has the bucket still.
    pub(super) fn former(&self, share: &Share) -> Vec<Owners> {
        if self.owners.is_empty() {
            return Vec::new();
        }
        let mut former = share.former(&self.former);
        for (group, former) in former.iter_mut().enumerate() {
            let of = |bitmaps: &[Bitmap]| bitmaps.get(group).copied().unwrap_or_default();
            let (awaited, released) = (of(&self.awaited), of(&self.released));
            let (known, owners) = (share.accept()[group].or(released), &self.owners[group]);
            for (bucket, (former, &owner)) in former.0.iter_mut().zip(&owners.0).enumerate() {
                *former = match (awaited.has(bucket), *former) {
                    (false, said) if known.has(bucket) => said,
                    (false, _) => NOBODY,
                    (true, said) if said == NOBODY || said == owner => owner,
                    (true, _) => SEVERAL,
                };
            }
        }
        former
    }

    /// Those buckets in a move, and those that are about to come here.
    pub(super) fn moving(&self, mut moving: Vec<Bitmap>) -> Vec<Bitmap> {
        for (moving, awaited) in moving.iter_mut().zip(&self.awaited) {
            *moving = moving.or(*awaited);
        }
        moving
    }

    /// Notes a peer's MAC, be it that of a node which only another configuration has.
    pub(super) fn learn(&mut self, node: NodeId, mac: Mac) {
        self.peers.learn(node.index(), mac);
    }

    /// To whom frames go that are another's.
    pub(super) fn owners(&self) -> &[Owners] {
        &self.owners
    }

    /// What is known of the peers.
    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// What comes to this node in that view from nodes that live on, or from it cannot be told whom: old
    /// connections stay with them.
    fn awaited_in(
        &self,
        own: NodeId,
        view: &View,
        tables: &[Table],
        accept: &[Bitmap],
        lingers: &[bool],
    ) -> Vec<Bitmap> {
        let lives = |owner: u8| {
            let others = view.alive.without(own);
            NodeId::new(usize::from(owner)).is_some_and(|node| others.contains(node))
        };
        let of_group = |(group, lingers): (usize, bool)| {
            let mut awaited = Bitmap::default();
            let owners = self.owners.get(group).filter(|_| lingers).into_iter().flat_map(|it| it.0);
            for (bucket, owner) in (0..=u8::MAX).zip(owners) {
                let is_gained = tables[group].owner(bucket) == Some(own) && lives(owner);
                if is_gained || owner == SEVERAL {
                    awaited.add(bucket);
                }
            }
            awaited.without(accept[group])
        };
        lingers.iter().copied().enumerate().map(of_group).collect()
    }

    /// The same of what is this node's no more. The rest goes to whom it went: others let go of theirs at
    /// their own time, and nobody has what is given to him before all have.
    fn hand_over_released(&mut self, own: NodeId, tables: &[Table], accept: &[Bitmap]) {
        let before = std::mem::take(&mut self.owners);
        self.hand_over(tables);
        let own = Owners::index(Some(own));
        let before = if before.is_empty() {
            // Who comes does not know who has them.
            let unknown = |owner| if owner == own { SEVERAL } else { owner };
            self.owners.iter().map(|owners| Owners(owners.0.map(unknown))).collect()
        } else {
            before
        };
        let groups = self.owners.iter_mut().zip(before).zip(accept);
        for ((owners, before), accept) in groups {
            for (bucket, (owner, before)) in owners.0.iter_mut().zip(before.0).enumerate() {
                if before != NOBODY && (before != own || accept.has(bucket)) {
                    *owner = before;
                }
            }
        }
    }

    /// Notes to whom frames went, before those of some buckets are this node's.
    fn note_former(&mut self, own: NodeId) {
        let own = Owners::index(Some(own));
        self.former.resize(self.owners.len(), Owners::NONE);
        for (former, owners) in self.former.iter_mut().zip(&self.owners) {
            let others = former.0.iter_mut().zip(owners.0).filter(|(_, owner)| *owner != own);
            others.for_each(|(former, owner)| *former = owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        agent::{
            fixture,
            handover::{Handover, Said},
            ports::Port,
        },
        membership::BootTime,
        model::{Mode, Override, Overrides},
        plan::OwnAddresses,
    };

    const GROUPS: &str = "[{ name: g, powers: { node1: 1, node2: 3 }, rules: [{ port: 80, proto: tcp, filter: on_port }] }]";

    fn node(index: usize) -> NodeId {
        NodeId::new(index).expect("in range")
    }

    fn alive(indices: &[usize]) -> View {
        View::of(indices.iter().map(|&index| node(index)).collect())
    }

    #[test]
    fn frames_go_to_who_had_their_bucket_until_all_have_let_go_and_old_ones_back_to_him() {
        let mut farm = fixture::farm(GROUPS);
        farm.vips[0].mode = Mode::VmacDirected;
        let full = alive(&[0, 1, 2]);
        let powers = Override::persistent(node(0), Some(0), 3);
        let powers = Arc::new(Overrides::default().with(node(0), powers).expect("room"));
        let changed = View { powers, ..full.clone() };
        let nothing = |node| Said { node, lingering: Some(&[]), held_until: None };
        let port = |own: usize| {
            let mut port = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
            port.release(node(own), &full);
            port.acquire(node(own), &full);
            port.take(&[], BootTime::ZERO);
            port.serve();
            port
        };
        let mut comes = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        comes.release(node(0), &full);
        let own = comes.table(1, &full).bitmap(node(0));
        let unknown = |port: &Port| {
            let former = port.plan().former[1].0;
            (0..BUCKETS).all(|it| former[it] == if own.has(it) { SEVERAL } else { NOBODY })
        };
        assert!(unknown(&comes), "who comes does not know who has them");
        comes.acquire(node(0), &full);
        assert!(unknown(&comes), "until they have said so");
        let (mut winner, mut loser, mut other) = (port(0), port(1), port(2));
        let before = Owners::of(&winner.table(1, &full));
        let after = Owners::of(&winner.table(1, &changed));
        assert_ne!(before, after);
        let moves = |it: usize, from: u8| before.0[it] == from && after.0[it] != from;
        for (index, port) in (0..).zip([&mut winner, &mut loser, &mut other]) {
            port.release(node(index.into()), &changed);
            let to = |it| if moves(it, index) { after.0[it] } else { before.0[it] };
            assert_eq!(port.plan().owners[1], Owners(std::array::from_fn(to)), "node {index}");
        }
        let former = |port: &Port| port.plan().former[1];
        let moved = std::array::from_fn(|it| if moves(it, 1) { 1 } else { NOBODY });
        // Others may install the view before the winner, which hands back what they send.
        assert_eq!(former(&winner), Owners(moved), "it is about to have them");
        let moving = winner.plan().moving[1];
        let comes_or_goes = |it| moves(it, 1) || moves(it, 0);
        assert!((0..BUCKETS).all(|it| moving.has(it) == comes_or_goes(it)), "{moving:?}");
        let moved_back = std::array::from_fn(|it| if moves(it, 0) { 0 } else { NOBODY });
        assert_eq!(former(&loser), Owners(moved_back), "and nothing of what it has given away");
        assert_eq!(former(&other), Owners::NONE);
        // Who knows of a third node's connections goes on handing them back.
        let mut theirs = Handover::of(2);
        theirs.give_away(1, Bitmap([u64::MAX; 4]));
        let mut heir = port(1);
        heir.take(&[Said::of(node(2), true, &theirs.encode())], BootTime::ZERO);
        heir.release(node(1), &changed);
        let whose = |it: usize| match before.0[it] {
            1 => 2,
            _ if moves(it, 0) => SEVERAL,
            _ => NOBODY,
        };
        assert_eq!(former(&heir), Owners(std::array::from_fn(whose)));
        let without_loser = View { alive: alive(&[0, 2]).alive, ..changed.clone() };
        winner.release(node(0), &without_loser);
        assert_eq!(former(&winner), Owners::NONE, "who is dead has no connections");
        winner.release(node(0), &changed);
        winner.acquire(node(0), &changed);
        assert_eq!(winner.plan().owners[1], after);
        assert_eq!(former(&winner), Owners(moved), "nobody has spoken yet");
        winner.take(&[nothing(node(1)), nothing(node(2))], BootTime::ZERO);
        assert_eq!(former(&winner), Owners::NONE);

        let mut farm = fixture::farm(&GROUPS.replace("on_port", "on_addr"));
        farm.vips[0].mode = Mode::VmacDirected;
        let mut next = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        next.follow(&winner);
        next.release(node(0), &changed);
        assert_eq!(former(&next), Owners([SEVERAL; BUCKETS]), "whoever has them now");
        next.acquire(node(0), &changed);
        assert_eq!(next.plan().owners[1], after);
        let own = |bucket: &usize| next.accept()[1].has(*bucket);
        assert!(
            (0..BUCKETS).filter(own).all(|it| former(&next).0[it] == SEVERAL),
            "whoever it was"
        );
    }

    #[test]
    fn the_next_agent_hands_over_where_the_former_one_did() {
        let mut farm = fixture::farm(GROUPS);
        farm.vips[0].mode = Mode::VmacDirected;
        let new = |farm| Port::new(farm, |_| true, OwnAddresses::default()).expect("it fits");
        let mut former = new(&farm);
        former.learn(node(0), Mac([2, 0, 0, 0, 0, 1]));
        former.follow_others(&alive(&[0, 2]));
        let text = serde_json::to_string(&former.route()).expect("it can be written");
        let route = || serde_json::from_str::<Route>(&text).expect("as it was written");
        let mut next = new(&farm);
        assert_eq!(next.next_hops(), NodeSet::EMPTY);
        next.follow_route(route());
        assert_eq!(next.next_hops(), alive(&[0, 2]).alive);
        assert_eq!(next.plan().owners, former.plan().owners);
        assert_eq!(next.plan().peers, former.plan().peers);

        let mut fewer = route();
        fewer.owners.pop();
        let mut next = new(&farm);
        next.follow_route(fewer);
        assert_eq!(next.next_hops(), NodeSet::EMPTY, "of other groups");
    }
}
