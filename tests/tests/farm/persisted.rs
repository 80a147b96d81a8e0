//! How long what operators have said holds: for the life of an agent, or until it is taken back.

use std::{fs, time::Instant};

use vipfarm::status::{ChangedPower, ChangedPowers, NodeState};
use vipfarm_lab::{Farm, farm::exit_code_and_words, require, skip};

use crate::{
    ONE_VIP, all, asks_in_vain, events, eventually, has_event, lab, operated::load, probed::Probed,
    refused::refuses, running,
};

/// Kills agents, as a power cut does, and starts them again.
fn restart(farm: &mut Farm<'_>, nodes: &[usize]) {
    for &node in nodes {
        farm.kill(node).unwrap();
    }
    for &node in nodes {
        farm.start_node(node, &[]).unwrap();
    }
    farm.wait_converged(&all(farm.lab())).unwrap();
}

/// What all nodes say of a node's powers.
fn changed(farm: &Farm<'_>, node: usize) -> Option<ChangedPowers> {
    let said = all(farm.lab()).into_iter().map(|asked| {
        let status = farm.status(asked).unwrap();
        let name = farm.lab().node(node).name();
        let of_group = status.groups[0].changed.get(name).map(|changed| changed.persist);
        let changed = status.nodes[node - 1].changed_powers;
        assert_eq!(changed.map(|changed| changed.persist), of_group);
        assert_eq!(status.groups[0].load[name] == 0, changed.is_some_and(|changed| changed.closed));
        changed
    });
    let said: Vec<_> = said.collect();
    assert!(said.iter().all(|it| *it == said[0]), "{said:?}");
    said[0]
}

const CLOSED: Option<ChangedPowers> = Some(ChangedPowers { closed: true, persist: false });
const CLOSED_FOR_GOOD: Option<ChangedPowers> = Some(ChangedPowers { closed: true, persist: true });

#[test]
fn a_drain_ends_with_the_nodes_agent_and_a_persistent_one_when_it_is_taken_back() {
    let program = require!(skip::farm());
    let lab = lab("persist", 3, 1);
    let mut farm = running(&lab, &program, ONE_VIP);

    farm.ask(1, &["drain", "node2"]).unwrap();
    assert_eq!(changed(&farm, 2), CLOSED);
    restart(&mut farm, &[1]);
    assert_eq!(changed(&farm, 2), CLOSED, "of another agent");
    restart(&mut farm, &[2]);
    assert_eq!(changed(&farm, 2), None);

    farm.ask(1, &["drain", "node2", "--persist"]).unwrap();
    farm.ask(1, &["power", "all", "node3=9"]).unwrap();
    let words = farm.ask(3, &["bitmap"]).unwrap();
    assert!(words.contains("(file: 1, persistent)") && words.contains("(file: 1, until restart)"));
    restart(&mut farm, &[2]);
    assert_eq!(changed(&farm, 2), CLOSED_FOR_GOOD);
    restart(&mut farm, &[1, 2, 3]);
    assert_eq!((changed(&farm, 2), changed(&farm, 3)), (CLOSED_FOR_GOOD, None));

    farm.ask(3, &["undrain", "node2"]).unwrap();
    assert_eq!(changed(&farm, 2), None);
    restart(&mut farm, &[1, 2, 3]);
    assert_eq!(changed(&farm, 2), None);
    farm.stop().unwrap();
}

