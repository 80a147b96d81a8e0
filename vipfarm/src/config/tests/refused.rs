//! Refused outside of the VIP blocks, and by this version: the exact words.

use super::*;

#[test]
fn the_outline_of_the_file() {
    refuses(&[
        (
            &[("farm: web", "farm: web\nfram: x")],
            "farm.yaml:2:1: error: `fram` is not a key of the file\n\
             \x20 = help: did you mean `farm`?",
        ),
        (
            &[("farm: web", "farm: web\nfarm: dns"), ("port: 80", "port: 80, port: 81")],
            "farm.yaml:2:1: error: the key `farm` stands here again, first on line 1\n\
             \x20 = help: keep one of the two\n\
             farm.yaml:15:25: error: the key `port` stands here again, first on line 15\n\
             \x20 = help: keep one of the two",
        ),
        (
            &[("farm: web\n", "")],
            "farm.yaml:1:1: error: the file needs the key `farm`\n\
             \x20 = help: add `farm: web`",
        ),
        (
            &[("farm: web", "farm: Web_1")],
            "farm.yaml:1:7: error: `Web_1` cannot be a farm's name: it names files and sockets\n\
             \x20 = help: use 1 to 32 of: a-z, 0-9, -",
        ),
        (
            &[("farm: web", "farm: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")],
            "farm.yaml:1:7: error: `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` cannot be a farm's name: it names files and sockets\n\
             \x20 = help: use 1 to 32 of: a-z, 0-9, -",
        ),
        (
            &[("farm: web", "farm:")],
            "farm.yaml:1:5: error: a farm's name has no value\n\
             \x20 = help: write a value such as `web`",
        ),
        (
            &[("farm: web", "farm: [web]")],
            "farm.yaml:1:7: error: a farm's name is one value, not a list\n\
             \x20 = help: write a value such as `web`",
        ),
        (
            &[("key_file: /etc/vipfarm/farm.key\n", "")],
            "farm.yaml:1:1: error: the file needs the key `key_file`\n\
             \x20 = help: add `key_file: /etc/vipfarm/farm.key`",
        ),
        (
            &[("{ profile: balanced }", "balanced")],
            "farm.yaml:3:13: error: `membership` is a mapping of keys to values, not a single value\n\
             \x20 = help: write `membership: { profile: balanced }`",
        ),
        (
            &[("{ profile: balanced }", "quick")],
            "farm.yaml:3:13: error: `membership` is a mapping of keys to values, not a single value\n\
             \x20 = help: write its keys: profile, period, suspect, lease, fail, port",
        ),
        (
            &[("farm: web", "farm: 'web")],
            "farm.yaml:2:1: error: this is not valid YAML: invalid indentation in multiline quoted scalar\n\
             \x20 = help: check quotes, brackets and indentation around this place; nothing else was read",
        ),
        (
            &[("farm: web", "farm: web\n---")],
            "farm.yaml:3:1: error: a second document starts here\n\
             \x20 = help: keep one document: remove the `---` and what does not belong to this farm",
        ),
        (
            &[("farm: web", "farm: *web")],
            "farm.yaml:1:7: error: this alias leads to no `&anchor` above it\n\
             \x20 = help: define the anchor before its use; quote text that starts with `*`",
        ),
        (
            &[("port: 80", "port: *")],
            "farm.yaml:14:21: error: this is not valid YAML: a `*` alone begins the name of an alias\n\
             \x20 = help: quote it: `port: \"*\"`",
        ),
        (
            &[("farm: web", "[farm]: web")],
            "farm.yaml:1:1: error: a key must be plain text\n\
             \x20 = help: write `key: value`; quote a key with special characters",
        ),
    ]);
}

#[test]
fn a_file_without_anything_in_it() {
    for text in ["", "\n", "# a comment\n", "---\n"] {
        let expected =
            "farm.yaml: error: the file is empty\n  = help: `examples/minimal.yaml` is the least";
        assert_eq!(problems(text), expected, "{text:?}");
    }
}

