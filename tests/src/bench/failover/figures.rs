//! What was measured, and whether it is good enough.

use std::fmt;

use serde::Serialize;

use super::events::Event;
use crate::bench::statistics::Summary;

/// What a run of the bench found: the content of `--json FILE`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// By profile and event.
    pub(super) events: Vec<EventFigures>,
    /// Of the largest farm.
    pub(super) barrier_ms: Option<BarrierFigures>,
    /// By profile and event.
    pub(super) floating: Vec<FloatingFigures>,
    /// By advertisement interval and event.
    pub(super) keepalived: Vec<KeepalivedFigures>,
    /// By size of the farm.
    pub(super) barriers: Vec<BarrierFigures>,
    /// A farm under full load, if that was asked for.
    pub(super) soak: Option<SoakFigures>,
    /// What could not be measured, each with the reason.
    pub(super) not_measured: Vec<String>,
    /// Load of the machine when the bench began: what others had it do.
    pub(super) load_average: Option<f64>,
}

/// One event in one profile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct EventFigures {
    /// The event.
    pub(super) name: &'static str,
    /// Membership profile.
    pub(super) profile: &'static str,
    /// Size of the farm.
    pub(super) nodes: usize,
    /// Longest gap between two answered probes of one flow that was concerned, less the probes'
    /// own interval.
    pub(super) median_ms: Option<f64>,
    /// Of the worst run.
    pub(super) max_ms: Option<f64>,
    /// Unanswered probes of all other flows, all runs together.
    pub(super) survivor_lost: usize,
    /// Probes with more than one answer, all runs together.
    pub(super) double_answers: usize,
    /// Unanswered probes of the flows concerned, all runs together.
    pub(super) moved_lost: usize,
    /// The same of a run, in the middle. A bucket that moves belongs to nobody for about a
    /// millisecond, in which a run may lose a datagram or two; most runs lose none.
    pub(super) moved_lost_median: Option<f64>,
    /// Times that it could be measured.
    pub(super) runs: usize,
    /// Times that it should have been.
    pub(super) wanted: usize,
    /// What the median may be.
    pub(super) limit_ms: Option<f64>,
    /// What `moved_lost_median` may be.
    pub(super) limit_lost: Option<f64>,
    /// What `double_answers` may be.
    pub(super) limit_twice: Option<usize>,
}

/// One event, once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// See [`EventFigures::median_ms`].
    pub(super) outage_ms: f64,
    /// See [`EventFigures::moved_lost`].
    pub(super) moved_lost: usize,
    /// See [`EventFigures::survivor_lost`].
    pub(super) survivor_lost: usize,
    /// See [`EventFigures::double_answers`].
    pub(super) double_answers: usize,
}

/// Changes of view in a farm of one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct BarrierFigures {
    /// Size of the farm.
    pub(super) nodes: u8,
    /// Milliseconds from the first release to the last acquisition.
    pub(super) median: Option<f64>,
    /// Of the slowest.
    pub(super) max: Option<f64>,
    /// Changes that could be measured.
    pub(super) changes: usize,
    /// Changes that should have been.
    pub(super) wanted: usize,
    /// What made the view change: `power` or `rejoin`.
    pub(super) way: &'static str,
}

/// One event of a failover VIP.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct FloatingFigures {
    /// Membership profile.
    pub(super) profile: &'static str,
    /// The event.
    pub(super) event: &'static str,
    /// As [`KeepalivedFigures::median_ms`].
    pub(super) median_ms: Option<f64>,
    /// Of the worst run.
    pub(super) max_ms: Option<f64>,
    /// Probes with more than one answer, all runs together.
    pub(super) double_answers: usize,
    /// Most machines that answered one ARP request for the address, after the takeover.
    pub(super) holders: usize,
    /// Times that it could be measured.
    pub(super) runs: usize,
    /// Times that it should have been.
    pub(super) wanted: usize,
    /// What the median may be.
    pub(super) limit_ms: Option<f64>,
}

/// One event under keepalived.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct KeepalivedFigures {
    /// Advertisement interval in seconds.
    pub(super) advert_s: f64,
    /// The event.
    pub(super) event: &'static str,
    /// Longest gap between two answered probes of one flow, less the probes' own interval.
    pub(super) median_ms: Option<f64>,
    /// Of the worst run.
    pub(super) max_ms: Option<f64>,
    /// Probes with more than one answer, all runs together.
    pub(super) double_answers: usize,
    /// Most machines that answered one ARP request for the address, after the takeover.
    pub(super) holders: usize,
    /// Times that it could be measured.
    pub(super) runs: usize,
    /// Times that it should have been.
    pub(super) wanted: usize,
}

