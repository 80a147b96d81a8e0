//! `<check>`: what `SafeKit` looks at to know whether a node can serve.

use std::{net::IpAddr, net::SocketAddr, time::Duration};

use super::{
    super::{
        account::Notes,
        draft::{Check, Probe, Vip},
        yaml::check_text,
    },
    element::Element,
    vip::seconds,
};

/// The checkers.
const KNOWN: [&str; 7] = ["tcp", "ping", "intf", "ip", "custom", "module", "splitbrain"];

/// The limits of `checks`.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_hours(1);

/// Reads the checkers of a module whose VIPs are those.
pub(super) fn read(
    element: Element<'_>,
    mirror: bool,
    vips: &[Vip],
    checks: &mut Vec<Check>,
    notes: &mut Notes,
) {
    for checker in element.only(&KNOWN, notes) {
        let why = match checker.name() {
            "tcp" => {
                tcp(checker, mirror, vips, checks, notes);
                continue;
            }
            "ping" => {
                "a check can run a program: `checks: [{ exec: [/usr/bin/ping, -c, \"1\", -W, \"1\", ADDRESS] }]`"
            }
            "intf" => {
                "`check: true`, the default, watches the VIPs' interfaces; for another one write `checks: [{ interface: NAME }]`"
            }
            "ip" => {
                "`check: true`, the default, watches the VIPs on each node; to stop serving one that somebody else claims write `checks: [{ claimed: false, effect: leave }]`"
            }
            "custom" => {
                "its program goes on and sets a resource; one that looks once and ends with 0 if all is well can be a check: `checks: [{ exec: [PROGRAM] }]`"
            }
            "module" => {
                "vipfarm knows no modules: look at what that one serves, with `checks: [{ tcp: \"ADDRESS:PORT\" }]`"
            }
            _ => {
                "heartbeats go over the VIPs' own network, so that a split of the farm is one of its clients"
            }
        };
        notes.dropped(checker.at(), &checker.with_content(), why);
    }
}

fn tcp(
    checker: Element<'_>,
    mirror: bool,
    vips: &[Vip],
    checks: &mut Vec<Check>,
    notes: &mut Notes,
) {
    checker.attributes(&["ident", "when", "action"], notes);
    let before = checker.get("when").is_some_and(|when| when.value == "pre");
    for to in checker.only(&["to"], notes) {
        to.attributes(&["addr", "port", "interval", "timeout"], notes);
        let (at, shown) = (to.at(), format!("tcp {}", to.shown()));
        let text = |name| to.get(name).map_or_else(String::new, |it| it.value);
        let (addr, port) = (text("addr").parse::<IpAddr>(), text("port").parse::<u16>());
        let (Ok(addr), Ok(port @ 1..)) = (addr, port) else {
            let why = "a check has an address and a port: write `checks: [{ tcp: \"127.0.0.1:80\" }]` with those";
            notes.dropped(at, &shown, why);
            continue;
        };
        let is_addr = |host: &str| host.parse() == Ok(addr);
        if vips.iter().flat_map(|vip| &vip.addresses).any(|it| is_addr(&it.host)) {
            let why = "whoever serves the VIP answers there, and a node is to look at itself: write `checks` with an address of its own";
            notes.dropped(at, &shown, format!("{why}, such as {{ tcp: \"127.0.0.1:{port}\" }}"));
            continue;
        }
        let mut time = |name| {
            let attribute = to.get(name)?;
            let found = seconds(&attribute.value).filter(|seconds| *seconds > 0);
            if found.is_none() {
                let message = format!("`{}` is not a time", attribute.value);
                notes.problem(attribute.at, message, "write seconds, such as 10s");
            }
            found.map(|seconds| Duration::from_secs(seconds).clamp(SHORTEST, LONGEST))
        };
        let (interval, timeout) = (time("interval"), time("timeout"));
        let mut check = Check::new(Probe::Tcp(SocketAddr::new(addr, port)));
        check.timeout = timeout.unwrap_or(check.timeout);
        // None ends after the next has begun.
        check.interval = interval.unwrap_or_else(|| check.interval.max(check.timeout));
        check.timeout = check.timeout.min(check.interval);
        let into = format!("checks: [{}]", check_text(&check));
        if mirror && !before {
            let why = format!(
                "a mirror's service runs on one node, and a check keeps a node from taking over where it fails: if it runs on both, write `{into}`"
            );
            notes.dropped(at, &shown, why);
            continue;
        }
        let why =
            "a node where it fails serves nothing until it passes again; nothing is restarted";
        notes.approximated(at, &shown, into, why);
        check.add_to(checks);
    }
}
