//! Refused in a VIP block and its addresses: the exact words.

use super::*;

#[test]
fn times_to_tell_clients() {
    refuses(&[
        (
            &[("mode: vmac_invisible", "arp_refresh: off")],
            "farm.yaml:8:18: error: `arp_refresh` needs `mode: vmac_directed`: a virtual MAC is the same whichever node lives, so clients have nothing to learn anew\n\
             \x20 = help: remove the key",
        ),
        (
            &[("mode: vmac_invisible", "mode: vmac_directed\n    arp_refresh: 60s")],
            "farm.yaml:9:18: error: `60s` is not a value of `arp_refresh`\n\
             \x20 = help: write one of: off, on",
        ),
        (
            &[(
                "mode: vmac_invisible",
                "mode: vmac_directed\n    arp_refresh: { interval: 60, duration: 48h, every: 1s }",
            )],
            "farm.yaml:9:30: error: `60` has no unit\n\
             \x20 = help: write a whole number with its unit, such as 60s or 20m\n\
             farm.yaml:9:44: error: `48h` is out of range, 1s to 24h\n\
             \x20 = help: write a whole number with its unit, such as 60s or 20m\n\
             farm.yaml:9:49: error: `every` is not a key of `arp_refresh`\n\
             \x20 = help: write one of: interval, duration",
        ),
        (
            &[(
                "mode: vmac_invisible",
                "mode: vmac_directed\n    arp_refresh: { interval: 30s, duration: 20s }",
            )],
            "farm.yaml:9:18: error: `duration` is shorter than `interval`: every client would be forgotten before it is told\n\
             \x20 = help: raise `duration`, or write `arp_refresh: off`",
        ),
    ]);
}

#[test]
fn vip_blocks() {
    refuses(&[
        (
            &[("mode: vmac_invisible", "intreface: eth0")],
            "farm.yaml:8:5: error: `intreface` is not a key of a VIP block\n\
             \x20 = help: did you mean `interface`?",
        ),
        (
            &[("mode: vmac_invisible", "mode: invisible")],
            "farm.yaml:8:11: error: `invisible` is not a value of `mode`\n\
             \x20 = help: write one of: vmac_invisible, vmac_directed, failover",
        ),
        (
            &[("mode: vmac_invisible", "interface: eth0/1")],
            "farm.yaml:8:16: error: `eth0/1` cannot be an interface: the kernel allows no such interface name\n\
             \x20 = help: use 1 to 15 of: letters, digits and punctuation without / and :",
        ),
        (
            &[("mode: vmac_invisible", "interface: a-name-too-long-for-linux")],
            "farm.yaml:8:16: error: `a-name-too-long-for-linux` cannot be an interface: the kernel allows no such interface name\n\
             \x20 = help: use 1 to 15 of: letters, digits and punctuation without / and :",
        ),
        (
            &[("mode: vmac_invisible", "vmac: 5a-fe-c0-a8-01-de")],
            "farm.yaml:8:11: error: `5a-fe-c0-a8-01-de` is not a MAC address such as 5a:fe:c0:a8:01:de\n\
             \x20 = help: write an unused unicast address, or remove the key: the default is 5a:fe and the first VIP",
        ),
        (
            &[("mode: vmac_invisible", "vmac: 01:00:5e:00:00:01")],
            "farm.yaml:8:11: error: `01:00:5e:00:00:01` is a multicast address (the lowest bit of its first octet is 1): ARP answers with it are ignored\n\
             \x20 = help: write an unused unicast address, or remove the key: the default is 5a:fe and the first VIP",
        ),
        (
            &[("mode: vmac_invisible", "vmac: 00:00:00:00:00:00")],
            "farm.yaml:8:11: error: `00:00:00:00:00:00` is no station's address: all octets are 0\n\
             \x20 = help: write an unused unicast address, or remove the key: the default is 5a:fe and the first VIP",
        ),
        (
            &[("mode: vmac_invisible", "mode: vmac_directed\n    vmac: 5a:fe:00:00:00:01")],
            "farm.yaml:9:11: error: `vmac` is for `mode: vmac_invisible`: here each node answers with its own MAC\n\
             \x20 = help: remove the key",
        ),
        (
            &[("mode: vmac_invisible", "check: yes")],
            "farm.yaml:8:12: error: `yes` is not a value of `check`\n\
             \x20 = help: write one of: true, false",
        ),
        (
            &[("mode: vmac_invisible", "open: automatic")],
            "farm.yaml:8:11: error: `automatic` is not a value of `open`\n\
             \x20 = help: write one of: auto, manual",
        ),
        (
            &[("mode: vmac_invisible", "icmp_echo: on_adr")],
            "farm.yaml:8:16: error: `on_adr` is not a value of `icmp_echo`\n\
             \x20 = help: did you mean `on_addr`?",
        ),
        (
            &[("    addresses: [192.168.1.222/24]\n", "")],
            "farm.yaml:8:5: error: a VIP block needs the key `addresses`\n\
             \x20 = help: add `addresses: [192.168.1.222/24]`",
        ),
        (
            &[("[192.168.1.222/24]", "[]")],
            "farm.yaml:9:16: error: `addresses` is empty\n\
             \x20 = help: write at least one: `[192.168.1.222/24]`",
        ),
        (
            &[(
                "    groups:\n      - name: http\n        powers: { node1: 2, node2: 1 }\n        rules:\n          - { port: 80, proto: tcp, filter: on_port }\n          - { port: \"*\", proto: tcp, filter: on_addr }\n",
                "",
            )],
            "farm.yaml:8:5: error: a VIP block needs the key `groups`\n\
             \x20 = help: add `groups: [{ name: http, rules: [{ port: 80, proto: tcp, filter: on_port }] }]`",
        ),
        (
            &[(
                "    groups:\n      - name: http\n        powers: { node1: 2, node2: 1 }\n        rules:\n          - { port: 80, proto: tcp, filter: on_port }\n          - { port: \"*\", proto: tcp, filter: on_addr }\n",
                "    groups: []\n",
            )],
            "farm.yaml:10:13: error: `groups` is empty\n\
             \x20 = help: write at least one: `- { name: http, rules: [{ port: 80, proto: tcp, filter: on_port }] }`",
        ),
    ]);
}

