//! What becomes of the loads when nodes go, come back or get other powers: before it happens, from the
//! file alone, by the tables that the agents would compute.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    assign::floating::Floating,
    model::{BUCKETS, Farm, Mode, NodeId, Table, View, Vip},
    placement::Placement,
};

/// What a change does to one group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupForecast {
    /// The group.
    pub group: String,
    /// The addresses of its VIP block.
    pub vips: Vec<String>,
    /// How the farm receives their traffic.
    pub mode: Mode,
    /// Whether it matters who has the failover VIP now, which only a running farm knows: here the one that
    /// has it by the file, before the change.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_file_alone: bool,
    /// Those with a power before or after, in file order.
    pub nodes: Vec<NodeForecast>,
    /// The buckets that change their owner, by former owner, then by the next one.
    pub moves: Vec<Move>,
    /// How many buckets move, of 256.
    pub moved: usize,
    /// How many must, for loads to become what they do.
    pub least: usize,
    /// Buckets that nobody serves afterwards.
    pub nobody: usize,
}

/// One node's share of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeForecast {
    /// Its name.
    pub node: String,
    /// Before the change.
    pub before: Share,
    /// After it.
    pub after: Share,
}

/// What one node has of a group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// Whether it is alive.
    pub alive: bool,
    /// Its power.
    pub power: u16,
    /// Buckets, of 256.
    pub load: usize,
    /// The same in per cent.
    pub percent: f64,
}

/// Buckets that go from one node to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The former owner; `None` = nobody.
    pub from: Option<String>,
    /// The next one.
    pub to: Option<String>,
    /// Which they are.
    pub buckets: Vec<u8>,
}

/// What becomes of each group of the file, in its order, when the farm goes from one view to another.
pub fn forecast(farm: &Farm, before: &View, after: &View) -> Vec<GroupForecast> {
    let placement = Placement::new(farm);
    let groups = farm.vips.iter().flat_map(|block| block.groups.iter().map(move |_| block));
    let of_group = |(index, block): (usize, &Vip)| {
        // The first kernel group is the built-in one.
        let group = index + 1;
        let [first, second] = [before, after].map(|view| placement.table(group, view));
        let share = |node: NodeId, view: &View, table: &Table| Share {
            alive: view.alive.contains(node),
            power: placement.power(group, node, view),
            load: table.load(node),
            percent: 100.0 * table.load(node) as f64 / BUCKETS as f64,
        };
        let nodes = farm.node_ids().zip(&farm.nodes).map(|(id, node)| NodeForecast {
            node: node.name.clone(),
            before: share(id, before, &first),
            after: share(id, after, &second),
        });
        let takes_part = |it: &NodeForecast| it.before.power > 0 || it.after.power > 0;
        let moves = moves(farm, &first, &second);
        GroupForecast {
            group: placement.name(group).to_owned(),
            vips: block.addresses.iter().map(|vip| vip.addr.to_string()).collect(),
            mode: block.mode,
            by_file_alone: placement.floating(group).is_some_and(Floating::remembers),
            nodes: nodes.filter(takes_part).collect(),
            moved: moves.iter().map(|it| it.buckets.len()).sum(),
            least: least_moves(farm, &first, &second),
            nobody: second.owners().iter().filter(|owner| owner.is_none()).count(),
            moves,
        }
    };
    groups.enumerate().map(of_group).collect()
}

fn moves(farm: &Farm, before: &Table, after: &Table) -> Vec<Move> {
    let mut moves: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    for bucket in 0..=u8::MAX {
        let (from, to) = (before.owner(bucket), after.owner(bucket));
        if from != to {
            moves.entry((from, to)).or_default().push(bucket);
        }
    }
    let name = |id: Option<NodeId>| Some(farm.node(id?)?.name.clone());
    let named = |((from, to), buckets)| Move { from: name(from), to: name(to), buckets };
    moves.into_iter().map(named).collect()
}

