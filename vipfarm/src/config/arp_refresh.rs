//! The `arp_refresh` key of a VIP block: `SafeKit`'s `arpreroute`, `arpinterval` and `arpelapse`.

use std::{ops::RangeInclusive, time::Duration};

use crate::model::{ArpRefresh, Mode};

use super::diagnostic::Report;
use super::duration;
use super::fields::{self, Fields};
use super::yaml::{Kind, Value};

/// More often than each second would be noise on the network.
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
const DURATION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// What the block has; `value` is the key's, if it is there.
pub(super) fn read(value: Option<&Value>, mode: Mode, report: &mut Report) -> Option<ArpRefresh> {
    let default = (mode == Mode::VmacDirected).then_some(ArpRefresh::DEFAULT);
    let Some(value) = value else { return default };
    if mode == Mode::VmacInvisible {
        report.error(
            value.at,
            "`arp_refresh` needs `mode: vmac_directed`: a virtual MAC is the same whichever node lives, so clients have nothing to learn anew",
            "remove the key",
        );
        return None;
    }
    if matches!(value.kind, Kind::Map(_)) {
        return Some(read_times(value, report));
    }
    let words = [("off", None), ("on", Some(ArpRefresh::DEFAULT))];
    fields::choice(value, "`arp_refresh`", &words, report).map_or(default, |word| word.value)
}

fn read_times(value: &Value, report: &mut Report) -> ArpRefresh {
    let mut refresh = ArpRefresh::DEFAULT;
    let known = ["interval", "duration"];
    let Some(fields) = Fields::of(value, "`arp_refresh`", &known, report) else { return refresh };
    let mut read = |key: &str, range: RangeInclusive<Duration>, time: &mut Duration| {
        let Some(value) = fields.get(key) else { return };
        if let Some(read) = duration::read(value, &format!("`{key}`"), range, report) {
            *time = read;
        }
    };
    read("interval", INTERVAL, &mut refresh.interval);
    read("duration", DURATION, &mut refresh.duration);
    if refresh.duration < refresh.interval {
        report.error(
            value.at,
            "`duration` is shorter than `interval`: every client would be forgotten before it is told",
            "raise `duration`, or write `arp_refresh: off`",
        );
    }
    refresh
}
