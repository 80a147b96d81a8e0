//! Files without a problem, and what becomes of their values.

use std::{net::Ipv4Addr, time::Duration};

use super::*;
use crate::model::{
    ArpRefresh, DEFAULT_PORT, Filter, IcmpEcho, Mac, Membership, Mode, NodeId, Open,
    OtherProtocols, Proto, Rule, Timers, VipAddr, VlanTags,
};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 222));

#[test]
fn what_a_file_leaves_out_has_its_default() {
    let farm = parsed(
        &edited("membership: { profile: balanced }\n", "")
            .replace("mode: vmac_invisible\n    ", ""),
    );
    assert_eq!(farm.membership, Membership { timers: Timers::BALANCED, port: DEFAULT_PORT });
    assert_eq!(farm.stop_timeout, Duration::from_secs(10));
    let vip = &farm.vips[0];
    assert_eq!(vip.groups[0].handover_timeout, Duration::from_mins(10));
    assert_eq!(vip.interface, None);
    assert_eq!(vip.mode, Mode::VmacInvisible);
    assert_eq!(vip.vmac, Mac([0x5a, 0xfe, 192, 168, 1, 222]));
    assert_eq!((vip.check, vip.tcp_reset), (true, true));
    assert_eq!((vip.open, vip.icmp_echo), (Open::Auto, IcmpEcho::OnAddr));
    assert_eq!((vip.vlan, vip.other), (VlanTags::default(), OtherProtocols::Drop));
    assert_eq!(vip.addresses, [VipAddr { addr: VIP, prefix: 24, check: true, connections: false }]);
}

#[test]
fn what_a_file_says_is_in_the_model() {
    let farm = parsed(
        &edited("mode: vmac_invisible", "interface: eth0\n    vmac: 02:00:00:00:00:01\n    check: false\n    tcp_reset: false\n    open: auto\n    icmp_echo: drop\n    other: on_addr")
            .replace("profile: balanced }", "profile: fast, port: 5000 }\nstop_timeout: 0s")
            .replace("- name: http", "- name: http\n        handover_timeout: 24h"),
    );
    assert_eq!(farm.name, "web");
    assert_eq!(farm.stop_timeout, Duration::ZERO);
    assert_eq!(farm.vips[0].groups[0].handover_timeout, Duration::from_hours(24));
    assert_eq!(farm.key_file, Path::new("/etc/vipfarm/farm.key"));
    assert_eq!(farm.membership, Membership { timers: Timers::FAST, port: 5000 });
    assert_eq!(farm.nodes[1].addresses[1], IpAddr::from([10, 0, 0, 12]));
    let vip = &farm.vips[0];
    assert_eq!(vip.interface.as_deref(), Some("eth0"));
    assert_eq!(vip.vmac, Mac([2, 0, 0, 0, 0, 1]));
    assert_eq!((vip.check, vip.tcp_reset), (false, false));
    assert_eq!((vip.open, vip.icmp_echo), (Open::Auto, IcmpEcho::Drop));
    assert_eq!(vip.other, OtherProtocols::OnAddr);
    assert!(!vip.addresses[0].check, "inherited");
    let proto = Proto::Tcp;
    let rule = |port, filter| Rule { virtual_addr: None, port, proto, filter, linger: None };
    assert_eq!(vip.groups[0].rules, [rule(Some(80), Filter::OnPort), rule(None, Filter::OnAddr)]);
}

#[test]
fn vips_may_be_on_any_network_that_all_nodes_have_an_address_in() {
    let second = "  - { addresses: [10.0.0.222/8, 'fd00::222/64'], mode: vmac_directed, groups: [{ name: second, rules: [{ port: 80, proto: tcp, filter: on_port }] }] }\n";
    let farm = parsed(&format!("{}\n{second}", BASE.trim_end()));
    assert_eq!(farm.vips.len(), 2);
    // Whichever comes first in the file.
    parsed(&edited("vips:\n", &format!("vips:\n{second}")));
}

