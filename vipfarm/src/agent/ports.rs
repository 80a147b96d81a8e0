//! One interface's share of the farm: which buckets this node accepts, and how that follows from a
//! view.

mod routes;

use std::{sync::Arc, time::Duration};

pub use self::routes::Route;
use self::routes::Routes;
#[cfg(test)]
use super::handover::Said;
use super::share::Share;
use crate::{
    membership::{BootTime, Membership},
    model::{Bitmap, Farm, Mac, NodeId, NodeSet, Table, View},
    placement::Placement,
    plan::{HeldVip, OwnAddresses, Plan, PlanError, Services},
};

/// The groups of one interface and the buckets that this node accepts of each.
#[derive(Debug, Clone)]
pub struct Port {
    /// What it serves, and what the kernel tables say: the same and VIPs that are closed.
    served: Arc<Services>,
    services: Arc<Services>,
    placement: Placement,
    share: Share,
    routes: Routes,
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
            share: Share::of(placement.lingers()).keeping_flows(placement.keeps_flows()),
            routes: Routes::new(services.is_directed(), farm.nodes.len()),
            services,
            placement,
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
        self.share.foresee(|group| *tables[group].owners());
        let lingers = self.placement.lingers();
        self.routes.release(own, view, &tables, &before, self.share.accept(), &lingers);
    }

    /// Accepts exactly what is the node's in that view.
    pub fn acquire(&mut self, own: NodeId, view: &View) {
        self.placement.take_powers(view);
        let tables = self.placement.tables(view);
        self.share.acquire(own, view, |group| tables[group].bitmap(own));
        self.share.judge(own, view, |group| *tables[group].owners());
        self.routes.acquire(own, &tables);
    }

    /// Where frames of others' buckets go.
    pub fn route(&self) -> Route {
        self.routes.route()
    }

    /// Hands over as a former agent did.
    pub fn follow_route(&mut self, route: Route) {
        self.routes.follow_route(route, self.share.accept().len());
    }

    /// To whom frames go, as far as that is known.
    pub fn next_hops(&self) -> NodeSet {
        self.routes.next_hops()
    }

    /// Hands over to the owners in a view that this node is not in.
    pub fn follow_others(&mut self, view: &View) {
        self.placement.take_powers(view);
        self.routes.hand_over(&self.placement.tables(view));
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
        self.routes.follow(&former.routes, &origins);
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
        self.routes.forget_promise();
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
        self.routes.forget_promise();
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
        self.routes.learn(node, mac);
    }

    /// The bitmaps accepted, by kernel group.
    pub fn accept(&self) -> &[Bitmap] {
        self.share.accept()
    }

    /// What it serves, and what the kernel tables close.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// What the kernel tables are to say.
    pub fn plan(&self) -> Plan {
        Plan {
            services: Arc::clone(&self.services),
            bitmaps: self.share.accept().to_vec(),
            moving: self.routes.moving(self.share.moving()),
            former: self.routes.former(&self.share),
            owners: self.routes.owners().to_vec(),
            turns: self.share.turns(),
            peers: self.routes.peers().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::fixture,
        model::{Override, Overrides},
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
