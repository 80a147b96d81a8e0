//! Refused in groups, powers and rules: the exact words.

use super::*;

#[test]
fn groups_and_powers() {
    refuses(&[
        (
            &[("name: http", "name: ht tp")],
            "farm.yaml:11:15: error: `ht tp` cannot be a group's name: commands and metrics carry it\n\
             \x20 = help: use 1 to 63 of: A-Z, a-z, 0-9, ., _, -",
        ),
        (
            &[("- name: http", "- comment: http")],
            "farm.yaml:11:9: error: `comment` is not a key of a group\n\
             \x20 = help: write one of: name, powers, handover_timeout, checks, rules\n\
             farm.yaml:11:9: error: a group needs the key `name`\n\
             \x20 = help: add `name: http`",
        ),
        (
            &[
                ("- name: http", "- name: http\n        handover_timeout: 0s"),
                ("key_file:", "stop_timeout: 2h\nkey_file:"),
            ],
            "farm.yaml:2:15: error: `2h` is out of range, 0s to 1h\n\
             \x20 = help: write a whole number with its unit, such as 60s or 20m\n\
             farm.yaml:13:27: error: `0s` is out of range, 1s to 24h\n\
             \x20 = help: write a whole number with its unit, such as 60s or 20m",
        ),
        (
            &[(
                "      - name: http",
                "      - { name: http, rules: [{ port: 1, proto: udp, filter: on_addr }] }\n      - name: http",
            )],
            "farm.yaml:12:15: error: the group name `http` is taken, on line 11\n\
             \x20 = help: give each group of the file a name of its own",
        ),
        (
            &[("node2: 1", "nod2: 1")],
            "farm.yaml:12:29: error: `nod2` is not a node of this farm\n\
             \x20 = help: did you mean `node2`?",
        ),
        (
            &[("node2: 1", "spare: 1")],
            "farm.yaml:12:29: error: `spare` is not a node of this farm\n\
             \x20 = help: write one of: node1, node2",
        ),
        (
            &[("node2: 1", "node2: 1001")],
            "farm.yaml:12:36: error: `1001` is not a power, a number from 0 to 1000\n\
             \x20 = help: write a whole number in that range",
        ),
        (
            &[("node2: 1", "node2: -1")],
            "farm.yaml:12:36: error: `-1` is not a power, a number from 0 to 1000\n\
             \x20 = help: write a whole number in that range",
        ),
        (
            &[("node2: 1", "node2: half")],
            "farm.yaml:12:36: error: `half` is not a power, a number from 0 to 1000\n\
             \x20 = help: write a whole number in that range",
        ),
        (
            &[("{ node1: 2, node2: 1 }", "{ node1: 0, node2: 0 }")],
            "farm.yaml:12:17: error: all powers are 0: no node would serve this group, its clients would time out\n\
             \x20 = help: give one node a power, or remove the group; `vipfarm drain` empties a node for a while",
        ),
        (
            &[("{ node1: 2, node2: 1 }", "{}")],
            "farm.yaml:12:17: error: `powers` is empty\n\
             \x20 = help: write `powers: { node1: 2, node2: 1 }`, or remove the key",
        ),
        (
            &[("{ node1: 2, node2: 1 }", "[2, 1]")],
            "farm.yaml:12:17: error: `powers` is a mapping, not a list\n\
             \x20 = help: write `powers: { node1: 2, node2: 1 }`",
        ),
        (
            &[(
                "        rules:\n          - { port: 80, proto: tcp, filter: on_port }\n          - { port: \"*\", proto: tcp, filter: on_addr }\n",
                "        rules: []\n",
            )],
            "farm.yaml:13:16: error: `rules` is empty\n\
             \x20 = help: write at least one: `- { port: 80, proto: tcp, filter: on_port }`",
        ),
    ]);
}

#[test]
fn rules() {
    refuses(&[
        (
            &[("- { port: 80, proto: tcp, filter: on_port }", "- { port: 80 }")],
            "farm.yaml:14:13: error: a rule needs the key `proto`\n\
             \x20 = help: add `proto: tcp`\n\
             farm.yaml:14:13: error: a rule needs the key `filter`\n\
             \x20 = help: add `filter: on_addr`",
        ),
        (
            &[("- { port: 80, proto: tcp, filter: on_port }", "- { proto: tcp, filter: on_port }")],
            "farm.yaml:14:13: error: a rule needs the key `port`\n\
             \x20 = help: add `port: 80` or `port: \"*\"`",
        ),
        (
            &[("port: 80", "port: 65536")],
            "farm.yaml:14:21: error: `65536` is not a port\n\
             \x20 = help: write a number from 1 to 65535, or \"*\" for all ports",
        ),
        (
            &[("port: 80", "port: http")],
            "farm.yaml:14:21: error: `http` is not a port\n\
             \x20 = help: write a number from 1 to 65535, or \"*\" for all ports",
        ),
        (
            &[(
                "- { port: 80, proto: tcp, filter: on_port }",
                "- { port: 80, proto: sctp, filter: on_src }",
            )],
            "farm.yaml:14:32: error: `sctp` is not a value of `proto`\n\
             \x20 = help: write one of: tcp, udp, arp\n\
             farm.yaml:14:46: error: `on_src` is not a value of `filter`\n\
             \x20 = help: write one of: on_addr, on_port, on_ipid",
        ),
    ]);
}

