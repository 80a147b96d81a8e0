use super::*;
use crate::{
    agent::fixture,
    net::{self, Offloads},
};

fn nobody(_: &Interface, _: IpAddr) -> bool {
    false
}

const GROUPS: &str = "[{ name: g, rules: [{ port: 80, proto: tcp, filter: on_port }] }]";

fn farm() -> Farm {
    fixture::farm(GROUPS)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn interface(name: &str, addresses: &[&str]) -> Interface {
    Interface { name: name.into(), ..net::fixture::interface(2, addresses) }
}

#[test]
fn the_node_is_the_one_whose_address_is_here() {
    let here = [interface("lo", &["127.0.0.1/8"]), interface("eth0", &["10.0.0.12/24"])];
    assert_eq!(own_node(&farm(), None, &here), Ok(NodeId::new(1).expect("in range")));
    let nowhere = [interface("eth0", &["10.0.0.14/24"])];
    assert!(matches!(own_node(&farm(), None, &nowhere), Err(SiteError::NoNodeHere { .. })));
    let both = [interface("eth0", &["10.0.0.11/24", "10.0.0.12/24"])];
    assert!(matches!(own_node(&farm(), None, &both), Err(SiteError::SeveralNodesHere { .. })));
    assert_eq!(own_node(&farm(), Some("node1"), &both), Ok(NodeId::new(0).expect("in range")));
}

#[test]
fn a_node_that_is_asked_for_must_exist_and_be_here() {
    let here = [interface("eth0", &["10.0.0.12/24"])];
    let message = own_node(&farm(), Some("node9"), &here).expect_err("no such node").to_string();
    assert!(message.contains("its nodes are node1, node2, node3"), "{message}");
    let message = own_node(&farm(), Some("node1"), &here).expect_err("elsewhere").to_string();
    assert!(message.contains("10.0.0.11 is not on this machine"), "{message}");
}

#[test]
fn a_vip_lives_on_the_interface_of_its_subnet() {
    let farm = farm();
    let here = [interface("eth0", &["192.168.0.1/24"]), interface("eth1", &["10.0.0.12/24"])];
    assert_eq!(interface_of(&farm.vips[0], &here).map(|found| &*found.name), Ok("eth1"));
    let error = interface_of(&farm.vips[0], &here[..1]).expect_err("no subnet");
    assert!(matches!(error, SiteError::NoInterface { .. }));
}

#[test]
fn a_vip_that_a_crashed_agent_left_proves_no_subnet() {
    let left = [interface("eth1", &["10.0.0.100/32"])];
    assert!(interface_of(&farm().vips[0], &left).is_err());
}

#[test]
fn an_ipv6_vip_lives_beside_an_address_of_its_subnet_with_or_without_a_prefix() {
    let mut block = farm().vips.remove(0);
    let addr = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x100]);
    block.addresses = vec![VipAddr { addr, prefix: 64, ..block.addresses[0] }];
    let link_local = "fe80::11/64";
    let of = |addresses: &[&str]| interface_of(&block, &[interface("eth0", addresses)]).map(|_| ());
    assert_eq!(of(&[link_local, "fd00::11/64"]), Ok(()));
    assert_eq!(of(&[link_local, "fd00::11/128"]), Ok(()), "by DHCPv6");
    for elsewhere in ["fd00:0:0:1::11/64", "fd00:0:0:1::11/128", "fd00::100/128", "10.0.0.11/8"] {
        let found = of(&[link_local, elsewhere]);
        assert!(matches!(found, Err(SiteError::NoInterface { .. })), "{elsewhere}: {found:?}");
    }
}

#[test]
fn an_interface_that_is_up_is_preferred() {
    let mut down = interface("eth0", &["10.0.0.12/24"]);
    down.up = false;
    let here = [down, interface("eth1", &["10.0.0.13/24"])];
    assert_eq!(interface_of(&farm().vips[0], &here).map(|found| &*found.name), Ok("eth1"));
}

