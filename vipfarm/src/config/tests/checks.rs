//! Checks, hooks and who may ask by HTTP: what is accepted, and the exact words for what is not.

use std::net::SocketAddr;

use super::*;
use crate::model::{Check, Effect, Hooks, HttpProbe, Probe, Run};

const PLACE: &str = "mode: vmac_invisible";

fn checks(list: &str) -> Vec<Check> {
    let text = edited(PLACE, &format!("checks: [{list}]"));
    parse_text(&text).map(|farm| farm.vips[0].checks.clone()).expect("it is right")
}

fn probe(check: &str) -> Probe {
    let [check] = <[_; 1]>::try_from(checks(check)).expect("one");
    check.probe
}

#[test]
fn each_kind_of_check_is_read() {
    let port: SocketAddr = ([127, 0, 0, 1], 80).into();
    assert_eq!(probe("{ tcp: '127.0.0.1:80' }"), Probe::Tcp(port));
    let page = HttpProbe {
        tls: false,
        host: "127.0.0.1".into(),
        port: 8080,
        path: "/health?full".into(),
        status: vec![200],
        verify: true,
    };
    let url = "http: 'http://127.0.0.1:8080/health?full'";
    assert_eq!(probe(&format!("{{ {url} }}")), Probe::Http(page.clone()));
    let secure = HttpProbe {
        tls: true,
        host: "::1".into(),
        port: 443,
        path: "/".into(),
        status: vec![200, 204],
        verify: false,
    };
    assert_eq!(
        probe("{ http: 'https://[::1]', status: [200, 204], verify: false }"),
        Probe::Http(secure.clone())
    );
    assert_eq!((secure.to_string(), &*secure.authority()), ("https://[::1]/".into(), "[::1]"));
    let run = Run {
        argv: vec!["/bin/check".into(), String::new(), "-v".into()],
        user: Some("nobody".into()),
    };
    assert_eq!(probe("{ exec: [/bin/check, '', -v], user: nobody }"), Probe::Exec(run));
    let run = Run { argv: vec!["/bin/check".into()], user: None };
    assert_eq!(probe("{ exec: /bin/check }"), Probe::Exec(run));
    let file = Probe::File { path: "/run/maintenance".into(), present: false };
    assert_eq!(probe("{ file: /run/maintenance, present: false }"), file);
    assert_eq!(file.to_string(), "no file /run/maintenance");
    assert_eq!(probe("{ interface: eth1 }"), Probe::Interface("eth1".into()));
    assert_eq!(probe("{ claimed: false }"), Probe::Unclaimed);
}

#[test]
fn times_and_counts_have_defaults_and_may_be_given() {
    let seconds = Duration::from_secs;
    let one = |text: &str| {
        let [check] = <[_; 1]>::try_from(checks(text)).expect("one");
        (check.interval, check.timeout, check.rise, check.fall, check.effect)
    };
    assert_eq!(one("{ file: /x }"), (seconds(2), seconds(1), 2, 3, Effect::Drain));
    let all = "{ file: /x, interval: 10s, timeout: 4s, rise: 1, fall: 5, effect: leave }";
    assert_eq!(one(all), (seconds(10), seconds(4), 1, 5, Effect::Leave));
    let half = Duration::from_millis(500);
    assert_eq!(one("{ file: /x, interval: 500ms }").1, half, "no longer than the interval");
    assert_eq!(one("{ claimed: false }"), (seconds(5), seconds(1), 2, 3, Effect::Drain));
    assert_eq!(one("{ claimed: false, interval: 4s }").0, seconds(4));
}

#[test]
fn a_check_may_be_about_the_farm_a_block_or_a_group() {
    let text = edited(PLACE, "checks: [{ file: /vip }]")
        .replace("nodes:\n", "checks: [{ file: /all }]\nnodes:\n")
        .replace(
            "- name: http",
            "- name: http\n        checks: [{ file: /group }, { file: /more }]",
        );
    let farm = parse_text(&text).expect("it is right");
    let vip = &farm.vips[0];
    let counts = [&farm.checks, &vip.checks, &vip.groups[0].checks].map(Vec::len);
    assert_eq!(counts, [1, 1, 2]);
}

