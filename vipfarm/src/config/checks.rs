//! The `checks` key of the file, of a VIP block and of a group.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::Uri;

use crate::model::{Check, Effect, HttpProbe, Probe, Run};

use super::diagnostic::{Pos, Report};
use super::duration;
use super::fields::{self, Fields, INTERFACE};
use super::yaml::{Kind, Value};

/// More often would cost more than it tells.
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const COUNT: RangeInclusive<u16> = 1..=100;

const EXAMPLE: &str = "{ tcp: \"127.0.0.1:80\" }";
const PROBES: [&str; 6] = ["tcp", "http", "exec", "file", "interface", "claimed"];
const KEYS: [&str; 15] = [
    "tcp",
    "http",
    "exec",
    "file",
    "interface",
    "claimed",
    "interval",
    "timeout",
    "rise",
    "fall",
    "effect",
    "status",
    "verify",
    "user",
    "present",
];
/// Keys that belong to one kind of check.
const OF_A_KIND: [(&str, &str); 4] =
    [("status", "http"), ("verify", "http"), ("user", "exec"), ("present", "file")];

/// Reads the checks of a mapping that may have some.
pub(super) fn read(of: &Fields<'_>, report: &mut Report) -> Vec<Check> {
    let items = of
        .get("checks")
        .and_then(|list| fields::list(list, "`checks`", &format!("- {EXAMPLE}"), report));
    let mut checks: Vec<Check> = Vec::new();
    for item in items.unwrap_or_default() {
        let Some(check) = read_check(item, report) else { continue };
        if checks.iter().any(|other| other.probe == check.probe) {
            let message = format!("`{}` is looked at already, in this list", check.probe);
            report.error(item.at, message, "keep one of the two");
        }
        checks.push(check);
    }
    checks
}

fn read_check(value: &Value, report: &mut Report) -> Option<Check> {
    let fields = Fields::of(value, "a check", &KEYS, report)?;
    let probe = read_probe(&fields, report);
    let mut time = |key: &str, range, default| {
        let given = fields.get(key);
        given
            .and_then(|value| duration::read(value, &format!("`{key}`"), range, report))
            .unwrap_or(default)
    };
    let default = probe.as_ref().map_or(Check::INTERVAL, Probe::interval);
    let interval = time("interval", INTERVAL, default);
    let timeout = time("timeout", SHORTEST_TIMEOUT..=*INTERVAL.end(), interval.min(Check::TIMEOUT));
    if let Some(value) = fields.get("timeout").filter(|_| timeout > interval) {
        report.error(
            value.at,
            "`timeout` is longer than `interval`: one look would still go on when the next is due",
            "shorten `timeout`, or raise `interval`",
        );
    }
    if let Some(value) = fields.get("interval").filter(|_| is_deaf(probe.as_ref(), interval)) {
        report.error(
            value.at,
            "a node asks every 2 s who else claims a VIP, and a look sooner than 4 s after the one before may come between two answers: the check would pass although somebody has the VIP",
            "write `interval: 4s` or more, or nothing for 5s",
        );
    }
    let mut count = |key: &str, default| {
        let given = fields.get(key);
        given
            .and_then(|value| fields::integer(value, "a number of looks", COUNT, report))
            .unwrap_or(default)
    };
    let (rise, fall) = (count("rise", Check::RISE), count("fall", Check::FALL));
    let effects = [("drain", Effect::Drain), ("leave", Effect::Leave)];
    let effect = fields.get("effect");
    let effect = effect.and_then(|value| fields::choice(value, "`effect`", &effects, report));
    let effect = effect.map_or(Effect::Drain, |effect| effect.value);
    Some(Check { probe: probe?, interval, timeout, rise, fall, effect })
}

fn read_probe(fields: &Fields<'_>, report: &mut Report) -> Option<Probe> {
    let kinds = PROBES.iter().filter_map(|&kind| Some((kind, fields.get(kind)?)));
    let (kind, value) = match kinds.collect::<Vec<_>>()[..] {
        [only] => only,
        [] => {
            report.error(
                fields.at,
                format!(
                    "a check looks at one thing: it needs one of the keys {}",
                    PROBES.join(", ")
                ),
                format!("write it such as `{EXAMPLE}`"),
            );
            return None;
        }
        [(one, _), (other, _), ..] => {
            report.error(
                fields.at,
                format!("a check looks at one thing, and this names two: `{one}` and `{other}`"),
                "make two entries",
            );
            return None;
        }
    };
    for (key, of) in OF_A_KIND {
        if let Some(stray) = fields.get(key).filter(|_| of != kind) {
            report.error(
                stray.at,
                format!("`{key}` belongs to `{of}` checks, and this is a `{kind}` check"),
                "remove the key",
            );
        }
    }
    match kind {
        "tcp" => read_address(value, "`tcp`", report).map(Probe::Tcp),
        "http" => read_http(value, fields, report).map(Probe::Http),
        "exec" => {
            let user = read_user(fields, report);
            Some(Probe::Exec(Run { argv: read_argv(value, "`exec`", report)?, user }))
        }
        "file" => {
            let present = fields.get("present");
            let present = present.and_then(|it| fields::boolean(it, "`present`", report));
            let path = read_path(value, "`file`", "/run/maintenance", report)?;
            Some(Probe::File { path: PathBuf::from(path), present: present.unwrap_or(true) })
        }
        "interface" => {
            let name = fields::name(value, "an interface", &INTERFACE, report)?;
            Some(Probe::Interface(name.value))
        }
        // What is wanted is that nobody does.
        _ => fields::choice(value, "`claimed`", &[("false", ())], report).map(|_| Probe::Unclaimed),
    }
}