#[test]
fn each_network_is_known_by_the_mac_of_the_interface_with_the_filter() {
    let on = |index, name: &str, addresses: &[&str]| Interface {
        index,
        mac: Mac([2, 0, 0, 0, 0, u8::try_from(index).expect("a byte")]),
        ..interface(name, addresses)
    };
    let vlan = Some(Vlan { parent: 3, id: 10, service: false });
    let here = [
        on(1, "eth9", &["172.16.0.12/24"]),
        on(2, "eth0", &["10.0.0.12/24"]),
        on(3, "eth1", &[]),
        Interface { vlan, ..on(4, "eth1.10", &["192.168.0.12/24"]) },
    ];
    let mut farm = farm();
    let own = NodeId::new(1).expect("in range");
    farm.nodes[1].addresses.extend(["172.16.0.12", "192.168.0.12"].map(ip));
    let mut tagged = farm.vips[0].clone();
    (tagged.vlan.inner, tagged.addresses[0].addr) = (10, ip("192.168.0.100"));
    farm.vips.push(tagged);
    let (eth0, eth1) = (&here[1], &here[2]);
    let link = |of: &Interface, has_vips| OwnLink { mac: of.mac, has_vips };
    let found = networks(&farm, own, &[eth0, eth1], &[eth0, eth1], &here).expect("it fits");
    assert_eq!(found.links, [link(eth0, true), link(&here[0], false), link(eth1, true)]);
    assert_eq!(found.of, [0, 2]);

    farm.nodes[1].addresses.pop();
    let missing = networks(&farm, own, &[eth0, eth1], &[eth0, eth1], &here);
    let message = missing.expect_err("nobody is heard there").to_string();
    assert!(message.starts_with("VIP 192.168.0.100 is on eth1, and none of node2's"), "{message}");
}

#[test]
fn an_interface_with_two_networks_is_known_by_the_first() {
    let mut farm = farm();
    let own = NodeId::new(1).expect("in range");
    farm.nodes[1].addresses.push(ip("fd00::12"));
    farm.vips.push(farm.vips[0].clone());
    let here = [interface("eth0", &["10.0.0.12/24", "fd00::12/64"])];
    let eth0 = &here[0];
    let found = networks(&farm, own, &[eth0, eth0], &[eth0], &here).expect("it fits");
    assert_eq!(found.links, [OwnLink { mac: eth0.mac, has_vips: true }; 2]);
    assert_eq!(found.of, [0]);
}

#[test]
fn a_vip_that_somebody_else_added_is_refused() {
    let here = [interface("lo", &["127.0.0.1/8", "10.0.0.100/32"])];
    let message = refuse_present(&farm(), &here, nobody).expect_err("it is there").to_string();
    assert!(message.contains("ip addr del 10.0.0.100/32 dev lo"), "{message}");
    let served = Interface { xdp_program: Some(7), ..interface("eth0", &["10.0.0.100/32"]) };
    let message = refuse_present(&farm(), &[served], nobody).expect_err("it is served").to_string();
    assert!(message.contains("pgrep") && !message.contains("ip addr del"), "{message}");
    assert_eq!(refuse_present(&farm(), &[interface("lo", &["127.0.0.1/8"])], nobody), Ok(()));
}