#[test]
fn more_than_any_farm_has() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..8 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb = format!("{bomb}a{level}: &a{level} [{below}]\n");
    }
    for (text, expected) in [
        (
            format!("a: [{}]\n", vec!["x"; 60_000].join(",")),
            "too large for a farm's file: it has more than 50000 values",
        ),
        (bomb, "too large for a farm's file: its aliases stand for more than 50000 values"),
        (
            format!("a: &a x\nb: [{}]\n", vec!["*a"; 3000].join(", ")),
            "too large for a farm's file: it has too many aliases",
        ),
    ] {
        let problems = parse_text(&text).expect_err("too large");
        let problem = problems.iter().next().expect("one");
        assert_eq!(problem.message, expected);
        assert_eq!(problem.help, "check that this is the configuration file");
    }
}

#[test]
fn nodes() {
    refuses(&[
        (
            &[("name: node1, ", "")],
            "farm.yaml:5:5: error: a node needs the key `name`\n\
             \x20 = help: add `name: node1`",
        ),
        (
            &[("{ name: node1,", "{ name: node1, weight: 3,")],
            "farm.yaml:5:20: error: `weight` is not a key of a node\n\
             \x20 = help: write one of: name, addresses",
        ),
        (
            &[("{ name: node1", "{ name: 'node 1'"), ("node1: 2", "'node 1': 2")],
            "farm.yaml:5:13: error: `node 1` cannot be a node's name: commands and metrics carry it\n\
             \x20 = help: use 1 to 63 of: A-Z, a-z, 0-9, ., _, -",
        ),
        (
            &[("name: node2", "name: node1"), ("node2: 1", "node1: 1")],
            "farm.yaml:6:13: error: the node name `node1` is taken, on line 5\n\
             \x20 = help: give each node a name of its own\n\
             farm.yaml:12:29: error: the key `node1` stands here again, first on line 12\n\
             \x20 = help: keep one of the two",
        ),
        (
            &[("192.168.1.12", "192.168.1.11")],
            "farm.yaml:6:32: error: the address 192.168.1.11 is taken, on line 5\n\
             \x20 = help: give each node addresses of its own",
        ),
        (
            &[("192.168.1.12", "192.168.1.300")],
            "farm.yaml:6:32: error: `192.168.1.300` is not an IP address\n\
             \x20 = help: write an address such as 192.168.1.11; node names are not resolved here",
        ),
        (
            &[("192.168.1.12", "FILL-IN"), ("10.0.0.12", "'fd00::1::2'")],
            "farm.yaml:6:32: error: `FILL-IN` is still to be filled in\n\
             \x20 = help: write an address such as 192.168.1.11; node names are not resolved here\n\
             farm.yaml:6:41: error: `fd00::1::2` is not an IP address\n\
             \x20 = help: write an address such as fd00:1::11; node names are not resolved here",
        ),
        (
            &[("192.168.1.12", "192.168.1.12/24")],
            "farm.yaml:6:32: error: `192.168.1.12/24` is not an IP address\n\
             \x20 = help: write it without the prefix length: that is the VIP's",
        ),
        (
            &[("10.0.0.12", "127.0.0.1")],
            "farm.yaml:6:46: error: no peer can reach a node at the loopback address 127.0.0.1\n\
             \x20 = help: write the node's own address on the farm's network",
        ),
        (
            &[("10.0.0.12", "'fd00::12'")],
            "farm.yaml:6:46: error: heartbeats cannot run between 10.0.0.11 of node1 and fd00::12 of node2: one is an IPv4 address, the other an IPv6 address\n\
             \x20 = help: list the addresses of all nodes in one order of networks, with one family in each",
        ),
        (
            &[("10.0.0.12", "'fe80::1'")],
            "farm.yaml:6:46: error: no peer can reach a node at the link-local address fe80::1\n\
             \x20 = help: write the node's own address on the farm's network",
        ),
        (
            &[("[192.168.1.12, 10.0.0.12]", "[]")],
            "farm.yaml:6:31: error: `addresses` is empty\n\
             \x20 = help: write at least one: `[192.168.1.11]`",
        ),
        (
            &[("addresses: [192.168.1.12, 10.0.0.12]", "addresses: 192.168.1.12")],
            "farm.yaml:6:31: error: `addresses` is a list, not a single value\n\
             \x20 = help: write `[192.168.1.11]`",
        ),
        (
            &[(", addresses: [192.168.1.12, 10.0.0.12]", "")],
            "farm.yaml:6:5: error: a node needs the key `addresses`\n\
             \x20 = help: add `addresses: [192.168.1.11]`",
        ),
    ]);
}

