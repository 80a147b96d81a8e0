//! The chapters of the demo, in order.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    farm::Farm,
    screen::Screen,
    traffic::{Flowing, HTTP, PATIENCE, Seen, Traffic},
    verdict::{Event, Share, Verdict},
};
use crate::{
    interrupt::Interrupt,
    lab::{Lab, VIP},
    traffic::Request,
};

const ALL: [usize; 3] = [1, 2, 3];
const POWER_CUT: usize = 2;
const FROZEN: usize = 3;

/// What users may notice of a lost node at most.
const OUTAGE_LIMIT: Duration = Duration::from_millis(500);

const BALANCE_TIME: Duration = Duration::from_secs(7);
const FREEZE_TIME: Duration = Duration::from_secs(2);

/// Traffic that is watched after an event, when everything is served again.
const AFTERMATH: Duration = Duration::from_millis(500);

/// How long the farm may take to serve everybody again before the demo gives up.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Everything a chapter needs.
#[derive(Debug)]
pub(super) struct Tour<'t, 'lab> {
    pub(super) lab: &'lab Lab,
    pub(super) farm: &'t mut Farm<'lab>,
    pub(super) screen: &'t Screen,
    pub(super) interrupt: &'t Interrupt,
    pub(super) verdict: &'t mut Verdict,
    /// When which node's clients could notice something.
    pub(super) disturbed: Vec<Disturbance>,
}

/// A time in which failures of one node's clients are the price of what was done to the node.
#[derive(Debug)]
pub(super) struct Disturbance {
    node: String,
    from: Instant,
    until: Instant,
}

impl Tour<'_, '_> {
    /// All of it. An error means that it could not go on; what went wrong short of that is in the
    /// verdict.
    pub(super) fn run(mut self, traffic: Traffic<'_>) -> Result<()> {
        self.opening()?;
        let traffic = traffic.start()?;
        self.balance(&traffic)?;
        self.power_cut(&traffic)?;
        self.recovery(&traffic)?;
        self.freeze(&traffic)?;
        self.count(&traffic.stop()?)?;
        self.closing();
        Ok(())
    }

    fn opening(&mut self) -> Result<()> {
        let nodes: Vec<_> = self
            .lab
            .nodes()
            .iter()
            .map(|node| format!("{} {}", node.name(), node.address()))
            .collect();
        let clients = self.lab.clients().iter().map(|client| client.addresses().len());
        let lines = [
            format!("every node holds {VIP}: {}", nodes.join(", ")),
            format!("{} client addresses behind the same plain switch", clients.sum::<usize>()),
        ];
        self.screen.title("vipfarm: one address, three servers, no load balancer in front", &lines);
        self.farm.agents.start()?;
        let took = self.farm.wait_converged(&ALL, self.interrupt)?;
        self.check(true, format!("three agents agreed on the farm in {} ms", took.as_millis()));
        Ok(())
    }

    fn balance(&mut self, traffic: &Flowing<'_>) -> Result<()> {
        self.screen.chapter("1  Balance by powers");
        let (screen, interrupt) = (self.screen, self.interrupt);
        interrupt.sleep_while(BALANCE_TIME, |passed| {
            screen.progress(passed, BALANCE_TIME, &shares_line(traffic));
        })?;
        let answered = traffic.shares();
        let total: usize = answered.values().sum();
        let status = self.farm.agents.status(1)?;
        let group = status.groups.first().context("the farm has no group")?;
        for (index, node) in self.lab.nodes().iter().enumerate() {
            let requests = answered.get(node.name()).copied().unwrap_or(0);
            let buckets = group.load.get(node.name()).copied().unwrap_or(0);
            let share = Share::of(buckets, requests, total);
            screen.share(index, node.name(), share, requests);
            self.verdict.report_mut().shares.insert(node.name().to_owned(), share);
        }
        screen.block(&self.farm.bitmap(1, screen.is_live())?);
        for (node, share) in self.verdict.report().shares {
            let bound = Share::bound(share.expected, total);
            let off = (share.actual - share.expected).abs();
            let text = format!(
                "{node}'s share is {:.1} points off its power's; chance explains up to {:.1}",
                off * 100.0,
                bound * 100.0
            );
            self.check(total > 0 && off <= bound, text);
        }
        Ok(())
    }

    fn power_cut(&mut self, traffic: &Flowing<'_>) -> Result<()> {
        self.screen.chapter(&format!("2  Power cut of node{POWER_CUT}"));
        let from = Instant::now();
        self.lab.node(POWER_CUT).cut()?;
        self.farm.agents.kill(POWER_CUT)?;
        let survivors: Vec<_> = ALL.into_iter().filter(|&node| node != POWER_CUT).collect();
        let took = self.farm.wait_converged(&survivors, self.interrupt)?;
        self.screen.note(&format!("the survivors agreed within {} ms", took.as_millis()));
        self.judge("power_cut", POWER_CUT, from, traffic)
    }

    fn recovery(&mut self, traffic: &Flowing<'_>) -> Result<()> {
        self.screen.chapter(&format!("3  node{POWER_CUT} comes back"));
        let from = Instant::now();
        self.lab.node(POWER_CUT).heal()?;
        self.farm.agents.start_node(POWER_CUT, &[])?;
        let took = self.farm.wait_converged(&ALL, self.interrupt)?;
        self.screen.note(&format!("all three agreed after {} ms", took.as_millis()));
        self.judge("return", POWER_CUT, from, traffic)
    }