#[test]
fn vlans_and_other_protocols() {
    refuses(&[
        (
            &[("mode: vmac_invisible", "vlan: 0")],
            "farm.yaml:8:11: error: `0` is not a VLAN identifier, a number from 1 to 4094\n\
             \x20 = help: write a whole number in that range",
        ),
        (
            &[("mode: vmac_invisible", "vlan: [100, 4095]")],
            "farm.yaml:8:17: error: `4095` is not a VLAN identifier, a number from 1 to 4094\n\
             \x20 = help: write a whole number in that range",
        ),
        (
            &[("mode: vmac_invisible", "vlan: [1, 2, 3]")],
            "farm.yaml:8:11: error: `vlan` is one identifier, or two of them\n\
             \x20 = help: write `vlan: 10`, or `vlan: [100, 10]` for an 802.1ad tag around an 802.1Q tag",
        ),
        (
            &[("mode: vmac_invisible", "vlan: [10]")],
            "farm.yaml:8:11: error: `vlan` is one identifier, or two of them\n\
             \x20 = help: write `vlan: 10`, or `vlan: [100, 10]` for an 802.1ad tag around an 802.1Q tag",
        ),
        (
            &[("mode: vmac_invisible", "other: on_port")],
            "farm.yaml:8:12: error: `on_port` is not a value of `other`\n\
             \x20 = help: write one of: drop, on_addr",
        ),
    ]);
}