#[test]
fn a_claim_is_looked_for_at_the_vips_that_the_check_is_about() {
    let vips = |(all, block, group): (&str, &str, &str)| {
        let rules = "rules: [{ port: 80, proto: tcp, filter: on_port }]";
        let text = format!(
            "farm: web\nkey_file: k\n{all}nodes: [{{ name: n, addresses: [10.0.0.11] }}]\nvips:\n\
             - {{ addresses: [10.0.0.100/24], {block}groups: [{{ name: a, {rules} }}] }}\n\
             - {{ addresses: [10.0.0.101/24], groups: [{{ name: b, {group}{rules} }}] }}\n"
        );
        let farm = parse_text(&text).expect("it is right");
        [0, 1].map(|block| farm.must_be_unclaimed(&farm.vips[block]))
    };
    let (check, others) = ("checks: [{ claimed: false }]", "checks: [{ file: /x }]");
    assert_eq!(vips((&format!("{check}\n"), "", "")), [true, true]);
    assert_eq!(vips(("", &format!("{check}, "), "")), [true, false]);
    assert_eq!(vips(("", "", &format!("{check}, "))), [false, true]);
    assert_eq!(vips((&format!("{others}\n"), "", "")), [false, false]);
}

#[test]
fn hooks_and_http_are_read() {
    let text = edited(
        "nodes:\n",
        "hooks: { on_view: /bin/view, on_ready: [/bin/ready, now], timeout: 30s, user: web }\n\
         http: { listen: ['192.168.1.11:9010', '[fd00::1]:9010'], safekit_module: web }\nnodes:\n",
    );
    let farm = parse_text(&text).expect("it is right");
    let expected = Hooks {
        on_view: Some(vec!["/bin/view".into()]),
        on_ready: Some(vec!["/bin/ready".into(), "now".into()]),
        on_closed: None,
        timeout: Duration::from_secs(30),
        user: Some("web".into()),
    };
    assert_eq!(farm.hooks, expected);
    assert_eq!(farm.http.listen.len(), 2);
    assert_eq!(farm.http.safekit_module.as_deref(), Some("web"));
    let plain = parse_text(BASE).expect("it is right");
    assert_eq!((plain.hooks, plain.http.listen.len()), (Hooks::default(), 0));
}