#[test]
fn a_vip_in_a_vlan_lives_on_the_device_for_its_tags_behind_the_filter_of_the_one_below() {
    let on = |index, name: &str, (parent, id, service), addresses: &[&str]| {
        let vlan = Some(Vlan { parent, id, service });
        Interface { index, vlan, ..interface(name, addresses) }
    };
    let here = [
        Interface { index: 1, ..interface("eth9", &["10.0.0.9/24"]) },
        interface("eth0", &["192.168.0.1/24"]),
        on(3, "eth0.10", (2, 10, false), &["10.0.0.12/24"]),
        on(4, "outer", (2, 20, true), &[]),
        on(5, "inner", (4, 10, false), &["10.0.0.13/24"]),
        on(6, "wrong", (2, 20, false), &[]),
    ];
    let mut block = farm().vips.remove(0);
    for named in [Some("eth0"), Some("eth0.10"), None] {
        block.interface = named.map(str::to_owned);
        block.vlan = VlanTags { outer: 0, inner: 10 };
        let found = interface_of(&block, &here).expect("it is there");
        let holder = holder(found, block.vlan, &here).expect("it is there");
        assert_eq!((&*found.name, &*holder.name), ("eth0", "eth0.10"), "{named:?}");
    }
    block.interface = Some("eth0".into());
    block.vlan.outer = 20;
    assert_eq!(interface_of(&block, &here).map(|found| &*found.name), Ok("eth0"));
    assert_eq!(holder(&here[1], block.vlan, &here).map(|it| &*it.name), Some("inner"));

    let command = |tags| {
        let block = Vip { vlan: tags, ..block.clone() };
        interface_of(&block, &here).expect_err("there is none").to_string()
    };
    let one = command(VlanTags { outer: 0, inner: 11 });
    assert!(one.contains("`ip link add link eth0 name eth0.11 type vlan id 11`"), "{one}");
    let inner = command(VlanTags { outer: 20, inner: 11 });
    assert!(inner.contains(": `ip link add link outer name outer.11 type vlan id 11`"), "{inner}");
    let both = command(VlanTags { outer: 30, inner: 10 });
    assert!(both.contains("eth0 name eth0.30 type vlan proto 802.1ad id 30`, `"), "{both}");
    assert!(both.contains("link eth0.30 name eth0.30.10 type vlan id 10`"), "{both}");
    block.vlan = VlanTags { outer: 0, inner: 20 };
    let outside = interface_of(&block, &here).expect_err("it has no address").to_string();
    assert!(outside.contains("outside the subnets of wrong (none)"), "{outside}");
}

#[test]
fn hardware_that_hides_what_the_filter_needs_is_refused_with_the_command_that_stops_it() {
    let mut eth0 = interface("eth0", &["10.0.0.12/24"]);
    assert_eq!(refuse_merging(&[&eth0]), Ok(()));
    eth0.offloads = Offloads { lro: true, rx_vlan: true };
    let message = refuse_merging(&[&eth0]).expect_err("LRO").to_string();
    assert!(message.contains("`ethtool -K eth0 lro off`"), "{message}");
    let mut block = farm().vips.remove(0);
    let here = [eth0];
    assert!(interface_of(&block, &here).is_ok(), "without a VLAN, tags do not matter");
    block.interface = Some("eth0".into());
    block.vlan.inner = 10;
    let message = interface_of(&block, &here).expect_err("tags").to_string();
    assert!(message.contains("`ethtool -K eth0 rxvlan off`"), "{message}");
}

#[test]
fn a_named_interface_must_exist_be_up_and_have_the_subnet() {
    let mut block = farm().vips.remove(0);
    block.interface = Some("eth0".into());
    let elsewhere = [interface("eth0", &["192.168.0.1/24"])];
    let message = interface_of(&block, &elsewhere).expect_err("outside").to_string();
    assert!(message.contains("outside the subnets of eth0 (192.168.0.0/24)"), "{message}");
    let message = interface_of(&block, &[interface("eth1", &[])]).expect_err("absent").to_string();
    assert!(message.contains("no interface `eth0`") && message.contains("eth1"), "{message}");
    let mut down = interface("eth0", &["10.0.0.12/24"]);
    down.up = false;
    assert!(matches!(interface_of(&block, &[down]), Err(SiteError::Down { .. })));
    let mut tunnel = interface("eth0", &["10.0.0.12/24"]);
    tunnel.mac = Mac([0; 6]);
    assert!(matches!(interface_of(&block, &[tunnel]), Err(SiteError::NotEthernet { .. })));
}

#[test]
fn t23_a_vlan_device_whose_macs_frames_would_pass_the_filter_by_is_refused() {
    let vlan = Some(Vlan { parent: 2, id: 10, service: false });
    let device = interface("eth0.10", &["10.0.0.12/24"]);
    let mut here = [interface("eth0", &[]), Interface { index: 3, vlan, ..device }];
    let mut block = farm().vips.remove(0);
    block.vlan.inner = 10;
    assert_eq!(interface_of(&block, &here).map(|found| &*found.name), Ok("eth0"));
    here[1].mac = Mac([2, 0, 0, 0, 0, 9]);
    let message = interface_of(&block, &here).expect_err("another MAC").to_string();
    assert!(message.contains("eth0.10 has the MAC 02:00:00:00:00:09"), "{message}");
    assert!(message.contains("`ip link set eth0.10 address 02:00:00:00:00:01`"), "{message}");
}
