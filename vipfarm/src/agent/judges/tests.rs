//! A farm on paper: the nodes' tables and memories on the host, datagrams through `decide`, views in two
//! steps, heartbeats and frames that get lost.

mod races;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::{collection::vec, prelude::*};
use vipfarm_common::{
    Verdict,
    packet::{seen_in, seen_ns},
};

use super::*;
use crate::{
    agent::{fixture, ports::Port},
    host::HostTables,
    membership::BootTime,
    model::{Farm, Mac, Mode, Override, Overrides},
    plan::{OwnAddresses, Plan},
};

const GROUPS: &str =
    "[{ name: g, rules: [{ port: 7000, proto: udp, filter: on_port, linger: 10s }] }]";
const GROUP: usize = 1;
const NODES: usize = 3;
const FLOWS: u16 = 24;
const LINGER: Duration = Duration::from_secs(10);
const HASH_KEY: [u8; 16] = [7; 16];
const VIP: [u8; 4] = [10, 0, 0, 100];
const CLIENT: Mac = Mac([2, 0, 0, 0, 1, 1]);
const CLIENT_ADDR: [u8; 4] = [10, 0, 1, 1];
const FIRST_PORT: u16 = 30_000;

/// Something happens.
#[derive(Debug, Clone)]
enum Step {
    /// Buckets move: each node's power, 0 to 2.
    Powers([u16; NODES]),
    /// Likewise, but only the nodes with those bits install the view.
    Begin([u16; NODES], u8),
    /// All go over to the other file, in which the clients are in other buckets.
    Reload,
    /// A node dies, or comes back.
    Flip(usize),
    /// A node loses its lease, with all that it has but its kernel's memory, or comes back.
    Fence(usize),
    /// A node lets go of all that lingers with it, whatever flows there are.
    LetGo(usize),
    /// A node's heartbeats of now reach those nodes, by bits.
    Tell(usize, u8),
    /// A node counts its flows and lets go of what has none left.
    Count(usize),
    /// Time passes.
    Pass(Duration),
    /// Flows send, those with that remainder by three.
    Send(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => [0..3_u16, 0..3_u16, 0..3_u16].prop_map(Step::Powers),
        1 => ([0..3_u16, 0..3_u16, 0..3_u16], 0..8_u8).prop_map(|(powers, who)| Step::Begin(powers, who)),
        1 => Just(Step::Reload),
        1 => (0..NODES).prop_map(Step::Flip),
        2 => (0..NODES).prop_map(Step::Fence),
        1 => (0..NODES).prop_map(Step::LetGo),
        4 => (0..NODES, 0..8_u8).prop_map(|(node, to)| Step::Tell(node, to)),
        2 => (0..NODES).prop_map(Step::Count),
        2 => (1..12_u64).prop_map(|seconds| Step::Pass(Duration::from_secs(seconds))),
        6 => (0..3_u16).prop_map(Step::Send),
    ]
}

struct Node {
    port: Port,
    /// Of [`Paper::files`].
    file: usize,
    tables: HostTables,
    /// What they say.
    plan: Plan,
    fenced: bool,
    /// The view installed.
    installed: View,
    /// What the others have said last, and in which view.
    heard: BTreeMap<NodeId, (u64, Arc<[u8]>)>,
}

impl Node {
    /// The kernel group and the bucket of a flow.
    fn place(&self, flow: u16) -> (usize, usize) {
        let client = (CLIENT_ADDR, FIRST_PORT + flow).into();
        let place = self.port.services().lingering_flow(HASH_KEY, client, (VIP, 7000).into(), 0);
        let ((group, bucket), linger) = place.expect("it is a flow of the rule");
        assert_eq!(linger, LINGER);
        (group, bucket.into())
    }
}

/// A flow that has been served: by whom, and when it last was.
type Served = (usize, Duration);

struct Paper {
    files: [Farm; 2],
    /// Which of them is in force.
    file: usize,
    /// `None` = dead.
    nodes: Vec<Option<Node>>,
    view: View,
    directed: bool,
    now: Duration,
    served: BTreeMap<u16, Served>,
    /// Of what may be lost and which node comes first.
    chance: u64,
    lossy: bool,
}