#[test]
fn vip_addresses() {
    refuses(&[
        (
            &[("192.168.1.222/24", "192.168.1.222")],
            "farm.yaml:9:17: error: `192.168.1.222` has no prefix length, so its subnet is unknown\n\
             \x20 = help: write `192.168.1.222/24` with the length of your network",
        ),
        (
            &[("192.168.1.222/24", "'fd00:1::222', 'fd00::1::2/64'")],
            "farm.yaml:9:17: error: `fd00:1::222` has no prefix length, so its subnet is unknown\n\
             \x20 = help: write `fd00:1::222/64` with the length of your network\n\
             farm.yaml:9:32: error: `fd00::1::2` is not an IP address\n\
             \x20 = help: write an address such as `fd00:1::222/64`",
        ),
        (
            &[("192.168.1.222/24", "FILL-IN, FILL-IN/24, 192.168.1.222/FILL-IN")],
            "farm.yaml:9:17: error: `FILL-IN` is still to be filled in\n\
             \x20 = help: write an address such as `192.168.1.222/24`\n\
             farm.yaml:9:26: error: `FILL-IN` is still to be filled in\n\
             \x20 = help: write an address such as `192.168.1.222/24`\n\
             farm.yaml:9:38: error: `FILL-IN` is still to be filled in\n\
             \x20 = help: write a prefix length from 1 to 32, such as `24` or `255.255.255.0`",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.322/24")],
            "farm.yaml:9:17: error: `192.168.1.322` is not an IP address\n\
             \x20 = help: write an address such as `192.168.1.222/24`",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.222/0")],
            "farm.yaml:9:17: error: `0` is not a netmask for 192.168.1.222\n\
             \x20 = help: write a prefix length from 1 to 32, such as `24` or `255.255.255.0`",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.222/33")],
            "farm.yaml:9:17: error: `33` is not a netmask for 192.168.1.222\n\
             \x20 = help: write a prefix length from 1 to 32, such as `24` or `255.255.255.0`",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.222/255.0.255.0")],
            "farm.yaml:9:17: error: `255.0.255.0` is not a netmask for 192.168.1.222\n\
             \x20 = help: write a prefix length from 1 to 32, such as `24` or `255.255.255.0`",
        ),
        (
            &[("192.168.1.222/24", "{ addr: 192.168.1.222 }")],
            "farm.yaml:9:17: error: a VIP address needs the key `netmask`\n\
             \x20 = help: add `netmask: 24`",
        ),
        (
            &[("192.168.1.222/24", "{ addr: 192.168.1.222, netmask: 255.0.255.0 }")],
            "farm.yaml:9:49: error: `255.0.255.0` is not a netmask for 192.168.1.222\n\
             \x20 = help: write a prefix length from 1 to 32, such as `24` or `255.255.255.0`",
        ),
        (
            &[("192.168.1.222/24", "{ addr: 192.168.1.222/24, netmask: 24 }")],
            "farm.yaml:9:52: error: the prefix length stands twice, here and behind `addr`\n\
             \x20 = help: keep one of the two",
        ),
        (
            &[("192.168.1.222/24", "{ addres: 192.168.1.222, netmask: 24, check: maybe }")],
            "farm.yaml:9:17: error: a VIP address needs the key `addr`\n\
             \x20 = help: add `addr: 192.168.1.222`\n\
             farm.yaml:9:19: error: `addres` is not a key of a VIP address\n\
             \x20 = help: did you mean `addr`?\n\
             farm.yaml:9:62: error: `maybe` is not a value of `check`\n\
             \x20 = help: write one of: true, false",
        ),
    ]);
}

