use std::sync::Arc;

use super::*;
use crate::{
    agent::fixture,
    membership::Proof,
    model::{Bitmap, NodeSet, Override, Overrides, View},
    plan::OwnAddresses,
    status::Lateness,
};

const GROUPS: &str = "[{ name: web, powers: { node1: 2, node2: 1, node3: 1 }, rules: [{ port: 80, proto: tcp, filter: on_port }] }]";

/// Node 1 of three that are what they must be, at a second.
struct Lab {
    farm: Farm,
    port: Port,
    snapshot: Snapshot,
    checker: Checker,
    told: Told,
}

fn id(index: usize) -> NodeId {
    NodeId::new(index).expect("a small farm")
}

impl Lab {
    fn new() -> Self {
        let farm = fixture::farm(GROUPS);
        let port = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        let peer = |node: usize| PeerStatus {
            digest: None,
            node: id(node),
            state: NodeState::Up,
            heard: None,
            links: Vec::new(),
            macs: vec![],
            incarnation: None,
            config_differs: Vec::new(),
            staged: None,
            hears_us: true,
            unfit: false,
            leaving: false,
            acked: None,
            epoch: 0,
            agrees: true,
            proof: Proof::default(),
            lingering: Arc::default(),
        };
        let snapshot = Snapshot {
            digest: [0; 16],
            staged: None,
            at: BootTime::ZERO + Duration::from_secs(1),
            view: View::default(),
            powers: Arc::default(),
            state: NodeState::Up,
            converged: true,
            detour: false,
            deadline: BootTime::ZERO,
            peers: vec![peer(1), peer(2)],
            accept: Vec::new(),
            lingering: Vec::new(),
            inherited: Vec::new(),
            tenures: Vec::new(),
            steps: 0,
            heartbeats: Vec::new(),
            lateness: Lateness::default(),
            view_change: None,
        };
        let mut lab =
            Self { farm, port, snapshot, checker: Checker::new(id(0)), told: Told::default() };
        let view = View { epoch: 12, ..View::of((0..3).map(id).collect()) };
        lab.agree(&view);
        lab
    }

    fn accepts(&self, node: usize, view: &View) -> Vec<Bitmap> {
        let mut port = self.port.clone();
        port.acquire(id(node), view);
        port.accept().to_vec()
    }

    /// Everybody is heard, and accepts what that view says.
    fn agree(&mut self, view: &View) {
        self.snapshot.view = view.clone();
        self.snapshot.accept = vec![self.accepts(0, view); 2];
        for node in [1, 2] {
            let proof = of(view, &[self.accepts(node, view)]);
            let peer = self.peer(node);
            (peer.epoch, peer.agrees, peer.proof) = (view.epoch, true, proof);
        }
        self.pass(0);
    }

    fn peer(&mut self, node: usize) -> &mut PeerStatus {
        &mut self.snapshot.peers[node - 1]
    }

    /// Lets time pass, with everybody heard at its end.
    fn pass(&mut self, millis: u64) {
        self.pass_without(None, millis);
    }

    fn pass_without(&mut self, silent: Option<usize>, millis: u64) {
        let now = self.snapshot.at + Duration::from_millis(millis);
        self.snapshot.at = now;
        self.snapshot.deadline = now + self.farm.membership.timers.lease;
        for node in [1, 2].into_iter().filter(|&node| Some(node) != silent) {
            self.peer(node).heard = Some(now);
        }
    }

    fn check(&mut self) -> ProofStatus {
        self.checker.check(self.snapshot.at, &self.snapshot, &self.farm, &self.port)
    }

    fn verdict(&mut self) -> Verdict {
        self.check().verdict
    }