#[test]
fn powers_follow_the_order_of_the_nodes() {
    let powers = |text: &str| parsed(text).vips[0].groups[0].powers.clone();
    assert_eq!(powers(BASE), [Some(2), Some(1)]);
    let reversed = edited("{ node1: 2, node2: 1 }", "{ node2: 0, node1: 1000 }");
    assert_eq!(powers(&reversed), [Some(1000), Some(0)]);
    assert_eq!(powers(&edited("{ node1: 2, node2: 1 }", "{ node2: 3 }")), [None, Some(3)]);
    let absent = edited("        powers: { node1: 2, node2: 1 }\n", "");
    assert_eq!(powers(&absent), [Some(1), Some(1)]);
}

#[test]
fn an_address_may_be_a_mapping() {
    for (netmask, prefix) in
        [("24", 24), ("255.255.255.0", 24), ("255.255.255.128", 25), ("25", 25)]
    {
        let address = format!(
            "{{ addr: 192.168.1.122, netmask: {netmask}, check: false, connections: true }}"
        );
        let farm = parsed(&edited("192.168.1.222/24", &address));
        let addr = [192, 168, 1, 122].into();
        assert_eq!(
            farm.vips[0].addresses,
            [VipAddr { addr, prefix, check: false, connections: true }]
        );
        let farm = parsed(&edited("192.168.1.222/24", &format!("192.168.1.122/{netmask}")));
        assert_eq!(farm.vips[0].addresses[0].prefix, prefix);
    }
    let farm = parsed(&edited("192.168.1.222/24", "{ addr: 192.168.1.222/16 }"));
    assert_eq!(farm.vips[0].addresses[0].prefix, 16);
}

#[test]
fn a_directed_block_may_say_who_answers_arp() {
    let farm = parsed(&edited("mode: vmac_invisible", "mode: vmac_directed").replace(
        "- { port: 80, proto: tcp, filter: on_port }",
        "- { proto: arp, filter: on_addr }",
    ));
    assert_eq!(farm.vips[0].mode, Mode::VmacDirected);
    let arp = Rule {
        virtual_addr: None,
        port: None,
        proto: Proto::Arp,
        filter: Filter::OnAddr,
        linger: None,
    };
    assert_eq!(farm.vips[0].groups[0].rules[0], arp);
}

#[test]
fn a_vlan_is_one_tag_or_two() {
    let vlan =
        |text: &str| parsed(&edited("mode: vmac_invisible", &format!("vlan: {text}"))).vips[0].vlan;
    assert_eq!(vlan("10"), VlanTags { outer: 0, inner: 10 });
    assert_eq!(vlan("[100, 10]"), VlanTags { outer: 100, inner: 10 });
    assert_eq!(vlan("4094"), VlanTags { outer: 0, inner: 4094 });
}

#[test]
fn a_block_may_have_addresses_of_both_families() {
    let both = edited("192.168.1.222/24", "'fd00:1::222/64', 192.168.1.222/24");
    let vip = &parsed(&both).vips[0];
    let addresses: Vec<_> = vip.addresses.iter().map(|vip| (vip.addr, vip.prefix)).collect();
    let v6 = IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, 0x222]);
    assert_eq!(addresses, [(v6, 64), (VIP, 24)]);
    assert_eq!(vip.vmac, Mac([0x5a, 0xfe, 192, 168, 1, 222]), "the first IPv4 address gives it");
    let alone = parsed(&edited("192.168.1.222/24", "'fd00:1::222/64'"));
    assert_eq!(alone.vips[0].vmac, Mac([0x5a, 0xfe, 0, 0, 2, 0x22]));
}

#[test]
fn a_host_name_becomes_its_address() {
    for address in
        ["www.example.com/24", "{ addr: www.example.com, netmask: 24 }", "dual.example.com/24"]
    {
        assert_eq!(parsed(&edited("192.168.1.222/24", address)).vips[0].addresses[0].addr, VIP);
    }
}

#[test]
fn explicit_timers_are_taken_as_they_are() {
    let text = edited("profile: balanced", "period: 20ms, suspect: 45ms, lease: 80ms, fail: 1s");
    let timers = parsed(&text).membership.timers;
    assert_eq!(timers, Timers { fail: Duration::from_secs(1), ..Timers::FAST });
}

