//! Failover VIPs: has the address on the interface of the node that holds it, and on no other, tells
//! the network whose MAC it has now, and remembers who holds it where that matters.
//!
//! The kernel's filter decides who answers: what this does late, or not at all, lets nobody answer
//! twice. Never on the heartbeat thread.

mod giving;
mod herald;
mod staying;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use self::{
    giving::{Giver, Going, Gone},
    herald::Herald,
    staying::Staying,
};
use super::{
    announce::Announcing,
    bring_up::Up,
    command::{Command, Commander},
    configurations::{Configuration, Configurations, vips_of},
    engine::{Latest, Snapshot},
    health::Health,
    history::{History, Level},
    site,
};
use crate::{
    model::{Group, NodeId, NodeSet, View, Vip, VipId, VlanTags},
    net::{Interface, Network},
    plan::HeldVip,
    status::NodeState,
};

/// How often to look for a view whose report was lost, and whether a better node has waited enough.
const ROUND: Duration = Duration::from_millis(250);

/// How long an agent may serve nothing and keep its addresses: its connections go on if it is in the
/// farm again soon.
const GRACE: Duration = Duration::from_secs(3);

/// How long a node that could not add an address, or keep it, leaves the VIP to others.
const REST: Duration = Duration::from_mins(1);

/// How often to look whether the addresses are still there, although no change was announced.
const LOOK: Duration = Duration::from_secs(5);

/// Within what time an address that is removed once more will not stay.
const AGAIN: Duration = Duration::from_secs(10);

/// An address on one of the agent's interfaces.
type Key = (usize, VlanTags, IpAddr);

/// What the runtime's parts tell each other of failover VIPs.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// Another view is in force.
    pub(super) installed: Notify,
    since: Mutex<BTreeMap<VipId, (Option<NodeId>, Instant)>>,
}

impl Holding {
    /// For how long that node has had the VIP, as seen here.
    pub(super) fn since(&self, vip: VipId) -> Option<Duration> {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get(&vip).map(|(_, since)| since.elapsed())
    }

    fn note(&self, vip: VipId, holder: Option<NodeId>) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.get(&vip).is_none_or(|(before, _)| *before != holder) {
            since.insert(vip, (holder, Instant::now()));
        }
    }
}

/// Moves the addresses.
pub(super) struct Mover {
    own: NodeId,
    network: Network,
    interfaces: Vec<Interface>,
    configurations: Configurations,
    latest: Latest,
    commander: Commander,
    history: Arc<History>,
    herald: Arc<Herald>,
    /// Shared with whoever reports.
    pub(super) holding: Arc<Holding>,
    /// Whether the interface has the address; a former agent may have left those that are missing here.
    present: BTreeMap<Key, bool>,
    giver: Arc<Giver>,
    /// Those that are being given up, and who does so.
    giving: Option<(BTreeSet<Key>, JoinHandle<Vec<Gone>>)>,
    staying: Staying,
    /// The addresses that could not be added or did not stay, and when.
    refused: BTreeMap<IpAddr, Instant>,
    /// Those that somebody else has removed, and when.
    removed: BTreeMap<IpAddr, Instant>,
    /// What was last told of each address that was not moved.
    told: BTreeMap<IpAddr, String>,
    health: Arc<Health>,
    /// The epoch of the view before, and who was alive in it.
    before: (u64, NodeSet),
    idle_since: Option<Instant>,
    /// When the addresses were last looked for; `None`: they may have changed since.
    looked: Option<Instant>,
}

/// A failover VIP on its interface.
struct Held {
    interface: Interface,
    vip: HeldVip,
}

/// A failover VIP block as a view has it.
struct Block<'c> {
    vip: &'c Vip,
    group: &'c Group,
    /// Its group's number in the kernel, and the place of its interface.
    number: usize,
    place: usize,
    /// Who has it.
    holder: Option<NodeId>,
}

