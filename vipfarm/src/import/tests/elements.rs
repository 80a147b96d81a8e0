//! What becomes of `SafeKit`'s checkers, and of what is mistyped.

use super::*;

/// The manual's farm with that behind its `<vip>`, on a line of its own.
fn with(element: &str) -> String {
    format!("<safe>{FARM}{element}</safe>")
}

#[test]
fn a_tcp_checker_becomes_a_check_of_the_whole_node() {
    let to =
        |attributes: &str| with(&format!("<check><tcp ident='a'><to {attributes}/></tcp></check>"));
    for (attributes, expected) in [
        ("addr='127.0.0.1' port='80'", "{ tcp: \"127.0.0.1:80\" }"),
        (
            "addr='::1' port='80' interval='10s' timeout='5'",
            "{ tcp: \"[::1]:80\", interval: 10s, timeout: 5s }",
        ),
        (
            "addr='127.0.0.1' port='80' timeout='5'",
            "{ tcp: \"127.0.0.1:80\", interval: 5s, timeout: 5s }",
        ),
        ("addr='127.0.0.1' port='80' interval='1'", "{ tcp: \"127.0.0.1:80\", interval: 1s }"),
    ] {
        let imported = from_safekit(&to(attributes), None, Some(24)).expect("well-formed");
        let written = format!("\nchecks:\n  - {expected}\n");
        assert!(imported.yaml.contains(&written), "{attributes}: {}", imported.yaml);
        let farm = checked(&imported.yaml.replace("[FILL-IN]", "[192.168.1.11]"));
        assert_eq!(farm.checks.len(), 1);
    }
    for attributes in ["addr='192.168.1.222' port='80'", "addr='localhost' port='80'", "port='80'"]
    {
        let imported = from_safekit(&to(attributes), None, Some(24)).expect("well-formed");
        assert!(!imported.yaml.contains("\nchecks:"), "{attributes}: {}", imported.yaml);
        assert!(imported.yaml.contains("tcp: \"127.0.0.1:80\""), "{attributes}: {}", imported.yaml);
    }
    let text = to("addr='127.0.0.1' port='80' interval='soon'");
    let problems = from_safekit(&text, None, None).expect_err("no time").to_string();
    assert!(problems.contains("`soon` is not a time"), "{problems}");
}

#[test]
fn a_service_that_runs_on_one_node_keeps_no_other_from_taking_over() {
    for (when, checks) in [("prim", 0), ("pre", 1)] {
        let checker = format!("<tcp when='{when}'><to addr='192.168.1.1' port='80'/></tcp>");
        let text = format!("<service mode='mirror'>{MIRROR}<check>{checker}</check></service>");
        let imported = from_safekit(&text, None, Some(24)).expect("well-formed");
        assert_eq!(imported.yaml.matches("\nchecks:").count(), checks, "{}", imported.yaml);
    }
}

#[test]
fn other_checkers_are_told_with_the_way_to_write_them() {
    for (checker, expected) in [
        ("<ping ident='a'><to addr='192.168.1.1'/></ping>", "/usr/bin/ping"),
        ("<intf ident='a'/>", "{ interface: NAME }"),
        ("<ip ident='a'/>", "watches the VIPs on each node"),
        ("<custom ident='a' exec='x'/>", "{ exec: [PROGRAM] }"),
        ("<module name='a'/>", "{ tcp: \"ADDRESS:PORT\" }"),
        ("<splitbrain ident='a'/>", "a split of the farm"),
    ] {
        let text = with(&format!("<check>{checker}</check>"));
        let imported = from_safekit(&text, None, Some(24)).expect("well-formed");
        let mut entries = imported.account.elements.iter();
        let entry = entries.find(|entry| entry.outcome == Outcome::Dropped && entry.line == 15);
        let why = entry.and_then(|entry| entry.why.clone()).unwrap_or_default();
        assert!(why.contains(expected), "{}", imported.account);
    }
}

#[test]
fn what_is_mistyped_is_missing_and_told_with_what_is_meant() {
    for (old, new, near) in [
        ("<rule ", "<rul ", "rule"),
        ("<vip>", "<vip tcprest='off'>", "tcpreset"),
        ("<interface check=\"on\">", "<interface chek=\"off\">", "check"),
    ] {
        assert!(FARM.contains(old), "{old}");
        let imported = from_safekit(&FARM.replace(old, new), None, Some(24)).expect("well-formed");
        let meant = format!("did you mean `{near}`?");
        let mut missing = imported.account.missing.iter();
        assert!(missing.any(|it| it.help.contains(&meant)), "{}", imported.account);
    }
    let imported = from_safekit(&with("<usr/>"), None, Some(24)).expect("well-formed");
    let account = imported.account.to_string();
    assert!(account.contains("did you mean `user`?") && !account.contains("missing: `<usr>`"));
}

#[test]
fn addresses_that_are_none_are_told_at_their_place() {
    let text = FARM.replace("192.168.1.222", "192.168.1.322");
    let problems = from_safekit(&text, None, Some(24)).expect_err("no address").to_string();
    let expected = "error: `192.168.1.322` is neither an IP address nor a host name";
    assert!(problems.starts_with("userconfig.xml:") && problems.contains(expected), "{problems}");
    let cluster = CLUSTER.replacen("addr=\"", "addr=\"1.", 1);
    let problems = from_safekit(FARM, Some(&cluster), None).expect_err("no address").to_string();
    assert!(problems.starts_with("cluster.xml:"), "{problems}");
}
