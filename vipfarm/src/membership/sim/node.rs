//! One machine: its agent, its kernel, its socket and its clock.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr},
};

use super::{
    super::{BootTime, Config, Membership, Node, NodeId, Output, Overrides, OwnLink, Timers, View},
    network::{self, Datagram},
    rng::Rng,
};
use crate::{
    agent::share::Share,
    model::{Bitmap, Mac},
};

pub(super) struct SimNode {
    /// `None`: no agent runs.
    pub(super) agent: Option<Membership>,
    /// What that agent accepts, and what it knows of old connections.
    pub(super) share: Share,
    pub(super) kernel: Kernel,
    /// What the runtime has counted for the agent.
    pub(super) count: Count,
    /// A view was installed, and the agent has not heard yet what the others say in it.
    pub(super) installed: bool,
    pub(super) socket: VecDeque<(IpAddr, Datagram)>,
    /// What the agent was frozen in the middle of.
    pub(super) unfinished: VecDeque<Output>,
    pub(super) frozen_until: u64,
    pub(super) restart_at: Option<u64>,
    /// When the agent's next turn is.
    pub(super) turn_at: u64,
    /// Its clock differs from others', and runs up to a percent fast or slow.
    clock_offset: u64,
    clock_permille: u64,
    /// The digest of the file that the next agent will read.
    pub(super) file: u8,
    /// What the next agent will find of the powers: the persistent ones of the last view here.
    pub(super) disk: Overrides,
}

/// A look for connections of what lingers: after which step, and what lingered.
#[derive(Clone, Copy, Default)]
pub(super) enum Count {
    #[default]
    None,
    /// What there is to look for is known.
    Begun(u64, u64),
    /// The agent is to keep only those.
    Done(u64, u64),
}

pub(super) struct Kernel {
    pub(super) accept: u64,
    /// The buckets of which it looks for a socket.
    pub(super) moving: u64,
    /// On the node's own clock.
    pub(super) lease: BootTime,
}

impl Kernel {
    pub(super) const FENCED: Self = Self { accept: 0, moving: 0, lease: BootTime::ZERO };
}

impl SimNode {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            agent: None,
            share: Share::of(vec![true]),
            kernel: Kernel::FENCED,
            count: Count::None,
            installed: false,
            socket: VecDeque::new(),
            unfinished: VecDeque::new(),
            frozen_until: 0,
            restart_at: Some(rng.below(500_000_000)),
            turn_at: u64::MAX,
            clock_offset: rng.below(1 << 50),
            clock_permille: 990 + rng.below(21),
            file: 0,
            disk: Overrides::default(),
        }
    }

    /// What the runtime does when a view with those powers has come into force.
    pub(super) fn keep(&mut self, powers: &Overrides) {
        let persistent = powers.entries().iter().filter(|entry| entry.life.is_none()).copied();
        let pins = powers.stays().iter().filter(|stay| stay.life.is_none()).copied();
        let disk = Overrides::new(powers.version(), persistent).and_then(|disk| disk.and(pins));
        self.disk = disk.expect("fewer than there were");
    }

    /// The agent, if it runs: a frozen one takes no command.
    pub(super) fn listening(&mut self, now: u64) -> Option<&mut Membership> {
        self.agent.as_mut().filter(|_| self.frozen_until <= now)
    }

    /// The node's clock at that time.
    pub(super) fn clock(&self, now: u64) -> BootTime {
        BootTime::from_nanos(self.clock_offset + now / 1000 * self.clock_permille)
    }

    /// When the node's clock will show that.
    pub(super) fn time_of(&self, clock: BootTime) -> u64 {
        clock.as_nanos().saturating_sub(self.clock_offset).div_ceil(self.clock_permille) * 1000
    }

    /// Brings the kernel to what the agent wants.
    pub(super) fn apply(&mut self) {
        (self.kernel.accept, self.kernel.moving) =
            (word(self.share.accept()), word(&self.share.moving()));
    }

    /// Has the next heartbeat say what lingers.
    pub(super) fn tell(&mut self, now: u64) {
        let clock = self.clock(now);
        if let Some(agent) = &mut self.agent {
            agent.publish_lingering(clock, self.share.told());
        }
    }

    /// Whether its agent says that it cannot serve, or there is none.
    pub(super) fn is_barred(&self) -> bool {
        self.agent.as_ref().is_none_or(|agent| !agent.is_fit() || agent.held_back_by.is_some())
    }

    pub(super) fn is_leased(&self, now: u64) -> bool {
        self.clock(now) < self.kernel.lease
    }

    pub(super) fn accepting(&self, now: u64, without_lease: bool) -> u64 {
        let armed = self.kernel.lease != BootTime::ZERO;
        let leased = armed && (without_lease || self.clock(now) < self.kernel.lease);
        if leased { self.kernel.accept } else { 0 }
    }

    pub(super) fn describe(&self) -> String {
        let Some(agent) = &self.agent else { return "no agent".into() };
        let installed = agent.installed.as_ref().map(|installed| brief(&installed.view()));
        format!(
            "{:?} {:?} hears {:?} linked {:?} digest {} staged {:?} installed {} promised {} ready {:?} held back by {:?}",
            agent.state(),
            agent.flags(),
            agent.hears,
            agent.linked,
            agent.digest[0],
            agent.staged.map(|staged| staged[0]),
            installed.unwrap_or_default(),
            brief(&agent.promised_view()),
            agent.ready,
            agent.held_back_by
        )
    }
}