/// Whether a check looks more often than it can hear anything.
fn is_deaf(probe: Option<&Probe>, interval: Duration) -> bool {
    probe == Some(&Probe::Unclaimed) && interval < Probe::SHORTEST_UNCLAIMED
}

/// `ADDRESS:PORT`.
pub(super) fn read_address(value: &Value, what: &str, report: &mut Report) -> Option<SocketAddr> {
    let text = fields::text(value, what, "127.0.0.1:80", report)?;
    let address = text.parse().ok().filter(|address: &SocketAddr| address.port() > 0);
    if address.is_none() {
        report.error(
            value.at,
            format!("`{text}` is not an address and a port"),
            "write it such as \"127.0.0.1:80\" or \"[::1]:80\"",
        );
    }
    address
}

fn read_http(value: &Value, fields: &Fields<'_>, report: &mut Report) -> Option<HttpProbe> {
    const EXAMPLE: &str = "http://127.0.0.1:8080/health";
    let text = fields::text(value, "`http`", EXAMPLE, report)?;
    let status = fields.get("status").map_or(Some(vec![200]), |value| read_status(value, report));
    let verify = fields.get("verify").and_then(|it| fields::boolean(it, "`verify`", report));
    let parts = text.parse::<Uri>().ok().and_then(|uri| {
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority().filter(|it| !it.as_str().contains('@'))?;
        let (host, port) = (uri.host()?, authority.as_str().strip_prefix(uri.host()?)?);
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|&port: &u16| port > 0)?,
            None => HttpProbe::default_port(tls),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some((tls, host, port, path)).filter(|(_, host, ..)| !host.is_empty())
    });
    let Some((tls, host, port, path)) = parts else {
        report.error(
            value.at,
            format!("`{text}` is not a URL that can be asked for"),
            format!("write it such as {EXAMPLE}"),
        );
        return None;
    };
    if let Some(verify) = fields.get("verify").filter(|_| !tls) {
        report.error(verify.at, "there is no certificate in plain HTTP", "remove `verify`");
    }
    Some(HttpProbe { tls, host, port, path, status: status?, verify: verify.unwrap_or(true) })
}

/// One status code or several.
fn read_status(value: &Value, report: &mut Report) -> Option<Vec<u16>> {
    let items = match &value.kind {
        Kind::List(_) => fields::list(value, "`status`", "200", report)?,
        _ => std::slice::from_ref(value),
    };
    let code = |value: &Value| fields::integer(value, "a status code of HTTP", 100..=599, report);
    items.iter().map(code).collect()
}

/// The key `user`.
pub(super) fn read_user(fields: &Fields<'_>, report: &mut Report) -> Option<String> {
    let value = fields.get("user")?;
    fields::text(value, "`user`", "nobody", report).map(str::to_owned)
}

/// A program with its arguments, or a program alone.
pub(super) fn read_argv(value: &Value, what: &str, report: &mut Report) -> Option<Vec<String>> {
    const EXAMPLE: &str = "/usr/local/bin/check";
    let items = match &value.kind {
        Kind::List(_) => fields::list(value, what, EXAMPLE, report)?,
        _ => std::slice::from_ref(value),
    };
    let (program, arguments) = items.split_first()?;
    let program = read_path(program, what, EXAMPLE, report);
    if let Some(text) = program.filter(|_| !matches!(value.kind, Kind::List(_))) {
        check_one_name(text, value.at, report);
    }
    let arguments = arguments.iter().map(|argument| match &argument.kind {
        // Unlike a value, an argument may be empty.
        Kind::Scalar(text) => Some(text.as_str()),
        _ => fields::text(argument, "an argument", "-v", report),
    });
    let arguments: Vec<_> = arguments.collect();
    let argv = std::iter::once(program).chain(arguments).map(|it| it.map(str::to_owned));
    argv.collect()
}

/// Whether a text was meant as a file's name, not as a shell's command.
fn check_one_name(text: &str, at: Pos, report: &mut Report) {
    let words: Vec<_> = text.split_whitespace().collect();
    if words.len() > 1 && !Path::new(text).exists() {
        report.error(
            at,
            format!("`{text}` is taken as one file name, and there is no such file"),
            format!("write `[{}]`", words.join(", ")),
        );
    }
}

/// An absolute path: the agent's own directory is none to start from.
fn read_path<'v>(
    value: &'v Value,
    what: &str,
    example: &str,
    report: &mut Report,
) -> Option<&'v str> {
    let text = fields::text(value, what, example, report)?;
    if !text.starts_with('/') {
        report.error(
            value.at,
            format!("`{text}` is not an absolute path"),
            format!("write the whole path, such as {example}"),
        );
        return None;
    }
    Some(text)
}
