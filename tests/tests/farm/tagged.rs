//! T23: tags that are in the frame, and tags that are beside it.

use std::time::Duration;

use vipfarm::datapath::Options;
use vipfarm_common::Reason;
use vipfarm_lab::{
    Direction, Farm, Frame,
    frame::SYN,
    host::INTERFACE,
    require, skip,
    world::{CLIENT, OWN_V4, VIP_TAGGED, VIP_TAGGED_TWICE, VMAC_TAGGED, VMAC_TAGGED_TWICE, World},
};

use crate::{ONE_VIP, eventually, lab, refused::refuses};

/// How long a frame may take through the lab.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn t23_a_vip_in_a_vlan_needs_tags_that_the_hardware_leaves_alone_and_a_vlan_device() {
    let program = require!(skip::farm());
    let lab = lab("stripped", 2, 1);
    let vips = |tags| ONE_VIP.replace("eth0\n", &format!("eth0\n    vlan: {tags}\n"));
    let mut farm = Farm::new(&lab, &program, "test", &vips("10")).unwrap();
    refuses(&farm, &mut farm.agent_command(1), 2, &["VLAN tags off", "ethtool -K eth0 rxvlan off"]);
    lab.node(1).set_vlan_offload(false).unwrap();
    let words = ["no VLAN device", "`ip link add link eth0 name eth0.10 type vlan id 10`"];
    refuses(&farm, &mut farm.agent_command(1), 2, &words);
    farm.give_own_config(1, |yaml| yaml.replace("vlan: 10", "vlan: [20, 10]")).unwrap();
    let words = ["name eth0.20 type vlan proto 802.1ad id 20", "name eth0.20.10 type vlan id 10"];
    refuses(&farm, &mut farm.agent_command(1), 2, &words);
}

#[test]
fn t23_native_and_generic_xdp_see_a_tag_only_in_the_frame_itself() {
    require!(skip::lab());
    let lab = lab("tags", 1, 1);
    let (world, node, client) = (World::new(), lab.node(1), lab.client(1));
    let tagged = |vid| {
        let frame = Frame::tcp(([10, 1, 0, 1], 4000), (VIP_TAGGED, 80), SYN);
        frame.macs(client.mac(), VMAC_TAGGED).vlan(vid).bytes()
    };
    for generic in [false, true] {
        let bpf_dir = lab.bpf_directory();
        let options = Options { interface: INTERFACE.into(), bpf_dir, generic, ..world.options() };
        let mut datapath = node.in_ns(|| world.attach(&options)).unwrap();
        let counters = datapath.take_counters().unwrap();
        let count = |reason: Reason| counters.packets().unwrap()[&reason];
        // Without a lease, what is for the VIP is refused.
        for (beside, vid, reason) in
            [(false, 10, Reason::Fenced), (false, 11, Reason::NotVip), (true, 10, Reason::NotVip)]
        {
            node.set_vlan_offload(beside).unwrap();
            let before = count(reason);
            client.inject(&tagged(vid)).unwrap();
            let what = format!("generic {generic}, beside {beside}, VLAN {vid}: {reason:?}");
            eventually(&what, || count(reason) > before);
        }
        node.in_ns(|| datapath.remove()).unwrap();
    }
}

/// A bridge takes the tag off what it receives and keeps it beside, as a VLAN device does with what
/// it sends: the guard on a port of the switch meets such frames.
#[test]
fn t23_the_guard_knows_the_vlan_by_a_tag_beside_the_frame() {
    require!(skip::lab());
    let lab = lab("beside", 1, 1);
    let (world, node, client) = (World::new(), lab.node(1), lab.client(1));
    let options =
        Options { interface: node.name().into(), bpf_dir: lab.bpf_directory(), ..world.options() };
    let datapath = lab.switch_namespace().in_ns(|| world.attach(&options)).unwrap();
    let capture = node.capture_if(|frame| frame.direction == Direction::Incoming).unwrap();
    let claim = |vip| Frame::arp_request(CLIENT, vip, OWN_V4);
    for (frame, sender) in [
        (claim(VIP_TAGGED).vlan(10), VMAC_TAGGED),
        (claim(VIP_TAGGED).vlan(0).vlan(10), VMAC_TAGGED),
        (claim(VIP_TAGGED_TWICE).service_vlan(20).vlan(10), VMAC_TAGGED_TWICE),
        (claim(VIP_TAGGED).vlan(11), CLIENT),
        (claim(VIP_TAGGED), CLIENT),
        (claim(VIP_TAGGED_TWICE).vlan(10), CLIENT),
    ] {
        let sent = frame.bytes();
        client.inject(&sent).unwrap();
        let mut expected = sent.clone();
        let arp = sent.len() - 28;
        expected[arp + 8..arp + 14].copy_from_slice(&sender.0);
        let arrived = |frame: &vipfarm_lab::Captured| frame.bytes == expected;
        assert!(
            capture.wait_for(SOON, arrived).is_some(),
            "{expected:02x?} is not among {:02x?}",
            capture.frames()
        );
    }
    lab.switch_namespace().in_ns(|| datapath.remove()).unwrap();
}
