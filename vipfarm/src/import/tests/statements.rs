//! What becomes of keepalived's statements, one by one.

use super::*;

const TRACKED: &str = include_str!("fixtures/tracked.conf");

/// An instance with those lines in it.
fn instance(lines: &str) -> String {
    format!(
        "vrrp_instance WEB {{\n  interface eth0\n  unicast_src_ip 192.0.2.11\n  {lines}\n  \
         virtual_ipaddress {{\n    192.0.2.222/24\n  }}\n}}\n"
    )
}

#[test]
fn what_is_tracked_becomes_checks_that_pass_the_check_of_the_file() {
    let imported = from_keepalived(TRACKED, None).expect("well-formed");
    assert_eq!(imported.account.missing, [], "{}", imported.yaml);
    insta::assert_snapshot!(shown(&imported));
    let farm = checked(&imported.yaml);
    let checks = |vip: usize| {
        let checks = farm.vips[vip].checks.iter();
        checks.map(|check| check.probe.to_string()).collect::<Vec<_>>()
    };
    let shell = "exec /bin/sh -c killall -0 haproxy || exit 1";
    let web = ["interface eth1", "interface eth2", "exec /usr/bin/pgrep -x nginx", shell];
    assert_eq!(checks(0), [&web[..], &["interface eth9"]].concat());
    assert_eq!(checks(1), [shell, "interface eth9"]);
    assert_eq!((farm.vips[0].check, farm.vips[1].check), (false, true));
    assert!(!farm.vips[1].addresses[0].check, "no_track");
}

#[test]
fn what_is_evaluated_first_is_missing_where_it_may_be_a_vip_or_a_node() {
    for lines in [
        "@main virtual_ipaddress { 192.0.2.9/24 }",
        "@main interface eth1",
        "@^main include /etc/keepalived/{a,b}.conf",
        "include /etc/keepalived/vips.conf",
        "$VIPS",
        "~SEQ(i, 1, 3) virtual_ipaddress { 192.0.2.$i/24 }",
        "virtual_ipaddress {\n $VIP\n }",
        "virtual_ipaddress {\n ${VIP}/24\n }",
        "virtual_ipaddress {\n 192.0.2.9/24 dev $IF\n }",
        "virtual_ipaddress {\n include vips.conf\n }",
        "virtual_ipaddress {\n @main 192.0.2.9/24\n }",
        "unicast_peer {\n $PEER\n }",
        "unicast_src_ip $SELF",
    ] {
        let imported = from_keepalived(&instance(lines), None).expect("well-formed");
        let [missing] = &imported.account.missing[..] else { panic!("{lines}: {imported:?}") };
        assert!(missing.message.contains("is not read"), "{lines}: {missing}");
        assert!((4..=5).contains(&missing.line), "{lines}: {missing}");
        let written = imported.yaml.lines().filter(|line| !line.starts_with('#'));
        assert!(!written.clone().any(|line| line.contains('$')), "{}", imported.yaml);
        assert!(!written.clone().any(|line| line.contains("include")), "{}", imported.yaml);
    }
    for lines in [
        "@main priority 150",
        "priority $PRIORITY",
        "track_script {\n @main chk\n }",
        "notify_master \"/usr/bin/tell $VIP\"",
        "authentication {\n auth_pass a$b\n }",
    ] {
        let imported = from_keepalived(&instance(lines), None).expect("well-formed");
        assert_eq!(imported.account.missing, [], "{lines}");
    }
    for (outside, missing) in [
        ("include /etc/keepalived/*.conf", 1),
        ("@main vrrp_instance old {\n }", 1),
        ("$INSTANCE", 1),
        ("~SEQ(i, 1, 3) vrrp_instance V$i {\n }", 1),
        ("$VIP=192.0.2.9", 0),
        ("@main global_defs {\n }", 0),
    ] {
        let text = format!("{outside}\n{}", instance(""));
        let imported = from_keepalived(&text, None).expect("well-formed");
        assert_eq!(imported.account.missing.len(), missing, "{outside}");
    }
}

