//! The `vips` key: blocks of addresses with their groups and rules.

use std::net::{IpAddr, Ipv4Addr};

use crate::model::{
    ArpRefresh, Check, IcmpEcho, Mac, Mode, Open, OtherProtocols, Vip, VipAddr, VlanTags,
};

use super::address::{self, Resolve};
use super::arp_refresh;
use super::checks;
use super::diagnostic::{Located, Report};
use super::failover;
use super::fields::{self, Fields, INTERFACE};
use super::group::GroupDraft;
use super::yaml::{Kind, Value};

/// A VIP block as read.
#[derive(Debug)]
pub(super) struct VipDraft {
    interface: Option<String>,
    pub(super) vlan: VlanTags,
    pub(super) mode: Located<Mode>,
    vmac: Option<Mac>,
    pub(super) addresses: Vec<Located<VipAddr>>,
    /// Every address of the file is in `addresses`: a rule may be told that its own is missing.
    pub(super) addresses_complete: bool,
    check: bool,
    tcp_reset: bool,
    open: Open,
    icmp_echo: IcmpEcho,
    other: OtherProtocols,
    arp_refresh: Option<ArpRefresh>,
    checks: Vec<Check>,
    pub(super) groups: Vec<GroupDraft>,
}

impl VipDraft {
    /// The model's block; `None` without an address, which has been reported.
    pub(super) fn build(self, names: &[&str]) -> Option<Vip> {
        let addresses: Vec<_> = self.addresses.iter().map(|address| address.value).collect();
        Some(Vip {
            interface: self.interface,
            vlan: self.vlan,
            mode: self.mode.value,
            vmac: self.vmac.or_else(|| default_vmac(&addresses))?,
            addresses,
            check: self.check,
            tcp_reset: self.tcp_reset,
            open: self.open,
            icmp_echo: self.icmp_echo,
            other: self.other,
            arp_refresh: self.arp_refresh,
            checks: self.checks,
            groups: self.groups.into_iter().map(|group| group.build(names)).collect(),
        })
    }
}

/// `SafeKit`'s: `5A:FE` and the first IPv4 VIP; without one the last 32 bits of the first.
fn default_vmac(addresses: &[VipAddr]) -> Option<Mac> {
    let first = addresses.iter().find(|address| address.addr.is_ipv4()).or(addresses.first())?;
    Some(Mac::of_vip(match first.addr {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d)
        }
    }))
}

/// Reads the list of blocks.
pub(super) fn read(value: &Value, resolve: Resolve<'_>, report: &mut Report) -> Vec<VipDraft> {
    let example = "- { addresses: [192.168.1.222/24], groups: [...] }";
    let items = fields::list(value, "`vips`", example, report).unwrap_or_default();
    items.iter().filter_map(|item| read_block(item, resolve, report)).collect()
}

const KEYS: [&str; 18] = [
    "interface",
    "vlan",
    "mode",
    "vmac",
    "addresses",
    "check",
    "tcp_reset",
    "open",
    "icmp_echo",
    "other",
    "arp_refresh",
    "checks",
    "groups",
    "priorities",
    "preempt",
    "preempt_delay",
    "balance",
    "rules",
];