#[test]
fn vip_addresses_in_a_wrong_place() {
    refuses(&[
        (
            &[("192.168.1.222/24", "192.168.1.0/24")],
            "farm.yaml:9:17: error: 192.168.1.0 is the network address of 192.168.1.0/24, not a host's\n\
             \x20 = help: choose a free address of the nodes' network",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.255/24")],
            "farm.yaml:9:17: error: 192.168.1.255 is the broadcast address of 192.168.1.0/24, not a host's\n\
             \x20 = help: choose a free address of the nodes' network",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.222/24, 'fd00:1::/64', '::ffff:192.168.1.223/96'")],
            "farm.yaml:9:35: error: fd00:1:: is the subnet-router anycast address of fd00:1::/64, not a host's\n\
             \x20 = help: choose a free address of the nodes' network\n\
             farm.yaml:9:50: error: clients cannot reach a VIP at the IPv4-mapped address ::ffff:192.168.1.223\n\
             \x20 = help: choose a free address of the nodes' network",
        ),
        (
            &[("192.168.1.222/24", "240.0.0.1/24")],
            "farm.yaml:9:17: error: clients cannot reach a VIP at the reserved address 240.0.0.1\n\
             \x20 = help: choose a free address of the nodes' network",
        ),
        (
            &[("192.168.1.12,", "192.168.1.255,"), ("192.168.1.11,", "192.168.1.0,")],
            "farm.yaml:5:32: error: 192.168.1.0 is the network address of 192.168.1.0/24, a VIP's network, and no host's\n\
             \x20 = help: write the node's own address, or correct the prefix length of the VIP\n\
             farm.yaml:6:32: error: 192.168.1.255 is the broadcast address of 192.168.1.0/24, a VIP's network, and no host's\n\
             \x20 = help: write the node's own address, or correct the prefix length of the VIP",
        ),
        (
            &[("192.168.1.222/24", "224.0.0.1/24")],
            "farm.yaml:9:17: error: clients cannot reach a VIP at the multicast address 224.0.0.1\n\
             \x20 = help: choose a free address of the nodes' network",
        ),
        (
            &[("192.168.1.222/24", "127.0.0.1/8")],
            "farm.yaml:9:17: error: clients cannot reach a VIP at the loopback address 127.0.0.1\n\
             \x20 = help: choose a free address of the nodes' network",
        ),
        (
            &[("192.168.1.222/24", "0.0.0.0/24")],
            "farm.yaml:9:17: error: clients cannot reach a VIP at the unspecified address 0.0.0.0\n\
             \x20 = help: choose a free address of the nodes' network",
        ),
        (
            &[("192.168.1.222/24", "192.168.2.222/24")],
            "farm.yaml:9:17: error: wrong subnet: 192.168.2.0/24 does not contain the first address of node1 (192.168.1.11), node2 (192.168.1.12)\n\
             \x20 = help: put the VIP into the network of the nodes' first addresses, or of others at the same place of each node's list, or correct its prefix length",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.222/28")],
            "farm.yaml:9:17: error: wrong subnet: 192.168.1.208/28 does not contain the first address of node1 (192.168.1.11), node2 (192.168.1.12)\n\
             \x20 = help: put the VIP into the network of the nodes' first addresses, or of others at the same place of each node's list, or correct its prefix length",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.12/24")],
            "farm.yaml:9:17: error: the VIP 192.168.1.12 is the own address of node2, whose heartbeats need it for that node alone\n\
             \x20 = help: choose a free address for the VIP",
        ),
        (
            &[("192.168.1.222/24", "10.0.0.11/8")],
            "farm.yaml:9:17: error: the VIP 10.0.0.11 is the own address of node1, whose heartbeats need it for that node alone\n\
             \x20 = help: choose a free address for the VIP\n\
             farm.yaml:9:17: error: no VIP is in the network of the nodes' first addresses, which decides who is in the farm\n\
             \x20 = help: put the addresses in the network of a VIP first in each node's list",
        ),
        (
            &[("192.168.1.222/24", "10.0.0.222/8")],
            "farm.yaml:9:17: error: no VIP is in the network of the nodes' first addresses, which decides who is in the farm\n\
             \x20 = help: put the addresses in the network of a VIP first in each node's list",
        ),
        (
            &[
                ("192.168.1.222/24", "192.168.1.222/24, 10.0.0.222/8"),
                ("10.0.0.12]", "172.16.0.12]"),
            ],
            "farm.yaml:9:35: error: wrong subnet: 10.0.0.0/8 does not contain the second address of node2 (172.16.0.12)\n\
             \x20 = help: put the VIP into the network of the nodes' first addresses, or of others at the same place of each node's list, or correct its prefix length",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.222/24, 10.0.0.222/8"), (", 10.0.0.12]", "]")],
            "farm.yaml:9:35: error: wrong subnet: 10.0.0.0/8 does not contain the second address of node2 (none)\n\
             \x20 = help: put the VIP into the network of the nodes' first addresses, or of others at the same place of each node's list, or correct its prefix length",
        ),
        (
            &[("192.168.1.222/24", "192.168.1.222/24, 192.168.1.222/24")],
            "farm.yaml:9:35: error: the VIP 192.168.1.222 is there already, on line 9\n\
             \x20 = help: keep one of the two; put the rules of one address into one block",
        ),
        (
            &[(
                "    groups:",
                "    groups:\n      - { name: a, rules: [{ port: 1, proto: tcp, filter: on_addr }] }\n  - addresses: [192.168.1.222/24]\n    groups:",
            )],
            "farm.yaml:12:17: error: the VIP 192.168.1.222 is there already, on line 9\n\
             \x20 = help: keep one of the two; put the rules of one address into one block",
        ),
    ]);
}

#[test]
fn host_names() {
    refuses(&[
        (
            &[("192.168.1.222/24", "two.example.com/24")],
            "farm.yaml:9:17: error: the host name `two.example.com` does not lead to a VIP: it has 2 addresses, and nodes could choose differently\n\
             \x20 = help: write the address itself, or mend the name's entry in DNS or /etc/hosts",
        ),
        (
            &[("192.168.1.222/24", "empty.example.com/24")],
            "farm.yaml:9:17: error: the host name `empty.example.com` does not lead to a VIP: it has no address\n\
             \x20 = help: write the address itself, or mend the name's entry in DNS or /etc/hosts",
        ),
        (
            &[("192.168.1.222/24", "www.example.org/24")],
            "farm.yaml:9:17: error: the host name `www.example.org` does not lead to a VIP: Name or service not known\n\
             \x20 = help: write the address itself, or mend the name's entry in DNS or /etc/hosts",
        ),
        (
            &[("192.168.1.222/24", "-x.example.org/24")],
            "farm.yaml:9:17: error: `-x.example.org` is not an IP address\n\
             \x20 = help: write an address such as `192.168.1.222/24`",
        ),
    ]);
}
