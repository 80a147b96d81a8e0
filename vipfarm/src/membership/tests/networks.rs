//! Networks beside the first one, with VIPs and without.

use super::{
    super::sim::{node::own, rng::Rng},
    harness::*,
    *,
};

/// Node 0 of two with two networks, and what the other says on one of them.
fn two_networks() -> (Membership, impl Fn(&mut Membership, u64, u8, &Heartbeat)) {
    let mut config = config(0, 2);
    for (index, node) in config.nodes.iter_mut().enumerate() {
        node.addresses.push(extra(index));
    }
    config.links.push(OwnLink { mac: Mac([4; 6]), has_vips: false });
    let mut node = Membership::new(config, 1, at(0));
    node.handle_timeout(at(0));
    let sent = drain(&mut node);
    let links = sent.iter().filter_map(|output| match output {
        Output::Send { link, .. } => Some(*link),
        _ => None,
    });
    assert_eq!(links.collect::<Vec<_>>(), [0, 1], "the same news on both");
    let hear = move |node: &mut Membership, millis, link: u8, heartbeat: &Heartbeat| {
        let source = [address(1), extra(1)][usize::from(link)];
        let datagram = wire::reseal(&seal(heartbeat), link, heartbeat.mac, &KEY);
        node.handle_datagram(at(millis), link, source, &datagram);
        node.handle_timeout(at(millis));
    };
    (node, hear)
}

#[test]
fn the_extra_network_brings_news_but_decides_nobodys_life() {
    let (mut node, hear) = two_networks();
    let mut heartbeat = heartbeat(1, 2, Ack { life: 1, sequence: 1 });
    hear(&mut node, 0, 1, &heartbeat);
    assert!(node.hears.is_empty(), "it was never heard on the first");
    hear(&mut node, 0, 0, &heartbeat);
    assert_eq!(node.hears, set(&[1]));
    drain(&mut node);
    for millis in (50..=300).step_by(50) {
        heartbeat.sequence += 1;
        heartbeat.state.max_epoch += 1;
        hear(&mut node, millis, 1, &heartbeat);
    }
    assert_eq!(node.max_epoch, 6, "news");
    assert!(node.hears.is_empty(), "but silent on the VIP's network");
    assert_eq!(kinds(&drain(&mut node)), ["network_lost"]);
}

#[test]
fn the_loss_of_an_extra_network_is_told_and_changes_nothing() {
    let (mut node, hear) = two_networks();
    let mut heartbeat = heartbeat(1, 2, Ack { life: 1, sequence: 1 });
    hear(&mut node, 0, 0, &heartbeat);
    hear(&mut node, 0, 1, &heartbeat);
    drain(&mut node);
    for millis in (50..=300).step_by(50) {
        heartbeat.sequence += 1;
        hear(&mut node, millis, 0, &heartbeat);
    }
    assert_eq!(node.hears, set(&[1]));
    assert_eq!(kinds(&drain(&mut node)), ["link_lost"]);
    hear(&mut node, 310, 1, &heartbeat);
    assert_eq!(kinds(&drain(&mut node)), ["link_restored"]);
}

#[test]
fn what_came_by_the_faster_network_is_not_news_by_the_other() {
    let (mut node, hear) = two_networks();
    let old = heartbeat(1, 2, Ack { life: 1, sequence: 1 });
    hear(&mut node, 0, 0, &old);
    let mut new = Heartbeat { sequence: 3, ..old.clone() };
    new.state.flags = Flags::UNFIT;
    hear(&mut node, 1, 1, &new);
    hear(&mut node, 2, 0, &Heartbeat { sequence: 2, ..old });
    assert!(node.says(id(1), Flags::UNFIT));
}

#[test]
fn a_node_that_only_the_extra_network_reaches_serves_nothing_until_the_other_is_back() {
    for cut in 0..3 {
        let mut farm = Farm::with_two_networks(3, false);
        let others = set(&[0, 1, 2]).without(id(cut));
        farm.clear_log();
        farm.cuts = others.iter().flat_map(|it| [(cut, it.index()), (it.index(), cut)]).collect();
        farm.run(1000);
        assert_eq!(farm.nodes[cut].state(), NodeState::Fenced);
        assert_eq!(farm.events(cut, "cut_off").len(), 1);
        let went_on: Vec<_> = others.iter().map(NodeId::index).collect();
        assert!(went_on.iter().all(|&node| farm.members(node) == others));
        assert!(went_on.iter().all(|&node| farm.events(node, "cut_off").is_empty()));

        farm.cuts.clear();
        farm.run(1500);
        assert!((0..3).all(|node| farm.members(node) == set(&[0, 1, 2])), "it is back");

        farm.cut = true;
        farm.run(1000);
        assert!((0..3).all(|node| farm.members(node) == set(&[node])), "the switch died for all");
    }
}