impl Mover {
    /// One for what was brought up.
    pub(super) fn new(
        up: &Up,
        latest: Latest,
        commander: Commander,
        history: Arc<History>,
        health: Arc<Health>,
        announcing: Arc<Announcing>,
    ) -> anyhow::Result<Self> {
        let giver = Giver {
            own: up.own,
            latest: latest.clone(),
            configurations: up.configurations.clone(),
            network: up.network.clone(),
            history: Arc::clone(&history),
        };
        Ok(Self {
            own: up.own,
            network: up.network.clone(),
            interfaces: up.interfaces.clone(),
            configurations: up.configurations.clone(),
            herald: Arc::new(Herald::new(
                up.own,
                up.configurations.clone(),
                latest.clone(),
                Arc::clone(&history),
                announcing,
            )?),
            latest,
            commander,
            history,
            holding: Arc::default(),
            present: BTreeMap::new(),
            giver: Arc::new(giver),
            giving: None,
            staying: Staying::default(),
            refused: BTreeMap::new(),
            removed: BTreeMap::new(),
            told: BTreeMap::new(),
            health,
            before: (0, NodeSet::EMPTY),
            idle_since: None,
            looked: Some(Instant::now()),
        })
    }

    /// Does so for as long as it is awaited.
    pub(super) async fn follow(mut self) -> Infallible {
        let holding = Arc::clone(&self.holding);
        // Without announcements there are the looks now and then.
        let none = |_error| stream::pending().boxed();
        let mut announced = Network::changes().map_or_else(none, StreamExt::boxed);
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = holding.installed.notified() => {}
                _ = round.tick() => {}
                Some(()) = announced.next() => {
                    while let Some(Some(())) = announced.next().now_or_never() {}
                    self.looked = None;
                }
                gone = ended(&mut self.giving) => {
                    if !self.note(gone) {
                        continue; // To be tried again, but not at once.
                    }
                }
            }
            let snapshot = self.latest.get();
            let config = self.configurations.get(snapshot.digest);
            let blocks: Vec<_> = blocks(&config, &snapshot).collect();
            self.forget_others(&blocks);
            if snapshot.state == NodeState::Up {
                self.idle_since = None;
                // Else the tables may be another configuration's than the view.
                if snapshot.converged {
                    self.look_after(&config, &snapshot, &blocks).await;
                    self.follow_view(&snapshot, &blocks).await;
                    self.stay(&config, &snapshot, &blocks);
                }
            } else if self.idle_since.get_or_insert_with(Instant::now).elapsed() > GRACE {
                self.give_up(blocks.iter());
            }
        }
    }

    /// Has the addresses where the view says.
    async fn follow_view(&mut self, snapshot: &Snapshot, blocks: &[Block<'_>]) {
        let (epoch, alive) = (snapshot.view.epoch, snapshot.view.alive);
        let before = std::mem::replace(&mut self.before, (epoch, alive));
        // Somebody who has come may have believed another node meanwhile, and so may its clients; and
        // of a view that was without this node, the holder was another.
        let unsure = !alive.is_subset(before.1) || epoch > before.0 + 1;
        let mut told = Vec::new();
        for block in blocks {
            self.holding.note(VipId::of(&block.group.name), block.holder);
            if block.holder == Some(self.own) && (self.gain(block).await || unsure) {
                let interface = &self.interfaces[block.place];
                let held = |vip| Held { interface: interface.clone(), vip };
                told.extend(vips_of(block.vip).map(held));
            }
        }
        if !told.is_empty() {
            tokio::spawn(Arc::clone(&self.herald).tell_all(told));
        }
        self.abstain();
        // Nobody waits for that.
        let own = self.own;
        self.give_up(blocks.iter().filter(|block| block.holder.is_some_and(|it| it != own)));
    }

    /// Keeps nothing of addresses that are no failover VIPs any more.
    fn forget_others(&mut self, blocks: &[Block<'_>]) {
        let is_one = |&(place, tags, addr): &Key| {
            let mut here = blocks.iter().filter(|block| block.place == place);
            here.any(|block| vips_of(block.vip).any(|it| (it.tags, it.addr) == (tags, addr)))
        };
        self.present.retain(|key, _| is_one(key));
    }

    /// Notices what somebody else has removed: it is added again, and if it does not stay, it is others'
    /// for a while, if there are any.
    async fn look_after(
        &mut self,
        config: &Configuration,
        snapshot: &Snapshot,
        blocks: &[Block<'_>],
    ) {
        let is_due = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK);
        if !is_due {
            return;
        }
        let was_told = self.looked.replace(Instant::now()).is_none();
        let Ok(found) = Network::interfaces().await else { return };
        let others = View::clone(&snapshot.view).without(self.own);
        for block in blocks {
            let placement = config.ports[block.place].placement();
            let is_others = block.vip.check && placement.holder(block.number, &others).is_some();
            let is_here = |vip: &HeldVip| {
                let holder = site::holder(&self.interfaces[block.place], vip.tags, &found);
                let now =
                    found.iter().find(|it| holder.is_some_and(|holder| holder.index == it.index));
                now.is_some_and(|it| it.addresses.iter().any(|net| net.addr() == vip.addr))
            };
            for vip in vips_of(block.vip).filter(|vip| !is_here(vip)).collect::<Vec<_>>() {
                let key = (block.place, vip.tags, vip.addr);
                if self.present.get(&key) != Some(&true) || self.is_going(&key) {
                    continue;
                }
                let before = self.removed.get(&vip.addr);
                let again = before.is_some_and(|before| before.elapsed() < AGAIN);
                if again && was_told && !is_others {
                    continue; // Nobody else may take it: not for ever at full speed.
                }
                self.present.remove(&key);
                self.removed.insert(vip.addr, Instant::now());
                let then = if again && is_others {
                    self.refused.insert(vip.addr, Instant::now());
                    "again: it is for other nodes to have it"
                } else {
                    "from this node: it is added again"
                };
                let message = format!("somebody has removed {} {then}", vip.addr);
                self.history.push(Level::Warn, "vip_not_moved", message);
            }
        }
    }

    /// Adds the block's addresses where they are not there yet: whether there were any such.
    async fn gain(&mut self, block: &Block<'_>) -> bool {
        let mut gained = false;
        for vip in vips_of(block.vip) {
            let key = (block.place, vip.tags, vip.addr);
            // What comes back while it is being given up is added when that is over.
            if self.present.get(&key) == Some(&true) || self.is_going(&key) {
                continue;
            }
            match self.add(block, vip).await {
                Ok(()) => {
                    self.present.insert(key, true);
                    self.told.remove(&vip.addr);
                    gained = true;
                    self.inform("vip_taken", format!("this node has {} now", vip.addr));
                }
                Err(error) => {
                    self.warn(vip.addr, format!("{} cannot be added: {error:#}", vip.addr));
                    if block.vip.check {
                        self.refused.insert(vip.addr, Instant::now());
                    }
                }
            }
        }
        gained
    }

    /// Has other nodes take the VIPs that this one could not add or keep, for a while.
    fn abstain(&mut self) {
        self.refused.retain(|_, at| at.elapsed() < REST);
        self.health.note_refused(self.refused.keys().copied().collect());
    }

    async fn add(&self, block: &Block<'_>, vip: HeldVip) -> anyhow::Result<()> {
        let interface = &self.interfaces[block.place];
        if let Some(holder) = plain(interface, vip) {
            return Ok(self.network.add_vip(holder, vip.addr).await?);
        }
        let present = Network::interfaces().await?;
        super::bring_up::receive_vip(&self.network, vip, interface, &present).await
    }

    /// Begins to end the connections of the blocks' addresses, if the file has that done, and to remove them;
    /// at most once at a time.
    fn give_up<'b>(&mut self, blocks: impl Iterator<Item = &'b Block<'b>>) {
        if self.giving.is_some() {
            return;
        }
        let mut going = Vec::new();
        for (block, vip) in blocks.flat_map(|block| vips_of(block.vip).map(move |it| (block, it))) {
            let key = (block.place, vip.tags, vip.addr);
            let before = self.present.get(&key).copied();
            if before == Some(false) {
                continue;
            }
            let stays = |(other, has): (&Key, &bool)| *has && *other != key && other.2 == vip.addr;
            going.push(Going {
                key,
                vip,
                interface: self.interfaces[block.place].clone(),
                // Of a twin in another VLAN the connections look the same.
                reset: block.vip.tcp_reset && !self.present.iter().any(stays),
                had: before == Some(true),
            });
        }
        if !going.is_empty() {
            let keys = going.iter().map(|it| it.key).collect();
            self.giving = Some((keys, tokio::spawn(Arc::clone(&self.giver).give_up(going))));
        }
    }

    fn is_going(&self, key: &Key) -> bool {
        self.giving.as_ref().is_some_and(|(keys, _)| keys.contains(key))
    }

    /// Takes note of what was given up: whether all was.
    fn note(&mut self, gone: Vec<Gone>) -> bool {
        let mut all = true;
        for Gone { key, removed, left } in gone {
            let vip = key.2;
            if let Some(error) = left {
                self.warn(vip, format!("open connections of {vip} were not reset: {error}"));
            }
            match removed {
                Ok(true) => {
                    self.present.insert(key, false);
                    self.told.remove(&vip);
                }
                Ok(false) => {}
                Err(error) => {
                    all = false;
                    self.warn(vip, format!("{vip} cannot be removed: {error:#}"));
                }
            }
        }
        all
    }

    /// Has the farm remember what this node holds, where that matters.
    fn stay(&mut self, config: &Configuration, snapshot: &Snapshot, blocks: &[Block<'_>]) {
        let (mut held, mut wanted) = (BTreeSet::new(), BTreeSet::new());
        for block in blocks.iter().filter(|block| block.holder == Some(self.own)) {
            let placement = config.ports[block.place].placement();
            let Some(floating) = placement.floating(block.number) else { continue };
            held.insert(floating.id());
            let favourite = || placement.favourite(block.number, &snapshot.view);
            if self.staying.stays(floating, self.own, favourite, Instant::now()) {
                wanted.insert(floating.id());
            }
        }
        self.staying.forget_others(&held);
        if wanted != staying::of(&snapshot.view.powers, self.own) {
            // After the thread's end there is nothing to remember.
            let _ended = self.commander.send(Command::Stay(wanted.into_iter().collect()));
        }
    }

    fn inform(&self, kind: &str, message: String) {
        self.history.push(Level::Info, kind, message);
    }

    /// Once, although it is tried again and again.
    fn warn(&mut self, vip: IpAddr, message: String) {
        if self.told.get(&vip) != Some(&message) {
            self.history.push(Level::Warn, "vip_not_moved", message.clone());
            self.told.insert(vip, message);
        }
    }
}

/// The interface itself, if the VIP is in no VLAN.
fn plain(interface: &Interface, vip: HeldVip) -> Option<&Interface> {
    (vip.tags == VlanTags::default()).then_some(interface)
}

/// What became of what is being given up, when that has ended.
async fn ended(giving: &mut Option<(BTreeSet<Key>, JoinHandle<Vec<Gone>>)>) -> Vec<Gone> {
    let Some((_, work)) = giving else { return future::pending().await };
    let gone = work.await;
    *giving = None;
    gone.unwrap_or_default()
}

/// The failover blocks of a configuration, and who has them.
fn blocks<'c>(
    config: &'c Configuration,
    snapshot: &'c Snapshot,
) -> impl Iterator<Item = Block<'c>> {
    floating(config).map(|(number, block, group)| {
        let (vip, place) = (&config.farm.vips[block], config.interface_of[block]);
        Block { vip, group, number, place, holder: holder(config, snapshot, number, place) }
    })
}

