//! What the facts about an interface mean for the VIPs on it.

use crate::{
    datapath::XdpMode,
    doctor::{Facts, Finding, Severity, facts::InterfaceFacts, judge::FRAGS},
    net::XdpFeatures,
};

/// The largest MTU with native XDP whose programs take frames in one buffer.
const ONE_BUFFER: u32 = 3498;

/// The value of `arp_ignore` by which the kernel answers no ARP request at all.
const NO_ANSWER: u32 = 8;

type Judge = fn(&InterfaceFacts, &Facts) -> Option<Finding>;

/// In the order of looking at it.
pub(super) fn judge(interface: &InterfaceFacts, facts: &Facts) -> Vec<Finding> {
    const ALL: [Judge; 13] = [
        link, bridge, occupied, order, lro, mtu, rp_filter, arp_ignore, arp_filter, proxy_arp,
        ipv6, writable, route,
    ];
    let further = ALL.iter().filter_map(|judge| judge(interface, facts));
    [xdp(interface)]
        .into_iter()
        .chain(further)
        .map(|finding| finding.of(&*interface.name))
        .collect()
}

/// Where sysctl(8) has the settings of the interface that has the VIPs: a dot of its name is a slash.
fn scope(interface: &InterfaceFacts) -> String {
    interface.holder.replace('.', "/")
}

fn link(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let name = &interface.name;
    if !interface.up {
        let finding = Finding::new("link", Severity::Error, "down");
        return Some(finding.fixed_by(format!("ip link set {name} up")));
    }
    (!interface.carrier).then(|| {
        let why = "no carrier: this node serves nothing until there is one";
        Finding::new("link", Severity::Warning, why).fixed_by("plug the cable in")
    })
}

/// A bridge that receives a MAC takes it for its own, and floods what is for it no further (T22).
fn bridge(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let name = &interface.name;
    (interface.has_vmac && interface.driver.name.as_deref() == Some("bridge")).then(|| {
        let why = format!(
            "{name} is a bridge, which keeps frames for the virtual MAC to itself: clients behind one of its ports reach this node only, and other nodes behind them hear of no client"
        );
        Finding::new("bridge", Severity::Warning, why)
            .fixed_by("mode: vmac_directed, if there are clients or nodes behind its ports")
    })
}

/// How the filter is attached, or would be.
fn xdp(interface: &InterfaceFacts) -> Finding {
    let driver = interface.driver.name.as_deref().unwrap_or("unknown");
    let of = |severity, why: &str| Finding::new("xdp", severity, format!("driver {driver}: {why}"));
    let slow = || {
        of(Severity::Warning, "no native XDP: the filter runs in generic mode, which is slower")
            .fixed_by("use a network card whose driver has native XDP, or say --generic")
    };
    match (interface.pinned, interface.driver.xdp) {
        (Some(XdpMode::Native), _) => of(Severity::Ok, "the filter is attached natively"),
        _ if interface.generic => of(Severity::Ok, "generic mode, as asked for"),
        (Some(XdpMode::Generic), _) | (None, Some(XdpFeatures { native: false, .. })) => slow(),
        (None, Some(_)) => of(Severity::Ok, "native XDP"),
        (None, None) => of(Severity::Note, "this kernel does not tell whether it has native XDP"),
    }
}

fn occupied(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let name = &interface.name;
    (interface.occupied && interface.pinned.is_none()).then(|| {
        let why = "another XDP program is attached: `bpftool net` tells which";
        Finding::new("other_xdp", Severity::Error, why)
            .fixed_by(format!("ip link set dev {name} xdp off"))
    })
}

fn order(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let before = &interface.programs_before;
    (!before.is_empty()).then(|| {
        let why = format!(
            "TC programs come before the farm's: {}; one that ends the chain has wrong MACs leave, and accepted frames be dropped",
            before.join(", ")
        );
        Finding::new("tc_order", Severity::Warning, why)
            .fixed_by("detach them, and attach them behind vipfarm's (BPF_F_AFTER)")
    })
}

fn lro(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let name = &interface.name;
    (interface.lro && !interface.generic).then(|| {
        let why = "the hardware merges TCP segments (LRO), which native XDP does not bear";
        Finding::new("lro", Severity::Error, why).fixed_by(format!("ethtool -K {name} lro off"))
    })
}