/// A view in few words.
pub(super) fn brief(view: &View) -> String {
    format!(
        "{}.{} {:?} idle {:?} powers {:?} digest {}",
        view.epoch,
        view.coordinator.index(),
        view.alive,
        view.idle,
        view.powers,
        view.digest[0]
    )
}

/// An output in few words.
pub(super) fn describe(output: &Output) -> String {
    match output {
        Output::Release(view) => format!("releases by {}", brief(view)),
        Output::Acquire(view) => format!("acquires by {}", brief(view)),
        Output::Event(event) => event.to_string(),
        other => format!("{other:?}"),
    }
}

/// The 64 buckets of the only group.
pub(super) fn word(groups: &[Bitmap]) -> u64 {
    groups[0].0[0]
}

pub(super) fn bitmap(word: u64) -> Bitmap {
    Bitmap([word, 0, 0, 0])
}

/// The buckets that `node` owns in that view.
pub(in crate::membership) fn own(view: &View, node: usize) -> Bitmap {
    let mut salt = DefaultHasher::new();
    (view.digest, &view.powers).hash(&mut salt);
    let has_power = |node: &NodeId| view.powers.power(0, *node) != Some(0);
    let serves = |node: &NodeId| has_power(node) && !view.abstains(*node, 0);
    let owners: Vec<_> = view.owners().iter().filter(serves).map(NodeId::index).collect();
    let table = network::table(&owners, salt.finish());
    let is_own = |&bucket: &usize| table[bucket] == Some(node);
    bitmap((0..64).filter(is_own).fold(0, |own, bucket| own | 1 << bucket))
}

pub(super) fn config(
    own: usize,
    count: usize,
    timers: Timers,
    file: u8,
    overrides: &Overrides,
) -> Config {
    let node = |node| Node { name: format!("node{node}"), addresses: vec![address(node)] };
    Config {
        farm: "sim".into(),
        own: NodeId::new(own).expect("a small farm"),
        nodes: (0..count).map(node).collect(),
        timers,
        keys: vec![[1; 32]],
        digest: [file; 16],
        links: vec![OwnLink { mac: Mac([2, 0, 0, 0, 0, octet(own)]), has_vips: true }],
        overrides: overrides.clone(),
    }
}

pub(super) fn address(node: usize) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 1 + octet(node)).into()
}

fn octet(node: usize) -> u8 {
    u8::try_from(node).expect("a small farm")
}
