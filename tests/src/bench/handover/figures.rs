//! What comes out, whether it is good enough, and how it looks.

use std::fmt;

use serde::Serialize;

use super::{
    events::{Event, Setting},
    lookup::Lookup,
    traffic::Fates,
};
use crate::traffic::Failure;

/// What `--json` writes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    /// By setting, event and family.
    pub(super) events: Vec<EventFigures>,
    #[serde(flatten)]
    pub(super) lookup: Lookup,
    /// Events that went wrong otherwise, with the reason.
    pub(super) failed: Vec<String>,
    /// Load of the machine when the bench began: what others had it do.
    pub(super) load_average: Option<f64>,
}

/// One event, as the clients of one family saw it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct EventFigures {
    pub(super) name: &'static str,
    /// Of the VIP: `invisible` or `directed`.
    pub(super) mode: &'static str,
    /// Of the filter: `native` or `generic`.
    pub(super) xdp: &'static str,
    pub(super) family: &'static str,
    /// Connections that were open before it.
    pub(super) connections: usize,
    /// Those that went on talking.
    pub(super) kept: usize,
    /// Those that were reset although their node lived.
    pub(super) resets: usize,
    /// Those in which other bytes came back.
    pub(super) corrupted: usize,
    /// Those that ended otherwise: silence, as a rule.
    pub(super) lost: usize,
    /// Those that were reset because their node had died.
    pub(super) died: usize,
    /// Those whose node had died in the middle of an answer: who has nothing to send is told nothing.
    pub(super) untold: usize,
    /// The longest wait for a block on those that were kept, in milliseconds.
    pub(super) longest_gap_ms: f64,
    /// New connections meanwhile, with one request each, and those that failed.
    pub(super) short: usize,
    pub(super) short_failed: usize,
    /// Of those that failed, the ones that were reset, and the ones without an answer in time.
    pub(super) short_resets: usize,
    pub(super) short_timeouts: usize,
    /// Requests that were served more than once.
    pub(super) duplicates: usize,
}

impl EventFigures {
    /// `dead` is the node that died in it, by its place in the lab.
    pub(super) fn of(setting: Setting, event: Event, fates: &Fates, dead: Option<usize>) -> Self {
        let failed = |is: fn(&Failure) -> bool| {
            let failures = fates.short.iter().filter_map(|request| request.outcome.as_ref().err());
            failures.filter(|failure| is(failure)).count()
        };
        let repeated = fates.short.iter().filter(|request| fates.repeated.contains(&request.id));
        let mut figures = Self {
            name: event.name(),
            mode: setting.mode(),
            xdp: setting.xdp(),
            family: fates.family,
            connections: fates.long.len(),
            kept: 0,
            resets: 0,
            corrupted: 0,
            lost: 0,
            died: 0,
            untold: 0,
            longest_gap_ms: 0.0,
            short: fates.short.len(),
            short_failed: failed(|_| true),
            short_resets: failed(|failure| matches!(failure, Failure::Reset)),
            short_timeouts: failed(|failure| matches!(failure, Failure::Timeout)),
            duplicates: repeated.count(),
        };
        for fate in &fates.long {
            let of_dead = dead.is_some_and(|node| fates.served[node].contains(&fate.client));
            let count = if fate.broken.is_none() {
                let gap = fate.longest.as_secs_f64() * 1e3;
                figures.longest_gap_ms = figures.longest_gap_ms.max(gap);
                &mut figures.kept
            } else if fate.is_corrupted() {
                &mut figures.corrupted
            } else if !fate.is_reset() {
                if of_dead { &mut figures.untold } else { &mut figures.lost }
            } else if of_dead {
                &mut figures.died
            } else {
                &mut figures.resets
            };
            *count += 1;
        }
        figures
    }

    /// What is wrong with it. A node that dies may take short connections along.
    fn faults(&self) -> Vec<&'static str> {
        let may_die = Event::ALL.iter().any(|it| it.name() == self.name && it.kills().is_some());
        [
            (self.connections == 0 || self.short == 0, "NO CONNECTIONS"),
            (self.resets > 0, "RESETS"),
            (self.corrupted > 0, "CORRUPTED"),
            (self.lost > 0, "LOST"),
            (may_die && self.died == 0, "NONE DIED"),
            (self.untold * 10 > self.died, "UNTOLD"),
            (self.short_failed > 0 && !may_die, "SHORT ONES FAILED"),
            (self.duplicates > 0, "SERVED TWICE"),
        ]
        .into_iter()
        .filter_map(|(wrong, what)| wrong.then_some(what))
        .collect()
    }
}

impl Figures {
    /// Whether all gates hold.
    pub(super) fn held(&self) -> bool {
        !self.events.is_empty()
            && self.failed.is_empty()
            && self.events.iter().all(|event| event.faults().is_empty())
    }
}

