//! What the lab's tests need a process of its own for: one that is killed, one that skips.

use std::{env, thread, time::Duration};

use vipfarm_lab::{Lab, Topology, require};

fn main() {
    match env::args().nth(1).as_deref() {
        Some("victim") => victim(),
        Some("skipper") => skipper(),
        verb => panic!("lab-child victim | skipper, not {verb:?}"),
    }
}

/// Makes a lab with a process in it, says what they are called, and waits to be killed.
fn victim() {
    let lab = Lab::new("victim", &Topology::new(1, 0)).expect("root, as its parent");
    let mut sleep = lab.node(1).command("sleep");
    sleep.arg("1000");
    let process = lab.node(1).spawn("sleep", sleep).expect("sleep starts");
    println!("victim {} {} {}", lab.id(), process.id(), lab.directory().display());
    thread::sleep(Duration::from_secs(1000));
}

fn skipper() {
    require!("skipper", Err::<(), _>("on purpose".to_owned()));
    unreachable!("`require!` returns");
}