    /// The only fault's node and kind, after it has gone on for that long.
    fn fault_after(&mut self, millis: u64) -> (Option<String>, FaultKind) {
        if millis > 0 {
            assert_eq!(self.verdict(), Verdict::Changing);
            self.pass(millis - 1);
            assert_eq!(self.verdict(), Verdict::Changing);
            self.pass(1);
        }
        let status = self.check();
        assert_eq!((status.verdict, status.faults.len()), (Verdict::Wrong, 1), "{status:?}");
        let fault = &status.faults[0];
        let name = fault.node.as_ref().or(fault.group.as_ref()).expect("one of both");
        assert!(fault.message.contains(name), "{fault:?}");
        (fault.node.clone(), fault.kind)
    }

    fn counts(&mut self) -> Vec<(usize, usize, usize, usize)> {
        let count = |group: &GroupProof| {
            let GroupProof { once, twice, nobody, unknown, .. } = *group;
            assert_eq!(once + twice + nobody + unknown, 256);
            (once, twice, nobody, unknown)
        };
        self.check().groups.iter().map(count).collect()
    }

    fn news(&mut self) -> Option<&'static str> {
        let status = self.check();
        self.told.news(self.snapshot.at, &status).map(|news| news.kind)
    }
}

fn named(node: &str, kind: FaultKind) -> (Option<String>, FaultKind) {
    (Some(node.into()), kind)
}

#[test]
fn a_farm_in_which_everybody_is_right_owns_every_bucket_once() {
    let mut lab = Lab::new();
    let status = lab.check();
    assert_eq!((status.verdict, status.epoch), (Verdict::OwnedOnce, 12));
    assert!(status.faults.is_empty() && status.waiting_for.is_empty());
    let names: Vec<_> = status.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["(resolve)", "web"]);
    assert_eq!(lab.counts(), [(256, 0, 0, 0), (256, 0, 0, 0)]);
}

#[test]
fn a_member_whose_kernel_differs_is_named_when_it_goes_on() {
    let mut lab = Lab::new();
    let mut accepts = lab.accepts(1, &lab.snapshot.view);
    accepts[1].0[2] ^= 1 << 17;
    let wrong = of(&lab.snapshot.view, &[accepts]);
    lab.peer(1).proof = wrong;
    assert_eq!(lab.fault_after(100), named("node2", FaultKind::Tables));
    assert_eq!(lab.counts()[1], (192, 0, 0, 64), "what it accepts is not known");
    assert_eq!((lab.news(), lab.news()), (Some("not_owned_once"), None));
    let view = lab.snapshot.view.clone();
    lab.agree(&view);
    assert_eq!((lab.news(), lab.news()), (Some("owned_once"), None));
    // A new trouble has a time of its own.
    lab.peer(1).proof = wrong;
    assert_eq!(lab.news(), None);
}

#[test]
fn this_nodes_own_kernel_is_checked_on_every_interface() {
    for interface in 0..2 {
        let mut lab = Lab::new();
        let mine = lab.snapshot.accept[interface][1].0;
        let bits = |word: usize, set: bool| {
            let bit = (0..64).find(|bit| (mine[word] >> bit & 1 == 1) == set);
            1 << bit.expect("it has some and not all")
        };
        lab.snapshot.accept[interface][1].0[0] ^= bits(0, true);
        lab.snapshot.accept[interface][1].0[1] ^= bits(1, false);
        assert_eq!(lab.fault_after(100), named("node1", FaultKind::Tables));
        let message = lab.check().faults[0].message.clone();
        assert!(message.contains("web: 1 too many, 1 missing"), "{message}");
        assert_eq!(lab.counts()[1], (254, 1, 0, 1), "on one interface alone it is missing");
        lab.snapshot.accept = vec![lab.snapshot.accept[interface].clone(); 2];
        assert_eq!(lab.counts()[1], (254, 1, 1, 0));
    }
}

