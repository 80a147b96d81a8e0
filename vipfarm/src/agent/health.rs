//! Whether this node can serve: the checks of the file, VIPs that somebody took off, and VIPs that
//! nobody has opened yet.
//!
//! Each check has a task of its own on the runtime. What follows from all of them is one word for each
//! configuration, the kernel groups that the node abstains from, which the heartbeat thread tells the
//! farm: the next view gives their buckets to other nodes. It goes beside the powers that operators
//! set, which nothing here changes. If a check fails on all nodes, nobody serves what it is about.

mod claims;
mod closed;
mod opened;
mod probe;
mod tally;
mod tls;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::{
    task::AbortHandle,
    time::{self, MissedTickBehavior},
};

pub(super) use self::closed::{Change, Closed, Kept};
use self::{claims::Claims, tally::Tally};
use super::{
    alone::Alone,
    bring_up::Up,
    command::{Command, Commander},
    configurations::{Configuration, Configurations},
    history::{History, Level},
};
use crate::{
    model::{About, Abstention, Check, Effect, Farm, Group, NodeId, Open, Probe, Vip, VipAddr},
    status::{CheckState, CheckStatus},
};

/// What the node abstains from, by the digest of a configuration.
pub(super) type Abstains = Arc<[([u8; 16], Abstention)]>;

/// Looks after a node's checks.
pub(super) struct Health {
    own: NodeId,
    configurations: Configurations,
    commander: Commander,
    history: Arc<History>,
    /// Where the next agent finds which groups are open.
    opened_at: PathBuf,
    known: Mutex<Known>,
    /// What this node was closed for by hand.
    closed: Mutex<Closed>,
}

/// What is known of this node.
#[derive(Default)]
struct Known {
    watched: Vec<Watched>,
    /// How many checks there have been: the number of the next.
    count: u64,
    /// The groups with `open: manual` that have been opened.
    opened: BTreeSet<String>,
    /// The VIPs that their interfaces have lost.
    missing: BTreeSet<IpAddr>,
    /// The failover VIPs that their interfaces would not take, or did not keep.
    refused: BTreeSet<IpAddr>,
    /// This node is about to stop.
    stops: bool,
    /// The VIPs that others have claimed.
    claims: Claims,
    /// What the heartbeat thread was told.
    told: Abstains,
}

/// A check at work.
struct Watched {
    number: u64,
    about: About,
    check: Check,
    tally: Tally,
    since: Instant,
    last_error: Option<String>,
    task: Option<AbortHandle>,
}

impl Health {
    /// For what was brought up; no check has been looked at.
    pub(super) fn new(
        up: &Up,
        run_dir: &Path,
        commander: &Commander,
        history: &Arc<History>,
    ) -> Arc<Self> {
        let opened_at = opened::place(run_dir, &up.configurations.all()[0].farm.name);
        let opened = opened::take(&opened_at);
        let health = Self {
            own: up.own,
            configurations: up.configurations.clone(),
            commander: commander.clone(),
            history: Arc::clone(history),
            opened_at,
            known: Mutex::new(Known { opened, ..Known::default() }),
            closed: Mutex::default(),
        };
        health.know(Tally::at(CheckState::Starting));
        Arc::new(health)
    }

    /// Begins to look: what the node abstains from until the first looks.
    pub(super) fn begin(self: &Arc<Self>) -> Abstains {
        let mut known = self.known();
        self.start_tasks(&mut known);
        known.told = self.abstains(&known);
        Arc::clone(&known.told)
    }

    /// Takes over the checks of the present configurations. To be called when they have changed, before
    /// the farm can go over to another: the heartbeat thread learns what the node abstains from with
    /// each. A check that is new to a running node passes until it has failed.
    pub(super) fn follow_configurations(self: &Arc<Self>) {
        self.know(Tally::at(CheckState::Passing));
        let mut known = self.known();
        self.start_tasks(&mut known);
        self.tell(&mut known);
    }