#[test]
fn membership() {
    refuses(&[
        (
            &[("balanced", "quick")],
            "farm.yaml:3:24: error: `quick` is not a value of `profile`\n\
             \x20 = help: write one of: balanced, fast, relaxed",
        ),
        (
            &[("balanced", "relaxd")],
            "farm.yaml:3:24: error: `relaxd` is not a value of `profile`\n\
             \x20 = help: did you mean `relaxed`?",
        ),
        (
            &[("balanced", "fast, fail: 1s")],
            "farm.yaml:3:24: error: a profile and explicit timers exclude each other: the profile sets all four timers\n\
             \x20 = help: keep the profile, or period, suspect, lease and fail",
        ),
        (
            &[("profile: balanced", "period: 20ms, suspect: 45ms")],
            "farm.yaml:3:13: error: `membership` needs the key `lease`\n\
             \x20 = help: add `lease: 170ms`\n\
             farm.yaml:3:13: error: `membership` needs the key `fail`\n\
             \x20 = help: add `fail: 250ms`",
        ),
        (
            &[("profile: balanced", "period: 20, suspect: 45 min, lease: 0ms, fail: fast")],
            "farm.yaml:3:23: error: `20` has no unit\n\
             \x20 = help: write a whole number with its unit, such as 50ms or 1s\n\
             farm.yaml:3:36: error: `45 min` is not a whole number with one unit\n\
             \x20 = help: write a whole number with one unit: ms, s, m, h\n\
             farm.yaml:3:51: error: `0ms` is out of range, 1ms to 1m\n\
             \x20 = help: write a whole number with its unit, such as 50ms or 1s\n\
             farm.yaml:3:62: error: `fast` is not a duration\n\
             \x20 = help: write a whole number with its unit, such as 50ms or 1s",
        ),
        (
            &[("profile: balanced", "period: 20ms, suspect: 45ms, lease: 40ms, fail: 120ms")],
            "farm.yaml:3:13: error: these timers cannot work together: lease 40ms must be longer than two periods (40ms), or one late heartbeat stops a healthy node\n\
             \x20 = help: change the timers, or write `profile: fast`, `balanced` or `relaxed`",
        ),
        (
            &[("profile: balanced", "period: 20ms, suspect: 45ms, lease: 120ms, fail: 120ms")],
            "farm.yaml:3:13: error: these timers cannot work together: fail 120ms must be longer than lease + margin (124.8ms), or peers take a node's buckets while it still serves them\n\
             \x20 = help: change the timers, or write `profile: fast`, `balanced` or `relaxed`",
        ),
        (
            &[("balanced", "balanced, port: 0")],
            "farm.yaml:3:40: error: `0` is not a port, a number from 1 to 65535\n\
             \x20 = help: write a whole number in that range",
        ),
        (
            &[("balanced", "balanced, port: 65536")],
            "farm.yaml:3:40: error: `65536` is not a port, a number from 1 to 65535\n\
             \x20 = help: write a whole number in that range",
        ),
    ]);
}
