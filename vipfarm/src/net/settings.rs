//! How the kernel is set to treat packets of an interface: sysctls, as they take effect, and the
//! default route.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

/// An interface's settings of IPv4 and IPv6, in the network namespace of the calling thread. What
/// `conf/all` says counts as the kernel counts it.
#[expect(clippy::struct_excessive_bools, reason = "switches of the kernel")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Reverse path filter: 0 none, 1 strict, 2 loose.
    pub rp_filter: u32,
    /// Which ARP requests are not answered (0 to 8).
    pub arp_ignore: u32,
    /// Only requests whose answer would leave by the interface are answered.
    pub arp_filter: bool,
    /// Requests for addresses that are reached by another interface are answered.
    pub proxy_arp: bool,
    /// The same for addresses on the interface's own link.
    pub proxy_arp_pvlan: bool,
    /// There is no IPv6 on it.
    pub ipv6_off: bool,
    /// The settings of ARP may be changed here.
    pub writable: bool,
}

impl Settings {
    /// Those of the interface; what the kernel does not have is off.
    pub fn of(interface: &str) -> Self {
        let one = |family: &str, scope: &str, name: &str| -> u32 {
            let value = fs::read_to_string(path(family, scope, name));
            value.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        let both = |name: &str| [one("ipv4", "all", name), one("ipv4", interface, name)];
        let highest = |name: &str| both(name).into_iter().max().unwrap_or(0);
        let either = |name: &str| both(name).contains(&1);
        let arp_ignore = path("ipv4", interface, "arp_ignore");
        Self {
            rp_filter: highest("rp_filter"),
            arp_ignore: highest("arp_ignore"),
            arp_filter: either("arp_filter"),
            proxy_arp: either("proxy_arp"),
            // Of this one the interface's own value alone counts.
            proxy_arp_pvlan: one("ipv4", interface, "proxy_arp_pvlan") == 1,
            ipv6_off: one("ipv6", interface, "disable_ipv6") == 1
                || !path("ipv6", interface, "disable_ipv6").exists(),
            writable: access(&arp_ignore, AccessFlags::W_OK).is_ok(),
        }
    }
}

fn path(family: &str, scope: &str, name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(family).join("conf").join(scope).join(name)
}

/// The interface of the first IPv4 default route of the calling thread's network namespace, if any.
pub fn default_route() -> io::Result<Option<String>> {
    Ok(default_route_in(&fs::read_to_string("/proc/thread-self/net/route")?))
}

/// Columns: interface, destination, gateway, flags, four more, then the mask.
fn default_route_in(table: &str) -> Option<String> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let is_default = |row: &Vec<&str>| {
        row.get(1).is_some_and(|to| *to == "00000000")
            && row.get(7).is_some_and(|mask| *mask == "00000000")
    };
    rows.filter(is_default).map(|row| row[0].to_owned()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_settings_and_what_is_not_there_has_none() {
        let settings = Settings::of("lo");
        assert!(settings.rp_filter <= 2 && settings.arp_ignore <= 8, "{settings:?}");
        let absent = Settings::of("vipfarm-absent");
        assert!(!absent.writable && absent.ipv6_off, "{absent:?}");
    }

    #[test]
    fn the_default_route_is_found_among_others() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t004D000A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            eth1\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_route_in(table).as_deref(), Some("eth1"));
        assert_eq!(default_route_in("Iface\n"), None);
        assert_eq!(default_route_in("Iface\neth0\t00000000\t0\t1\t0\t0\t0\t000000FF\n"), None);
        default_route().expect("every namespace has a table");
    }
}