fn read_block(value: &Value, resolve: Resolve<'_>, report: &mut Report) -> Option<VipDraft> {
    let fields = Fields::of(value, "a VIP block", &KEYS, report)?;
    let check = flag(&fields, "check", report);
    let items = fields
        .require("addresses", "addresses: [192.168.1.222/24]", report)
        .and_then(|list| fields::list(list, "`addresses`", "[192.168.1.222/24]", report));
    let addresses: Vec<_> = items
        .unwrap_or_default()
        .iter()
        .filter_map(|item| address::read(item, check, resolve, report))
        .collect();
    let mode = read_mode(&fields, report);
    let vlan = fields.get("vlan").and_then(|value| read_vlan(value, report)).unwrap_or_default();
    let groups = failover::groups(&fields, mode.value, vlan, &addresses, report);
    // In the other modes it is refused.
    let vmac = fields.get("vmac").filter(|_| mode.value == Mode::VmacInvisible);
    let whole = mode.value == Mode::Failover && fields.get("rules").is_none();
    Some(VipDraft {
        interface: fields
            .get("interface")
            .and_then(|value| fields::name(value, "an interface", &INTERFACE, report))
            .map(|name| name.value),
        vlan,
        arp_refresh: arp_refresh::read(fields.get("arp_refresh"), mode.value, report),
        mode,
        vmac: vmac.and_then(|value| read_vmac(value, report)),
        addresses_complete: items.is_some_and(|items| items.len() == addresses.len()),
        addresses,
        check,
        tcp_reset: flag(&fields, "tcp_reset", report),
        open: word(
            &fields,
            "open",
            &[("auto", Open::Auto), ("manual", Open::Manual)],
            Open::Auto,
            report,
        )
        .value,
        icmp_echo: word(
            &fields,
            "icmp_echo",
            &[("on_addr", IcmpEcho::OnAddr), ("drop", IcmpEcho::Drop)],
            IcmpEcho::OnAddr,
            report,
        )
        .value,
        other: word(
            &fields,
            "other",
            &[("drop", OtherProtocols::Drop), ("on_addr", OtherProtocols::OnAddr)],
            if whole { OtherProtocols::OnAddr } else { OtherProtocols::Drop },
            report,
        )
        .value,
        checks: checks::read(&fields, report),
        groups,
    })
}

/// One VLAN identifier, or a service tag's and the inner one's.
fn read_vlan(value: &Value, report: &mut Report) -> Option<VlanTags> {
    let id = |value: &Value, report: &mut Report| {
        fields::integer(value, "a VLAN identifier", 1..=4094, report)
    };
    let Kind::List(items) = &value.kind else {
        return id(value, report).map(|inner| VlanTags { outer: 0, inner });
    };
    let [outer, inner] = &items[..] else {
        report.error(
            value.at,
            "`vlan` is one identifier, or two of them",
            "write `vlan: 10`, or `vlan: [100, 10]` for an 802.1ad tag around an 802.1Q tag",
        );
        return None;
    };
    Some(VlanTags { outer: id(outer, report)?, inner: id(inner, report)? })
}

/// A boolean that is true unless the file says otherwise.
fn flag(fields: &Fields<'_>, key: &str, report: &mut Report) -> bool {
    let value = fields.get(key);
    value.and_then(|value| fields::boolean(value, &format!("`{key}`"), report)).unwrap_or(true)
}

fn word<T: Copy>(
    fields: &Fields<'_>,
    key: &str,
    choices: &[(&str, T)],
    default: T,
    report: &mut Report,
) -> Located<T> {
    fields
        .get(key)
        .and_then(|value| fields::choice(value, &format!("`{key}`"), choices, report))
        .unwrap_or(Located { at: fields.at, value: default })
}

fn read_mode(fields: &Fields<'_>, report: &mut Report) -> Located<Mode> {
    let modes = [
        ("vmac_invisible", Mode::VmacInvisible),
        ("vmac_directed", Mode::VmacDirected),
        ("failover", Mode::Failover),
    ];
    word(fields, "mode", &modes, Mode::VmacInvisible, report)
}

fn read_vmac(value: &Value, report: &mut Report) -> Option<Mac> {
    let text = fields::text(value, "`vmac`", "5a:fe:c0:a8:01:de", report)?;
    let help = "write an unused unicast address, or remove the key: the default is 5a:fe and the first VIP";
    let problem = match text.parse::<Mac>() {
        Ok(Mac([0, 0, 0, 0, 0, 0])) => {
            format!("`{text}` is no station's address: all octets are 0")
        }
        Ok(mac) if mac.is_multicast() => format!(
            "`{text}` is a multicast address (the lowest bit of its first octet is 1): \
             ARP answers with it are ignored"
        ),
        Ok(mac) => return Some(mac),
        Err(problem) => problem,
    };
    report.error(value.at, problem, help);
    None
}