#[test]
fn a_node_that_is_deaf_on_the_first_network_alone_stops_nobody() {
    for deaf in 0..3 {
        let mut farm = Farm::with_two_networks(3, false);
        farm.cuts = (0..3).filter(|&it| it != deaf).map(|it| (it, deaf)).collect();
        farm.run(2000);
        for node in (0..3).filter(|&node| node != deaf) {
            assert_eq!(farm.members(node), set(&[0, 1, 2]).without(id(deaf)), "{deaf} is deaf");
            assert_eq!(farm.nodes[node].state(), NodeState::Up);
        }
    }
}

#[test]
fn each_network_has_a_mac_of_its_own_which_is_no_news() {
    let (mut node, hear) = two_networks();
    let [first, other] = [5, 6].map(|byte| Mac([byte; 6]));
    let mut heartbeat = heartbeat(1, 2, Ack { life: 1, sequence: 1 });
    for millis in 0..4 {
        for (link, mac) in [(0, first), (1, other)] {
            heartbeat.mac = mac;
            hear(&mut node, millis, link, &heartbeat);
        }
        heartbeat.sequence += 1;
        assert!(node.wake.is_none());
    }
    let told = drain(&mut node).into_iter().filter(|output| matches!(output, Output::Peer(..)));
    let peer = |link, mac| Output::Peer(id(1), link, mac);
    assert_eq!(told.collect::<Vec<_>>(), [peer(0, first), peer(1, other)]);
    let known = node.peers(at(4)).next().expect("there is one").macs;
    assert_eq!(known, [Some(first), Some(other)]);
}

#[test]
fn what_is_sent_by_a_link_names_the_macs_of_that_link() {
    let (mut node, _) = two_networks();
    node.handle_timeout(at(50));
    let sent = drain(&mut node).into_iter().filter_map(|output| match output {
        Output::Send { link, datagram } => Some((link, datagram)),
        _ => None,
    });
    let macs = sent.map(|(link, bytes)| wire::open(&bytes, link, &[KEY]).expect("our own").mac);
    assert_eq!(macs.collect::<Vec<_>>(), [node.config.links[0].mac, Mac([4; 6])]);
}

/// Both directions between each of `some` and each of `others`.
fn between(some: &[usize], others: &[usize]) -> Vec<(usize, usize)> {
    let pairs = some.iter().flat_map(|&one| others.iter().map(move |&other| (one, other)));
    pairs.flat_map(|(one, other)| [(one, other), (other, one)]).collect()
}

/// What the nodes' kernels accept, and until when.
struct Kernels {
    accept: Vec<(u64, BootTime)>,
    /// How much of each node's log has been carried out.
    done: Vec<usize>,
}

impl Kernels {
    /// Those of a farm that has just agreed.
    fn of(farm: &mut Farm) -> Self {
        let accept = |(index, node): (usize, &Membership)| {
            (own(&node.view().expect("it serves"), index).0[0], node.lease())
        };
        farm.clear_log();
        let accept: Vec<_> = farm.nodes.iter().enumerate().map(accept).collect();
        Self { done: vec![0; accept.len()], accept }
    }

    /// Runs on, and sees to it at every instant that nothing is served twice.
    fn run(&mut self, farm: &mut Farm, millis: u64) {
        for _ in 0..millis {
            farm.run(1);
            for (index, (accept, lease)) in self.accept.iter_mut().enumerate() {
                for output in &farm.log[index][self.done[index]..] {
                    match output {
                        Output::Release(view) => *accept &= own(view, index).0[0],
                        Output::Acquire(view) => *accept = own(view, index).0[0],
                        Output::Fence => (*accept, *lease) = (0, BootTime::ZERO),
                        Output::Lease(until) => *lease = *until,
                        _ => {}
                    }
                }
                self.done[index] = farm.log[index].len();
            }
            let (now, mut all) = (farm.now(), 0);
            for &(accept, lease) in &self.accept {
                let accepted = if lease > now { accept } else { 0 };
                let cuts = &farm.cuts;
                assert_eq!(all & accepted, 0, "twice: cut {cuts:?}, {:?}", self.accept);
                all |= accepted;
            }
        }
    }

    /// The nodes that accept anything.
    fn serving(&self, farm: &Farm) -> Vec<usize> {
        let accepts = |&index: &usize| {
            let (accept, lease) = self.accept[index];
            accept != 0 && lease > farm.now()
        };
        (0..self.accept.len()).filter(accepts).collect()
    }
}

