//! Generated frames: the kernel's verdict, reason and output bytes are the host's, for every frame
//! and also when all of them are forced through the slow path.

use std::{collections::BTreeMap, time::Duration};

use vipfarm::{
    datapath::manual::{Entry, Manual},
    host::HostTables,
};
use vipfarm_common::{Guarded, Reason};
use vipfarm_lab::{
    generator::{Random, generate, spoken},
    pcap, require, skip,
    world::World,
};

const FRAMES: u64 = 100_000;

#[test]
fn t28_t29_kernel_and_host_agree_on_generated_frames() {
    require!(skip::bpf());
    let world = World::new();
    // Each time anew: fragments leave a mark.
    let kernels = || {
        world.kernels().map(|(_, mut kernel)| {
            kernel.lease(Duration::from_mins(10)).expect("a lease");
            kernel
        })
    };
    let [fast, plain] =
        kernels().map(|mut kernel| compare(&mut kernel, &world.host(), Entry::Filter));
    assert_eq!(plain, fast, "for frames in one buffer");
    // Every outcome that a frame can have must have been had, or the test proves less than it says.
    for &reason in Reason::ALL {
        let possible = !matches!(
            reason,
            Reason::Broken
                | Reason::Fenced
                | Reason::FragmentFlood
                | Reason::Lingering
                | Reason::Inherited
                | Reason::HandedBack
                | Reason::CopiedBack
        );
        assert_eq!(fast.contains_key(&reason), possible, "{reason:?} of {fast:?}");
    }
    let [mut forced, _] = kernels();
    forced.force_slow();
    let slow = compare(&mut forced, &world.host().forced_slow(), Entry::Filter);
    assert_eq!(slow, fast, "the slow path is a superset of the hot one");
    let [_, mut forced] = kernels();
    forced.force_slow();
    let direct = compare(&mut forced, &world.host().forced_slow(), Entry::Slow);
    assert_eq!(direct, fast, "also when it is entered directly");
}

#[test]
fn kernel_and_host_agree_while_buckets_are_in_a_move() {
    require!(skip::bpf());
    let world = World::new().in_a_move();
    let mut kernel = world.kernel();
    kernel.lease(Duration::from_mins(10)).expect("a lease");
    // Nobody has a connection: what lingers is nobody's here, what was taken over is another's.
    let met = compare(&mut kernel, &world.host(), Entry::Filter);
    let moved = [Reason::Inherited, Reason::HandedBack, Reason::CopiedBack];
    for reason in moved.into_iter().chain([Reason::Mine, Reason::NotMine]) {
        assert!(met.contains_key(&reason), "{reason:?} of {met:?}");
    }
}

#[test]
fn kernel_and_host_let_the_same_frames_out() {
    require!(skip::bpf());
    let world = World::new();
    let host = world.host();
    let mut kernel = world.kernel();
    kernel.lease(Duration::from_mins(10)).expect("a lease");
    let mut random = Random(0x5a1d);
    let mut met = BTreeMap::new();
    for number in 0..FRAMES / 5 {
        let frame = if number % 4 == 0 { generate(&mut random) } else { spoken(&mut random) };
        let mut expected = frame.clone();
        let guarded = host.guard(&mut expected);
        // The kernel makes no packet of a frame that was cut to its first header.
        let Ok(run) = kernel.run(Entry::Guard, &frame) else {
            *met.entry("not run").or_insert(0) += 1;
            continue;
        };
        let counted = (guarded != Guarded::Clean).then_some(guarded.as_str());
        let action = if guarded == Guarded::Refused { 2 } else { -1 };
        let alike = run.guarded == Vec::from_iter(counted)
            && run.action.cast_signed() == action
            && run.frame == expected;
        assert!(
            alike,
            "frame {number} ({}): the kernel says {run:?}, the host {guarded:?} {expected:02x?}",
            pcap::of_failure(env!("CARGO_TARGET_TMPDIR"), "spoken", [&frame[..]])
        );
        *met.entry(guarded.as_str()).or_insert(0) += 1;
    }
    assert!(met.get("not run").is_none_or(|&refused| refused < FRAMES / 50), "{met:?}");
    let all = Guarded::COUNTED.iter().chain([&Guarded::Clean]);
    for outcome in all.map(|outcome| outcome.as_str()) {
        assert!(met.contains_key(outcome), "{outcome} of {met:?}");
    }
}

#[test]
fn the_slow_path_loads_and_decides_alike_when_it_logs() {
    require!(skip::bpf());
    let world = World::new();
    let mut kernel = world.kernel_that_logs();
    kernel.lease(Duration::from_mins(10)).expect("a lease");
    let mut random = Random(7);
    for _ in 0..500 {
        let frame = generate(&mut random);
        let run = kernel.run(Entry::Filter, &frame).expect("it runs");
        assert_eq!(run.reasons, [world.host().decide(&mut frame.clone())]);
    }
}

#[test]
fn a_bitmap_stored_in_place_is_what_the_next_packet_meets() {
    require!(skip::bpf());
    let world = World::new();
    let mut kernel = world.kernel();
    kernel.lease(Duration::from_mins(10)).expect("a lease");
    for alive in [0b001, 0b110, 0b101, 0b111] {
        let world = World::new().with_alive(vipfarm::model::NodeSet::from_bits(alive));
        kernel.apply(world.plan()).expect("it is stored");
        let host = world.host();
        let mut random = Random(alive);
        for _ in 0..2_000 {
            let frame = generate(&mut random);
            let run = kernel.run(Entry::Filter, &frame).expect("it runs");
            assert_eq!(run.reasons, [host.decide(&mut frame.clone())], "alive {alive:b}");
        }
    }
}

/// Runs the frames on both sides; returns how often each reason was met.
fn compare(kernel: &mut Manual, host: &HostTables, entry: Entry) -> BTreeMap<Reason, u64> {
    let mut random = Random(0x5eed);
    let mut met = BTreeMap::new();
    for number in 0..FRAMES {
        let frame = generate(&mut random);
        let mut expected = frame.clone();
        let reason = host.decide(&mut expected);
        let run = kernel.run(entry, &frame).expect("it runs");
        let alike =
            run.reasons == [reason] && run.action == reason.action() && run.frame == expected;
        assert!(
            alike,
            "frame {number} ({}): the kernel says {run:?}, the host {reason:?} {expected:02x?}",
            pcap::of_failure(env!("CARGO_TARGET_TMPDIR"), "generated", [&frame[..]])
        );
        *met.entry(reason).or_insert(0) += 1;
    }
    met
}