    fn know(&self, first: Tally) {
        let mut known = self.known();
        let configurations = self.configurations.all();
        for (about, check) in configurations.iter().flat_map(|it| it.farm.all_checks()) {
            if known.watched.iter().any(|watched| watched.is(&about, check)) {
                continue;
            }
            // What fails does not serve because somebody edits how often it is looked at.
            let before = known.watched.iter().find(|watched| watched.looks_like(&about, check));
            let (tally, since, last_error) = before.map_or_else(
                || (first, Instant::now(), None),
                |it| (Tally::at(it.tally.state()), it.since, it.last_error.clone()),
            );
            let (number, check) = (known.count, check.clone());
            known.count += 1;
            known.watched.push(Watched {
                number,
                about,
                check,
                tally,
                since,
                last_error,
                task: None,
            });
        }
        let wanted: Vec<_> = configurations.iter().flat_map(|it| it.farm.all_checks()).collect();
        known
            .watched
            .retain(|watched| wanted.iter().any(|(about, check)| watched.is(about, check)));
    }

    fn start_tasks(self: &Arc<Self>, known: &mut Known) {
        for watched in known.watched.iter_mut().filter(|watched| watched.task.is_none()) {
            let (check, about) = (watched.check.clone(), watched.about.clone());
            let environment = self.environment(&about);
            let task = watch(Arc::downgrade(self), watched.number, (about, check), environment);
            watched.task = Some(tokio::spawn(task).abort_handle());
        }
    }

    /// What a check's program is told.
    fn environment(&self, about: &About) -> Vec<(&'static str, String)> {
        let configurations = self.configurations.all();
        let farm = &configurations[0].farm;
        let mut environment = vec![
            ("VIPFARM_FARM", farm.name.clone()),
            ("VIPFARM_NODE", farm.nodes[self.own.index()].name.clone()),
        ];
        if let About::Group(name) = about {
            environment.push(("VIPFARM_GROUP", name.clone()));
        }
        if *about != About::All {
            let mut blocks = configurations.iter().flat_map(|it| it.farm.blocks(about));
            let vip = blocks.next().map(|block| block.addresses[0].addr);
            environment.extend(vip.map(|vip| ("VIPFARM_VIP", vip.to_string())));
        }
        environment
    }

    /// Takes the outcome of a look.
    fn note(&self, number: u64, outcome: Result<(), String>) {
        let mut known = self.known();
        // It may have been dropped meanwhile.
        let Some(watched) = known.watched.iter_mut().find(|it| it.number == number) else { return };
        let (check, about) = (&watched.check, watched.about.to_string());
        let changed = watched.tally.note(outcome.is_ok(), check.rise, check.fall);
        let what = format!("{} ({about})", check.probe);
        let error = outcome.err();
        if error.is_some() {
            watched.last_error.clone_from(&error);
        }
        if !changed {
            return;
        }
        watched.since = Instant::now();
        self.tell(&mut known);
        drop(known);
        match error {
            None => self.history.push(Level::Info, "check_passed", format!("{what} passes")),
            Some(error) => {
                self.history.push(Level::Warn, "check_failed", format!("{what} fails: {error}"));
            }
        }
    }

    /// Has the heartbeat thread tell the farm what the node abstains from, if that is news. In the
    /// order of the changes, because the lock is held.
    fn tell(&self, known: &mut Known) {
        let abstains = self.abstains(known);
        if abstains == known.told {
            return;
        }
        known.told = Arc::clone(&abstains);
        if let Err(error) = self.commander.send(Command::Abstain { abstains }) {
            self.history.push(
                Level::Warn,
                "not_told",
                format!("what this node cannot serve: {error}"),
            );
        }
    }

    fn abstains(&self, known: &Known) -> Abstains {
        let configurations = self.configurations.all();
        let each = configurations.iter().map(|config| (config.digest, known.abstention(config)));
        each.filter(|&(_, from)| from != Abstention::NONE).collect()
    }

    /// Takes note of the VIPs that are missing on their interfaces now.
    pub(super) fn note_missing(&self, missing: &BTreeSet<IpAddr>) {
        let mut known = self.known();
        let before = std::mem::replace(&mut known.missing, missing.clone());
        self.tell(&mut known);
        drop(known);
        for vip in missing.difference(&before) {
            self.history.push(Level::Warn, "vip_lost", format!(
                "VIP {vip} was taken off this node: the others serve it until it is back; the agent will put it back"
            ));
        }
        for vip in before.difference(missing) {
            self.history.push(Level::Info, "vip_back", format!("VIP {vip} is here again"));
        }
    }

