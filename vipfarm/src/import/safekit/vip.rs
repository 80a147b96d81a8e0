//! `<vip>`: interfaces and their virtual addresses.

use std::net::Ipv4Addr;

use super::{
    super::{
        Supplement,
        account::Notes,
        draft::{Address, Vip},
    },
    element::{Attribute, Element, is_host, one_of},
    groups,
};
use crate::{
    config::INTERFACE,
    model::{ArpRefresh, Mac, Mode},
};

/// Reads one `<vip>`; adds its blocks to `vips` and the nodes that its groups name to `hosts`.
pub(super) fn read(
    vip: Element<'_>,
    mirror: bool,
    supplement: &Supplement,
    vips: &mut Vec<Vip>,
    hosts: &mut Vec<String>,
    notes: &mut Notes,
) {
    vip.attributes(&["tcpreset", "scriptcontrol"], notes);
    let mut reader =
        Reader { mirror, tcp_reset: true, manual: false, supplement, blocks: Vec::new(), notes };
    reader.vip(vip);
    let mut blocks = reader.blocks;
    groups::read(vip, &mut blocks, hosts, notes);
    vips.extend(blocks);
}

struct Reader<'a> {
    mirror: bool,
    tcp_reset: bool,
    /// Opened by scripts.
    manual: bool,
    supplement: &'a Supplement,
    blocks: Vec<Vip>,
    notes: &'a mut Notes,
}

