//! Whole files, from their text to the farm's file and the account.

mod elements;
mod mutated;
mod refused;
mod statements;

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
fn vips_with_the_nodes_own_macs_may_be_on_two_interfaces() {
    let cluster = "<cluster><lans><lan name='default'><node name='a' addr='192.168.1.11'/>\
                   <node name='b' addr='192.168.1.12'/></lan><lan name='second'>\
                   <node name='a' addr='192.168.2.11'/><node name='b' addr='192.168.2.12'/>\
                   </lan></lans></cluster>";
    let second = "<interface name='eth1'><virtual_interface type='vmac_directed'>\
                  <virtual_addr addr='192.168.2.222'/></virtual_interface></interface></interface_list>";
    let text = FARM.replace("</interface_list>", second);
    let imported = from_safekit(&text, Some(cluster), Some(24)).expect("well-formed");
    assert_eq!(imported.account.missing, [], "{}", imported.yaml);
    let modes = checked(&imported.yaml).vips.into_iter().map(|vip| (vip.mode, vip.interface));
    let expected = [None, Some("eth1".to_owned())].map(|it| (Mode::VmacDirected, it));
    assert_eq!(modes.collect::<Vec<_>>(), expected);
}

#[test]
fn a_mirror_modules_vip_is_where_one_node_is_and_stays_there() {
    let imported = from_safekit(MIRROR, None, Some(24)).expect("well-formed");
    insta::assert_snapshot!(shown(&imported));
    let mirror = format!("<safe><service mode=\"mirror\">{MIRROR}</service></safe>");
    for (module, preempt) in [(MIRROR.to_owned(), true), (mirror, false)] {
        let imported = from_safekit(&module, None, Some(24)).expect("well-formed");
        let by_hand = imported.yaml.replace("addresses: [FILL-IN]", "addresses: [192.168.1.11]");
        let vip = &checked(&by_hand).vips[0];
        assert_eq!((vip.mode, vip.addresses.len()), (Mode::Failover, 1));
        assert_eq!(vip.groups[0].failover.map(|failover| failover.preempt), Some(preempt));
    }
    let mirror = format!("<safe><service mode=\"mirror\">{FARM}</service></safe>");
    let imported = from_safekit(&mirror, None, Some(24)).expect("well-formed");
    assert!(imported.yaml.contains("mode: failover"), "{}", imported.yaml);
    assert!(!imported.yaml.contains("groups:"), "{}", imported.yaml);
}

#[test]
fn vrrp_becomes_a_vip_that_one_node_at_a_time_has() {
    for text in [MASTER, BACKUP] {
        let imported = from_keepalived(text, None).expect("well-formed");
        assert!(!shown(&imported).contains("SECURE"), "the password is told");
        let by_hand = imported.yaml.replace("addresses: [FILL-IN]", "addresses: [192.0.2.11]");
        let farm = checked(&by_hand);
        assert_eq!(farm.vips[0].interface.as_deref(), Some("eth0"));
        assert_eq!(farm.vips[0].mode, Mode::Failover);
    }
    insta::assert_snapshot!(shown(&from_keepalived(MASTER, None).expect("well-formed")));
}

#[test]
fn all_that_a_keepalived_file_may_have() {
    let imported = from_keepalived(UNICAST, Some(24)).expect("well-formed");
    insta::assert_snapshot!(shown(&imported));
    assert!(!shown(&imported).contains("hunter2"), "a secret is told");
    // The second network of the first instance is not the nodes': theirs to say.
    let by_hand = imported.yaml.replace("198.51.100.222/24", "192.0.2.224/24");
    let farm = checked(&by_hand);
    assert_eq!((farm.nodes.len(), farm.vips.len()), (3, 3));
    let preempt = |vip: &crate::model::Vip| vip.groups[0].failover.map(|it| it.preempt);
    let preempt: Vec<_> = farm.vips.iter().map(preempt).collect();
    assert_eq!(preempt, [Some(false), Some(false), Some(true)]);
}

#[test]
fn a_delay_is_whole_seconds() {
    for (delay, written) in [("5", "5s"), ("1.5", "2s"), ("86400", "3600s"), ("0", "")] {
        let with_delay = format!("priority 200\n  preempt_delay {delay}");
        let text = MASTER.replace("priority 200", &with_delay);
        let imported = from_keepalived(&text, None).expect("well-formed");
        let found = imported.yaml.lines().find_map(|line| line.strip_prefix("    preempt_delay: "));
        assert_eq!(found.unwrap_or_default(), written, "{}", imported.yaml);
    }
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
    assert_eq!(json["elements"][0]["outcome"], "translated");
    assert_eq!(json["elements"][0]["line"], 3);
    assert_eq!(json["missing"][0]["file"], "farm.yaml");
}