    /// Takes note of the failover VIPs that this node could not take or keep, and leaves to others for now.
    pub(super) fn note_refused(&self, refused: BTreeSet<IpAddr>) {
        let mut known = self.known();
        if known.refused != refused {
            known.refused = refused;
            self.tell(&mut known);
        }
    }

    /// The other nodes are to serve everything from now on, until another agent starts here. What operators
    /// said of powers stays as it is.
    pub(super) fn leave_all_to_others(&self) {
        let mut known = self.known();
        known.stops = true;
        self.tell(&mut known);
    }

    /// The VIPs that are missing.
    pub(super) fn missing(&self) -> BTreeSet<IpAddr> {
        self.known().missing.clone()
    }

    /// Takes note of what is told of a VIP that somebody else has claimed. Nothing follows from it unless
    /// a check asks for that: otherwise one frame of a stranger's would stop the farm.
    pub(super) fn note_claim(&self, vip: IpAddr, words: String) {
        let mut known = self.known();
        known.claims.note(vip, words, Instant::now());
    }

    /// Takes note of whether this node asks who claims its VIPs.
    pub(super) fn note_asking(&self, asks: bool) {
        self.known().claims.note_asking(asks, Instant::now());
    }

    /// One look at whether others claim what that is about.
    fn look_for_claims(&self, about: &About, since: Instant) -> Option<Result<(), String>> {
        let configurations = self.configurations.all();
        let blocks = configurations.iter().flat_map(|it| it.farm.blocks(about));
        let vips = blocks.flat_map(|block| &block.addresses).map(|vip| vip.addr);
        self.known().claims.look(since, Instant::now(), vips)
    }

    /// Opens these groups of VIPs with `open: manual`, or closes them.
    pub(super) fn set_open<'g>(&self, groups: impl Iterator<Item = &'g str>, open: bool) {
        let mut known = self.known();
        for group in groups {
            if open {
                known.opened.insert(group.to_owned());
            } else {
                known.opened.remove(group);
            }
        }
        self.tell(&mut known);
    }

    /// Has what is open stay so for an agent that starts here in that time.
    pub(super) fn keep_open(&self, hold: Duration) {
        opened::keep(&self.opened_at, &self.known().opened, hold);
    }

    /// Whether a group of that VIP is open here.
    pub(super) fn is_open(&self, vip: &Vip) -> bool {
        let known = self.known();
        vip.groups.iter().any(|group| !known.is_closed(vip, group))
    }

    /// What the node abstains from with that configuration because a check with `effect: leave` fails.
    pub(super) fn leaves(&self, config: &Configuration) -> Abstention {
        let known = self.known();
        let failed = known.any(config, |check, state| {
            state == CheckState::Failing && check.effect == Effect::Leave
        });
        abstention(config, failed)
    }

    /// Whether the farm has agreed on what the node abstains from with that configuration: in its view
    /// it is that.
    pub(super) fn is_agreed(&self, digest: [u8; 16], in_view: Abstention) -> bool {
        let known = self.known();
        let told = known.told.iter().find(|(of, _)| *of == digest);
        told.map_or(Abstention::NONE, |&(_, from)| from) == in_view
    }

    /// What became of the checks of that file, and what else is wrong with its VIPs.
    pub(super) fn statuses(&self, farm: &Farm) -> Vec<CheckStatus> {
        let known = self.known();
        let watched = known.watched_statuses(farm);
        let own = farm.vips.iter().flat_map(|block| &block.addresses);
        watched.into_iter().chain(own.filter_map(|vip| known.vip_status(vip))).collect()
    }

    /// What this node was closed for by hand.
    pub(super) fn closed(&self) -> MutexGuard<'_, Closed> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// What the node abstains from with that configuration.
    fn abstention(&self, config: &Configuration) -> Abstention {
        if self.stops {
            return Abstention::ALL;
        }
        let lacks = |vip: &Vip, lost: &BTreeSet<IpAddr>| {
            vip.addresses.iter().any(|it| it.check && lost.contains(&it.addr))
        };
        let misses = |vip: &Vip| lacks(vip, &self.missing);
        let failed = self.any(config, |_, state| state != CheckState::Passing);
        let from = abstention(config, |vip, group| {
            failed(vip, group)
                || self.is_closed(vip, group)
                || misses(vip)
                || lacks(vip, &self.refused)
        });
        // Who asks for an address that is not here must be answered by another node.
        if config.farm.vips.iter().any(misses) { from.and_from(0) } else { from }
    }

    fn watched_statuses(&self, farm: &Farm) -> Vec<CheckStatus> {
        let status = |(about, check): (About, &Check)| {
            let watched = self.watched.iter().find(|watched| watched.is(&about, check))?;
            Some(CheckStatus {
                about: about.to_string(),
                check: check.probe.to_string(),
                state: watched.tally.state(),
                since_s: watched.since.elapsed().as_secs(),
                effect: Some(check.effect),
                last_error: watched.last_error.clone(),
            })
        };
        farm.all_checks().filter_map(status).collect()
    }

    /// What is wrong with an address, if anything is.
    fn vip_status(&self, vip: &VipAddr) -> Option<CheckStatus> {
        let addr = vip.addr;
        let lost = [
            (&self.missing, "it was taken off this node"),
            (
                &self.refused,
                "the interface did not take it, or lost it again: see `vipfarm events`",
            ),
        ];
        let lost = lost.iter().find(|(lost, _)| vip.check && lost.contains(&addr));
        let (check, effect, since_s, error) = if let Some((_, words)) = lost {
            ("address", Some(Effect::Drain), 0, (*words).to_owned())
        } else {
            let (words, since) = self.claims.of(addr, Instant::now())?;
            ("conflict", None, since.elapsed().as_secs(), words.to_owned())
        };
        Some(CheckStatus {
            about: format!("vip {addr}"),
            check: check.into(),
            state: CheckState::Failing,
            since_s,
            effect,
            last_error: Some(error),
        })
    }

    fn is_closed(&self, vip: &Vip, group: &Group) -> bool {
        vip.open == Open::Manual && !self.opened.contains(&group.name)
    }

    /// Whether that holds for a check of a group, its block or the farm.
    fn any(
        &self,
        config: &Configuration,
        is: impl Fn(&Check, CheckState) -> bool,
    ) -> impl Fn(&Vip, &Group) -> bool {
        let fails = move |about: &About, checks: &[Check]| {
            let found = |check| self.watched.iter().find(|watched| watched.is(about, check));
            let mut watched = checks.iter().filter_map(found);
            watched.any(|watched| is(&watched.check, watched.tally.state()))
        };
        let all = fails(&About::All, &config.farm.checks);
        move |vip, group| {
            all || fails(&About::vip(vip), &vip.checks)
                || fails(&About::Group(group.name.clone()), &group.checks)
        }
    }
}