impl Paper {
    fn new(directed: bool, chance: u64) -> Self {
        let mut files = [GROUPS.into(), GROUPS.replace("on_port", "on_addr")]
            .map(|groups: String| fixture::farm(&groups));
        if directed {
            for farm in &mut files {
                farm.vips[0].mode = Mode::VmacDirected;
            }
        }
        let alive = files[0].node_ids().collect();
        let mut paper = Self {
            files,
            file: 0,
            nodes: (0..NODES).map(|_| None).collect(),
            view: View::of(NodeSet::EMPTY),
            directed,
            now: Duration::ZERO,
            served: BTreeMap::new(),
            chance,
            lossy: true,
        };
        (0..NODES).for_each(|node| paper.nodes[node] = Some(paper.born(node)));
        paper.change(View::of(alive));
        paper
    }

    fn port(&self) -> Port {
        Port::new(&self.files[self.file], |_| true, OwnAddresses::default()).expect("it fits")
    }

    fn born(&self, index: usize) -> Node {
        let mut port = self.port();
        (0..NODES).filter(|&peer| peer != index).for_each(|peer| port.learn(id(peer), mac(peer)));
        let plan = port.plan();
        let mut tables = HostTables::new(&plan, HASH_KEY, mac(index));
        tables.pass(self.now);
        let (installed, heard) = (View::default(), BTreeMap::new());
        Node { port, file: self.file, tables, plan, fenced: false, installed, heard }
    }

    fn random(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % bound
    }

    fn alive(&mut self) -> Vec<usize> {
        let serves = |&node: &usize| self.nodes[node].as_ref().is_some_and(|node| !node.fenced);
        let mut alive: Vec<_> = (0..NODES).filter(serves).collect();
        let first = usize::try_from(self.random(3)).expect("small");
        let count = alive.len();
        alive.rotate_left(first % count.max(1));
        alive
    }

    /// Two steps, and datagrams between any two nodes' steps.
    fn change(&mut self, view: View) {
        self.change_at(view, 0xff);
    }

    /// The same; only the nodes with those bits take the second one.
    fn change_at(&mut self, view: View, who: u8) {
        self.view = View { epoch: self.view.epoch + 1, ..view };
        for node in self.alive() {
            let (view, file, next) = (self.view.clone(), self.file, self.port());
            self.with(node, |node, own| {
                if node.file != file {
                    let former = std::mem::replace(&mut node.port, next);
                    node.port.follow(&former);
                    node.file = file;
                }
                node.port.release(own, &view);
            });
            self.send(u16::try_from(node).expect("small"));
        }
        for node in self.alive().into_iter().filter(|&node| who >> node & 1 == 1) {
            let view = self.view.clone();
            self.with(node, |node, own| {
                node.port.acquire(own, &view);
                node.port.serve();
                node.installed = view;
            });
            self.hear(node);
            self.send(u16::try_from(node).expect("small"));
        }
    }

    /// Changes a node, and then its tables step by step, with datagrams between any two.
    fn with(&mut self, index: usize, change: impl FnOnce(&mut Node, NodeId)) {
        let Some(node) = &mut self.nodes[index] else { return };
        change(node, id(index));
        let plan = node.port.plan();
        for change in plan.changes_from(Some(&node.plan)) {
            if let Some(node) = &mut self.nodes[index] {
                node.tables.change(change, &plan);
            }
            let any = self.random(FLOWS.into());
            self.send_one(u16::try_from(any).expect("few flows"));
        }
        if let Some(node) = &mut self.nodes[index] {
            node.plan = plan;
        }
    }

    fn powers(&mut self, powers: [u16; NODES], who: u8) {
        if powers.iter().sum::<u16>() > 0 {
            let entries = powers.iter().enumerate();
            let entries =
                entries.map(|(node, &power)| Override::persistent(id(node), Some(0), power));
            let changed = entries.fold(Overrides::default(), |all, entry| {
                all.with(id(0), entry).expect("there is room")
            });
            self.change_at(View { powers: Arc::new(changed), ..self.view.clone() }, who);
        }
    }

