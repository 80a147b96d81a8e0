//! A VIP address: `192.168.1.222/24`, `name/24` or `{ addr, netmask, check, connections }`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use crate::model::VipAddr;

use super::diagnostic::{Located, Pos, Report};
use super::fields::{self, Fields};
use super::nodes;
use super::yaml::{Kind, Value};

/// Finds the addresses of a host name.
pub(crate) type Resolve<'a> = &'a dyn Fn(&str) -> io::Result<Vec<IpAddr>>;

const EXAMPLE: &str = "192.168.1.222/24";

/// Reads one address. `check` is the block's, inherited by addresses that say nothing.
pub(super) fn read(
    value: &Value,
    check: bool,
    resolve: Resolve<'_>,
    report: &mut Report,
) -> Option<Located<VipAddr>> {
    let address = if matches!(value.kind, Kind::Map(_)) {
        read_mapping(value, check, resolve, report)?
    } else {
        let text = fields::text(value, "a VIP address", EXAMPLE, report)?;
        let (addr, prefix) = read_text(text, value.at, resolve, report)?;
        VipAddr { addr, prefix, check, connections: false }
    };
    check_place(address.addr, address.prefix, value.at, report)?;
    Some(Located { at: value.at, value: address })
}

fn read_mapping(
    value: &Value,
    check: bool,
    resolve: Resolve<'_>,
    report: &mut Report,
) -> Option<VipAddr> {
    let known = ["addr", "netmask", "check", "connections"];
    let fields = Fields::of(value, "a VIP address", &known, report)?;
    let mut flag = |key: &'static str, default| {
        let value = fields.get(key);
        value
            .and_then(|value| fields::boolean(value, &format!("`{key}`"), report))
            .unwrap_or(default)
    };
    let (check, connections) = (flag("check", check), flag("connections", false));
    let (addr, prefix) = read_subnet(&fields, resolve, report)?;
    Some(VipAddr { addr, prefix, check, connections })
}

/// `addr` and `netmask`; the length may also stand behind `addr`.
fn read_subnet(
    fields: &Fields<'_>,
    resolve: Resolve<'_>,
    report: &mut Report,
) -> Option<(IpAddr, u8)> {
    let value = fields.require("addr", "addr: 192.168.1.222", report)?;
    let text = fields::text(value, "`addr`", "192.168.1.222", report)?;
    if text.contains('/') {
        if let Some(netmask) = fields.get("netmask") {
            report.error(
                netmask.at,
                "the prefix length stands twice, here and behind `addr`",
                "keep one of the two",
            );
            return None;
        }
        return read_text(text, value.at, resolve, report);
    }
    let netmask = fields.require("netmask", "netmask: 24", report)?;
    let addr = host(text, value.at, resolve, report)?;
    let text = fields::text(netmask, "`netmask`", "24", report)?;
    Some((addr, prefix(text, addr, netmask.at, report)?))
}

/// `addr/netmask`.
fn read_text(
    text: &str,
    at: Pos,
    resolve: Resolve<'_>,
    report: &mut Report,
) -> Option<(IpAddr, u8)> {
    let Some((addr, netmask)) = text.split_once('/') else {
        report.error(
            at,
            format!("`{text}` has no prefix length, so its subnet is unknown"),
            format!("write `{text}/24` with the length of your network"),
        );
        return None;
    };
    let addr = host(addr, at, resolve, report)?;
    Some((addr, prefix(netmask, addr, at, report)?))
}

/// A prefix length, or the dotted mask of an IPv4 subnet.
fn prefix(text: &str, addr: IpAddr, at: Pos, report: &mut Report) -> Option<u8> {
    let (width, example) =
        if addr.is_ipv4() { (32, "`24` or `255.255.255.0`") } else { (128, "`64`") };
    let number = match text.parse::<Ipv4Addr>() {
        Ok(mask) if addr.is_ipv4() => ipnet::ipv4_mask_to_prefix(mask).ok(),
        _ => text.parse().ok(),
    };
    let prefix = number.filter(|prefix| (1..=width).contains(prefix));
    if prefix.is_none() {
        report.error(
            at,
            format!("`{text}` is not a netmask for {addr}"),
            format!("write a prefix length from 1 to {width}, such as {example}"),
        );
    }
    prefix
}

/// An address, or a host name that has exactly one: with several, nodes could choose differently.
fn host(text: &str, at: Pos, resolve: Resolve<'_>, report: &mut Report) -> Option<IpAddr> {
    if let Ok(addr) = text.parse() {
        return Some(addr);
    }
    if !is_host_name(text) {
        report.error(
            at,
            format!("`{text}` is not an IP address"),
            format!("write an address such as `{EXAMPLE}`"),
        );
        return None;
    }
    let problem = match resolve(text).map(|mut found| {
        // One prefix length cannot suit both families; a name with both means its IPv4 address.
        if found.iter().any(IpAddr::is_ipv4) {
            found.retain(IpAddr::is_ipv4);
        }
        found.sort_unstable();
        found.dedup();
        found
    }) {
        Ok(found) => match found[..] {
            [addr] => return Some(addr),
            [] => "it has no address".into(),
            _ => format!("it has {} addresses, and nodes could choose differently", found.len()),
        },
        Err(error) => error.to_string(),
    };
    report.error(
        at,
        format!("the host name `{text}` does not lead to a VIP: {problem}"),
        "write the address itself, or mend the name's entry in DNS or /etc/hosts",
    );
    None
}

/// RFC 1123 section 2.1, and at least one letter: `192.168.1.300` is a mistake, not a name.
pub(crate) fn is_host_name(text: &str) -> bool {
    text.len() <= 253
        && text.bytes().any(|c| c.is_ascii_alphabetic())
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        })
}

/// Whether the address can be one host's in its subnet.
fn check_place(addr: IpAddr, prefix: u8, at: Pos, report: &mut Report) -> Option<()> {
    let help = "choose a free address of the nodes' network";
    if let Some(kind) = nodes::unusable(addr) {
        report.error(at, format!("clients cannot reach a VIP at the {kind} address {addr}"), help);
        return None;
    }
    let net = IpNet::new(addr, prefix).ok()?.trunc();
    let IpNet::V4(v4) = net else { return Some(()) };
    // RFC 3021: the two addresses of a /31 are both hosts.
    if prefix > 30 {
        return Some(());
    }
    let role = match addr {
        _ if addr == v4.network() => "network",
        _ if addr == v4.broadcast() => "broadcast",
        _ => return Some(()),
    };
    report.error(at, format!("{addr} is the {role} address of {net}, not a host's"), help);
    None
}
