use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::model::Stay;

const NODES: usize = 10;

fn node(index: usize) -> NodeId {
    NodeId::new(index).expect("in range")
}

fn failover(preempt: bool, delay: u64, balance: Balance) -> Failover {
    Failover { preempt, preempt_delay: Duration::from_secs(delay), balance }
}

/// So many VIPs alike on ten nodes.
fn vips(count: usize, failover: Failover) -> Vec<Floating> {
    let names: Vec<_> = (0..NODES).map(|node| format!("node{node}")).collect();
    let vip =
        |vip| Floating::new(&format!("10.0.0.{vip}"), failover, names.iter().map(String::as_str));
    (100..100 + count).map(vip).collect()
}

fn set(nodes: &[usize]) -> NodeSet {
    nodes.iter().copied().map(node).collect()
}

/// Who has each VIP while those nodes are alive, which are equals.
fn among(vips: &[Floating], overrides: &Overrides, alive: NodeSet) -> Vec<Option<Holder>> {
    let priority = |_, node| u16::from(alive.contains(node));
    holders(vips, overrides, Staying::AsConfigured, priority)
}

fn nodes_of(holders: &[Option<Holder>]) -> Vec<NodeId> {
    holders.iter().map(|holder| holder.expect("somebody lives").node).collect()
}

/// All of them remembered, as the holders have it done.
fn remembered(vips: &[Floating], holders: &[NodeId]) -> Overrides {
    let kind = StayKind::Incumbent;
    let stay =
        |(vip, &node): (&Floating, &NodeId)| Stay { vip: vip.id(), kind, node, life: Some(1) };
    let stays = vips.iter().zip(holders).map(stay);
    Overrides::default().and(stays).expect("few enough")
}

fn loads(holders: &[NodeId], alive: NodeSet) -> Vec<usize> {
    let load = |node| holders.iter().filter(|&&holder| holder == node).count();
    alive.iter().map(load).collect()
}

#[test]
fn the_alive_node_with_the_highest_priority_has_the_vip_and_equals_are_told_apart_by_name() {
    let vips = vips(8, failover(true, 0, Balance::Priority));
    let priority = |alive: &'static [usize]| {
        move |_: usize, node: NodeId| {
            let of = [150, 100, 100, 0][node.index().min(3)];
            if alive.contains(&node.index()) { of } else { 0 }
        }
    };
    let holders =
        |alive| holders(&vips, &Overrides::default(), Staying::AsConfigured, priority(alive));
    let all = |index| vec![Some(Holder { node: node(index), why: Why::Priority }); 8];
    assert_eq!(holders(&[0, 1, 2, 3]), all(0));
    assert_eq!(holders(&[3]), vec![None; 8], "it may not");
    let equals = nodes_of(&holders(&[1, 2]));
    assert!([1, 2].iter().all(|&of| equals.contains(&node(of))), "not all to one: {equals:?}");
    assert_eq!(holders(&[2]), all(2));
}

#[test]
fn who_is_pinned_goes_before_the_incumbent_and_both_before_the_best() {
    let vips = vips(1, failover(false, 0, Balance::Priority));
    let best = |_: usize, node: NodeId| u16::try_from(NODES - node.index()).expect("few");
    let stay = |kind, of| Stay { vip: vips[0].id(), kind, node: node(of), life: None };
    let overrides = Overrides::default().and([stay(StayKind::Incumbent, 4)]).expect("one");
    let holder = |overrides: &Overrides, staying, alive: NodeSet| {
        let priority = |vip, node| if alive.contains(node) { best(vip, node) } else { 0 };
        let holder = holders(&vips, overrides, staying, priority)[0].expect("somebody lives");
        (holder.node.index(), holder.why)
    };
    let all = set(&[0, 1, 2, 3, 4, 5]);
    let as_configured = Staying::AsConfigured;
    assert_eq!(holder(&overrides, as_configured, all), (4, Why::Incumbent));
    assert_eq!(holder(&overrides, Staying::Never, all), (0, Why::Priority), "who waits");
    assert_eq!(holder(&overrides, as_configured, all.without(node(4))), (0, Why::Priority));
    let pinned = overrides.and([stay(StayKind::Pinned, 5)]).expect("two");
    assert_eq!(holder(&pinned, as_configured, all), (5, Why::Pinned));
    assert_eq!(holder(&pinned, Staying::Never, all), (5, Why::Pinned));
    assert_eq!(holder(&pinned, as_configured, all.without(node(5))), (4, Why::Incumbent));
}

#[test]
fn eight_vips_are_spread_over_ten_nodes_and_a_loss_moves_the_lost_nodes_only() {
    let vips = vips(8, failover(true, 0, Balance::Spread));
    let mut alive = set(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mut before = nodes_of(&among(&vips, &Overrides::default(), alive));
    assert_eq!(loads(&before, alive).into_iter().max(), Some(1));
    for lost in 0..9 {
        alive = alive.without(node(lost));
        let overrides = remembered(&vips, &before);
        let after = nodes_of(&among(&vips, &overrides, alive));
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == node(lost), "node{lost} had not that one");
        }
        let loads = loads(&after, alive);
        let (least, most) = (loads.iter().min(), loads.iter().max());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{loads:?}");
        before = after;
    }
    assert_eq!(before, [node(9); 8]);
    // It is not alone any more, and gives half of them away.
    let after = nodes_of(&among(&vips, &remembered(&vips, &before), set(&[3, 9])));
    assert_eq!(loads(&after, set(&[3, 9])), [4, 4]);
}