#[test]
fn a_member_that_is_about_to_follow_is_waited_for() {
    let mut lab = Lab::new();
    let former = lab.peer(2).proof;
    let view = View { epoch: 13, ..lab.snapshot.view.clone() };
    lab.agree(&view);
    (lab.peer(2).proof, lab.peer(2).agrees, lab.peer(2).epoch) = (former, false, 12);
    let status = lab.check();
    assert_eq!((status.verdict, status.epoch), (Verdict::Changing, 13));
    assert_eq!(status.waiting_for, ["node3"]);
    assert_eq!(lab.fault_after(1000), named("node3", FaultKind::OtherView));
    let message = lab.check().faults[0].message.clone();
    assert!(message.contains("view 12") && message.contains("view 13"), "{message}");
    lab.peer(2).agrees = true;
    assert_eq!(lab.fault_after(1000), named("node3", FaultKind::Unproven));
    lab.agree(&view);
    assert_eq!(lab.verdict(), Verdict::OwnedOnce);
}

#[test]
fn a_change_that_this_node_does_not_complete_is_its_own_fault() {
    let mut lab = Lab::new();
    lab.snapshot.converged = false;
    assert_eq!(lab.fault_after(1000), named("node1", FaultKind::Unproven));
}

#[test]
fn a_fenced_members_buckets_are_nobodys_and_counted() {
    for state in [NodeState::Fenced, NodeState::Joining] {
        let mut lab = Lab::new();
        (lab.peer(1).state, lab.peer(1).proof) = (state, Proof::default());
        assert_eq!(lab.fault_after(100), named("node2", FaultKind::NotServing));
        assert_eq!(lab.counts()[1], (192, 0, 64, 0));
        let message = lab.check().faults[0].message.clone();
        assert!(message.contains("64 of web"), "{message}");
    }
}

#[test]
fn a_silent_member_is_named_when_its_lease_has_ended() {
    let mut lab = Lab::new();
    let lease = lab.farm.membership.timers.lease;
    lab.pass_without(Some(2), u64::try_from(lease.as_millis()).expect("short"));
    assert_eq!(lab.verdict(), Verdict::OwnedOnce);
    lab.pass_without(Some(2), 1);
    assert_eq!(lab.fault_after(0), named("node3", FaultKind::Silent));
    assert_eq!(lab.counts()[1], (192, 0, 0, 64));
    let view = View { epoch: 13, ..View::of((0..2).map(id).collect()) };
    lab.agree(&view);
    lab.pass_without(Some(2), 1000);
    assert_eq!(lab.verdict(), Verdict::OwnedOnce, "the others have taken over");
}

#[test]
fn who_owns_nothing_need_not_serve_and_may_leave() {
    let mut lab = Lab::new();
    let view = View { epoch: 13, idle: NodeSet::EMPTY.with(id(1)), ..lab.snapshot.view.clone() };
    lab.agree(&view);
    for state in [NodeState::Up, NodeState::Fenced, NodeState::Down] {
        lab.peer(1).state = state;
        assert_eq!(lab.verdict(), Verdict::OwnedOnce);
        lab.peer(1).proof = Proof::default();
    }
    lab.pass_without(Some(1), 1000);
    assert_eq!(lab.verdict(), Verdict::OwnedOnce);
}

#[test]
fn a_member_that_says_goodbye_and_still_owns_buckets_is_checked() {
    let mut lab = Lab::new();
    lab.peer(1).state = NodeState::Down;
    assert_eq!(lab.verdict(), Verdict::OwnedOnce);
    lab.peer(1).proof = Proof::default();
    assert_eq!(lab.fault_after(1000), named("node2", FaultKind::Unproven));
}

#[test]
fn a_node_that_serves_outside_of_the_view_is_named() {
    let mut lab = Lab::new();
    let view = View { epoch: 13, ..View::of((0..2).map(id).collect()) };
    lab.agree(&view);
    lab.peer(2).agrees = false;
    assert_eq!(lab.fault_after(1000), named("node3", FaultKind::OtherView));
    lab.peer(2).state = NodeState::Joining;
    assert_eq!(lab.verdict(), Verdict::OwnedOnce);
}

