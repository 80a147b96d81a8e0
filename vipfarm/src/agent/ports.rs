//! One interface's share of the farm: which buckets this node accepts, and how that follows from a
//! view.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use vipfarm_common::layout::{NOBODY, SEVERAL};

#[cfg(test)]
use super::handover::{Handover, Said};
use super::share::Share;
use crate::{
    membership::{BootTime, Membership},
    model::{BUCKETS, Bitmap, Farm, Mac, NodeId, NodeSet, Table, View},
    placement::{Origin, Placement},
    plan::{HeldVip, OwnAddresses, Owners, Peers, Plan, PlanError, Services},
};

/// The groups of one interface and the buckets that this node accepts of each.
#[derive(Debug, Clone)]
pub struct Port {
    /// What it serves, and what the kernel tables say: the same and VIPs that are closed.
    served: Arc<Services>,
    services: Arc<Services>,
    placement: Placement,
    share: Share,
    /// To whom frames go that are another's, by kernel group; empty where nobody hands frames over.
    owners: Vec<Owners>,
    /// To whom they went before they were this node's, by kernel group; empty likewise.
    former: Vec<Owners>,
    /// The buckets that may be this node's as soon as all have promised a view, by kernel group; empty
    /// likewise: who knows before this one sends it their frames already.
    awaited: Vec<Bitmap>,
    /// Those that it has let go of since it installed a view, likewise: who does not know yet sends it their
    /// frames still.
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

impl Port {
    /// The port of the interface that the blocks `here` are on, by their index in the file. It
    /// accepts nothing.
    pub fn new(
        farm: &Farm,
        here: impl Fn(usize) -> bool,
        addresses: OwnAddresses,
    ) -> Result<Self, PlanError> {
        let services = Services::new(&farm.vips, here)?.asking_as(addresses);
        let placement = Placement::new(farm);
        let services = Arc::new(services);
        Ok(Self {
            served: Arc::clone(&services),
            services,
            share: Share::of(placement.lingers()).keeping_flows(placement.keeps_flows()),
            placement,
            owners: Vec::new(),
            former: Vec::new(),
            awaited: Vec::new(),
            released: Vec::new(),
            peers: Peers::unknown(farm.nodes.len()),
        })
    }

    /// Who owns what in a view.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The owners of a kernel group's buckets in that view.
    pub fn table(&self, group: usize, view: &View) -> Table {
        self.placement.table(group, view)
    }

    /// Stops accepting what is not the node's in that view. Accepts nothing new.
    pub fn release(&mut self, own: NodeId, view: &View) {
        self.placement.take_powers(view);
        let tables = self.placement.tables(view);
        let before = self.share.accept().to_vec();
        self.share.release(|group| tables[group].bitmap(own));
        self.released.resize(before.len(), Bitmap::default());
        for ((released, before), accept) in
            self.released.iter_mut().zip(before).zip(self.share.accept())
        {
            *released = released.or(before.without(*accept));
        }
        self.share.foresee(|group| *tables[group].owners());
        self.hand_over_released(own, &tables);
        self.awaited = self.awaited_in(own, view, &tables);
    }

    /// What comes to this node in that view from nodes that live on, or from it cannot be told whom: old
    /// connections stay with them.
    fn awaited_in(&self, own: NodeId, view: &View, tables: &[Table]) -> Vec<Bitmap> {
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
            awaited.without(self.share.accept()[group])
        };
        self.placement.lingers().into_iter().enumerate().map(of_group).collect()
    }

    /// There is no promised view any more that is to be installed.
    fn forget_promise(&mut self) {
        self.awaited.clear();
        self.released.clear();
    }

    /// Accepts exactly what is the node's in that view.
    pub fn acquire(&mut self, own: NodeId, view: &View) {
        self.placement.take_powers(view);
        let tables = self.placement.tables(view);
        self.share.acquire(own, view, |group| tables[group].bitmap(own));
        self.share.judge(own, view, |group| *tables[group].owners());
        self.note_former(own);
        self.forget_promise();
        self.hand_over(&tables);
    }