#[test]
fn vips_that_stay_are_not_evened_out_until_they_may_move() {
    let vips = vips(4, failover(true, 30, Balance::Spread));
    let alive = set(&[0, 1]);
    let all_at_one = remembered(&vips, &[node(0); 4]);
    let stays = among(&vips, &all_at_one, alive);
    assert_eq!(stays, vec![Some(Holder { node: node(0), why: Why::Incumbent }); 4]);
    let equals = |_: usize, node: NodeId| u16::from(alive.contains(node));
    let favourites = nodes_of(&holders(&vips, &all_at_one, Staying::Never, equals));
    assert_eq!(loads(&favourites, alive), [2, 2]);
    // Those that wait for the other node are let go of, and go there.
    let staying = vips.iter().zip(&favourites).filter(|(_, favourite)| **favourite == node(0));
    let staying = staying
        .map(|(vip, _)| *all_at_one.stay(vip.id(), StayKind::Incumbent).expect("it was there"));
    let half = Overrides::default().and(staying).expect("two");
    assert_eq!(nodes_of(&among(&vips, &half, alive)), favourites);
}

#[test]
fn a_vip_that_only_some_nodes_may_have_goes_to_one_of_them() {
    let vips = vips(4, failover(true, 0, Balance::Spread));
    // Only the first may go anywhere.
    let may =
        |vip: usize, node: NodeId| u16::from(node.index() < 3 && (vip == 0 || node.index() == 2));
    let holders = nodes_of(&holders(&vips, &Overrides::default(), Staying::AsConfigured, may));
    assert_eq!(holders[1..], [node(2); 3]);
    assert_ne!(holders[0], node(2));
}

proptest! {
    /// Whatever happens, in whatever order: everybody's share is fair, and nothing moves that need not.
    #[test]
    fn spread_vips_are_fair_at_all_times_and_hardly_move(
        count in 1usize..16,
        toggled in vec(0..NODES, 1..40),
    ) {
        let vips = vips(count, failover(true, 0, Balance::Spread));
        let mut alive = set(&[0, 1, 2, 3, 4]);
        let mut before = nodes_of(&among(&vips, &Overrides::default(), alive));
        for toggle in toggled {
            let toggle = node(toggle);
            let comes = !alive.contains(toggle);
            let next = if comes { alive.with(toggle) } else { alive.without(toggle) };
            if next.is_empty() {
                continue;
            }
            let overrides = remembered(&vips, &before);
            let after = nodes_of(&among(&vips, &overrides, next));
            let now = loads(&after, next);
            prop_assert!(now.iter().max() <= now.iter().min().map(|least| least + 1).as_ref());
            for (before, after) in before.iter().zip(&after) {
                let moved = if comes { *after == toggle } else { *before == toggle };
                prop_assert!(before == after || moved, "{before:?} {after:?} {toggle:?}");
            }
            (alive, before) = (next, after);
        }
    }

    /// One node at most has each VIP, of those that may, whatever was remembered.
    #[test]
    fn only_nodes_that_may_have_a_vip_get_it(
        may in vec(any::<u16>(), 6),
        had in vec(0..NODES, 6),
        pinned in vec(0..NODES, 6),
        policies in vec((any::<bool>(), 0u64..2, any::<bool>()), 6),
    ) {
        let policy = |&(preempt, delay, spread): &(bool, u64, bool)| {
            failover(preempt, delay, if spread { Balance::Spread } else { Balance::Priority })
        };
        let all = vips(6, failover(true, 0, Balance::Priority));
        let vips: Vec<_> = all.into_iter().zip(&policies)
            .map(|(vip, by)| Floating { failover: policy(by), ..vip }).collect();
        let stay = |kind, (vip, of): (&Floating, &usize)| Stay { vip: vip.id(), kind, node: node(*of), life: None };
        let stays: BTreeMap<_, _> = vips.iter().zip(&had).map(|it| stay(StayKind::Incumbent, it))
            .chain(vips.iter().zip(&pinned).take(2).map(|it| stay(StayKind::Pinned, it)))
            .map(|stay| ((stay.vip, stay.kind), stay)).collect();
        let overrides = Overrides::default().and(stays.into_values()).expect("few");
        let able = |vip: usize, node: NodeId| node.index() < NODES && may[vip] >> node.index() & 1 == 1;
        let priority = |vip: usize, node: NodeId| u16::from(able(vip, node));
        for (vip, holder) in holders(&vips, &overrides, Staying::AsConfigured, priority).iter().enumerate() {
            let anybody = (0..NODES).any(|index| able(vip, node(index)));
            prop_assert_eq!(holder.is_some(), anybody);
            prop_assert!(holder.is_none_or(|holder| able(vip, holder.node)));
        }
    }
}