    /// What a node has served by the former file it remembers of another bucket, so that is anybody's.
    fn reload(&mut self) {
        self.file = 1 - self.file;
        self.served.clear();
        self.change(self.view.clone());
        self.served.clear();
    }

    /// Dies, with its kernel's memory, or comes back without it.
    fn flip(&mut self, index: usize) {
        if self.nodes[index].take().is_some() {
            self.lose(index);
        } else {
            self.nodes[index] = Some(self.born(index));
            self.join(index);
        }
    }

    fn fence(&mut self, index: usize) {
        let Some(node) = &mut self.nodes[index] else { return };
        node.fenced = !node.fenced;
        if node.fenced {
            self.with(index, |node, _| node.port.clear());
            self.lose(index);
        } else {
            self.join(index);
        }
    }

    fn lose(&mut self, index: usize) {
        self.served.retain(|_, (node, _)| *node != index);
        let others = self.view.alive.without(id(index));
        if others.is_empty() {
            self.view.alive = others;
        } else {
            self.change(View { alive: others, ..self.view.clone() });
        }
    }

    fn join(&mut self, index: usize) {
        let alive = self.view.alive.with(id(index));
        self.change(View { alive, ..self.view.clone() });
    }

    /// The flows that linger there may be anybody's from now on.
    fn let_go(&mut self, index: usize) {
        let Some(node) = &self.nodes[index] else { return };
        let lingering = node.port.share().lingering().to_vec();
        let lingers = |flow| {
            let (group, bucket) = node.place(flow);
            lingering[group].has(bucket)
        };
        self.served.retain(|flow, (by, _)| *by != index || !lingers(*flow));
        self.with(index, |node, _| {
            let none = vec![Bitmap::default(); node.port.accept().len()];
            node.port.keep(node.port.share().steps(), &none);
        });
    }

    fn tell(&mut self, from: usize, to: u8) {
        let Some(node) = &self.nodes[from] else { return };
        let said = (node.installed.epoch, node.port.share().told());
        for to in (0..NODES).filter(|&node| node != from && to >> node & 1 == 1) {
            let said = said.clone();
            self.with(to, |node, _| {
                node.heard.insert(id(from), said);
            });
            self.hear(to);
        }
    }

    /// Takes what the others have said, those that are alive in its view.
    fn hear(&mut self, index: usize) {
        self.with(index, |node, own| {
            let said = |peer: NodeId| match node.heard.get(&peer) {
                Some((epoch, bytes)) => Said::of(peer, *epoch == node.installed.epoch, bytes),
                None => Said::of(peer, false, &[]),
            };
            let said: Vec<_> = node.installed.alive.without(own).iter().map(said).collect();
            node.port.take(&said, BootTime::ZERO);
        });
    }

    fn count(&mut self, index: usize) {
        self.with(index, |node, _| {
            let step = node.port.share().steps();
            let mut used = vec![Bitmap::default(); node.port.accept().len()];
            let now = node.tables.boot_ns();
            for (flow, seen) in node.tables.flows() {
                let (group, bucket) = node.place(u16::from_be_bytes(flow.client_port) - FIRST_PORT);
                let is_of_now = node.port.share().tenures()[group][bucket] == seen_in(seen);
                if is_of_now && Duration::from_nanos(now - seen_ns(seen)) <= LINGER {
                    used[group].add(u8::try_from(bucket).expect("256 buckets"));
                }
            }
            node.port.keep(step, &used);
        });
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.nodes.iter_mut().flatten().for_each(|node| node.tables.pass(time));
    }

    fn send(&mut self, remainder: u16) {
        (0..FLOWS).filter(|flow| flow % 3 == remainder % 3).for_each(|flow| self.send_one(flow));
    }