impl fmt::Display for EventFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, mode, xdp, family, connections, kept, resets, corrupted, .. } = self;
        let Self { lost, died, untold, longest_gap_ms, short, short_failed, .. } = self;
        let Self { short_resets, short_timeouts, duplicates, .. } = self;
        let faults = self.faults();
        let verdict = if faults.is_empty() { "ok".to_owned() } else { faults.join(", ") };
        write!(f, "{mode:9} {xdp:7} {family} {name:20} {connections:>11} {kept:>5} {resets:>6} ")?;
        write!(
            f,
            "{corrupted:>9} {lost:>5} {died:>5} {untold:>6} {longest_gap_ms:>8.1} {short:>6} "
        )?;
        write!(
            f,
            "{short_failed:>6} {short_resets:>5} {short_timeouts:>7} {duplicates:>5}  {verdict}"
        )
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:44}connections  kept  reset corrupted  lost  died untold   gap ms", "")?;
        writeln!(f, "  short failed reset timeout twice")?;
        self.events.iter().try_for_each(|event| writeln!(f, "{event}"))?;
        let Lookup { over_ns, ratio } = self.lookup;
        write!(
            f,
            "\na packet of a bucket in a move: {over_ns:.1} ns more than of a settled one, "
        )?;
        writeln!(f, "{ratio:.1} times as much")?;
        if !self.failed.is_empty() {
            writeln!(f, "\nwent wrong: {}", self.failed.len())?;
            self.failed.iter().try_for_each(|what| writeln!(f, "  {what}"))?;
        }
        if let Some(load) = self.load_average {
            writeln!(f, "\nload before: {load:.2}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

    use super::*;
    use crate::traffic::{Fate, Request};

    fn client(port: u16) -> SocketAddr {
        ([10, 77, 1, 1], port).into()
    }

    fn fate(port: u16, broken: Option<&str>) -> Fate {
        let longest = Duration::from_millis(u64::from(port));
        let broken = broken.map(str::to_owned);
        Fate { client: client(port), blocks: 9, broken, broken_at: None, longest }
    }

    /// Of three clients, the third's node dies.
    fn figures(event: Event, broken: [Option<&str>; 3]) -> EventFigures {
        with_short(event, broken, [(1, None)])
    }

    /// The same, with requests of those numbers; the second is served twice.
    fn with_short<const N: usize>(
        event: Event,
        broken: [Option<&str>; 3],
        short: [(u64, Option<Failure>); N],
    ) -> EventFigures {
        let short = short.into_iter().map(|(id, failure)| Request {
            id,
            client: client(9),
            started: std::time::Instant::now(),
            latency: Duration::ZERO,
            outcome: failure.map_or(Ok("node1".into()), Err),
        });
        let short = short.collect();
        let fates = Fates {
            family: "ipv4",
            long: (1..).zip(broken).map(|(port, broken)| fate(port, broken)).collect(),
            short,
            repeated: [2].into(),
            served: [[1], [2], [3]].map(|of| of.map(client).into()).to_vec() as Vec<BTreeSet<_>>,
        };
        EventFigures::of(Setting::ALL[0], event, &fates, event.kills().map(|node| node - 1))
    }

    const RESET: Option<&str> = Some("Connection reset by peer (os error 104)");

    #[test]
    fn a_reset_is_excused_by_the_death_of_its_node_alone() {
        let drained = figures(Event::Drain, [None, None, RESET]);
        assert_eq!((drained.kept, drained.resets, drained.died), (2, 1, 0));
        assert_eq!(drained.faults(), ["RESETS"]);
        let death = figures(Event::DeathOfALingering, [None, None, RESET]);
        assert_eq!((death.kept, death.resets, death.died), (2, 0, 1));
        assert!(death.faults().is_empty(), "{death}");
        let death = figures(Event::DeathOfALingering, [None, None, Some("timed out")]);
        assert_eq!((death.lost, death.untold, death.faults()), (0, 1, vec!["NONE DIED", "UNTOLD"]));
        let death = figures(Event::DeathOfALingering, [None, RESET, RESET]);
        assert_eq!(death.faults(), ["RESETS"]);
        let death = figures(Event::DeathOfALingering, [None, None, None]);
        assert_eq!(death.faults(), ["NONE DIED"]);
    }

    #[test]
    fn other_bytes_and_silence_are_faults_and_no_gap() {
        let event = figures(Event::Join, [None, Some(Fate::CORRUPTED), Some("timed out")]);
        assert_eq!((event.kept, event.corrupted, event.lost), (1, 1, 1));
        assert_eq!(event.faults(), ["CORRUPTED", "LOST"]);
        assert!((event.longest_gap_ms - 1.0).abs() < 1e-9, "{event}");
    }

    #[test]
    fn short_ones_that_fail_are_told_apart_and_none_may_be_served_twice() {
        let failed = [(1, Some(Failure::Reset)), (3, Some(Failure::Timeout)), (4, None)];
        let event = with_short(Event::Drain, [None; 3], failed.clone());
        assert_eq!((event.short, event.short_failed, event.duplicates), (3, 2, 0));
        assert_eq!((event.short_resets, event.short_timeouts), (1, 1));
        assert_eq!(event.faults(), ["SHORT ONES FAILED"]);
        let death = with_short(Event::DeathOfALingering, [None, None, RESET], failed);
        assert!(death.faults().is_empty(), "{death}");
        let twice = with_short(Event::DeathOfALingering, [None, None, RESET], [(2, None)]);
        assert_eq!((twice.duplicates, twice.faults()), (1, vec!["SERVED TWICE"]));
    }

    #[test]
    fn figures_have_the_promised_names() {
        let event = figures(Event::Join, [None; 3]);
        let figures = Figures { events: vec![event], ..Figures::default() };
        assert!(figures.held());
        let json = serde_json::to_value(&figures).unwrap();
        assert!(json["lookup_ns"].is_number(), "{json}");
        for name in [
            "name",
            "mode",
            "family",
            "connections",
            "kept",
            "resets",
            "corrupted",
            "longest_gap_ms",
        ] {
            assert!(!json["events"][0][name].is_null(), "{name}: {json}");
        }
        assert!(!Figures { failed: vec!["join".into()], ..figures }.held());
    }
}