impl Reader<'_> {
    fn vip(&mut self, vip: Element<'_>) {
        if let Some((attribute, on)) = vip.switch("tcpreset", self.notes) {
            self.tcp_reset = on;
            self.notes.translated(attribute.at, &attribute.shown, format!("tcp_reset: {on}"));
        }
        match vip.switch("scriptcontrol", self.notes) {
            Some((attribute, true)) => {
                self.manual = true;
                self.notes.translated(attribute.at, &attribute.shown, "open: manual");
            }
            Some((attribute, false)) => {
                self.notes.translated(attribute.at, &attribute.shown, "open: auto, the default");
            }
            None => {}
        }
        for list in vip.only(&["interface_list", "loadbalancing_list"], self.notes) {
            list.attributes(&[], self.notes);
            if list.name() == "interface_list" {
                for interface in list.only(&["interface"], self.notes) {
                    self.interface(interface);
                }
            }
        }
    }

    fn interface(&mut self, interface: Element<'_>) {
        let known = ["name", "check", "arpreroute", "arpinterval", "arpelapse"];
        interface.attributes(&known, self.notes);
        let kinds = interface.only(&["virtual_interface", "real_interface"], self.notes);
        let name = interface.get("name").and_then(|name| self.interface_name(name));
        let check = self.check(interface).unwrap_or(true);
        let mut directed = false;
        for kind in kinds {
            let floats = self.mirror || is_on_one_side(kind);
            let mode = if floats { Mode::Failover } else { Mode::VmacInvisible };
            let mut block = Vip::new(name.clone(), mode);
            (block.check, block.tcp_reset, block.manual) = (check, self.tcp_reset, self.manual);
            // In a mirror the node that comes back is the second one.
            block.preempt = !self.mirror;
            match (kind.name(), floats) {
                ("virtual_interface", true) => self.floating_interface(kind),
                ("virtual_interface", false) => self.virtual_interface(kind, &mut block),
                _ => kind.attributes(&[], self.notes),
            }
            for address in kind.only(&["virtual_addr"], self.notes) {
                self.virtual_addr(address, &mut block);
            }
            directed |= block.mode == Mode::VmacDirected;
            self.adopt(kind, block, interface);
        }
        if !directed {
            for name in ["arpreroute", "arpinterval", "arpelapse"] {
                if let Some(attribute) = interface.get(name) {
                    let why = "it is for `mode: vmac_directed`: a virtual MAC is the same whichever node lives";
                    self.notes.dropped(attribute.at, &attribute.shown, why);
                }
            }
        }
    }

    /// Takes the block, unless there is nothing in it.
    fn adopt(&mut self, kind: Element<'_>, mut block: Vip, interface: Element<'_>) {
        if block.addresses.is_empty() {
            let why = "there is no <virtual_addr> in it";
            return self.notes.dropped(kind.at(), &kind.with_content(), why);
        }
        let addresses: Vec<_> = block.addresses.iter().map(|it| it.host.as_str()).collect();
        let addresses = addresses.join(", ");
        let into = match (block.mode, block.preempt) {
            (Mode::VmacInvisible, _) => "a VIP block, mode: vmac_invisible",
            (Mode::VmacDirected, _) => "a VIP block, mode: vmac_directed",
            (Mode::Failover, true) => "a VIP block, mode: failover",
            (Mode::Failover, false) => "a VIP block, mode: failover, preempt: false",
        };
        self.notes.translated(kind.at(), &format!("{} with {addresses}", kind.name()), into);
        if block.mode == Mode::VmacDirected {
            block.arp_refresh = Some(self.arp_refresh(interface));
        }
        self.blocks.push(block);
    }

    fn interface_name(&mut self, name: Attribute) -> Option<String> {
        let usable = !name.value.is_empty()
            && name.value.len() <= INTERFACE.longest
            && name.value.bytes().all(INTERFACE.allows);
        if !usable {
            let message = format!("`{}` cannot be the name of a network interface", name.value);
            self.notes.problem(name.at, message, "write its name on the nodes, such as bond0");
            return None;
        }
        self.notes.translated(name.at, &name.shown, format!("interface: {}", name.value));
        Some(name.value)
    }

    fn check(&mut self, element: Element<'_>) -> Option<bool> {
        let (attribute, on) = element.switch("check", self.notes)?;
        let became = if on { "check: true, the default" } else { "check: false" };
        self.notes.translated(attribute.at, &attribute.shown, became);
        Some(on)
    }

    /// What it does about an address that is gone, vipfarm does too; about one that somebody else has, only if
    /// it is told to.
    fn check_of_address(&mut self, element: Element<'_>) -> Option<bool> {
        let (attribute, on) = element.switch("check", self.notes)?;
        if on {
            let why = "one that another machine has, too, is told; nodes leave it only by a check with `claimed: false`";
            let into = "check: true, the default";
            self.notes.approximated(attribute.at, &attribute.shown, into, why);
        } else {
            self.notes.translated(attribute.at, &attribute.shown, "check: false");
        }
        Some(on)
    }

    /// What is said of a MAC that several nodes would have.
    fn floating_interface(&mut self, element: Element<'_>) {
        element.attributes(&["type", "addr"], self.notes);
        for attribute in ["type", "addr"].into_iter().filter_map(|name| element.get(name)) {
            let why = "one node has the address at a time, with its own MAC";
            self.notes.dropped(attribute.at, &attribute.shown, why);
        }
    }

    fn virtual_interface(&mut self, element: Element<'_>, block: &mut Vip) {
        element.attributes(&["type", "addr"], self.notes);
        let modes =
            [("vmac_invisible", Mode::VmacInvisible), ("vmac_directed", Mode::VmacDirected)];
        match element.get("type") {
            None => self.notes.approximated(
                element.at(),
                "virtual_interface without type",
                "mode: vmac_invisible",
                "it is vipfarm's default; SafeKit's manual names none",
            ),
            Some(kind) => {
                if let Some(mode) = one_of(&kind, &modes, self.notes) {
                    block.mode = mode;
                    let into = format!("mode: {}", kind.value);
                    self.notes.translated(kind.at, &kind.shown, into);
                }
            }
        }
        let Some(addr) = element.get("addr") else { return };
        if block.mode == Mode::VmacDirected {
            let why = "SafeKit ignores it too: with `vmac_directed` there is no virtual MAC";
            return self.notes.dropped(addr.at, &addr.shown, why);
        }
        match addr.value.parse::<Mac>() {
            Ok(mac) if !mac.is_multicast() && mac.0 != [0; 6] => {
                block.vmac = Some(mac);
                self.notes.translated(addr.at, &addr.shown, format!("vmac: {mac}"));
            }
            _ => self.notes.problem(
                addr.at,
                format!("`{}` is not a unicast MAC address", addr.value),
                "write six octets such as 5a:fe:c0:a8:01:de, or remove the attribute",
            ),
        }
    }

    fn virtual_addr(&mut self, element: Element<'_>, block: &mut Vip) {
        let known = ["addr", "where", "check", "connections", "netmask"];
        element.attributes(&known, self.notes);
        let Some(addr) = element.require("addr", self.notes) else { return };
        if let Some(place) = element.get("where") {
            let places = [("alias", false), ("one_side_alias", true)];
            if one_of(&place, &places, self.notes).is_some() {
                let into = if block.mode == Mode::Failover {
                    "one node has the address at a time"
                } else {
                    "all nodes have the address"
                };
                self.notes.translated(place.at, &place.shown, into);
            }
        }
        let check = self.check_of_address(element).unwrap_or(block.check);
        let connections = match element.switch("connections", self.notes) {
            Some((attribute, true)) => {
                self.notes.translated(attribute.at, &attribute.shown, "connections: true");
                true
            }
            Some((attribute, false)) => {
                let into = "connections: false, the default";
                self.notes.translated(attribute.at, &attribute.shown, into);
                false
            }
            None => false,
        };
        if !is_host(&addr, self.notes) {
            return;
        }
        let prefix = self.prefix(element, &addr);
        block.addresses.push(Address { host: addr.value, prefix, check, connections });
    }

    /// The prefix length, and an account of the address.
    fn prefix(&mut self, element: Element<'_>, addr: &Attribute) -> Option<u8> {
        if let Some(netmask) = element.get("netmask") {
            let prefix = match netmask.value.parse::<Ipv4Addr>() {
                Ok(mask) => ipnet::ipv4_mask_to_prefix(mask).ok(),
                Err(_) => netmask.value.parse().ok(),
            };
            let Some(prefix) = prefix.filter(|prefix| (1..=32).contains(prefix)) else {
                let message = format!("`{}` is not a netmask of IPv4", netmask.value);
                self.notes.problem(netmask.at, message, "write one such as 255.255.255.0");
                return None;
            };
            self.notes.translated(addr.at, &addr.shown, format!("{}/{prefix}", addr.value));
            self.notes.translated(netmask.at, &netmask.shown, format!("the length /{prefix}"));
            return Some(prefix);
        }
        let prefix = self.supplement.prefix_of(&addr.value);
        match prefix {
            Some(prefix) if prefix == self.supplement.prefix.unwrap_or_default() => {
                let into = format!("{}/{prefix}", addr.value);
                self.notes.translated(addr.at, &addr.shown, into);
            }
            Some(prefix) => {
                let into = format!("{}/{prefix}", addr.value);
                let why = "the source has no prefix length; this is the one of IPv6 subnets";
                self.notes.approximated(addr.at, &addr.shown, into, why);
            }
            None => {
                let into = "an address without its prefix length";
                let why = "SafeKit takes that from the interface: write it into the file, or give --prefix";
                self.notes.approximated(addr.at, &addr.shown, into, why);
            }
        }
        prefix
    }

    /// The value of `arp_refresh`.
    fn arp_refresh(&mut self, interface: Element<'_>) -> String {
        let reroute = interface.switch("arpreroute", self.notes);
        let on = reroute.as_ref().is_some_and(|(_, on)| *on);
        let mut times =
            [ArpRefresh::DEFAULT.interval, ArpRefresh::DEFAULT.duration].map(|it| it.as_secs());
        for (name, time) in ["arpinterval", "arpelapse"].into_iter().zip(&mut times) {
            let Some(attribute) = interface.get(name) else { continue };
            match seconds(&attribute.value) {
                Some(seconds) => *time = seconds,
                None => self.notes.problem(
                    attribute.at,
                    format!("`{}` is not a time", attribute.value),
                    "write seconds, such as 60s",
                ),
            }
            if on {
                let into = format!(
                    "arp_refresh, {}: {time}s",
                    if name == "arpinterval" { "interval" } else { "duration" }
                );
                self.notes.translated(attribute.at, &attribute.shown, into);
            } else {
                let why = "arpreroute is off";
                self.notes.dropped(attribute.at, &attribute.shown, why);
            }
        }
        let [interval, duration] = times;
        let into = if on {
            format!("{{ interval: {interval}s, duration: {duration}s }}")
        } else {
            "off".to_owned()
        };
        if let Some((attribute, _)) = reroute {
            let shown = format!("arp_refresh: {into}");
            if on {
                let why = "clients that have asked within `duration` are told by name, where SafeKit tells all by broadcast";
                self.notes.approximated(attribute.at, &attribute.shown, shown, why);
            } else {
                self.notes.translated(attribute.at, &attribute.shown, shown);
            }
        }
        into
    }
}

/// Whether the addresses are where one node is, or nothing shares their traffic out.
fn is_on_one_side(kind: Element<'_>) -> bool {
    let is = |element: Element<'_>, name, value| {
        element.get(name).is_some_and(|attribute| attribute.value == value)
    };
    kind.name() == "real_interface"
        || is(kind, "type", "alias")
        || kind.children().any(|address| is(address, "where", "one_side_alias"))
}

/// A time with its unit, s, m, h or d (section 13.1); without one it is in seconds.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}