#[test]
fn what_is_wrong_with_a_check_is_told() {
    refuses(&[
        (
            &[(PLACE, "checks: [{ tcp: 80 }, { tcp: '127.0.0.1:0' }, { tcp: 'localhost:80' }]")],
            "farm.yaml:8:21: error: `80` is not an address and a port\n\
             \x20 = help: write it such as \"127.0.0.1:80\" or \"[::1]:80\"\n\
             farm.yaml:8:34: error: `127.0.0.1:0` is not an address and a port\n\
             \x20 = help: write it such as \"127.0.0.1:80\" or \"[::1]:80\"\n\
             farm.yaml:8:58: error: `localhost:80` is not an address and a port\n\
             \x20 = help: write it such as \"127.0.0.1:80\" or \"[::1]:80\"",
        ),
        (
            &[(PLACE, "checks: [{ interval: 1s }, { file: /x, interface: eth0 }, { fiel: /x }]")],
            "farm.yaml:8:14: error: a check looks at one thing: it needs one of the keys tcp, http, exec, file, interface, claimed\n\
             \x20 = help: write it such as `{ tcp: \"127.0.0.1:80\" }`\n\
             farm.yaml:8:32: error: a check looks at one thing, and this names two: `file` and `interface`\n\
             \x20 = help: make two entries\n\
             farm.yaml:8:63: error: a check looks at one thing: it needs one of the keys tcp, http, exec, file, interface, claimed\n\
             \x20 = help: write it such as `{ tcp: \"127.0.0.1:80\" }`\n\
             farm.yaml:8:65: error: `fiel` is not a key of a check\n\
             \x20 = help: did you mean `file`?",
        ),
        (
            &[(
                PLACE,
                "checks: [{ exec: /none/true -v  x }, { exec: [/none/true -v, x] }, { exec: /none/true }]",
            )],
            "farm.yaml:8:22: error: `/none/true -v  x` is taken as one file name, and there is no such file\n\
             \x20 = help: write `[/none/true, -v, x]`",
        ),
        (
            &[(PLACE, "checks: [{ file: /x, status: 200 }, { file: x }, { file: /x }]")],
            "farm.yaml:8:34: error: `status` belongs to `http` checks, and this is a `file` check\n\
             \x20 = help: remove the key\n\
             farm.yaml:8:49: error: `x` is not an absolute path\n\
             \x20 = help: write the whole path, such as /run/maintenance\n\
             farm.yaml:8:54: error: `file /x` is looked at already, in this list\n\
             \x20 = help: keep one of the two",
        ),
        (
            &[(
                PLACE,
                "checks: [{ http: 'ftp://x/' }, { http: 'http://x:99999/' }, { http: '/health' }]",
            )],
            "farm.yaml:8:22: error: `ftp://x/` is not a URL that can be asked for\n\
             \x20 = help: write it such as http://127.0.0.1:8080/health\n\
             farm.yaml:8:44: error: `http://x:99999/` is not a URL that can be asked for\n\
             \x20 = help: write it such as http://127.0.0.1:8080/health\n\
             farm.yaml:8:73: error: `/health` is not a URL that can be asked for\n\
             \x20 = help: write it such as http://127.0.0.1:8080/health",
        ),
        (
            &[(PLACE, "checks: [{ http: 'http://x/', status: 99, verify: true }]")],
            "farm.yaml:8:43: error: `99` is not a status code of HTTP, a number from 100 to 599\n\
             \x20 = help: write a whole number in that range\n\
             farm.yaml:8:55: error: there is no certificate in plain HTTP\n\
             \x20 = help: remove `verify`",
        ),
        (
            &[(
                PLACE,
                "checks: [{ file: /x, interval: 50ms, rise: 0 }, { file: /y, timeout: 3s, effect: stop }]",
            )],
            "farm.yaml:8:36: error: `50ms` is out of range, 100ms to 1h\n\
             \x20 = help: write a whole number with its unit, such as 60s or 20m\n\
             farm.yaml:8:48: error: `0` is not a number of looks, a number from 1 to 100\n\
             \x20 = help: write a whole number in that range\n\
             farm.yaml:8:74: error: `timeout` is longer than `interval`: one look would still go on when the next is due\n\
             \x20 = help: shorten `timeout`, or raise `interval`\n\
             farm.yaml:8:86: error: `stop` is not a value of `effect`\n\
             \x20 = help: write one of: drain, leave",
        ),
        (
            &[(PLACE, "checks: [{ claimed: true }, { claimed: false, interval: 3s }]")],
            "farm.yaml:8:25: error: `true` is not a value of `claimed`\n\
             \x20 = help: write one of: false\n\
             farm.yaml:8:61: error: a node asks every 2 s who else claims a VIP, and a look sooner than 4 s after the one before may come between two answers: the check would pass although somebody has the VIP\n\
             \x20 = help: write `interval: 4s` or more, or nothing for 5s",
        ),
        (
            &[(PLACE, "checks: []")],
            "farm.yaml:8:13: error: `checks` is empty\n\
             \x20 = help: write at least one: `- { tcp: \"127.0.0.1:80\" }`",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_hooks_and_http_is_told() {
    refuses(&[
        (
            &[("nodes:\n", "hooks: { on_start: /x, on_view: [x], timeout: 1h }\nnodes:\n")],
            "farm.yaml:4:10: error: `on_start` is not a key of `hooks`\n\
             \x20 = help: write one of: on_view, on_ready, on_closed, timeout, user\n\
             farm.yaml:4:34: error: `x` is not an absolute path\n\
             \x20 = help: write the whole path, such as /usr/local/bin/check\n\
             farm.yaml:4:47: error: `1h` is out of range, 100ms to 10m\n\
             \x20 = help: write a whole number with its unit, such as 60s or 20m",
        ),
        (
            &[(
                "nodes:\n",
                "http: { listen: [9010, '[::]:9010', '[::]:9010'], safekit_module: 'a/b' }\nnodes:\n",
            )],
            "farm.yaml:4:18: error: `9010` is not an address and a port\n\
             \x20 = help: write it such as \"127.0.0.1:80\" or \"[::1]:80\"\n\
             farm.yaml:4:37: error: [::]:9010 is there already\n\
             \x20 = help: remove one of the two\n\
             farm.yaml:4:67: error: `a/b` cannot be a module: commands and metrics carry it\n\
             \x20 = help: use 1 to 63 of: A-Z, a-z, 0-9, ., _, -",
        ),
        (
            &[("nodes:\n", "http: { safekit_module: web }\nnodes:\n")],
            "farm.yaml:4:7: error: `http` needs the key `listen`\n\
             \x20 = help: add `listen: [\"192.168.1.11:9010\"]`",
        ),
    ]);
}
