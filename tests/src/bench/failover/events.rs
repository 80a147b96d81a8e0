//! The events: what is done to a farm of three nodes, how it ends, and what its clients saw of it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Bench, GROUP, farm_yaml,
    figures::{EventFigures, Sample},
    millis, phase,
    watch::{ECHO, Owners, Seen, Watch},
};
use crate::{
    farm::Farm,
    lab::{Lab, Topology},
    traffic::UdpEcho,
};

/// All nodes of the farms.
pub(super) const NODES: [usize; 3] = [1, 2, 3];
const CLIENTS: u8 = 2;
const CLIENT_ADDRESSES: u8 = 30;

/// How long a node is cut off or frozen before it comes back by itself: the others have taken over
/// long before.
pub(super) const ABSENCE: Duration = Duration::from_secs(1);

/// A multiple of the heartbeat period of each profile that is measured.
const PERIOD: Duration = Duration::from_millis(100);

/// What a node's power of 1 is changed to.
const CHANGED_POWER: u16 = 3;

/// Lines of each agent's log that are shown when an event went wrong.
const LAST_LINES: usize = 6;

/// Something that is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Its network goes away without a trace, and its agent dies.
    SilentDeath,
    /// Its network goes away without a trace, and comes back after [`ABSENCE`].
    SilentCut,
    /// Its agent is killed; kernel and network go on.
    Kill9,
    /// Its agent is stopped for [`ABSENCE`], and goes on.
    Freeze,
    /// Its agent is told to end.
    GracefulStop,
    /// Its agent starts again.
    Rejoin,
    /// The operator takes its load away.
    Drain,
    /// The operator gives it back.
    Undrain,
    /// The operator gives it a greater share.
    PowerChange,
}

/// Events that follow each other on one farm. Each finds it whole, and few nodes come back on it: one
/// that does so again and again has to wait longer each time.
const CHAINS: [&[Event]; 4] = [
    &[Event::SilentCut, Event::SilentDeath],
    &[Event::Freeze, Event::Kill9],
    &[Event::GracefulStop, Event::Rejoin],
    &[Event::Drain, Event::Undrain, Event::PowerChange],
];

impl Event {
    /// The word in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SilentDeath => "silent_death",
            Self::SilentCut => "silent_cut",
            Self::Kill9 => "kill_9",
            Self::Freeze => "freeze",
            Self::GracefulStop => "graceful_stop",
            Self::Rejoin => "rejoin",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::PowerChange => "power_change",
        }
    }

    /// Whether the median run may lose nothing by it.
    pub(super) fn is_planned(self) -> bool {
        matches!(
            self,
            Self::GracefulStop | Self::Rejoin | Self::Drain | Self::Undrain | Self::PowerChange
        )
    }

    /// Whether both sides serve meanwhile: these farms have no second network by which to know better.
    pub(super) fn splits_the_farm(self) -> bool {
        self == Self::SilentCut
    }

    fn verb(self) -> Option<&'static str> {
        match self {
            Self::Drain => Some("drain"),
            Self::Undrain => Some("undrain"),
            Self::PowerChange => Some("power"),
            _ => None,
        }
    }
}

/// The verbs that the program has.
pub(super) struct Verbs(BTreeSet<String>);

impl Verbs {
    /// Reads the list of verbs in what `vipfarm --help` says.
    pub(super) fn of_help(help: &str) -> Self {
        let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let verb = |line: &str| {
            let indented = line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?;
            indented.split_whitespace().next().map(str::to_owned)
        };
        Self(lines.take_while(|line| !line.is_empty()).filter_map(verb).collect())
    }

    /// Whether there is such a verb.
    pub(super) fn has(&self, verb: &str) -> bool {
        self.0.contains(verb)
    }

    /// The events that need a verb which is missing.
    pub(super) fn missing_events(&self) -> impl Iterator<Item = Event> {
        CHAINS.into_iter().flatten().copied().filter(|event| !self.can(*event))
    }