/// Who has that failover VIP; `None` if nobody has, or it is none.
fn holder_of(config: &Configuration, snapshot: &Snapshot, vip: &HeldVip) -> Option<NodeId> {
    let has = |block: usize| vips_of(&config.farm.vips[block]).any(|it| it == *vip);
    let (number, block, _) = floating(config).find(|&(_, block, _)| has(block))?;
    holder(config, snapshot, number, config.interface_of[block])
}

/// The failover VIPs that other nodes have.
pub(super) fn held_elsewhere(
    config: &Configuration,
    snapshot: &Snapshot,
    own: NodeId,
) -> BTreeSet<IpAddr> {
    let others = blocks(config, snapshot).filter(|block| block.holder.is_some_and(|it| it != own));
    others.flat_map(|block| block.vip.addresses.iter().map(|vip| vip.addr)).collect()
}

fn floating(config: &Configuration) -> impl Iterator<Item = (usize, usize, &Group)> {
    config.kernel_groups().filter(|(_, _, group)| group.failover.is_some())
}

fn holder(
    config: &Configuration,
    snapshot: &Snapshot,
    number: usize,
    place: usize,
) -> Option<NodeId> {
    let holder = config.ports[place].placement().holder(number, &snapshot.view);
    holder.map(|holder| holder.node)
}