/// What the nodes lose that have less afterwards; nobody counts as one of them.
fn least_moves(farm: &Farm, before: &Table, after: &Table) -> usize {
    let load = |table: &Table, node| table.owners().iter().filter(|&&it| it == node).count();
    let nodes = farm.node_ids().map(Some).chain([None]);
    nodes.map(|node| load(before, node).saturating_sub(load(after, node))).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        agent::fixture,
        model::{NodeSet, Override, Overrides, Version},
    };

    const GROUPS: &str = "[{ name: one, powers: { node1: 2, node2: 1, node3: 1 }, \
        rules: [{ port: 80, proto: tcp, filter: on_port }] }, \
        { name: two, powers: { node1: 1 }, rules: [{ port: 53, proto: udp, filter: on_addr }] }]";

    fn everybody() -> View {
        View::of(NodeSet::from_bits(0b111))
    }

    fn of(before: &View, after: &View) -> Vec<GroupForecast> {
        forecast(&fixture::farm(GROUPS), before, after)
    }

    fn loads(group: &GroupForecast) -> Vec<(usize, usize)> {
        group.nodes.iter().map(|node| (node.before.load, node.after.load)).collect()
    }

    #[test]
    fn what_a_dead_node_had_goes_to_the_others_and_nothing_else_moves() {
        let [one, two] = &of(&everybody(), &View::of(NodeSet::from_bits(0b101)))[..] else {
            panic!("two groups");
        };
        assert_eq!(loads(one), [(128, 171), (64, 0), (64, 85)]);
        assert_eq!((one.moved, one.least, one.nobody), (64, 64, 0));
        assert!(one.moves.iter().all(|it| it.from.as_deref() == Some("node2")), "{:?}", one.moves);
        let to: Vec<_> = one.moves.iter().map(|it| (it.to.as_deref(), it.buckets.len())).collect();
        assert_eq!(to, [(Some("node1"), 43), (Some("node3"), 21)]);
        assert_eq!((two.nodes.len(), two.moved), (1, 0), "node2 has no power in it");
    }

    #[test]
    fn what_is_left_without_anybody_is_counted() {
        let [one, two] = &of(&everybody(), &View::of(NodeSet::from_bits(0b110)))[..] else {
            panic!("two groups");
        };
        assert_eq!(one.nobody, 0);
        assert_eq!((two.nobody, two.moved, two.least), (256, 256, 256));
        assert_eq!(two.moves[0].to, None);
    }

    #[test]
    fn a_power_changes_its_group_alone_and_a_drain_all_of_them() {
        let node1 = NodeId::new(0).expect("in range");
        let with = |group, power| {
            let entry = Override::persistent(node1, group, power);
            let powers = Overrides::new(Version::default(), [entry]).expect("one is not too many");
            View { powers: Arc::new(powers), ..everybody() }
        };
        let groups = of(&everybody(), &with(Some(0), 4));
        assert_eq!(loads(&groups[0])[0], (128, 170));
        assert_eq!((groups[0].nodes[0].before.power, groups[0].nodes[0].after.power), (2, 4));
        assert_eq!(groups[1].moved, 0);
        let idle = View { idle: NodeSet::from_bits(1), ..with(None, 0) };
        let groups = of(&everybody(), &idle);
        assert_eq!(loads(&groups[0]), [(128, 0), (64, 128), (64, 128)]);
        assert_eq!((groups[0].moved, groups[1].nobody), (128, 256));
    }

    #[test]
    fn a_node_that_comes_back_takes_what_it_had_and_no_more() {
        let groups = of(&View::of(NodeSet::from_bits(0b011)), &everybody());
        assert_eq!(loads(&groups[0]).last(), Some(&(0, 64)));
        assert_eq!((groups[0].moved, groups[0].least), (64, 64));
        assert!(!groups[0].nodes[2].before.alive && groups[0].nodes[2].after.alive);
    }
}
