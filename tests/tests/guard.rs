//! The egress guard on single frames, as the kernel runs it.

use std::net::Ipv4Addr;

use vipfarm::{datapath::manual::Entry, model::Mac};
use vipfarm_lab::{
    Frame, require, skip,
    world::{CLIENT, OWN, VIP, VIP_OF_NODE2, VMAC, VMAC_OF_NODE2, World},
};

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);

#[test]
fn t1_t3_arp_that_speaks_for_a_vip_carries_its_vmac() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    for (vip, vmac) in [(VIP, VMAC), (VIP_OF_NODE2, VMAC_OF_NODE2)] {
        for frame in [
            Frame::arp_request(OWN, vip, OTHER),
            Frame::arp_request(OWN, vip, vip),
            Frame::arp_reply((OWN, vip), (CLIENT, OTHER)),
        ] {
            let run = kernel.run(Entry::Guard, &frame.bytes()).expect("it runs");
            assert_eq!(run.frame[22..28], vmac.0, "the sender's hardware address");
            assert_eq!(run.frame[6..12], OWN.0, "the Ethernet source");
            assert_eq!(run.guarded, ["arp_corrected"]);
            assert_eq!(run.action.cast_signed(), -1, "the next program has its turn");
        }
    }
}

#[test]
fn t2_the_vmac_never_leaves_as_an_ethernet_source() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    let frame = Frame::udp("10.9.0.11:1", "10.1.0.1:2", b"x").macs(VMAC, CLIENT).bytes();
    let run = kernel.run(Entry::Guard, &frame).expect("it runs");
    assert_eq!(run.frame[6..12], OWN.0);
    assert_eq!(run.frame[14..], frame[14..]);
    assert_eq!(run.guarded, ["source_corrected"]);
    let announcement = Frame::arp_request(OWN, VIP, VIP).macs(VMAC, CLIENT).bytes();
    let run = kernel.run(Entry::Guard, &announcement).expect("it runs");
    assert_eq!((&run.frame[6..12], &run.frame[22..28]), (&OWN.0[..], &VMAC.0[..]));
}

#[test]
fn everything_else_leaves_as_it_came() {
    require!(skip::bpf());
    let mut kernel = World::new().kernel();
    for frame in [
        Frame::arp_request(OWN, OTHER, VIP).macs(OWN, Mac([0xff; 6])),
        Frame::arp_reply((VMAC, VIP), (CLIENT, OTHER)).macs(OWN, CLIENT),
        Frame::tcp("10.9.0.100:80", "10.1.0.1:4000", 0x12).macs(OWN, CLIENT),
        Frame::udp("[fd00::1]:1", "[fd00::2]:2", b"x").macs(OWN, CLIENT),
        Frame::udp("10.9.0.11:1", "10.1.0.1:2", b"x").macs(CLIENT, OWN),
    ] {
        let frame = frame.bytes();
        let run = kernel.run(Entry::Guard, &frame).expect("it runs");
        assert_eq!(run.frame, frame);
        assert!(run.guarded.is_empty(), "{:?}", run.guarded);
    }
}