    /// Where frames of others' buckets go.
    pub fn route(&self) -> Route {
        Route {
            owners: self.owners.iter().map(|owners| owners.0.to_vec()).collect(),
            macs: self.peers.macs().iter().map(|mac| mac.map(|Mac(mac)| mac)).collect(),
        }
    }

    /// Hands over as a former agent did.
    pub fn follow_route(&mut self, route: Route) {
        let macs = route.macs.into_iter().enumerate();
        for (node, mac) in macs.filter_map(|(node, mac)| Some((node, mac?))) {
            self.peers.learn(node, Mac(mac));
        }
        let owners = route.owners.into_iter().map(|owners| owners.try_into().map(Owners));
        let owners: Result<Vec<_>, _> = owners.collect();
        let groups = self.share.accept().len();
        if let Some(owners) = owners.ok().filter(|it| it.len() == groups) {
            self.owners = owners;
        }
    }

    /// To whom frames go, as far as that is known.
    pub fn next_hops(&self) -> NodeSet {
        let owners = self.owners.iter().flat_map(|owners| owners.0);
        owners.filter_map(|owner| NodeId::new(usize::from(owner))).collect()
    }

    /// Hands over to the owners in a view that this node is not in.
    pub fn follow_others(&mut self, view: &View) {
        self.placement.take_powers(view);
        let tables = self.placement.tables(view);
        self.hand_over(&tables);
    }

    /// Notes to whom frames go that are not the node's.
    fn hand_over(&mut self, tables: &[Table]) {
        if self.services.is_directed() {
            self.owners = tables.iter().map(Owners::of).collect();
        }
    }

