//! The `hooks` and `http` keys: whom the agent tells, and who may ask it.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use crate::model::{Hooks, Http};

use super::checks::{read_address, read_argv, read_user};
use super::diagnostic::Report;
use super::duration;
use super::fields::{self, Fields, NAME};
use super::yaml::Value;

const HOOK_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(10);

/// Reads `hooks`.
pub(super) fn read_hooks(value: &Value, report: &mut Report) -> Hooks {
    let known = ["on_view", "on_ready", "on_closed", "timeout", "user"];
    let Some(fields) = Fields::of(value, "`hooks`", &known, report) else {
        return Hooks::default();
    };
    let mut hook =
        |key: &str| fields.get(key).and_then(|value| read_argv(value, &format!("`{key}`"), report));
    let (on_view, on_ready, on_closed) = (hook("on_view"), hook("on_ready"), hook("on_closed"));
    let timeout = fields.get("timeout");
    let timeout =
        timeout.and_then(|value| duration::read(value, "`timeout`", HOOK_TIMEOUT, report));
    let timeout = timeout.unwrap_or(Hooks::TIMEOUT);
    Hooks { on_view, on_ready, on_closed, timeout, user: read_user(&fields, report) }
}

/// Reads `http`.
pub(super) fn read_http(value: &Value, report: &mut Report) -> Http {
    let known = ["listen", "safekit_module"];
    let Some(fields) = Fields::of(value, "`http`", &known, report) else {
        return Http::default();
    };
    let example = "\"192.168.1.11:9010\"";
    let items = fields
        .require("listen", &format!("listen: [{example}]"), report)
        .and_then(|list| fields::list(list, "`listen`", &format!("- {example}"), report));
    let mut listen: Vec<SocketAddr> = Vec::new();
    for item in items.unwrap_or_default() {
        let Some(address) = read_address(item, "`listen`", report) else { continue };
        if listen.contains(&address) {
            report.error(item.at, format!("{address} is there already"), "remove one of the two");
        }
        listen.push(address);
    }
    let module = fields.get("safekit_module");
    let module = module.and_then(|value| fields::name(value, "a module", &NAME, report));
    Http { listen, safekit_module: module.map(|name| name.value) }
}
