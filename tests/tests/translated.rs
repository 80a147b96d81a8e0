//! What the kernel made of the programs: no call on the hot path, and a verifier far from its
//! limits. Exact, unlike a measurement.

use vipfarm::datapath::manual::{Entry, Manual};
use vipfarm_lab::{require, skip, translated, world::World};

/// One past tail call; every other call costs more than the whole rest of the hot path.
const ALLOWED: &str = "bpf_tail_call";

#[test]
fn the_hot_path_has_no_call_but_the_tail_call() {
    require!(skip::bpf());
    require!(skip::tool("bpftool"));
    let mut kernel = World::new().kernel();
    let calls = calls(&mut kernel, Entry::Filter);
    assert_eq!(calls.len(), 1, "calls in the translated `filter`: {calls:#?}");
    assert!(calls[0].contains(ALLOWED), "{calls:?}");
}

#[test]
fn the_reader_of_translated_code_sees_calls_where_there_are_some() {
    require!(skip::bpf());
    require!(skip::tool("bpftool"));
    let calls = calls(&mut World::new().kernel(), Entry::Slow);
    assert!(calls.iter().any(|call| call.contains("bpf_ktime_get_boot_ns")), "{calls:?}");
}

#[test]
fn the_verifier_is_far_from_its_limit() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    for (entry, most) in [(Entry::Filter, 20_000), (Entry::Slow, 200_000), (Entry::Guard, 20_000)] {
        let verified = kernel.verified_instructions(entry).expect("the kernel tells");
        println!("{entry:?}: {verified} instructions verified, of {most} at most");
        assert!((1..most).contains(&verified), "{entry:?}: {verified} instructions verified");
    }
}

fn calls(kernel: &mut Manual, entry: Entry) -> Vec<String> {
    let id = kernel.program_id(entry).expect("it is loaded");
    translated::calls(id).unwrap_or_else(|error| panic!("{error:#}"))
}