    /// A datagram of a flow: no two nodes accept it, and the same one as before, if that lives, the flow
    /// was not idle, and no node lacks the history.
    fn send_one(&mut self, flow: u16) {
        let target = if self.directed { None } else { self.files[0].vips[0].virtual_mac() };
        let mut frames: Vec<(usize, Vec<u8>)> = match target {
            Some(vmac) => self.alive().into_iter().map(|node| (node, frame(flow, vmac))).collect(),
            None => self
                .alive()
                .into_iter()
                .take(1)
                .map(|node| (node, frame(flow, mac(node))))
                .collect(),
        };
        let (mut accepted, mut hops) = (Vec::new(), 0);
        while let Some((index, mut bytes)) = frames.pop() {
            if self.lossy && self.random(20) == 0 {
                continue;
            }
            let Some(node) = self.nodes[index].as_ref().filter(|node| !node.fenced) else {
                continue;
            };
            match node.tables.decide(&mut bytes).verdict() {
                Verdict::Accept => accepted.push(index),
                Verdict::Forward => {
                    hops += 1;
                    assert!(hops <= 2 * NODES, "it goes round");
                    let next = (0..NODES).find(|&node| bytes[..6] == mac(node).0);
                    frames.insert(0, (next.expect("a node"), bytes));
                }
                Verdict::Drop | Verdict::Pass => {}
            }
        }
        assert!(accepted.len() <= 1, "{accepted:?} accept one datagram");
        let before = self.served.get(&flow).copied();
        if let Some(node) = accepted.pop() {
            let before = before.map(|(former, last)| (former, self.now.saturating_sub(last)));
            if let Some((former, ago)) = before.filter(|&(_, ago)| ago < LINGER) {
                assert_eq!(node, former, "a flow served {ago:?} ago changes hands");
            }
            self.served.insert(flow, (node, self.now));
        }
    }

    /// When all have heard each other, every flow is served, at once.
    fn settle(&mut self) {
        self.powers([1; NODES], 0xff);
        (0..NODES).for_each(|node| self.tell(node, 0xff));
        self.lossy = false;
        for flow in 0..FLOWS {
            self.served.remove(&flow);
            self.send_one(flow);
            assert!(
                self.alive().is_empty() || self.served.contains_key(&flow),
                "{flow} is not served"
            );
        }
        self.lossy = true;
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Powers(powers) => self.powers(powers, 0xff),
            Step::Begin(powers, who) => self.powers(powers, who),
            Step::Reload => self.reload(),
            Step::Flip(node) => self.flip(node),
            Step::Fence(node) => self.fence(node),
            Step::LetGo(node) => self.let_go(node),
            Step::Tell(node, to) => self.tell(node, to),
            Step::Count(node) => self.count(node),
            Step::Pass(time) => self.pass(time),
            Step::Send(remainder) => self.send(remainder),
        }
    }
}

fn id(index: usize) -> NodeId {
    NodeId::new(index).expect("a small farm")
}

fn mac(node: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, u8::try_from(node).expect("a small farm") + 1])
}

/// A datagram, to that MAC.
fn frame(flow: u16, target: Mac) -> Vec<u8> {
    let ip = [0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0];
    let mut frame = [&target.0[..], &CLIENT.0, &[8, 0], &ip, &CLIENT_ADDR, &VIP].concat();
    frame.extend((FIRST_PORT + flow).to_be_bytes());
    frame.extend(7000_u16.to_be_bytes());
    frame.extend([0, 8, 0, 0]);
    frame
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_datagram_is_accepted_twice_and_no_live_flow_changes_hands(
        steps in vec(step(), 1..40),
        directed in any::<bool>(),
        chance in 1..u64::MAX,
    ) {
        let mut paper = Paper::new(directed, chance);
        for step in &steps {
            paper.run(step);
        }
        paper.settle();
    }
}

/// Flows that another node has served meanwhile are that one's, whatever the kernel of the first remembers.
#[test]
fn a_node_that_was_fenced_or_let_go_remembers_nothing() {
    for (directed, lapse) in [
        (false, &[Step::Fence(0), Step::Send(0), Step::Fence(0)][..]),
        (true, &[Step::Fence(0), Step::Send(0), Step::Fence(0)]),
        (false, &[Step::Powers([0, 1, 1]), Step::LetGo(0), Step::Tell(0, 7), Step::Send(0)]),
        (true, &[Step::Powers([0, 1, 1]), Step::LetGo(0), Step::Tell(0, 7), Step::Send(0)]),
    ] {
        let mut paper = Paper::new(directed, 1);
        paper.lossy = false;
        let tell = (0..NODES).map(|node| Step::Tell(node, 7));
        let back = [Step::Powers([2, 1, 1])].into_iter().chain(tell.clone());
        let away = [Step::Powers([0, 1, 1]), Step::Send(0)];
        let steps = [Step::Send(0)].into_iter().chain(tell).chain([Step::Send(0)]);
        let steps = steps.chain(lapse.iter().cloned()).chain(back).chain(away);
        steps.for_each(|step| paper.run(&step));
    }
}