    fn freeze(&mut self, traffic: &Flowing<'_>) -> Result<()> {
        let seconds = FREEZE_TIME.as_secs();
        self.screen.chapter(&format!("4  node{FROZEN}'s agent is frozen for {seconds} s"));
        let (screen, interrupt) = (self.screen, self.interrupt);
        let from = Instant::now();
        self.farm.agents.freeze(FROZEN, true)?;
        interrupt.sleep_while(FREEZE_TIME, |passed| {
            screen.progress(passed, FREEZE_TIME, &shares_line(traffic));
        })?;
        let others_serve = traffic.all_served_without(self.lab.node(FROZEN).name());
        let text = format!("the others served all clients while node{FROZEN}'s agent was frozen");
        self.check(others_serve, text);
        self.farm.agents.freeze(FROZEN, false)?;
        let took = self.farm.wait_converged(&ALL, interrupt)?;
        screen.note(&format!("it was back in the farm {} ms after it woke up", took.as_millis()));
        self.judge("freeze", FROZEN, from, traffic)
    }

    /// Waits until everybody is served, then says what users noticed since `from`.
    fn judge(
        &mut self,
        name: &'static str,
        node: usize,
        from: Instant,
        traffic: &Flowing<'_>,
    ) -> Result<()> {
        let waiting = Instant::now();
        while !traffic.all_served() {
            if waiting.elapsed() > GIVE_UP {
                bail!("some clients are still not served {GIVE_UP:?} after the farm agreed");
            }
            self.interrupt.sleep(Duration::from_millis(50))?;
        }
        self.interrupt.sleep(AFTERMATH)?;
        let until = Instant::now();
        // Until then whatever began before has ended.
        self.interrupt.sleep(PATIENCE + Duration::from_millis(100))?;

        let node = self.lab.node(node).name().to_owned();
        let outage = traffic.outage(from, until, &node);
        self.disturbed.push(Disturbance { node: node.clone(), from, until });
        let failed = traffic.failed_between(from, until);
        let others = self.not_excused(&failed)?;
        let survivor_failures = outage.survivor_failures + others;

        let outage_ms = outage.longest.as_secs_f64() * 1000.0;
        let limit = OUTAGE_LIMIT.as_millis();
        let text = format!("{node}'s clients waited {outage_ms:.0} ms at most (limit {limit} ms)");
        self.check_probed(outage.flows, outage.longest < OUTAGE_LIMIT, &text);
        let text = format!("all others noticed nothing: {survivor_failures} failures");
        self.check_probed(outage.survivor_flows, survivor_failures == 0, &text);
        self.verdict.report_mut().events.push(Event { name, outage_ms, survivor_failures });
        Ok(())
    }

    /// How many of these failed requests were not from clients of a node that was disturbed then.
    fn not_excused(&self, failed: &[Request]) -> Result<usize> {
        let mut count = 0;
        for request in failed {
            let end = request.started + request.latency;
            let mut then = self
                .disturbed
                .iter()
                .filter(|disturbed| request.started < disturbed.until && end > disturbed.from)
                .peekable();
            let excused = then.peek().is_some() && {
                let owner = self.farm.agents.owner(request.client, HTTP)?;
                then.any(|disturbed| disturbed.node == owner)
            };
            count += usize::from(!excused);
        }
        Ok(count)
    }

    fn count(&mut self, seen: &Seen) -> Result<()> {
        self.screen.chapter("5  Counting");
        let failed: Vec<_> =
            seen.requests.iter().filter(|request| request.outcome.is_err()).cloned().collect();
        let not_excused = self.not_excused(&failed)?;
        let report = self.verdict.report_mut();
        report.requests = seen.requests.len();
        report.failed = not_excused;
        report.duplicate_answers = seen.duplicates;
        let text = format!(
            "nothing was answered twice: {} of {} connections and {} datagrams",
            seen.duplicates,
            seen.requests.len(),
            seen.probes
        );
        self.check(seen.duplicates == 0, text);
        let lost = failed.len() - not_excused;
        let text = format!(
            "{not_excused} connections failed without cause, {lost} with the node that was lost"
        );
        self.check(!seen.requests.is_empty() && not_excused == 0, text);
        Ok(())
    }

    fn closing(&mut self) {
        match self.farm.stop() {
            Ok(()) => self.check(true, "the agents stopped and left nothing behind".into()),
            Err(error) => self.check(false, format!("a clean stop: {error:#}")),
        }
    }

    /// A check that says nothing, and so does not hold, unless some flows were probed.
    fn check_probed(&mut self, flows: usize, held: bool, text: &str) {
        match flows {
            0 => self.check(false, format!("{text}; but no probed client was among them")),
            _ => self.check(held, format!("{text}; {flows} probed")),
        }
    }

    fn check(&mut self, held: bool, text: String) {
        let check = self.verdict.check(held, text);
        self.screen.check(&check);
    }
}

impl Share {
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^52 of either")]
    fn of(buckets: usize, requests: usize, all_requests: usize) -> Self {
        let expected = buckets as f64 / vipfarm::model::BUCKETS as f64;
        Self { expected, actual: requests as f64 / all_requests.max(1) as f64 }
    }
}

fn shares_line(traffic: &Flowing<'_>) -> String {
    let shares = traffic.shares();
    let total: usize = shares.values().sum();
    let mut line = format!("{} connections", traffic.count());
    for (node, requests) in shares {
        // Writing to a string cannot fail.
        let _ = write!(line, "  {node} {} %", requests * 100 / total.max(1));
    }
    line
}
