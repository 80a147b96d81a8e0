//! The events: what is done to a farm of three nodes while its clients talk.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Bench,
    figures::EventFigures,
    traffic::{LONG, PUSHED, SHORT, Traffic},
};
use crate::{
    farm::{Farm, PATIENCE},
    host::INTERFACE,
    lab::{Lab, PREFIX, PREFIX_V6, Topology, VIP, VIP_V6},
    process::Signal,
};

const NODES: [usize; 3] = [1, 2, 3];
const CLIENTS: u8 = 2;
const CLIENT_ADDRESSES: u8 = 40;

/// The group of the farms' only VIP.
const GROUP: &str = "all";

/// Talk that is watched after an event.
const AFTERMATH: Duration = Duration::from_secs(4);

/// How the farm is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    /// Nodes answer with their own MACs, and hand over what is not theirs.
    pub(super) directed: bool,
    /// The filter is in the network stack, and not in the driver.
    pub(super) generic: bool,
}

impl Setting {
    pub(super) const ALL: [Self; 4] = [
        Self { directed: false, generic: false },
        Self { directed: true, generic: false },
        Self { directed: false, generic: true },
        Self { directed: true, generic: true },
    ];

    /// The word in tables and JSON.
    pub(super) fn mode(self) -> &'static str {
        if self.directed { "directed" } else { "invisible" }
    }

    /// Likewise.
    pub(super) fn xdp(self) -> &'static str {
        if self.generic { "generic" } else { "native" }
    }

    fn yaml(self) -> String {
        format!(
            "vips:
  - interface: {INTERFACE}
    mode: vmac_{mode}
    addresses: [{VIP}/{PREFIX}, '{VIP_V6}/{PREFIX_V6}']
    groups:
      - name: {GROUP}
        powers: {POWERS}
        rules:
          - {{ port: {LONG}, proto: tcp, filter: on_port }}
          - {{ port: {PUSHED}, proto: tcp, filter: on_port }}
          - {{ port: {SHORT}, proto: tcp, filter: on_port }}
          - {{ port: 7000, proto: udp, filter: {FILTER} }}
",
            mode = self.mode(),
        )
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9} {:7}", self.mode(), self.xdp())
    }
}

/// What the file says before and after its change.
const POWERS: &str = "{ node1: 1, node2: 1, node3: 1 }";
const OTHER_POWERS: &str = "{ node1: 2, node2: 5, node3: 1 }";
const FILTER: &str = "on_port";
const OTHER_FILTER: &str = "on_addr";

/// Something that is done to a farm. Another one is a name, what happens, and, if it begins with
/// fewer nodes or kills one, that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A node comes.
    Join,
    /// A node is told to stop, and waits for its connections.
    Leave,
    /// The operator takes a node's load away.
    Drain,
    /// A node's power goes from 1 to 0, to 3 and to 1.
    Power,
    /// Ten changes of power in a row.
    RandomPowers,
    /// The file changes: the powers, and a rule that the connections are not of.
    Reload,
    /// A node dies that still serves connections of buckets it gave away.
    DeathOfALingering,
    /// Buckets move twice before the connections of their first owner have ended.
    MoveTwice,
    /// Buckets come back to their first owner.
    Return,
    /// Each node's agent ends and is started again, and its kernel serves meanwhile.
    Restart,
    /// Each node's agent is replaced in place.
    Upgrade,
}

impl Event {
    pub(super) const ALL: [Self; 11] = [
        Self::Join,
        Self::Leave,
        Self::Drain,
        Self::Power,
        Self::RandomPowers,
        Self::Reload,
        Self::DeathOfALingering,
        Self::MoveTwice,
        Self::Return,
        Self::Restart,
        Self::Upgrade,
    ];