/// A farm that nothing happens to, on a machine that has too much to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct SoakFigures {
    /// How long it lasted.
    pub(super) seconds: u64,
    /// How long it should have.
    pub(super) wanted: u64,
    /// Views after the first.
    pub(super) view_changes: u64,
    /// Times that a node stopped serving because its lease had ended.
    pub(super) lapsed_leases: usize,
    /// Unanswered probes.
    pub(super) lost: usize,
    /// Probes with more than one answer.
    pub(super) double_answers: usize,
    /// By how much a heartbeat thread woke too late at worst.
    pub(super) lateness_max_ms: f64,
}

/// The farm's size that the barrier's limit is about.
const LARGEST: u8 = 8;

/// What the median barrier of the largest farm may be.
pub(super) const BARRIER_LIMIT_MS: f64 = 5.0;

impl Figures {
    /// Takes the barriers, the largest farm's last.
    pub(super) fn set_barriers(&mut self, barriers: Vec<BarrierFigures>) {
        self.barrier_ms = barriers.last().cloned();
        self.barriers = barriers;
    }

    /// Whether everything that was measured is good enough.
    pub(super) fn held(&self) -> bool {
        let events = self.events.iter().all(|event| event.faults().is_empty());
        events
            && self.barriers.iter().all(|barrier| barrier.faults().is_empty())
            && self.floating.iter().all(|floating| floating.faults().is_empty())
            && self.soak.iter().all(|soak| soak.faults().is_empty())
    }
}

impl EventFigures {
    /// Of the runs that could be measured.
    pub(super) fn of(
        event: Event,
        profile: &'static str,
        nodes: usize,
        wanted: u16,
        samples: &[Sample],
    ) -> Self {
        let Summary { median, max } = Summary::of(samples.iter().map(|sample| sample.outage_ms));
        let sum = |count: fn(&Sample) -> usize| samples.iter().map(count).sum();
        let lost = samples.iter().map(|sample| sample.moved_lost as f64);
        Self {
            name: event.name(),
            profile,
            nodes,
            median_ms: median,
            max_ms: max,
            survivor_lost: sum(|sample| sample.survivor_lost),
            double_answers: sum(|sample| sample.double_answers),
            moved_lost: sum(|sample| sample.moved_lost),
            moved_lost_median: Summary::of(lost).median,
            runs: samples.len(),
            wanted: wanted.into(),
            limit_ms: outage_limit(event, profile),
            limit_lost: event.is_planned().then_some(0.0),
            limit_twice: (!event.splits_the_farm()).then_some(0),
        }
    }

    /// What is not good enough, in words for the table.
    pub(super) fn faults(&self) -> Vec<&'static str> {
        let too_slow = exceeds(self.median_ms, self.limit_ms);
        let lost = exceeds(self.moved_lost_median, self.limit_lost);
        let twice = self.limit_twice.is_some_and(|limit| self.double_answers > limit);
        let faults = [
            (self.runs < self.wanted, "INCOMPLETE"),
            (too_slow, "TOO SLOW"),
            (lost, "LOST"),
            (self.survivor_lost > 0, "SURVIVORS LOST"),
            (twice, "ANSWERED TWICE"),
        ];
        faults.into_iter().filter_map(|(found, word)| found.then_some(word)).collect()
    }
}

impl FloatingFigures {
    /// What is not good enough, in words for the table.
    pub(super) fn faults(&self) -> Vec<&'static str> {
        let faults = [
            (self.runs < self.wanted, "INCOMPLETE"),
            (exceeds(self.median_ms, self.limit_ms), "TOO SLOW"),
            (self.double_answers > 0, "ANSWERED TWICE"),
            (self.holders > 1, "HELD TWICE"),
        ];
        faults.into_iter().filter_map(|(found, word)| found.then_some(word)).collect()
    }
}

impl BarrierFigures {
    /// What the median may be: a promise about the largest farm.
    pub(super) fn limit_ms(&self) -> Option<f64> {
        (self.nodes == LARGEST).then_some(BARRIER_LIMIT_MS)
    }

    /// What is not good enough, in words for the table.
    pub(super) fn faults(&self) -> Vec<&'static str> {
        let faults = [
            (self.changes < self.wanted, "INCOMPLETE"),
            (exceeds(self.median, self.limit_ms()), "TOO SLOW"),
        ];
        faults.into_iter().filter_map(|(found, word)| found.then_some(word)).collect()
    }
}

impl SoakFigures {
    /// Before it begins; in seconds.
    pub(super) fn wanted(seconds: u64) -> Self {
        Self { wanted: seconds, ..Self::default() }
    }

    /// What is not good enough, in words for the table.
    pub(super) fn faults(&self) -> Vec<&'static str> {
        let faults = [
            (self.seconds < self.wanted, "INCOMPLETE"),
            (self.view_changes > 0, "VIEW CHANGED"),
            (self.lapsed_leases > 0, "LEASE LAPSED"),
            (self.double_answers > 0, "ANSWERED TWICE"),
        ];
        faults.into_iter().filter_map(|(found, word)| found.then_some(word)).collect()
    }
}

