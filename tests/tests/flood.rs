//! T8: early fragments are kept by every node, so there is a limit to how many.

use std::time::Duration;

use vipfarm::datapath::manual::Entry;
use vipfarm_common::Reason;
use vipfarm_lab::{
    Frame,
    frame::ACK,
    require, skip,
    world::{CLIENT, VIP, VMAC, World},
};

/// What a CPU keeps in 67 ms; a run of frames may lie in two such slots.
const MOST: u64 = 1024;

fn early() -> Vec<u8> {
    let whole = Frame::tcp("10.1.0.1:4000", (VIP, 80), ACK).payload(&[0; 64]);
    whole.macs(CLIENT, VMAC).fragments(24)[1].clone()
}

#[test]
fn t8_a_flood_of_early_fragments_is_kept_up_to_a_limit() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    kernel.lease(Duration::from_mins(10)).expect("a lease");
    kernel.repeat(Entry::Filter, &early(), 10_000).expect("it runs");
    let packets = kernel.packets().expect("counted");
    let (kept, refused) = (packets[&Reason::EarlyFragment], packets[&Reason::FragmentFlood]);
    assert_eq!(kept + refused, 10_000);
    assert!((MOST..=2 * MOST).contains(&kept), "{kept} kept");
}