    fn can(&self, event: Event) -> bool {
        event.verb().is_none_or(|verb| self.has(verb))
    }
}

/// Measures all events that the program's verbs allow.
pub(super) fn measure(
    bench: &Bench<'_>,
    profile: &'static str,
    verbs: &Verbs,
) -> Result<Vec<EventFigures>> {
    let chains: Vec<_> =
        CHAINS.into_iter().filter(|chain| chain.iter().all(|event| verbs.can(*event))).collect();
    let mut samples = Vec::new();
    for run in 0..bench.runs {
        let round = Round { bench, profile, run, node: 1 + usize::from(run) % NODES.len() };
        chains.iter().try_for_each(|chain| round.on_a_farm(chain, &mut samples))?;
    }
    let figures = |event: &Event| {
        let own = samples.iter().filter(|(of, _)| of == event).map(|(_, sample)| *sample);
        EventFigures::of(*event, profile, NODES.len(), bench.runs, &own.collect::<Vec<_>>())
    };
    Ok(chains.iter().copied().flatten().map(figures).collect())
}

/// A lab for a farm of three nodes, all of which serve [`ECHO`] once they have the VIP.
pub(super) fn lab(name: &str) -> Result<(Lab, Vec<UdpEcho>)> {
    let topology = Topology { client_addresses: CLIENT_ADDRESSES, ..Topology::new(3, CLIENTS) };
    let lab = Lab::new(name, &topology)?;
    let echoes = lab.nodes().iter().map(|node| UdpEcho::start(node, ECHO));
    let echoes = echoes.collect::<Result<_>>()?;
    Ok((lab, echoes))
}

/// Each event once, on one node.
struct Round<'a> {
    bench: &'a Bench<'a>,
    profile: &'static str,
    run: u16,
    node: usize,
}

impl Round<'_> {
    /// Goes through a chain until an event goes wrong.
    fn on_a_farm(&self, chain: &[Event], samples: &mut Vec<(Event, Sample)>) -> Result<()> {
        let (lab, _echoes) = lab("failover")?;
        let mut farm = Farm::new(&lab, self.bench.program, "bench", &farm_yaml(self.profile))?;
        farm.start()?;
        self.bench.agree(&farm, &NODES)?;
        let phase = phase(self.run, PERIOD);
        let mut victim = Victim::new(self.bench, &lab, farm, self.node);
        for event in chain {
            let what = self.describe(*event);
            let Some(sample) = self.bench.sample(&what, victim.suffer(*event, phase))? else {
                victim.show_last_words();
                break;
            };
            eprintln!("{what}: {sample}");
            samples.push((*event, sample));
        }
        Ok(())
    }

    fn describe(&self, event: Event) -> String {
        let Self { bench, profile, run, node } = self;
        format!("{profile:8} {}/{} node{node} {:13}", run + 1, bench.runs, event.name())
    }
}

/// The node that everything happens to, and its farm.
struct Victim<'a> {
    bench: &'a Bench<'a>,
    lab: &'a Lab,
    farm: Farm<'a>,
    node: usize,
    name: String,
    others: Vec<usize>,
}

impl<'a> Victim<'a> {
    fn new(bench: &'a Bench<'a>, lab: &'a Lab, farm: Farm<'a>, node: usize) -> Self {
        let name = lab.node(node).name().to_owned();
        let others = NODES.into_iter().filter(|&other| other != node).collect();
        Self { bench, lab, farm, node, name, others }
    }

    /// Does it, `phase` after all are served, and says what the clients saw until all was settled.
    fn suffer(&mut self, event: Event, phase: Duration) -> Result<Sample> {
        let watch = Watch::start(self.bench, self.lab.clients(), phase, |_| true)?;
        self.provoke(event, &watch)?;
        let Seen { log, from, until } = watch.finish()?;
        let outage = match event {
            Event::PowerChange => log.outage_of_moved(from, until),
            _ => log.outage(from, until, &self.name),
        };
        ensure!(outage.flows > 0 && outage.survivor_flows > 0, "too few flows: {outage:?}");
        Ok(Sample {
            outage_ms: millis(outage.longest),
            moved_lost: outage.lost,
            survivor_lost: outage.survivor_failures,
            double_answers: log.duplicates().len(),
        })
    }

