//! Sources that make no sense: all that is said about them.

use super::*;

#[test]
fn xml_that_is_not_well_formed_is_told_with_its_place() {
    for (text, expected) in [
        (
            "<vip>\n  <interface_list>\n</vip>",
            "userconfig.xml:3:1: error: this is not well-formed XML: expected 'interface_list' tag, not 'vip' at 3:1",
        ),
        ("", "userconfig.xml:1:1: error: this is not well-formed XML"),
        ("<vip>&unknown;</vip>", "userconfig.xml:1:6: error: this is not well-formed XML"),
        ("<a b='1' b='2'/>", "userconfig.xml:1:10: error: this is not well-formed XML"),
    ] {
        let problems = from_safekit(text, None, None).expect_err("malformed").to_string();
        assert!(problems.starts_with(expected), "{problems}");
        assert!(problems.contains("\n  = help: mend the file"), "{problems}");
    }
    let problems = from_safekit(FARM, Some("<cluster>"), None).expect_err("malformed").to_string();
    assert!(problems.starts_with("cluster.xml:1:"), "{problems}");
}

#[test]
fn values_that_mean_nothing_are_told_all_at_once() {
    let text = FARM
        .replace("check=\"on\">", "check=\"yes\">")
        .replace("vmac_directed", "vmac_hidden")
        .replace("<virtual_addr addr=\"192.168.1.222\"", "<virtual_addr")
        .replace("port=\"80\"", "port=\"0\"")
        .replace("proto=\"tcp\" ", "")
        .replace("<rule", "<cluster><host name=\"a\" power=\"1001\"/></cluster><rule");
    insta::assert_snapshot!(from_safekit(&text, None, None).expect_err("six problems"));
    for (old, new, expected) in [
        ("check=\"on\">", "arpreroute='on' arpinterval='soon'>", "`soon` is not a time"),
        ("check=\"on\">", "name='a/b'>", "`a/b` cannot be the name of a network interface"),
        ("where=\"alias\"", "where=\"some\"", "`some` is not a value"),
        ("where=\"alias\"", "netmask=\"255.0.255.0\"", "`255.0.255.0` is not a netmask"),
        ("vmac_directed\"", "vmac_invisible\" addr=\"01:00:5e:00:00:01\"", "not a unicast MAC"),
    ] {
        assert!(FARM.contains(old), "{old}");
        let problems = from_safekit(&FARM.replacen(old, new, 1), None, None).expect_err(expected);
        assert!(problems.to_string().contains(expected), "{problems}");
    }
}

#[test]
fn a_hostile_document_is_refused_in_time() {
    let deep = format!("{}{}", "<safe>".repeat(9_000), "</safe>".repeat(9_000));
    from_safekit(&deep, None, None).expect("deep, but not too large");
    let large = format!("<safe>{}</safe>", "<vip/>".repeat(20_000));
    let problems = from_safekit(&large, None, None).expect_err("too large").to_string();
    assert!(problems.contains("nodes limit"), "{problems}");
    let mut bomb = String::from("<!DOCTYPE a [<!ENTITY x0 'xxxxxxxxxx'>");
    for level in 1..9 {
        let below = format!("&x{};", level - 1).repeat(10);
        bomb = format!("{bomb}<!ENTITY x{level} '{below}'>");
    }
    from_safekit(&format!("{bomb}]><a>&x8;</a>"), None, None).expect_err("a bomb");
}

#[test]
fn braces_and_quotes_that_do_not_match_are_told_with_their_place() {
    for (text, expected) in [
        (
            "a {\n  b {\n  }\n",
            "keepalived.conf:1:3: error: this block is not closed\n  = help: add the missing `}`",
        ),
        (
            "a {\n}\n}",
            "keepalived.conf:3:1: error: this `}` closes nothing\n  = help: remove it, or add the missing `{`",
        ),
        (
            "{\n}",
            "keepalived.conf:1:1: error: this block has no name\n  = help: write its keyword before the `{`",
        ),
        (
            "a \"b\nc",
            "keepalived.conf:1:3: error: this quotation does not end on its line\n  = help: add the closing quote",
        ),
    ] {
        assert_eq!(from_keepalived(text, None).expect_err("malformed").to_string(), expected);
    }
    let deep = from_keepalived(&"a {".repeat(100_000), None).expect_err("too deep").to_string();
    assert!(deep.starts_with("keepalived.conf:1:99: error: too many blocks"), "{deep}");
}

#[test]
fn files_without_a_vip_say_so() {
    for imported in [
        from_safekit("<safe/>", None, None),
        from_keepalived("", None),
        from_keepalived("# nothing\n", None),
    ] {
        let imported = imported.expect("well-formed");
        let missing = &imported.account.missing[0];
        assert_eq!((missing.line, missing.column), (1, 1));
        assert_eq!(missing.message, "there is no VIP in this file");
        assert!(imported.yaml.contains("# The source has no VIP"), "{}", imported.yaml);
    }
}