/// A group of three nodes whose flows linger, in a view.
fn judges(own: usize, owner: usize) -> Judges {
    let mut judges = Judges::of(vec![false, true]);
    judges.install(id(own), &all(), |_| [Some(id(owner)); BUCKETS]);
    judges.hear(&[]);
    judges
}

fn all() -> View {
    View::of((0..NODES).map(id).collect())
}

fn turn(judges: &Judges, handover: &Handover, accept: Bitmap) -> (u8, u8) {
    let turns = judges.turns(handover, &[Bitmap::default(), accept]);
    (turns[GROUP].first.0[5], turns[GROUP].next.0[5])
}

const EVERY: Bitmap = Bitmap([u64::MAX; 4]);

#[test]
fn the_former_owner_judges_first_from_the_view_on_and_until_it_says_that_it_has_nothing() {
    let mut judges = judges(2, 0);
    let nothing = Handover::of(2);
    assert_eq!(turn(&judges, &nothing, Bitmap::default()), (NOBODY, NOBODY));
    judges.install(id(2), &all(), |_| [Some(id(2)); BUCKETS]);
    assert_eq!(turn(&judges, &nothing, EVERY), (0, 0), "nothing was heard of it yet");
    assert!(!judges.know_all());
    let silent = Said { node: id(0), lingering: None, held_until: None };
    judges.hear(std::slice::from_ref(&silent));
    assert_eq!(turn(&judges, &nothing, EVERY), (0, 0), "it has not installed the view");
    judges.hear(&[Said { lingering: Some(&[]), ..silent }]);
    assert_eq!(turn(&judges, &nothing, EVERY), (NOBODY, NOBODY));
    assert!(judges.know_all());
}

#[test]
fn a_former_owner_hands_on_to_the_next_one_and_to_nobody_before_the_view_is_in_force() {
    let mut judges = judges(1, 1);
    let mut handover = Handover::of(2);
    judges.promise(|_| [Some(id(0)); BUCKETS]);
    handover.give_away(GROUP, EVERY);
    assert_eq!(turn(&judges, &handover, Bitmap::default()), (NOBODY, SEVERAL));
    judges.install(id(1), &all(), |_| [Some(id(0)); BUCKETS]);
    assert_eq!(turn(&judges, &handover, Bitmap::default()), (NOBODY, 0), "its owner");
    judges.install(id(1), &all(), |_| [Some(id(2)); BUCKETS]);
    assert_eq!(turn(&judges, &handover, Bitmap::default()), (0, 2), "after the former owner");
}

#[test]
fn who_comes_from_nowhere_takes_nothing_for_its_own_before_all_have_spoken() {
    let mut judges = Judges::of(vec![false, true]);
    judges.install(id(0), &all(), |_| [Some(id(0)); BUCKETS]);
    assert_eq!(turn(&judges, &Handover::of(2), EVERY), (SEVERAL, NOBODY));
    judges.hear(&[Said { node: id(1), lingering: Some(&[]), held_until: None }]);
    assert_eq!(turn(&judges, &Handover::of(2), EVERY), (NOBODY, NOBODY));
    let mut alone = Judges::of(vec![false, true]);
    alone.install(id(0), &View::of(NodeSet::EMPTY.with(id(0))), |_| [Some(id(0)); BUCKETS]);
    assert!(alone.know_all());
    let mut none = Judges::of(vec![false, false]);
    none.install(id(0), &all(), |_| [Some(id(0)); BUCKETS]);
    assert!(none.know_all() && none.turns(&Handover::of(2), &[EVERY; 2]).is_empty());
}
