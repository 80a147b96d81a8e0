//! How much fits into one file, and how much is said about one at once.

use super::*;

#[test]
fn a_farm_has_64_nodes_at_most() {
    let farm = |count: usize| {
        let nodes = lines(count, |n| format!("  - {{ name: n{n}, addresses: [192.168.1.{n}] }}"));
        edited(
            "  - { name: node1, addresses: [192.168.1.11, 10.0.0.11] }\n  \
             - { name: node2, addresses: [192.168.1.12, 10.0.0.12] }\n",
            &nodes,
        )
        .replace("{ node1: 2, node2: 1 }", "{ n1: 1 }")
    };
    parse_text(&farm(64)).expect("as many as a view has bits");
    assert_eq!(
        problems(&farm(65)),
        "farm.yaml:69:5: error: 65 nodes are too many: a farm has at most 64\n  \
         = help: remove nodes, or split the farm"
    );
}

#[test]
fn a_file_has_64_vip_addresses_at_most() {
    let farm = |count: usize| {
        edited(
            "    addresses: [192.168.1.222/24]\n",
            &format!(
                "    addresses:\n{}",
                lines(count, |n| format!("      - 192.168.1.{}/24", n + 100))
            ),
        )
    };
    parse_text(&farm(64)).expect("as many as the table has slots");
    assert_eq!(
        problems(&farm(65)),
        "farm.yaml:74:9: error: too many VIP addresses: this is the first beyond 64, the size of \
         the kernel table\n  = help: remove addresses, or split the farm"
    );
}

#[test]
fn a_file_has_30_groups_at_most() {
    let farm = |count: usize| {
        let group = |n| {
            format!(
                "      - {{ name: g{n}, rules: [{{ port: {n}, proto: udp, filter: on_addr }}] }}"
            )
        };
        edited("      - name: http\n", &(lines(count - 1, group) + "      - name: http\n"))
    };
    parse_text(&farm(30)).expect("as many as the table has slots");
    assert_eq!(
        problems(&farm(31)),
        "farm.yaml:41:15: error: too many groups: this is the first beyond 30, the size of the \
         kernel table\n  = help: put rules with the same powers into one group"
    );
}

#[test]
fn a_rule_for_all_addresses_takes_an_entry_for_each() {
    let farm = |count: usize, addr: &str| {
        let rule = |n| format!("          - {{ {addr}port: {n}, proto: udp, filter: on_addr }}");
        edited("        rules:\n", &format!("        rules:\n{}", lines(count, rule)))
            .replace("192.168.1.222/24", "192.168.1.222/24, 192.168.1.223/24")
    };
    // The base has two rules for all addresses itself.
    parse_text(&farm(126, "")).expect("256 entries");
    parse_text(&farm(252, "virtual_addr: 192.168.1.223, ")).expect("256 entries");
    let problem = "too many rules: with this one the kernel table has more than its 256 entries \
                   (a rule for all addresses takes one for each)";
    let found = parse_text(&farm(127, "")).expect_err("258 entries");
    let found: Vec<_> = found.iter().map(|p| (p.line, p.message.as_str())).collect();
    assert_eq!(found, [(142, problem)], "once, at the rule that is too many");
}

#[test]
fn everything_wrong_with_a_file_is_said_at_once_and_in_order() {
    let text = r"farm: Web
key_fil: /etc/vipfarm/farm.key
membership: { profile: fast, lease: 80ms, port: 0 }
nodes:
  - { name: node1, addresses: [192.168.1.11] }
  - { name: node1, addresses: [192.168.1.11] }
  - { name: node3, addresses: [192.168.1.313], power: 2 }
vips:
  - mode: vmac_directed
    vmac: 03:00:00:00:00:01
    addresses: [192.168.2.222/24, 192.168.1.255/24]
    check: maybe
    groups:
      - name: http
        powers: { node1: 2, node4: 1001 }
        rules:
          - { port: 80, proto: tcp, filter: on_ipid }
          - { port: 80, proto: tcp, filter: on_addr, filter: on_port }
          - { port: 70000, proto: udp, filter: on_port }
      - name: http
        rules: []
";
    let problems = problems(text).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    insta::assert_snapshot!(problems);
}

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (1..=count).map(|n| line(n) + "\n").collect()
}