    /// The same of what is this node's no more. The rest goes to whom it went: others let go of theirs at
    /// their own time, and nobody has what is given to him before all have.
    fn hand_over_released(&mut self, own: NodeId, tables: &[Table]) {
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
        let groups = self.owners.iter_mut().zip(before).zip(self.share.accept());
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

    /// The same, and no other node has connections left of what it has given away.
    pub fn settle(&mut self, own: NodeId, view: &View) {
        self.acquire(own, view);
        self.share.settle();
    }

    /// Takes over from the port of another configuration: accepts what that accepted of groups that are
    /// the same, and nothing of those whose clients are in other buckets now, which other nodes may still
    /// judge by the former ones; of these it goes on with old connections. Knows the same peers.
    pub fn follow(&mut self, former: &Self) {
        let own = &self.placement;
        let origins = own.origins_in(&former.placement);
        self.share = former.share.renumbered(&origins, own.lingers(), own.keeps_flows());
        let owners = |origin: &Origin| match *origin {
            Origin::Group(group) => former.owners.get(group).copied().unwrap_or(Owners::NONE),
            Origin::Elsewhere => Owners([SEVERAL; BUCKETS]),
            Origin::Nowhere => Owners::NONE,
        };
        let directed = self.services.is_directed();
        self.owners = origins.iter().filter(|_| directed).map(owners).collect();
        self.former.clear();
        self.forget_promise();
        self.peers.clone_from(&former.peers);
    }

    /// Has the kernel refuse what is for those addresses as long as they are no VIPs of this
    /// configuration: VIPs that the interface has still, or already.
    pub fn close(&mut self, vips: &[HeldVip]) -> Result<(), PlanError> {
        self.services = Arc::new(self.served.with_closed(vips.iter().copied())?);
        Ok(())
    }

    /// Takes over what another port of the same configuration closes.
    pub fn close_like(&mut self, other: &Self) {
        self.services = Arc::clone(&other.services);
    }

    /// Accepts nothing.
    pub fn clear(&mut self) {
        self.forget_promise();
        self.share.clear();
    }

    /// Those buckets, by kernel group, have connections of a former agent's, which go on.
    pub fn find(&mut self, used: &[Bitmap]) {
        self.share.find(used);
    }

    /// Takes nodes that are not there for ones that may serve old connections until then.
    pub fn doubt(&mut self, until: BootTime) {
        self.share.doubt(until);
    }

    /// Has the other nodes be told that old connections are served for so long after this node has left.
    pub fn hold(&mut self, hold: Duration) {
        self.share.hold(hold);
    }

    /// Accepts nothing new, and goes on with old connections.
    pub fn keep_old_connections(&mut self) {
        self.forget_promise();
        self.share.keep_old_connections();
    }

    /// What the kernel tables are to say while no lease allows anything new: this node's own
    /// connections, of whatever bucket, and nothing else.
    pub fn plan_of_old_connections(&self) -> Plan {
        let plan = self.plan();
        let moving = plan.moving.iter().zip(&plan.bitmaps).map(|(moving, mine)| moving.or(*mine));
        let none = vec![Bitmap::default(); plan.bitmaps.len()];
        let turns = self.share.no_turns();
        Plan { moving: moving.collect(), bitmaps: none, turns, ..plan }
    }

    /// Takes what the other nodes say of old connections.
    pub fn hear(&mut self, membership: &Membership, now: BootTime) {
        self.share.hear(membership, now);
    }

    /// The same, as it was said.
    #[cfg(test)]
    pub(super) fn take(&mut self, said: &[Said<'_>], now: BootTime) {
        self.share.take(said, now);
    }

    /// The kernel has a lease.
    pub fn serve(&mut self) {
        self.share.serve();
    }

    /// Lets go of what has no connection left, as [`Share::keep`] does.
    pub fn keep(&mut self, step: u64, buckets: &[Bitmap]) {
        self.share.keep(step, buckets);
    }

    /// What it accepts, and old connections in buckets given away or taken over.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Notes a peer's MAC, be it that of a node which only another configuration has.
    pub fn learn(&mut self, node: NodeId, mac: Mac) {
        self.peers.learn(node.index(), mac);
    }

    /// The bitmaps accepted, by kernel group.
    pub fn accept(&self) -> &[Bitmap] {
        self.share.accept()
    }

    /// What it serves, and what the kernel tables close.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The buckets in a move, and those that are about to come here.
    fn moving(&self) -> Vec<Bitmap> {
        let mut moving = self.share.moving();
        for (moving, awaited) in moving.iter_mut().zip(&self.awaited) {
            *moving = moving.or(*awaited);
        }
        moving
    }

    /// Who has old connections of what is this node's, or was or is to be while a view is not installed, if
    /// frames are handed over; of what is to be at least who has the bucket still.
    fn former(&self) -> Vec<Owners> {
        if self.owners.is_empty() {
            return Vec::new();
        }
        let mut former = self.share.former(&self.former);
        for (group, former) in former.iter_mut().enumerate() {
            let of = |bitmaps: &[Bitmap]| bitmaps.get(group).copied().unwrap_or_default();
            let (awaited, released) = (of(&self.awaited), of(&self.released));
            let (known, owners) = (self.share.accept()[group].or(released), &self.owners[group]);
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

    /// What the kernel tables are to say.
    pub fn plan(&self) -> Plan {
        Plan {
            services: Arc::clone(&self.services),
            bitmaps: self.share.accept().to_vec(),
            moving: self.moving(),
            former: self.former(),
            owners: self.owners.clone(),
            turns: self.share.turns(),
            peers: self.peers.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::fixture,
        model::{Mode, Override, Overrides},
    };

    const GROUPS: &str = "[{ name: g, powers: { node1: 1, node2: 3 }, rules: [{ port: 80, proto: tcp, filter: on_port }] }]";

    fn port() -> Port {
        Port::new(&fixture::farm(GROUPS), |_| true, OwnAddresses::default()).expect("it fits")
    }

    fn node(index: usize) -> NodeId {
        NodeId::new(index).expect("in range")
    }

    fn overrides(entry: Override) -> Arc<Overrides> {
        Arc::new(Overrides::default().with(node(0), entry).expect("room"))
    }

    fn alive(indices: &[usize]) -> View {
        let alive = indices.iter().map(|&index| node(index)).collect();
        View::of(alive)
    }

    #[test]
    fn a_new_port_accepts_nothing() {
        assert!(port().accept().iter().all(|bitmap| bitmap.is_empty()));
    }

    #[test]
    fn acquiring_takes_the_share_of_the_powers_in_the_file_and_of_all_nodes_in_the_built_in_group()
    {
        let mut port = port();
        port.acquire(node(1), &alive(&[0, 1, 2]));
        assert_eq!(port.accept()[1].len(), 192, "three of four");
        assert!((85..=86).contains(&port.accept()[0].len()), "one of three");
        port.acquire(node(2), &alive(&[0, 1, 2]));
        assert!(port.accept()[1].is_empty(), "not in the group");
    }

    #[test]
    fn releasing_never_adds_a_bucket() {
        let mut port = port();
        port.acquire(node(0), &alive(&[0, 1, 2]));
        let before = port.accept().to_vec();
        // node2 is gone, so node1 owns everything; but it may not yet.
        port.release(node(0), &alive(&[0, 2]));
        assert_eq!(port.accept()[1], before[1]);
        port.acquire(node(0), &alive(&[0, 2]));
        assert_eq!(port.accept()[1].len(), 256);
        // node2 comes back: what is its again is given up at once.
        port.release(node(0), &alive(&[0, 1, 2]));
        assert_eq!(port.accept()[1], before[1]);
    }

    #[test]
    fn only_groups_with_connections_linger_and_are_inherited() {
        const GROUPS: &str = "[{ name: tcp, rules: [{ port: 80, proto: tcp, filter: on_port }] }, { name: udp, rules: [{ port: 80, proto: udp, filter: on_port }] }]";
        let farm = fixture::farm(GROUPS);
        let mut port = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        let moves = |bitmaps: Vec<Bitmap>| bitmaps.iter().map(|it| !it.is_empty()).collect();
        port.acquire(node(0), &alive(&[0, 1, 2]));
        let inherited: Vec<bool> = moves(port.share().inherited());
        assert_eq!(inherited, [false, true, false], "neither ARP and echo nor UDP");
        port.share.settle();
        port.share.serve();
        port.release(node(0), &alive(&[1, 2]));
        let (lingering, inherited) = (port.share().lingering().to_vec(), port.share().inherited());
        assert!((85..=86).contains(&lingering[1].len()), "one of three");
        let (lingering, inherited): (Vec<_>, Vec<_>) = (moves(lingering), moves(inherited));
        assert_eq!((lingering, inherited), (vec![false, true, false], vec![false; 3]));
    }

    #[test]
    fn the_nodes_of_a_view_share_every_bucket_and_none_twice() {
        for members in [&[0, 1, 2][..], &[0, 1], &[1, 2], &[0]] {
            let mut owned = [0; 4];
            for &member in members {
                let mut port = port();
                port.acquire(node(member), &alive(members));
                for (owned, word) in owned.iter_mut().zip(port.accept()[0].0) {
                    assert_eq!(*owned & word, 0, "no bucket twice, {members:?}");
                    *owned |= word;
                }
            }
            assert_eq!(owned, [u64::MAX; 4], "every bucket, {members:?}");
        }
    }

    #[test]
    fn a_drained_node_owns_nothing_and_the_others_keep_what_they_have() {
        let mut port = port();
        let full = alive(&[0, 1, 2]);
        port.acquire(node(0), &full);
        let before = port.accept().to_vec();
        let powers = overrides(Override::persistent(node(1), None, 0));
        let idle = NodeSet::EMPTY.with(node(1));
        let drained = View { idle, powers, ..full };
        port.acquire(node(0), &drained);
        for (group, before) in before.iter().enumerate() {
            assert_eq!(port.accept()[group].and(*before), *before, "group {group}");
            assert_eq!(port.table(group, &drained).load(node(1)), 0);
        }
        assert_eq!(port.accept()[1].len(), 256);
    }

    #[test]
    fn a_changed_power_moves_the_share_of_its_group_only() {
        let mut port = port();
        let full = alive(&[0, 1, 2]);
        let powers = overrides(Override::persistent(node(0), Some(0), 3));
        let changed = View { powers, ..full.clone() };
        assert_eq!(port.table(1, &full).load(node(0)), 64);
        assert_eq!(port.table(1, &changed).load(node(0)), 128);
        assert_eq!(port.table(0, &changed), port.table(0, &full));
        assert_eq!(port.placement().power(1, node(0), &changed), 3);
        port.acquire(node(0), &changed);
        assert_eq!(port.accept()[1].len(), 128);
        // Of the same version: the view counts, whatever its powers are called.
        let powers = overrides(Override::persistent(node(0), Some(0), 0));
        assert_eq!(powers.version(), changed.powers.version());
        let stopped = View { powers, ..full };
        assert_eq!(port.table(1, &stopped).load(node(0)), 0);
        port.release(node(0), &stopped);
        assert!(port.accept()[1].is_empty() && !port.accept()[0].is_empty());
    }

    #[test]
    fn frames_go_to_who_had_their_bucket_until_all_have_let_go_and_old_ones_back_to_him() {
        let mut farm = fixture::farm(GROUPS);
        farm.vips[0].mode = Mode::VmacDirected;
        let full = alive(&[0, 1, 2]);
        let powers = overrides(Override::persistent(node(0), Some(0), 3));
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

    #[test]
    fn a_port_that_follows_another_accepts_what_that_did_of_the_same_groups() {
        let mut former = port();
        former.acquire(node(1), &alive(&[0, 1, 2]));
        former.learn(node(0), Mac([2, 0, 0, 0, 0, 1]));
        former.learn(node(7), Mac([2, 0, 0, 0, 0, 8]));
        let farm = fixture::farm(&GROUPS.replace("name: g,", "name: other,"));
        let mut next = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        next.follow(&former);
        assert_eq!(next.accept()[0], former.accept()[0]);
        assert!(next.accept()[1].is_empty());
        assert_eq!(next.plan().peers, former.plan().peers);
    }

    #[test]
    fn a_port_that_follows_another_accepts_nothing_where_clients_are_in_other_buckets_now() {
        const G: &str = "{ name: g, rules: [{ port: 80, proto: tcp, filter: on_port }, { port: 53, proto: udp, filter: on_port, linger: 10s }] }";
        const H: &str = "{ name: h, rules: [{ port: 81, proto: tcp, filter: on_port }] }";
        let of = |groups: &[&str]| {
            let farm = fixture::farm(&format!("[{}]", groups.join(", ")));
            Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits")
        };
        let mut former = of(&[G, H]);
        former.acquire(node(0), &alive(&[0, 1, 2]));
        former.serve();
        let accepts = |groups: &[&str]| -> Vec<bool> {
            let mut next = of(groups);
            next.follow(&former);
            next.accept().iter().map(|bitmap| !bitmap.is_empty()).collect()
        };
        assert_eq!(accepts(&[G, H]), [true; 3]);
        assert_eq!(accepts(&[H, G]), [true, false, false], "their numbers choose the hash");
        let filter = G.replacen("on_port", "on_addr", 1);
        assert_eq!(accepts(&[&filter, H]), [true, false, true]);
        let mut next = of(&[&filter, H]);
        next.follow(&former);
        let lingering = next.share().lingering().iter().map(|bitmap| bitmap.len());
        assert_eq!(lingering.collect::<Vec<_>>(), [0, 256, 0], "in whatever buckets they are now");
        let linger = G.replace(", linger: 10s", "");
        assert_eq!(accepts(&[&linger, H]), [true, false, true]);
        let longer = G.replace("10s", "20s");
        assert_eq!(accepts(&[&longer, H]), [true; 3], "one still judges after the other");
        let (new, lost) = (G.replace("80", "82"), H.replace("81", "80"));
        assert_eq!(accepts(&[&new, H]), [true; 3], "nobody served that port before");
        assert_eq!(accepts(&[&new, &lost]), [true, true, false], "another group's clients");
        let any = H.replace("81", "'*'");
        assert_eq!(accepts(&[&linger.replace("80", "82"), &any]), [true, false, false]);
    }
}