fn mtu(interface: &InterfaceFacts, facts: &Facts) -> Option<Finding> {
    let (name, mtu) = (&interface.name, interface.driver.mtu);
    let is_native = interface.driver.xdp.is_none_or(|xdp| xdp.native);
    if mtu <= ONE_BUFFER || !is_native || interface.generic || interface.pinned.is_some() {
        return None;
    }
    let of = |severity, why: &str, largest: u32| {
        Finding::new("mtu", severity, format!("{mtu} bytes: {why}"))
            .fixed_by(format!("ip link set {name} mtu {largest}"))
    };
    match interface.driver.xdp {
        _ if facts.version.is_some_and(|version| version < FRAGS) => {
            Some(of(Severity::Error, "this kernel filters no jumbo frames natively", ONE_BUFFER))
        }
        None => Some(of(Severity::Note, "not every driver filters jumbo frames natively", 1500)),
        Some(XdpFeatures { several_buffers: false, .. }) => {
            Some(of(Severity::Error, "this driver filters no jumbo frames natively", 1500))
        }
        Some(_) => None,
    }
}

fn rp_filter(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let scope = scope(interface);
    (interface.settings.rp_filter == 1 && interface.families.v4).then(|| {
        let why = "strict: requests whose answers would leave by another interface are dropped \
            without a word";
        Finding::new("rp_filter", Severity::Warning, why)
            .fixed_by(format!("sysctl -w net.ipv4.conf.{scope}.rp_filter=2"))
    })
}

/// Of the value for all interfaces and its own the higher one counts, which the agent cannot lower.
fn arp_ignore(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let scope = scope(interface);
    (interface.settings.arp_ignore == NO_ANSWER && interface.families.v4).then(|| {
        let why = "8: the kernel answers no ARP request, so that no client finds the VIP";
        let own = format!("net.ipv4.conf.{scope}.arp_ignore=1");
        Finding::new("arp_ignore", Severity::Error, why)
            .fixed_by(format!("sysctl -w net.ipv4.conf.all.arp_ignore=1 {own}"))
    })
}

fn arp_filter(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let scope = scope(interface);
    (interface.settings.arp_filter && interface.families.v4).then(|| {
        let why = "on: clients whose answers would leave by another interface do not find the VIP";
        let own = format!("net.ipv4.conf.{scope}.arp_filter=0");
        Finding::new("arp_filter", Severity::Warning, why)
            .fixed_by(format!("sysctl -w net.ipv4.conf.all.arp_filter=0 {own}"))
    })
}

fn proxy_arp(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let (scope, settings) = (scope(interface), &interface.settings);
    let (name, scopes) = match (settings.proxy_arp_pvlan, settings.proxy_arp) {
        _ if !interface.families.v4 => return None,
        (true, _) => ("proxy_arp_pvlan", vec![scope.as_str()]),
        (false, true) => ("proxy_arp", vec!["all", &scope]),
        (false, false) => return None,
    };
    let why = format!(
        "{name} is on: when its agent has stopped, this node can answer for the VIP with its own MAC"
    );
    let sets = scopes.iter().map(|scope| format!(" net.ipv4.conf.{scope}.{name}=0"));
    let finding = Finding::new("proxy_arp", Severity::Warning, why);
    Some(finding.fixed_by(format!("sysctl -w{}", sets.collect::<String>())))
}

fn ipv6(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    let scope = scope(interface);
    (interface.settings.ipv6_off && interface.families.v6).then(|| {
        Finding::new("ipv6", Severity::Error, "IPv6 is off, and there are VIPs of it")
            .fixed_by(format!("sysctl -w net.ipv6.conf.{scope}.disable_ipv6=0"))
    })
}

fn writable(interface: &InterfaceFacts, _: &Facts) -> Option<Finding> {
    (!interface.settings.writable && interface.families.v4).then(|| {
        let why =
            "the agent cannot set arp_ignore and arp_announce: /proc/sys may not be written to";
        Finding::new("sysctls", Severity::Error, why).fixed_by(
            "mount -o remount,rw /proc/sys, or run the agent as root outside of a container",
        )
    })
}

fn route(interface: &InterfaceFacts, facts: &Facts) -> Option<Finding> {
    let holder = &interface.holder;
    let other = facts.default_route.as_ref().filter(|route| *route != holder)?;
    interface.families.v4.then(|| {
        let why = format!("answers to clients beyond a router leave by {other}, not by {holder}");
        let route = format!("ip route add default via ROUTER dev {holder} table 100");
        Finding::new("route", Severity::Note, why)
            .fixed_by(format!("ip rule add from VIP table 100 && {route}"))
    })
}