#[test]
fn of_two_equal_sides_that_share_clients_on_another_network_one_serves() {
    for (first, others) in [(&[0][..], &[1][..]), (&[0, 3], &[1, 2]), (&[0, 1], &[2, 3])] {
        let mut farm = Farm::with_two_networks(2 * first.len(), true);
        let mut kernels = Kernels::of(&mut farm);
        farm.cuts = between(first, others);
        kernels.run(&mut farm, 2000);
        assert_eq!(kernels.serving(&farm), first);
        assert!(first.iter().all(|&node| farm.members(node) == set(first)));
        assert!(others.iter().all(|&node| farm.events(node, "cut_off").len() == 1));
        farm.cuts.clear();
        kernels.run(&mut farm, 2000);
        assert!(farm.nodes.iter().all(Membership::is_converged), "it is whole again");
    }
}

#[test]
fn a_larger_side_takes_over_from_a_smaller_one_that_it_shares_clients_with() {
    for smaller in [[0, 1], [1, 3], [3, 4]] {
        let larger: Vec<_> = (0..5).filter(|node| !smaller.contains(node)).collect();
        let mut farm = Farm::with_two_networks(5, true);
        let mut kernels = Kernels::of(&mut farm);
        farm.cuts = between(&smaller, &larger);
        kernels.run(&mut farm, 1000);
        assert_eq!(kernels.serving(&farm), larger);
        assert!(larger.iter().all(|&node| farm.events(node, "lease_lapsed").is_empty()));
        assert!(larger.iter().all(|&node| farm.events(node, "cut_off").is_empty()));
    }
}

#[test]
fn when_the_first_switch_dies_one_node_serves_the_other_network() {
    let mut farm = Farm::with_two_networks(3, true);
    let mut kernels = Kernels::of(&mut farm);
    farm.cut = true;
    kernels.run(&mut farm, 2000);
    assert_eq!(kernels.serving(&farm), [0]);
    farm.stop(0);
    kernels.run(&mut farm, 2000);
    assert_eq!(kernels.serving(&farm), [1], "the next one takes its place");
}

/// Any partitions of the first network, while all hear each other on another one that has VIPs too.
#[test]
fn however_the_first_network_is_split_nothing_is_served_twice_on_the_other() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let count = 2 + rng.index(5);
        let mut farm = Farm::with_two_networks(count, true);
        let mut kernels = Kernels::of(&mut farm);
        for _ in 0..6 {
            let sides: Vec<_> = (0..count).map(|_| rng.below(3)).collect();
            let all: Vec<_> = (0..count).collect();
            let mut cuts = between(&all, &all);
            match rng.below(4) {
                0 => cuts.clear(),
                1 => {}
                _ => cuts.retain(|&(one, other)| sides[one] != sides[other]),
            }
            farm.cuts = cuts;
            kernels.run(&mut farm, 1 + rng.below(900));
        }
        farm.cuts.clear();
        kernels.run(&mut farm, 20_000);
        assert!(farm.nodes.iter().all(Membership::is_converged), "seed {seed}");
    }
}

#[test]
fn a_node_that_has_lost_another_network_with_vips_gives_way_to_those_who_have_it() {
    for cut in 0..3 {
        let mut farm = Farm::with_two_networks(3, true);
        let mut kernels = Kernels::of(&mut farm);
        let others: Vec<_> = (0..3).filter(|&node| node != cut).collect();
        farm.other_cuts = between(&[cut], &others);
        kernels.run(&mut farm, 1000);
        assert_eq!(kernels.serving(&farm), others);
        let [told] = &farm.events(cut, "cut_off")[..] else { panic!("it says so, once") };
        assert!(told.contains("the network of its address number 2"), "{told}");
        let view = farm.nodes[others[0]].view().expect("it serves");
        assert_eq!((view.alive, view.owners()), (set(&[0, 1, 2]), set(&others)));
        // Not before it has been back for a while: it may come and go.
        farm.other_cuts.clear();
        kernels.run(&mut farm, 400);
        assert_eq!(kernels.serving(&farm), others);
        kernels.run(&mut farm, 400);
        assert_eq!(kernels.serving(&farm), [0, 1, 2]);
        assert_eq!(farm.events(cut, "fit").len(), 1);
    }
}

#[test]
fn when_nobody_hears_anybody_on_another_network_all_go_on() {
    for count in [2, 3] {
        for has_vips in [true, false] {
            let all: Vec<_> = (0..count).collect();
            let mut farm = Farm::with_two_networks(count, has_vips);
            farm.clear_log();
            // One after the other.
            for node in 0..count {
                farm.other_cuts.extend(between(&[node], &all));
                farm.run(1000);
            }
            let events =
                |kind| all.iter().map(|&node| farm.events(node, kind).len()).sum::<usize>();
            assert_eq!(events("cut_off") > 0, count == 3 && has_vips);
            assert!(farm.nodes.iter().all(Membership::is_converged), "{count} {has_vips}");
        }
    }
}