#[test]
fn a_group_that_nobody_may_serve_is_named() {
    let mut lab = Lab::new();
    let mut powers = Overrides::default();
    for node in 0..3 {
        let stopped = Override { node: id(node), group: Some(0), power: 0, life: None };
        powers = powers.with(id(0), stopped).expect("room");
    }
    let view = View { epoch: 13, powers: Arc::new(powers), ..lab.snapshot.view.clone() };
    lab.agree(&view);
    assert_eq!(lab.fault_after(0), (None, FaultKind::NoOwner));
    assert_eq!(lab.check().faults[0].group.as_deref(), Some("web"));
    assert_eq!(lab.counts(), [(256, 0, 0, 0), (0, 0, 256, 0)]);
    assert_eq!(lab.news(), Some("not_owned_once"));
}

#[test]
fn a_node_without_view_or_lease_cannot_tell_and_tells_nothing() {
    let mut lab = Lab::new();
    lab.snapshot.deadline = lab.snapshot.at;
    assert_eq!((lab.verdict(), lab.news()), (Verdict::Unknown, None));
    let mut lab = Lab::new();
    lab.snapshot.view = View::default();
    assert_eq!((lab.verdict(), lab.news()), (Verdict::Unknown, None));
}

#[test]
fn what_is_wrong_stays_told_while_nobody_knows_and_a_second_fault_is_told_too() {
    let mut lab = Lab::new();
    lab.peer(1).state = NodeState::Fenced;
    lab.fault_after(100);
    assert_eq!(lab.news(), Some("not_owned_once"));
    let deadline = std::mem::replace(&mut lab.snapshot.deadline, BootTime::ZERO);
    assert_eq!(lab.news(), None);
    lab.snapshot.deadline = deadline;
    lab.peer(2).state = NodeState::Fenced;
    assert_eq!(lab.news(), None, "there is time");
    lab.pass(100);
    let status = lab.check();
    let message = lab.told.news(lab.snapshot.at, &status).expect("a new one").message;
    assert!(message.contains("node3") && !message.contains("node2"), "{message}");
}

#[test]
fn what_must_be_is_found_anew_when_the_groups_are_others() {
    let mut lab = Lab::new();
    assert_eq!(lab.verdict(), Verdict::OwnedOnce);
    lab.farm = fixture::farm(&GROUPS.replace("node1: 2", "node1: 5"));
    lab.port = Port::new(&lab.farm, |_| true, OwnAddresses::default()).expect("it fits");
    assert_eq!(lab.check().waiting_for, ["node1", "node2", "node3"]);
    let view = lab.snapshot.view.clone();
    lab.agree(&view);
    assert_eq!(lab.verdict(), Verdict::OwnedOnce);
}

#[test]
fn every_word_of_every_group_is_in_the_proof_and_so_is_the_view() {
    let view = View { epoch: 12, ..View::of((0..3).map(id).collect()) };
    let accept = vec![Bitmap([1, 2, 3, 4]), Bitmap([5, 6, 7, 8])];
    let mut proofs = vec![of(&view, std::slice::from_ref(&accept))];
    assert_eq!(proofs[0], of(&view, &[accept.clone(), accept.clone()]), "interfaces alike");
    for group in 0..2 {
        for word in 0..4 {
            let mut other = accept.clone();
            other[group].0[word] ^= 1 << 63;
            proofs.push(of(&view, std::slice::from_ref(&other)));
            proofs.push(of(&view, &[accept.clone(), other]));
        }
    }
    proofs.push(of(&view, std::slice::from_ref(&vec![accept[1], accept[0]])));
    proofs.push(of(&View { epoch: 13, ..view.clone() }, std::slice::from_ref(&accept)));
    proofs.push(of(&View { coordinator: id(1), ..view }, std::slice::from_ref(&accept)));
    let mut digests: Vec<_> = proofs.iter().map(|proof| proof.digest).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), proofs.len());
}