/// From the groups of which that holds; who serves none need not answer for addresses either.
fn abstention(config: &Configuration, from: impl Fn(&Vip, &Group) -> bool) -> Abstention {
    let groups = || config.kernel_groups();
    let from = |group: &(usize, usize, &Group)| from(&config.farm.vips[group.1], group.2);
    if groups().all(|group| from(&group)) {
        return Abstention::ALL;
    }
    let from = groups().filter(from);
    from.fold(Abstention::NONE, |all, (kernel_group, ..)| all.and_from(kernel_group))
}

impl Watched {
    /// Whether its outcomes are those of another check, of what may be something else. Programs are told
    /// what they are for, and claims are about VIPs.
    fn looks_like(&self, about: &About, check: &Check) -> bool {
        let differs = matches!(check.probe, Probe::Exec(_) | Probe::Unclaimed);
        self.check.probe == check.probe && (self.about == *about || !differs)
    }

    fn is(&self, about: &About, check: &Check) -> bool {
        self.about == *about && self.check == *check
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Looks again and again, until nobody wants to know any more.
async fn watch(
    health: Weak<Health>,
    number: u64,
    (about, check): (About, Check),
    environment: Vec<(&'static str, String)>,
) {
    let environment: Vec<_> = environment.iter().map(|(key, value)| (*key, &**value)).collect();
    let alone = Alone::new();
    let mut looks = time::interval(check.interval);
    // A look that was late does not bring the next ones closer together.
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut looked = Instant::now();
    loop {
        looks.tick().await;
        let since = std::mem::replace(&mut looked, Instant::now());
        let claims = || health.upgrade()?.look_for_claims(&about, since);
        let outcome = probe::look(&check, &environment, &alone, claims).await;
        let Some(health) = health.upgrade() else { return };
        if let Some(outcome) = outcome {
            health.note(number, outcome);
        }
    }
}