#[test]
fn a_more_specific_rule_may_stand_beside_a_general_one() {
    let farm = parsed(&edited(
        "- { port: 80, proto: tcp, filter: on_port }",
        "- { virtual_addr: 192.168.1.222, port: 80, proto: tcp, filter: on_port }\n          \
         - { virtual_addr: '*', port: 80, proto: tcp, filter: on_addr }\n          \
         - { port: 80, proto: udp, filter: on_ipid }",
    ));
    let addrs: Vec<_> = farm.vips[0].groups[0].rules.iter().map(|rule| rule.virtual_addr).collect();
    assert_eq!(addrs, [Some(VIP), None, None, None]);
}

#[test]
fn anchors_aliases_and_merges_are_understood() {
    let farm = parsed(&edited(
        "- { port: 80, proto: tcp, filter: on_port }",
        "- &web { port: 80, proto: tcp, filter: on_port }\n          - { <<: *web, port: 443 }",
    ));
    let rules = &farm.vips[0].groups[0].rules;
    assert_eq!(rules[1], Rule { port: Some(443), ..rules[0] });
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let text = format!("\u{feff}{}", BASE.replace('\n', "\r\n"));
    assert_eq!(parsed(&text), parsed(BASE));
}

#[test]
fn names_that_look_like_numbers_or_booleans_keep_their_text() {
    let farm = parsed(&BASE.replace("node1", "1.10").replace("node2", "no"));
    assert_eq!(farm.node_named("1.10"), NodeId::new(0));
    assert_eq!(farm.vips[0].groups[0].powers, [Some(2), Some(1)]);
    assert_eq!(farm.nodes[1].name, "no");
}

#[test]
fn a_relative_key_file_lies_beside_the_configuration() {
    let text = edited("/etc/vipfarm/farm.key", "keys/farm.key");
    let key_file = |file| parse_with(file, &text, &names).expect("valid").key_file;
    assert_eq!(key_file("/etc/vipfarm/farm.yaml"), Path::new("/etc/vipfarm/keys/farm.key"));
    assert_eq!(key_file("farm.yaml"), Path::new("keys/farm.key"));
}

fn parsed(text: &str) -> Farm {
    parse_text(text).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn one_address_may_be_a_vip_in_several_vlans() {
    let block = |vlan| {
        format!(
            "    vlan: {vlan}\n    groups:\n      - {{ name: v{vlan}, rules: [{{ port: 1, proto: tcp, filter: on_addr }}] }}\n  - addresses: [192.168.1.222/24]\n"
        )
    };
    let farm = parsed(&edited("    groups:", &format!("{}{}    groups:", block(10), block(20))));
    assert_eq!(farm.vips.iter().map(|vip| vip.vlan.inner).collect::<Vec<_>>(), [10, 20, 0]);
}

#[test]
fn clients_of_a_directed_vip_are_told_anew_unless_the_file_says_otherwise() {
    let refresh = |line: &str| {
        let mode = format!("mode: vmac_directed\n    {line}");
        parse_text(&edited("mode: vmac_invisible", &mode)).expect("valid").vips[0].arp_refresh
    };
    assert_eq!(refresh(""), Some(ArpRefresh::DEFAULT));
    assert_eq!(refresh("arp_refresh: on"), Some(ArpRefresh::DEFAULT));
    assert_eq!(refresh("arp_refresh: off"), None);
    let duration = Duration::from_hours(2);
    let expected = ArpRefresh { duration, ..ArpRefresh::DEFAULT };
    assert_eq!(refresh("arp_refresh: { duration: 2h }"), Some(expected));
    let interval = Duration::from_secs(10);
    let expected = ArpRefresh { interval, duration: Duration::from_mins(5) };
    assert_eq!(refresh("arp_refresh: { interval: 10s, duration: 5m }"), Some(expected));
    assert_eq!(parse_text(BASE).expect("valid").vips[0].arp_refresh, None);
}

#[test]
fn udp_flows_may_linger() {
    let linger = |text: &str| {
        let rule = format!("proto: udp, filter: on_port, linger: {text} }}");
        parsed(&edited("proto: tcp, filter: on_port }", &rule)).vips[0].groups[0].rules[0].linger
    };
    assert_eq!(linger("30s"), Some(Duration::from_secs(30)));
    assert_eq!(linger("10m"), Some(Duration::from_mins(10)));
    assert_eq!(parsed(BASE).vips[0].groups[0].rules[0].linger, None);
}