#[test]
fn a_parameter_of_the_file_in_a_script_is_not_taken_for_one_of_the_shell() {
    for (definition, translated) in [("", true), ("$PORTS=80\n", true), ("$PORT=80\n", false)] {
        let script = "vrrp_script chk {\n script \"/bin/nc -z ::1 ${PORT}\"\n}\n";
        let text = format!("{definition}{script}{}", instance("track_script { chk }"));
        let imported = from_keepalived(&text, None).expect("well-formed");
        assert_eq!(imported.yaml.contains("exec:"), translated, "{}", imported.yaml);
    }
}

#[test]
fn mistyped_statements_are_told_with_what_is_meant() {
    let text = instance("virtual_ipadress {\n 192.0.2.9/24\n }\n  prioritty 100");
    let imported = from_keepalived(&text, None).expect("well-formed");
    let [missing] = &imported.account.missing[..] else { panic!("{}", imported.account) };
    assert_eq!((missing.line, missing.column), (4, 3));
    assert!(missing.help.contains("did you mean `virtual_ipaddress`?"), "{missing}");
    let account = imported.account.to_string();
    assert!(account.contains("prioritty 100: it is not known here: did you mean `priority`?"));
    let text = instance("").replace("vrrp_instance", "vrrp_instanec");
    let imported = from_keepalived(&text, None).expect("well-formed");
    let missing = &imported.account.missing[0];
    assert!(missing.help.contains("did you mean `vrrp_instance`?"), "{missing}");
}

#[test]
fn values_that_mean_nothing_are_told_at_their_place() {
    for (lines, line, column, expected) in [
        ("virtual_ipaddress {\n 10.0.0.300/24\n }", 5, 2, "`10.0.0.300` is not an IP address"),
        ("virtual_ipaddress {\n 10.0.0.3/64\n }", 5, 2, "`64` is not a prefix length for 10.0.0.3"),
        ("virtual_ipaddress {\n 10.0.0.3/\n }", 5, 2, "`` is not a prefix length for 10.0.0.3"),
        ("virtual_ipaddress { ::1 dev a/b }", 4, 31, "`a/b` cannot be the name of a network"),
        ("priority abc", 4, 12, "`abc` is not a priority from 1 to 255"),
        ("priority 300", 4, 12, "`300` is not a priority from 1 to 255"),
        ("preempt_delay soon", 4, 17, "`soon` is not a number of seconds"),
        ("preempt_delay 1.x", 4, 17, "`1.x` is not a number of seconds"),
        ("unicast_peer { 192.0.2.322 }", 4, 18, "`192.0.2.322` is not an IP address"),
        ("track_interface { eth1 weight x }", 4, 33, "`x` is not a weight from -254 to 254"),
        ("}\nvrrp_script a {\n fall 0", 6, 7, "`0` is not a number of looks from 1 to 65535"),
        ("}\nvrrp_script a {\n interval no", 6, 11, "`no` is not a number of seconds"),
    ] {
        let problems = from_keepalived(&instance(lines), None).expect_err(expected);
        let problem = problems.iter().next().expect("never empty");
        assert_eq!((problem.line, problem.column), (line, column), "{problem}");
        assert!(problem.message.starts_with(expected), "{problem}");
    }
}

#[test]
fn instances_of_a_sync_group_that_wait_differently_are_told() {
    let dns = instance("").replace("WEB", "DNS").replace("222", "53");
    for (lines, differ) in [("", false), ("nopreempt", true), ("preempt_delay 5", true)] {
        let group = "vrrp_sync_group G {\n group {\n WEB\n DNS\n GONE\n }\n}\n";
        let text = format!("{group}{}{dns}", instance(lines));
        let imported = from_keepalived(&text, None).expect("well-formed");
        let group = &imported.account.elements[0];
        assert_eq!((group.line, group.outcome), (1, Outcome::Approximated));
        let why = group.why.as_deref().unwrap_or_default();
        assert!(why.contains("each instance becomes a block that moves by itself"), "{why}");
        assert_eq!(why.contains("they differ in `preempt`"), differ, "{why}");
        assert!(why.contains("no instance `GONE`"), "{why}");
    }
}