    /// The word in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Drain => "drain",
            Self::Power => "power",
            Self::RandomPowers => "random_powers",
            Self::Reload => "reload",
            Self::DeathOfALingering => "death_of_a_lingering",
            Self::MoveTwice => "move_twice",
            Self::Return => "return",
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
        }
    }

    /// The nodes that run before it.
    fn begins_with(self) -> &'static [usize] {
        if self == Self::Join { &NODES[..2] } else { &NODES }
    }

    /// The node that dies in it, whose connections end.
    pub(super) fn kills(self) -> Option<usize> {
        (self == Self::DeathOfALingering).then_some(3)
    }

    fn happen(self, stage: &mut Stage<'_>) -> Result<()> {
        match self {
            Self::Join => {
                stage.start(3)?;
                stage.agree(&NODES)
            }
            Self::Leave => {
                stage.farm.agent(3)?.signal(Signal::SIGTERM)?;
                stage.until(|farm| {
                    let status = farm.status(1)?;
                    ensure!(status.groups[0].load["node3"] == 0, "node3 still serves new clients");
                    Ok(())
                })
            }
            Self::Drain => stage.ask(2, &["drain", "node3"]),
            Self::Power => [0, 3, 1].into_iter().try_for_each(|power| stage.power(3, power)),
            Self::RandomPowers => (1..=10).try_for_each(|turn| {
                let drawn = random(turn);
                stage.power(1 + drawn % NODES.len(), drawn / NODES.len() % 10)
            }),
            Self::Reload => stage.reload(|text| {
                let changed = format!("proto: udp, filter: {OTHER_FILTER}");
                text.replace(POWERS, OTHER_POWERS)
                    .replace(&format!("proto: udp, filter: {FILTER}"), &changed)
            }),
            Self::DeathOfALingering => {
                stage.power(3, 5)?;
                stage.power(3, 1)?;
                stage.lab.node(3).cut()?;
                stage.farm.kill(3)?;
                stage.agree(&NODES[..2])?;
                stage.bench.interrupt.sleep(AFTERMATH)
            }
            Self::MoveTwice => {
                stage.ask(1, &["drain", "node3"])?;
                stage.ask(1, &["drain", "node2"])
            }
            Self::Return => {
                stage.ask(1, &["drain", "node3"])?;
                stage.ask(1, &["undrain", "node3"])
            }
            Self::Restart => NODES.into_iter().try_for_each(|node| stage.restart(node)),
            Self::Upgrade => NODES.into_iter().try_for_each(|node| {
                stage.ask(node, &["upgrade"])?;
                stage.agree(&NODES)
            }),
        }
    }
}

/// The same numbers in each run, in no order.
fn random(turn: usize) -> usize {
    turn.wrapping_mul(0x9e37_79b9) >> 7
}

/// One event on a farm of its own: what became of the connections of each family.
pub(super) fn measure(
    bench: &Bench<'_>,
    setting: Setting,
    event: Event,
) -> Result<Vec<EventFigures>> {
    let topology =
        Topology { client_addresses: CLIENT_ADDRESSES, ipv6: true, ..Topology::new(3, CLIENTS) };
    let lab = Lab::new("handover", &topology)?;
    if setting.directed {
        lab.carry_handed_on_frames(&bench.object)?;
    }
    let farm = Farm::new(&lab, bench.program(), "bench", &setting.yaml())?;
    let mut stage = Stage { bench, lab: &lab, farm, setting };
    for &node in event.begins_with() {
        stage.start(node)?;
    }
    stage.agree(event.begins_with())?;
    let traffic = Traffic::start(bench, &lab)?;
    event.happen(&mut stage)?;
    bench.interrupt.sleep(AFTERMATH)?;
    let dead = event.kills().map(|node| node - 1);
    let fates = traffic.stop(bench)?;
    Ok(fates.into_iter().map(|fates| EventFigures::of(setting, event, &fates, dead)).collect())
}

/// The farm, and what is done to it.
struct Stage<'a> {
    bench: &'a Bench<'a>,
    lab: &'a Lab,
    farm: Farm<'a>,
    setting: Setting,
}

impl Stage<'_> {
    fn start(&mut self, node: usize) -> Result<()> {
        self.farm.start_node(node, if self.setting.generic { &["--generic"] } else { &[] })
    }

    /// Ends a node's agent, and starts it again when it has gone.
    fn restart(&mut self, node: usize) -> Result<()> {
        self.ask(node, &["upgrade", "--exit"])?;
        let ended = self.farm.agent(node)?.wait_timeout(PATIENCE)?;
        ensure!(ended.success(), "the agent of node{node} ended: {ended}");
        self.start(node)?;
        self.agree(&NODES)
    }

    fn agree(&mut self, nodes: &[usize]) -> Result<()> {
        let interrupt = self.bench.interrupt;
        self.farm.wait_converged_or(nodes, |pause| interrupt.sleep(pause)).map(drop)
    }

    /// Asks a node's agent as the operator does: returns when it is so.
    fn ask(&self, node: usize, arguments: &[&str]) -> Result<()> {
        self.bench.interrupt.sleep(Duration::ZERO)?;
        self.farm.ask(node, arguments).map(drop)
    }

    fn power(&self, node: usize, power: usize) -> Result<()> {
        self.ask(1, &["power", GROUP, &format!("{}={power}", self.lab.node(node).name())])
    }

    /// Changes the file, and has all nodes take it over.
    fn reload(&mut self, edit: impl Fn(&str) -> String) -> Result<()> {
        let before = self.farm.status(1)?.configuration;
        self.farm.edit(edit)?;
        for node in NODES {
            self.farm.agent(node)?.signal(Signal::SIGHUP)?;
        }
        self.until(|farm| {
            let status = farm.status(1)?;
            ensure!(status.configuration != before, "the old file is still in force");
            farm.check_agreement(&NODES)
        })
    }

    fn until(&self, look: impl Fn(&Farm<'_>) -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        while let Err(missing) = look(&self.farm) {
            self.bench.interrupt.sleep(Duration::from_millis(20))?;
            ensure!(begin.elapsed() < PATIENCE, "still not after {PATIENCE:?}: {missing:#}");
        }
        Ok(())
    }
}
