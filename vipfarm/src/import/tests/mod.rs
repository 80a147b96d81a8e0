//! Whole files, from their text to the farm's file and the account.

mod mutated;
mod refused;

use std::{io, net::IpAddr};

use super::*;
use crate::model::{Farm, Mode};

const MIRROR: &str = include_str!("fixtures/mirror.xml");
const FARM: &str = include_str!("fixtures/farm.xml");
const ARP: &str = include_str!("fixtures/arp.xml");
const MODULE: &str = include_str!("fixtures/module.xml");
const CLUSTER: &str = include_str!("fixtures/cluster.xml");
const MASTER: &str = include_str!("fixtures/master.conf");
const BACKUP: &str = include_str!("fixtures/backup.conf");
const UNICAST: &str = include_str!("fixtures/unicast.conf");

fn supplement(prefix: Option<u8>) -> Supplement {
    Supplement { farm: "web".into(), prefix, output: "farm.yaml".into() }
}

/// Nothing is asked of a real resolver.
fn no_names(_: &str) -> io::Result<Vec<IpAddr>> {
    Err(io::Error::other("Name or service not known"))
}

fn from_safekit(
    module: &str,
    cluster: Option<&str>,
    prefix: Option<u8>,
) -> Result<Imported, Diagnostics> {
    let module = Source { file: "userconfig.xml", text: module };
    let cluster = cluster.map(|text| Source { file: "cluster.xml", text });
    safekit_with(module, cluster, &supplement(prefix), &no_names)
}

fn from_keepalived(text: &str, prefix: Option<u8>) -> Result<Imported, Diagnostics> {
    keepalived(Source { file: "keepalived.conf", text }, &supplement(prefix))
}

fn checked(yaml: &str) -> Farm {
    config::parse_with("farm.yaml", yaml, &no_names)
        .unwrap_or_else(|problems| panic!("{problems}\n{yaml}"))
}

/// The file as an operator makes it who wants the proposed farm.
fn accepted(yaml: &str) -> String {
    yaml.lines()
        .map(|line| line.strip_prefix(yaml::PROPOSED).unwrap_or(line).to_owned() + "\n")
        .collect()
}

fn shown(imported: &Imported) -> String {
    format!("{}\n--- account ---\n{}", imported.yaml, imported.account)
}

#[test]
fn a_farm_module_with_all_that_it_may_have() {
    let imported = from_safekit(MODULE, Some(CLUSTER), Some(24)).expect("well-formed");
    insta::assert_snapshot!(shown(&imported));
    let text = shown(&imported);
    assert!(!text.contains("hunter2"), "a secret is told");
}

#[test]
fn the_manuals_farm_needs_the_nodes_and_the_prefix_length_by_hand() {
    let imported = from_safekit(FARM, None, None).expect("well-formed");
    insta::assert_snapshot!(shown(&imported));
    let by_hand = imported.yaml.replace("addresses: [FILL-IN]", "addresses: [192.168.1.11]");
    let farm = checked(&by_hand.replace("/FILL-IN", "/24"));
    assert_eq!(farm.vips[0].mode, Mode::VmacDirected);
}

#[test]
fn the_manuals_farm_with_its_cluster_is_complete() {
    let cluster = "<cluster><lans><lan name='default'><node name='a' addr='192.168.1.11'/>\
                   <node name='b' addr='192.168.1.12'/></lan></lans></cluster>";
    let imported = from_safekit(FARM, Some(cluster), Some(24)).expect("well-formed");
    assert_eq!(imported.account.missing, [], "{}", imported.yaml);
    let farm = checked(&imported.yaml);
    let [vip] = &farm.vips[..] else { panic!("one block") };
    assert_eq!((farm.name.as_str(), farm.nodes.len()), ("web", 2));
    assert_eq!((vip.mode, vip.arp_refresh), (Mode::VmacDirected, None));
    assert_eq!((vip.groups[0].name.as_str(), vip.groups[0].rules.len()), ("FarmProto", 1));

    let imported = from_safekit(ARP, Some(cluster), Some(24)).expect("well-formed");
    assert_eq!(imported.account.missing, [], "{}", imported.yaml);
    let refresh = checked(&imported.yaml).vips[0].arp_refresh;
    assert_eq!(refresh, Some(crate::model::ArpRefresh::DEFAULT));
}

#[test]
fn a_mirror_module_is_proposed_as_a_farm_and_not_made_one() {
    let imported = from_safekit(MIRROR, None, Some(24)).expect("well-formed");
    insta::assert_snapshot!(shown(&imported));
    let by_hand = imported.yaml.replace("addresses: [FILL-IN]", "addresses: [192.168.1.11]");
    let problems = config::parse_with("farm.yaml", &by_hand, &no_names).expect_err("no VIP");
    assert!(problems.to_string().contains("needs the key `vips`"), "{problems}");
    assert_eq!(checked(&accepted(&by_hand)).vips[0].addresses.len(), 1);

    let mirror = format!("<safe><service mode=\"mirror\">{FARM}</service></safe>");
    let imported = from_safekit(&mirror, None, Some(24)).expect("well-formed");
    assert_eq!(imported.account.count(Outcome::Translated), 0, "{}", imported.account);
    assert!(!imported.yaml.contains("\nvips:"), "{}", imported.yaml);
}

#[test]
fn vrrp_is_proposed_as_a_farm_and_not_made_one() {
    for text in [MASTER, BACKUP] {
        let imported = from_keepalived(text, None).expect("well-formed");
        assert!(!imported.yaml.contains("\nvips:"), "{}", imported.yaml);
        assert!(!shown(&imported).contains("SECURE"), "the password is told");
        let by_hand = imported.yaml.replace("addresses: [FILL-IN]", "addresses: [192.0.2.11]");
        let farm = checked(&accepted(&by_hand));
        assert_eq!(farm.vips[0].interface.as_deref(), Some("eth0"));
    }
    insta::assert_snapshot!(shown(&from_keepalived(MASTER, None).expect("well-formed")));
}

#[test]
fn all_that_a_keepalived_file_may_have() {
    let imported = from_keepalived(UNICAST, Some(24)).expect("well-formed");
    insta::assert_snapshot!(shown(&imported));
    assert!(!shown(&imported).contains("hunter2"), "a secret is told");
    // The second network of the first instance is not the nodes': theirs to say.
    let by_hand = accepted(&imported.yaml).replace("198.51.100.222/24", "192.0.2.224/24");
    let farm = checked(&by_hand);
    assert_eq!((farm.nodes.len(), farm.vips.len()), (3, 3));
}

#[test]
fn names_that_no_resolver_knows_are_missing() {
    let named = FARM.replace("192.168.1.222", "www.example.com");
    let imported = from_safekit(&named, None, Some(24)).expect("well-formed");
    let missing = &imported.account.missing;
    assert!(missing.iter().any(|it| it.message.contains("`www.example.com`")), "{missing:?}");
    assert!(imported.yaml.contains("- www.example.com/24"), "{}", imported.yaml);
}

#[test]
fn the_account_is_json_for_scripts() {
    let imported = from_safekit(MIRROR, None, None).expect("well-formed");
    let json = serde_json::to_value(&imported.account).expect("plain data");
    assert_eq!(json["elements"][0]["outcome"], "not_yet");
    assert_eq!(json["elements"][0]["line"], 3);
    assert_eq!(json["missing"][0]["file"], "userconfig.xml");
}
