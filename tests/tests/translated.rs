//! What the kernel made of the programs: no call on the hot path, and a verifier far from its
//! limits. Exact, unlike a measurement.

use vipfarm::datapath::manual::{Entry, Manual};
use vipfarm_lab::{require, skip, translated, world::World};

#[test]
fn the_hot_path_has_no_call_but_the_tail_call() {
    require!(skip::bpf());
    require!(skip::tool("bpftool"));
    for (flavour, kernel) in World::new().kernels() {
        let calls = calls(&kernel, Entry::Filter);
        assert_eq!(calls.len(), 1, "calls in the translated `filter`, {flavour}: {calls:#?}");
        assert!(calls[0].contains(translated::TAIL_CALL), "{flavour}: {calls:?}");
    }
}

#[test]
fn the_reader_of_translated_code_sees_calls_where_there_are_some() {
    require!(skip::bpf());
    require!(skip::tool("bpftool"));
    let calls = calls(&World::new().kernel(), Entry::Slow);
    assert!(calls.iter().any(|call| call.contains("bpf_ktime_get_boot_ns")), "{calls:?}");
}

#[test]
fn the_verifier_is_far_from_its_limit() {
    require!(skip::bpf());
    let sizes = World::new().kernel().sizes().expect("the kernel tells");
    assert!(sizes.contains_key("filter"), "{sizes:?}");
    for (name, size) in sizes {
        // The kernel's own limit is a million; a load takes a third of a second at the second one.
        let decides = name.starts_with("slow");
        let most = if decides { 300_000 } else { 20_000 };
        println!("{name}: {} instructions verified, of {most} at most", size.verified);
        assert!((1..most).contains(&size.verified), "{name}: {size:?}");
    }
}

fn calls(kernel: &Manual, entry: Entry) -> Vec<String> {
    let id = kernel.program_id(entry).expect("it is loaded");
    translated::calls(id).unwrap_or_else(|error| panic!("{error:#}"))
}
