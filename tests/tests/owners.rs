//! Chance frames as every node of a farm sees them: whatever comes, at most one node serves it, and
//! nothing but MACs is ever changed. `cargo xtask fuzz` runs it for longer.

use std::env;

use vipfarm_common::{Reason, Step, filter, packet::HostPacket, slow};
use vipfarm_lab::{
    generator::{Random, generate},
    pcap,
    world::World,
};

const FRAMES: u64 = 20_000;
/// Destination and source.
const MAC_BYTES: usize = 12;

#[test]
fn every_frame_is_served_once_at_most_and_keeps_all_but_its_macs() {
    let number =
        |name, default| env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let seed = number("VIPFARM_FUZZ_SEED", 1);
    let frames = number("VIPFARM_FUZZ_CASES", FRAMES);
    let nodes = [0, 1, 2].map(|node| World::seen_by(node).host());
    let slow_nodes = [0, 1, 2].map(|node| World::seen_by(node).host());
    let mut random = Random(seed);
    let mut served = 0;
    for number in 0..frames {
        let frame = generate(&mut random);
        let fates = [0, 1, 2].map(|node: usize| {
            let mut after = frame.clone();
            let reason = nodes[node].decide(&mut after);
            let by_slow_path = slow(&HostPacket::new(&mut frame.clone()), &slow_nodes[node]);
            let quick = filter(&HostPacket::new(&mut frame.clone()), &nodes[node]);
            let superset = by_slow_path.reason() == reason
                && (quick == Step::Slow || quick == Step::Done(reason.into()));
            let kept = after.len() == frame.len()
                && after.iter().skip(MAC_BYTES).eq(frame.iter().skip(MAC_BYTES));
            (reason, superset && kept)
        });
        let mine = fates.iter().filter(|(reason, _)| *reason == Reason::Mine).count();
        let sound = mine <= 1 && fates.iter().all(|(_, sound)| *sound);
        assert!(
            sound,
            "seed {seed}, frame {number} ({}): {fates:?} {frame:02x?}",
            pcap::of_failure(env!("CARGO_TARGET_TMPDIR"), "owners", [&frame[..]])
        );
        served += u64::from(mine == 1);
    }
    assert!(served > frames / 50, "only {served} of {frames} frames were served by anybody");
    println!("fuzz: frames {frames}");
}