/// Also an ordered stop, of the node alone and of all: it is drained again, says so, and is taken back as it says.
#[test]
fn a_persistent_drain_outlasts_a_stop_of_the_agent_and_status_says_how_it_ends() {
    let program = require!(skip::farm());
    let lab = lab("outlasts", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    farm.ask(2, &["drain", "--persist"]).unwrap();
    for stopped in [&[2][..], &[1, 2]] {
        for &node in stopped {
            farm.stop_node(node).unwrap();
        }
        for &node in stopped {
            farm.start_node(node, &[]).unwrap();
        }
        farm.wait_converged(&[1, 2]).unwrap();
        assert_eq!(changed(&farm, 2), CLOSED_FOR_GOOD);
        let words = farm.ask(2, &["status"]).unwrap();
        let why = "! closed here: group all, until `vipfarm open` or `undrain`\n";
        assert!(words.starts_with(why), "{words}");
        let words = farm.ask(1, &["bitmap"]).unwrap();
        assert!(words.contains("(file: 1, persistent)"), "{words}");
    }
    asks_in_vain(&farm, 2, &["open"], 1, "undrain");
    assert_eq!(changed(&farm, 2), CLOSED_FOR_GOOD);
    farm.ask(2, &["undrain"]).unwrap();
    assert_eq!(changed(&farm, 2), None);
    farm.stop_node(2).unwrap();
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    assert_eq!(changed(&farm, 2), None);
    farm.stop().unwrap();
}

#[test]
fn what_is_said_while_a_node_is_away_must_persist_and_awaits_it() {
    let program = require!(skip::farm());
    let lab = lab("away", 3, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    farm.stop_node(3).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    let words = "node3 is not in the farm: add --persist to have it apply when it comes back";
    asks_in_vain(&farm, 1, &["drain", "node3"], 1, words);
    farm.ask(1, &["drain", "node3", "--persist"]).unwrap();
    farm.start_node(3, &[]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    assert_eq!(changed(&farm, 3), CLOSED_FOR_GOOD);
    // Whose disk has missed the last change is put right by the others.
    farm.stop_node(3).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    farm.ask(2, &["undrain", "node3"]).unwrap();
    farm.kill(1).unwrap();
    farm.kill(2).unwrap();
    for node in [3, 1, 2] {
        farm.start_node(node, &[]).unwrap();
    }
    farm.wait_converged(&[1, 2, 3]).unwrap();
    assert_eq!(changed(&farm, 3), None);
    farm.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_node_closes_and_opens_groups_without_a_gap_or_a_second_answer() {
    let program = require!(skip::farm());
    let lab = lab("close", 3, 40);
    let mut farm = running(&lab, &program, ONE_VIP);
    let traffic = Probed::start(&lab).await;
    let from = Instant::now();

    for group in [&[][..], &["all"]] {
        let words = farm.ask(2, &[&["close"], group].concat()).unwrap();
        assert!(words.contains("farm load: 0/256  (file: 1, until restart)"), "{words}");
        assert_eq!(changed(&farm, 2), CLOSED);
        let words = farm.ask(2, &["status"]).unwrap();
        assert!(words.starts_with("! closed here: group all, until `vipfarm open`"), "{words}");
        farm.ask(2, &[&["open"], group].concat()).unwrap();
        assert_eq!(changed(&farm, 2), None);
    }
    // One group of all that are closed.
    farm.ask(2, &["close"]).unwrap();
    farm.ask(2, &["open", "all"]).unwrap();
    assert_eq!(changed(&farm, 2), None);
    farm.ask(2, &["open"]).unwrap();
    let reopened = Instant::now();

    farm.ask(3, &["close", "all", "--persist"]).unwrap();
    let said = farm.status(1).unwrap().groups[0].changed["node3"];
    assert_eq!(said, ChangedPower { file: 1, persist: true });
    farm.ask(3, &["open", "all"]).unwrap();
    assert!((85..=86).contains(&load(&farm, 1, "node3")));
    asks_in_vain(&farm, 1, &["close", "some"], 1, "its groups are all");

    let log = traffic.stop_unharmed(from).await;
    assert_eq!(log.outage(from, reopened, "node2").survivor_failures, 0, "others' clients");
    farm.stop().unwrap();
}

/// Of two changes made at one instant none is lost, nor one made by an agent that does not know yet
/// what the farm has agreed on.
#[test]
fn a_change_that_another_one_won_over_is_made_once_more() {
    let program = require!(skip::farm());
    let lab = lab("atonce", 3, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    for verb in ["close", "open"].repeat(5) {
        let asked = [1, 2, 3].map(|node| farm.ask_command(node, &[verb]).spawn().unwrap());
        for mut asked in asked {
            assert!(asked.wait().unwrap().success());
        }
        let closed = CLOSED.filter(|_| verb == "close");
        assert_eq!([1, 2, 3].map(|node| changed(&farm, node)), [closed; 3]);
    }
    farm.kill(2).unwrap();
    farm.start_node(2, &[]).unwrap();
    eventually("it can be asked", || farm.status(2).is_ok());
    assert_eq!(farm.status(2).unwrap().state, NodeState::Joining);
    farm.ask(2, &["close"]).unwrap();
    farm.wait_converged(&[1, 2, 3]).unwrap();
    assert_eq!(changed(&farm, 2), CLOSED);
    farm.stop().unwrap();
}

fn powers_file(farm: &Farm<'_>, node: usize) -> std::path::PathBuf {
    farm.state_directory(node).join("test.powers.json")
}

#[test]
fn a_damaged_record_of_powers_is_refused_and_down_leaves_it_alone() {
    let program = require!(skip::farm());
    let lab = lab("damaged", 2, 1);
    let mut farm = running(&lab, &program, ONE_VIP);
    farm.ask(1, &["drain", "node2", "--persist"]).unwrap();
    farm.stop().unwrap();
    let path = powers_file(&farm, 1);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"node2\""), "{text}");
    let (code, words) = exit_code_and_words(&mut farm.down_command(1)).unwrap();
    assert_eq!((code, &*words), (Some(0), "nothing was left\n"));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);

    fs::write(&path, &text[1..]).unwrap();
    let words = ["test.powers.json is damaged", "--persist", "remove it"];
    refuses(&farm, &mut farm.agent_command(1), 1, &words);
    fs::write(&path, text.replace("node2", "node9")).unwrap();
    farm.start_node(1, &[]).unwrap();
    farm.wait_converged(&[1]).unwrap();
    let told = events(&farm, 1).into_iter().find(|event| event.kind == "power_forgotten").unwrap();
    assert!(told.level == "warn" && told.message.contains("node9"), "{told:?}");
    // The other node has it still, and the agreed powers are written everywhere.
    farm.start_node(2, &[]).unwrap();
    farm.wait_converged(&[1, 2]).unwrap();
    farm.ask(1, &["drain", "node2", "--persist"]).unwrap();
    assert_eq!(changed(&farm, 2), CLOSED_FOR_GOOD);
    assert!(!has_event(&farm, 2, "power_forgotten"));
    farm.stop().unwrap();
}
