//! What nodes tell each other of their kernels.

use super::{harness::*, *};

fn proofs(farm: &Farm, node: usize) -> Vec<(usize, Proof, bool)> {
    let peers = farm.nodes[node].peers(farm.now());
    peers.map(|peer| (peer.node.index(), peer.proof, peer.agrees)).collect()
}

#[test]
fn a_proof_reaches_all_peers_with_the_next_heartbeat() {
    let mut farm = Farm::settled(3);
    let proof = Proof { epoch: 3, digest: 0x1234 };
    assert_eq!(proofs(&farm, 0), [(1, Proof::default(), true), (2, Proof::default(), true)]);
    farm.nodes[2].publish(proof);
    farm.run(60);
    assert_eq!(proofs(&farm, 0), [(1, Proof::default(), true), (2, proof, true)]);
    assert_eq!(proofs(&farm, 1)[1], (2, proof, true));
}

#[test]
fn a_member_that_is_left_behind_no_longer_agrees() {
    let mut farm = Farm::settled(3);
    farm.stop(2);
    farm.run(1000);
    assert_eq!(proofs(&farm, 0).iter().map(|it| it.2).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn nothing_is_decided_by_a_proof() {
    let history = |publishes: bool| {
        let mut farm = Farm::of(3);
        for turn in 0..1000 {
            if publishes {
                let proof = |node: usize| Proof { epoch: turn, digest: turn * 3 + node as u64 };
                let nodes = farm.nodes.iter_mut().enumerate();
                nodes.for_each(|(index, node)| node.publish(proof(index)));
            }
            if turn == 700 {
                farm.stop(1);
            }
            farm.run(1);
        }
        for output in farm.log.iter_mut().flatten() {
            if let Output::Send { datagram, .. } = output {
                datagram.clear();
            }
        }
        (farm.log, farm.logged_at)
    };
    assert_eq!(history(true), history(false));
}

#[test]
fn what_lingers_is_said_anew_in_each_view() {
    assert!(is_said_anew(Rules::ALL));
    assert!(!is_said_anew(Rules { said_anew: false, ..Rules::ALL }), "what the rule is for");
}

/// Whether a node says nothing of what lingers until its driver has released for the newest view. Two
/// views by two coordinators may have one number, so that does not tell for which it was said.
fn is_said_anew(rules: Rules) -> bool {
    let mut farm = Farm::settled(3);
    farm.nodes[1].rules = rules;
    let said = |farm: &Farm| farm.nodes[0].peers(farm.now()).next().expect("a peer").lingering;
    let now = farm.now();
    farm.nodes[1].publish_lingering(now, [7].into());
    farm.run(60);
    assert_eq!(*said(&farm), [7]);
    let now = farm.now();
    farm.nodes[2].set_power(now, None, id(1), Some(0), true).expect("room");
    farm.run(60);
    assert!(farm.nodes[0].is_converged());
    let is_silent = said(&farm).is_empty();
    let now = farm.now();
    farm.nodes[1].publish_lingering(now, [7].into());
    farm.run(60);
    assert_eq!(*said(&farm), [7]);
    is_silent
}