/// Whether a median is over its limit, or missing although there is one.
fn exceeds(median: Option<f64>, limit: Option<f64>) -> bool {
    limit.is_some_and(|limit| median.is_none_or(|median| median > limit))
}

pub(super) fn outage_limit(event: Event, profile: &str) -> Option<f64> {
    match (event, profile) {
        (Event::SilentDeath, "balanced") => Some(300.0),
        (Event::SilentDeath, "fast") => Some(140.0),
        _ => None,
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outage_ms, moved_lost, survivor_lost, double_answers } = self;
        write!(
            f,
            "outage {outage_ms:6.1} ms, {moved_lost} probes lost, {survivor_lost} of survivors, \
             {double_answers} answered twice"
        )
    }
}

impl fmt::Display for BarrierFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |figure: Option<f64>| figure.map_or("-".to_owned(), |ms| format!("{ms:.2}"));
        let Self { changes, wanted, way, .. } = self;
        let (median, max) = (text(self.median), text(self.max));
        write!(f, "median {median} ms, max {max} ms, {changes} of {wanted} changes by {way}")
    }
}

impl fmt::Display for SoakFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, wanted, view_changes, lapsed_leases, .. } = self;
        let Self { lost, double_answers, lateness_max_ms, .. } = self;
        write!(
            f,
            "{seconds} of {wanted} s, {view_changes} changes of view, {lapsed_leases} leases \
             lapsed, {lost} probes lost, {double_answers} answered twice, heartbeats \
             {lateness_max_ms:.1} ms late at worst"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Sample =
        Sample { outage_ms: 250.0, moved_lost: 40, survivor_lost: 0, double_answers: 0 };

    fn figures(event: Event, profile: &'static str, samples: &[Sample]) -> EventFigures {
        EventFigures::of(event, profile, 3, 3, samples)
    }

    fn barrier(median: f64) -> BarrierFigures {
        let (median, max) = (Some(median), Some(9.0));
        BarrierFigures { nodes: 8, median, max, changes: 20, wanted: 20, way: "power" }
    }

    fn floating(holders: usize) -> FloatingFigures {
        let event = Event::SilentDeath;
        FloatingFigures {
            profile: "fast",
            event: event.name(),
            median_ms: Some(120.0),
            max_ms: None,
            double_answers: 0,
            holders,
            runs: 7,
            wanted: 7,
            limit_ms: outage_limit(event, "fast"),
        }
    }

    #[test]
    fn a_failover_vip_that_two_nodes_have_or_that_is_late_is_not_good_enough() {
        assert!(floating(1).faults().is_empty());
        assert_eq!(floating(2).faults(), ["HELD TWICE"]);
        let late = FloatingFigures { median_ms: Some(141.0), double_answers: 1, ..floating(1) };
        assert_eq!(late.faults(), ["TOO SLOW", "ANSWERED TWICE"]);
        let figures = Figures { floating: vec![late], ..Figures::default() };
        assert!(!figures.held());
    }

    #[test]
    fn a_silent_death_is_judged_by_its_median_and_its_profile() {
        let worst = Sample { outage_ms: 900.0, ..GOOD };
        let balanced = figures(Event::SilentDeath, "balanced", &[GOOD, worst, GOOD]);
        assert_eq!((balanced.median_ms, balanced.max_ms), (Some(250.0), Some(900.0)));
        assert!(balanced.faults().is_empty());
        assert_eq!(figures(Event::SilentDeath, "fast", &[GOOD; 3]).faults(), ["TOO SLOW"]);
        assert!(figures(Event::Freeze, "fast", &[worst; 3]).faults().is_empty());
    }

    #[test]
    fn one_loss_of_a_survivor_or_one_double_answer_is_a_fault_of_any_event() {
        let lost = Sample { survivor_lost: 1, ..GOOD };
        let twice = Sample { double_answers: 1, ..GOOD };
        let found = figures(Event::Freeze, "balanced", &[GOOD, lost, twice]);
        assert_eq!(found.faults(), ["SURVIVORS LOST", "ANSWERED TWICE"]);
    }

    #[test]
    fn a_farm_of_one_network_that_was_split_answers_twice_when_it_heals() {
        let twice = Sample { double_answers: 9, ..GOOD };
        let found = figures(Event::SilentCut, "balanced", &[twice; 3]);
        assert_eq!((found.double_answers, found.faults()), (27, vec![]));
    }

    #[test]
    fn what_was_planned_loses_nothing_in_most_runs() {
        let one = Sample { outage_ms: 2.0, moved_lost: 1, ..GOOD };
        let none = Sample { outage_ms: 0.0, moved_lost: 0, ..GOOD };
        for event in [Event::GracefulStop, Event::Rejoin, Event::Drain, Event::PowerChange] {
            let once = figures(event, "fast", &[none, one, none]);
            assert_eq!((once.moved_lost, once.moved_lost_median), (1, Some(0.0)));
            assert!(once.faults().is_empty());
            assert_eq!(figures(event, "fast", &[one, none, one]).faults(), ["LOST"]);
            assert!(figures(event, "fast", &[]).faults().contains(&"LOST"), "nothing was measured");
        }
    }

    #[test]
    fn a_run_that_failed_is_a_fault_and_nothing_measured_is_not_fast() {
        assert_eq!(figures(Event::Kill9, "fast", &[GOOD; 2]).faults(), ["INCOMPLETE"]);
        let none = figures(Event::SilentDeath, "balanced", &[]);
        assert_eq!(none.faults(), ["INCOMPLETE", "TOO SLOW"]);
    }

    #[test]
    fn the_barrier_of_the_largest_farm_has_a_limit() {
        assert!(barrier(5.0).faults().is_empty());
        assert_eq!(barrier(5.1).faults(), ["TOO SLOW"]);
        assert!(BarrierFigures { nodes: 5, ..barrier(5.1) }.faults().is_empty());
        let broken = BarrierFigures { changes: 19, nodes: 2, ..barrier(1.0) };
        assert_eq!(broken.faults(), ["INCOMPLETE"]);
    }

    #[test]
    fn a_soak_that_ends_early_or_changes_the_view_is_a_fault() {
        let good = SoakFigures { seconds: 600, wanted: 600, lost: 1, ..SoakFigures::default() };
        assert!(good.faults().is_empty());
        let changed = SoakFigures { view_changes: 1, seconds: 599, ..good };
        assert_eq!(changed.faults(), ["INCOMPLETE", "VIEW CHANGED"]);
        assert!(!Figures { soak: Some(changed), ..Figures::default() }.held());
    }

    #[test]
    fn one_fault_fails_the_bench() {
        let mut all = Figures {
            events: vec![figures(Event::SilentDeath, "balanced", &[GOOD; 3])],
            floating: vec![floating(1)],
            ..Figures::default()
        };
        all.set_barriers(vec![barrier(4.0)]);
        assert!(all.held());
        all.set_barriers(vec![barrier(6.0)]);
        assert!(!all.held());
        all.set_barriers(vec![barrier(4.0)]);
        all.events[0].double_answers = 1;
        assert!(!all.held());
    }

    #[test]
    fn the_json_has_the_promised_fields() {
        let mut all = Figures {
            events: vec![figures(Event::SilentDeath, "balanced", &[GOOD; 3])],
            floating: vec![floating(1)],
            keepalived: vec![KeepalivedFigures {
                advert_s: 0.05,
                event: "silent_death",
                median_ms: Some(166.0),
                max_ms: None,
                double_answers: 0,
                holders: 1,
                runs: 7,
                wanted: 7,
            }],
            ..Figures::default()
        };
        all.soak = Some(SoakFigures { seconds: 600, lateness_max_ms: 4.5, ..Default::default() });
        all.set_barriers(vec![BarrierFigures { nodes: 2, ..barrier(1.0) }, barrier(4.5)]);
        let json = serde_json::to_value(&all).expect("plain data");
        let event = &json["events"][0];
        assert_eq!(event["name"], "silent_death");
        assert_eq!(event["profile"], "balanced");
        assert_eq!(event["nodes"], 3);
        assert_eq!(event["median_ms"], 250.0);
        assert_eq!(event["max_ms"], 250.0);
        assert_eq!(event["moved_lost"], 120);
        assert_eq!(event["moved_lost_median"], 40.0);
        assert_eq!(event["survivor_lost"], 0);
        assert_eq!(event["double_answers"], 0);
        assert_eq!(json["barrier_ms"]["nodes"], 8);
        assert_eq!(json["barrier_ms"]["median"], 4.5);
        assert_eq!(json["barrier_ms"]["max"], 9.0);
        assert_eq!(json["floating"][0]["holders"], 1);
        assert_eq!(json["keepalived"][0]["advert_s"], 0.05);
        assert_eq!(json["keepalived"][0]["event"], "silent_death");
        assert_eq!(json["keepalived"][0]["median_ms"], 166.0);
        let soak = &json["soak"];
        assert_eq!(soak["seconds"], 600);
        assert_eq!(soak["view_changes"], 0);
        assert_eq!(soak["lost"], 0);
        assert_eq!(soak["double_answers"], 0);
        assert_eq!(soak["lateness_max_ms"], 4.5);
    }
}