    fn provoke(&mut self, event: Event, watch: &Watch<'_>) -> Result<()> {
        let (host, node) = (self.lab.node(self.node), self.node);
        match event {
            Event::SilentDeath => {
                host.cut()?;
                self.farm.kill(node)?;
                self.until_gone(watch)?;
                self.bench.agree(&self.farm, &self.others)
            }
            Event::SilentCut => {
                host.cut()?;
                self.bench.interrupt.sleep(ABSENCE)?;
                self.until_gone(watch)?;
                host.heal()?;
                self.until_back(watch)
            }
            Event::Kill9 => {
                self.farm.kill(node)?;
                self.until_gone(watch)?;
                self.bench.agree(&self.farm, &self.others)
            }
            Event::Freeze => {
                self.farm.freeze(node, true)?;
                self.bench.interrupt.sleep(ABSENCE)?;
                self.until_gone(watch)?;
                self.farm.freeze(node, false)?;
                self.until_back(watch)
            }
            Event::GracefulStop => {
                self.farm.stop_node(node)?;
                self.until_gone(watch)?;
                self.bench.agree(&self.farm, &self.others)
            }
            Event::Rejoin => {
                self.farm.start_node(node, &[])?;
                self.until_back(watch)
            }
            Event::Drain => {
                self.ask(&["drain", &self.name])?;
                self.until_gone(watch)
            }
            Event::Undrain => {
                self.ask(&["undrain", &self.name])?;
                self.until_back(watch)
            }
            Event::PowerChange => {
                self.ask(&["power", GROUP, &format!("{}={CHANGED_POWER}", self.name)])?;
                self.until_back(watch)
            }
        }
    }

    fn until_gone(&self, watch: &Watch<'_>) -> Result<()> {
        watch.until_served(|owners| !self.serves(owners))
    }

    fn until_back(&self, watch: &Watch<'_>) -> Result<()> {
        watch.until_served(|owners| self.serves(owners))?;
        self.bench.agree(&self.farm, &NODES)
    }

    fn serves(&self, owners: &Owners) -> bool {
        owners.values().any(|owner| **owner == *self.name)
    }

    /// Asks another node's agent, as the operator would.
    fn ask(&self, arguments: &[&str]) -> Result<()> {
        self.farm.ask(self.others[0], arguments).map(drop)
    }

    fn show_last_words(&self) {
        for (node, lines) in self.farm.last_lines(LAST_LINES) {
            eprintln!("  the agent of {node} said last:\n    {}", lines.join("\n    "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "Several servers own one IP address at once

Usage: vipfarm <COMMAND>

Commands:
  agent    Run the agent
  power    Change the share of nodes
           drain is another verb
  help     Print this message

Options:
  -h, --help  Print help
";

    #[test]
    fn the_verbs_of_the_program_are_read_from_its_help() {
        let verbs = Verbs::of_help(HELP);
        assert!(verbs.has("agent") && verbs.has("power"));
        assert!(!verbs.has("drain") && !verbs.has("-h,") && !verbs.has("Usage:"));
    }

    #[test]
    fn events_without_their_verb_are_named() {
        let missing: Vec<_> = Verbs::of_help(HELP).missing_events().collect();
        assert_eq!(missing, [Event::Drain, Event::Undrain]);
    }

    #[test]
    fn every_event_finds_the_farm_whole() {
        for chain in CHAINS {
            for pair in chain.windows(2) {
                let takes_away = |event| {
                    matches!(
                        event,
                        Event::SilentDeath | Event::Kill9 | Event::GracefulStop | Event::Drain
                    )
                };
                let gives_back = matches!(pair[1], Event::Rejoin | Event::Undrain);
                assert_eq!(takes_away(pair[0]), gives_back, "{pair:?}");
            }
        }
    }
}