#[test]
fn filters_that_cannot_work() {
    refuses(&[
        (
            &[(
                "- { port: 80, proto: tcp, filter: on_port }",
                "- { port: 80, proto: tcp, filter: on_ipid }",
            )],
            "farm.yaml:14:45: error: `on_ipid` is for UDP only: the identification changes with every packet, so the packets of one TCP connection would go to different nodes\n\
             \x20 = help: use on_port or on_addr for TCP",
        ),
        (
            &[
                ("192.168.1.222/24", "192.168.1.222/24, 'fd00:1::222/64'"),
                (
                    "- { port: 80, proto: tcp, filter: on_port }",
                    "- { port: 53, proto: udp, filter: on_ipid }",
                ),
            ],
            "farm.yaml:14:13: error: `on_ipid` is for IPv4 only: an IPv6 header carries no identification\n\
             \x20 = help: use on_port or on_addr, or name an IPv4 `virtual_addr`",
        ),
        (
            &[(
                "- { port: 80, proto: tcp, filter: on_port }",
                "- { proto: arp, port: 80, filter: on_port }",
            )],
            "farm.yaml:14:13: error: a `proto: arp` rule needs `mode: vmac_directed`: otherwise exactly one node answers each ARP request anyway\n\
             \x20 = help: remove the rule\n\
             farm.yaml:14:33: error: ARP has no ports\n\
             \x20 = help: remove `port` from this rule\n\
             farm.yaml:14:45: error: ARP has neither ports nor an IP identification to hash\n\
             \x20 = help: use `filter: on_addr` for ARP",
        ),
    ]);
}

#[test]
fn rules_that_match_nothing_or_the_same() {
    refuses(&[
        (
            &[(
                "- { port: 80, proto: tcp, filter: on_port }",
                "- { virtual_addr: 192.168.1.223, port: 80, proto: tcp, filter: on_port }",
            )],
            "farm.yaml:14:13: error: `virtual_addr` 192.168.1.223 is not an address of this VIP block, so the rule matches nothing\n\
             \x20 = help: write one of: 192.168.1.222, or \"*\" for all",
        ),
        (
            &[(
                "- { port: 80, proto: tcp, filter: on_port }",
                "- { virtual_addr: 192.168.1.222/24, port: 80, proto: tcp, filter: on_port }",
            )],
            "farm.yaml:14:29: error: `192.168.1.222/24` is not an IP address\n\
             \x20 = help: write one address of this VIP block without its prefix length, or \"*\" for all",
        ),
        (
            &[(
                "- { port: 80, proto: tcp, filter: on_port }",
                "- { port: 80, proto: tcp, filter: on_port }\n          - { port: 80, proto: tcp, filter: on_port }",
            )],
            "farm.yaml:15:13: error: this rule of group `http` matches the same packets as the rule of group `http` on line 14, and neither is more specific\n\
             \x20 = help: remove one of the two, or give one another `port` or `virtual_addr`",
        ),
        (
            &[(
                "      - name: http",
                "      - { name: all, rules: [{ virtual_addr: '*', port: '*', proto: tcp, filter: on_port }] }\n      - name: http",
            )],
            "farm.yaml:16:13: error: this rule of group `http` matches the same packets as the rule of group `all` on line 11, and neither is more specific\n\
             \x20 = help: remove one of the two, or give one another `port` or `virtual_addr`",
        ),
    ]);
}

#[test]
fn flows_that_cannot_linger() {
    const RULE: &str = "proto: tcp, filter: on_port }";
    refuses(&[
        (
            &[(RULE, "proto: tcp, filter: on_port, linger: 30s }")],
            "farm.yaml:14:62: error: `linger` is for UDP: a TCP connection stays with its node anyway, by its socket\n\
             \x20 = help: remove `linger` from this rule; a group's `handover_timeout` says for how long",
        ),
        (
            &[(RULE, "proto: udp, filter: on_ipid, linger: 30s }")],
            "farm.yaml:14:62: error: `linger` keeps flows where they are, and `on_ipid` gives each datagram of a flow to another node\n\
             \x20 = help: remove `linger`, or use on_port or on_addr",
        ),
        (
            &[(RULE, "proto: udp, filter: on_port, linger: 1500ms }")],
            "farm.yaml:14:62: error: `linger` counts whole seconds\n\
             \x20 = help: write it in seconds, such as 30s",
        ),
        (
            &[(RULE, "proto: udp, filter: on_port, linger: 11m }")],
            "farm.yaml:14:62: error: `11m` is out of range, 1s to 10m\n\
             \x20 = help: write a whole number with its unit, such as 60s or 20m",
        ),
    ]);
}
