//! What the control socket tells: the snapshot of the heartbeat thread, the kernel's counters and
//! the history, in the words of [`crate::status`].

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use vipfarm_common::Reason;

use super::{
    bring_up::Up,
    command::{Command, Commander},
    conflicts::{self, Conflicts},
    control::Source,
    engine::{Latest, Report, Snapshot},
    explain::Viewpoint,
    history::{History, Level},
    ports::Port,
    realtime,
};
use crate::{
    config::keys::Keys,
    datapath::{self, Counters, Datapath, XdpMode},
    model::{BUCKETS, Farm, Group, MAX_POWER, Mac, NodeId, Open, Rule, TooManyOverrides},
    status::{
        EventRecord, ExplainQuery, Explanation, GroupStatus, NodeState, NodeStatus, PowerReply,
        PowerRequest, RuleStatus, Status, VipStatus,
    },
};

/// One interface as the reporter knows it.
struct Watched {
    interface: String,
    mode: XdpMode,
    /// The tables' structure; what it accepts is in the snapshot.
    port: Port,
    counters: Counters,
    conflicts: Conflicts,
}

/// Answers for the agent.
pub struct Reporter {
    /// The configuration.
    pub farm: Farm,
    own: NodeId,
    own_mac: Mac,
    hash_key: [u8; 16],
    watched: Vec<Watched>,
    /// For each VIP block of the file, its place in `watched`.
    interface_of: Vec<usize>,
    latest: Latest,
    history: Arc<History>,
    /// Asks the heartbeat thread.
    commander: Commander,
    started: Instant,
}

impl Reporter {
    /// A reporter on what was brought up.
    pub fn new(
        farm: Farm,
        keys: &Keys,
        up: &mut Up,
        latest: Latest,
        history: Arc<History>,
        commander: Commander,
    ) -> Result<Self, datapath::Error> {
        let watch = |(port, datapath): (&Port, &mut Datapath)| {
            Ok::<_, datapath::Error>(Watched {
                interface: datapath.interface().to_owned(),
                mode: datapath.xdp_mode(),
                port: port.clone(),
                counters: datapath.take_counters()?,
                conflicts: Conflicts::default(),
            })
        };
        Ok(Self {
            own: up.own,
            own_mac: up.mac,
            hash_key: keys.bucket_key(),
            watched: up.ports.iter().zip(&mut up.datapaths).map(watch).collect::<Result<_, _>>()?,
            interface_of: up.interface_of.clone(),
            latest,
            history,
            commander,
            started: Instant::now(),
            farm,
        })
    }

    /// Writes a report of the heartbeat thread into the history.
    pub fn note(&self, report: Report) {
        match report {
            Report::Membership(event) => {
                self.history.push(event.level(), event.kind(), event.to_string());
            }
            Report::Load(view) => {
                for (kernel_group, vip, group) in self.kernel_groups() {
                    let port = &self.watched[self.interface_of[vip]].port;
                    let load = port.table(kernel_group, &view).load(self.own);
                    let message = format!("farm load: {load}/{BUCKETS} (group {})", group.name);
                    self.history.push(Level::Info, "farm_load", message);
                }
            }
            Report::Kernel(error) => self.history.push(Level::Warn, "kernel_refused", error),
            Report::NotRealTime(error) => self.history.push(
                Level::Warn,
                "not_real_time",
                format!("no real-time scheduling ({error}): under load this node may fence itself; grant CAP_SYS_NICE, or choose the relaxed membership profile"),
            ),
            Report::NotLocked(error) => self.history.push(
                Level::Warn,
                "memory_not_locked",
                format!("memory is not locked ({error}): under memory pressure this node may fence itself; grant CAP_IPC_LOCK"),
            ),
        }
    }

    /// Writes good news into the history.
    pub fn info(&self, kind: &str, message: String) {
        self.history.push(Level::Info, kind, message);
    }

    /// Writes a warning into the history.
    pub fn warn(&self, kind: &str, message: String) {
        self.history.push(Level::Warn, kind, message);
    }

    /// Tells of strangers and other farms that have claimed a VIP or its MAC since the last time.
    pub fn note_conflicts(&self) {
        let snapshot = self.latest.get();
        if snapshot.state == NodeState::Joining {
            return; // The members' MACs may not be known yet.
        }
        let is_member =
            |mac| mac == self.own_mac || snapshot.peers.iter().any(|peer| peer.mac == Some(mac));
        for Watched { counters, conflicts, port, .. } in &self.watched {
            let (Ok(packets), Ok(Some(claim))) = (counters.packets(), counters.claim()) else {
                continue;
            };
            let (count, stranger) = (packets[&Reason::ArpConflict], !is_member(Mac(claim.mac)));
            if let Some(count) = conflicts.untold(Instant::now(), count, stranger) {
                let message = conflicts::words(claim, port.plan().services.vip(claim.vip), count);
                self.history.push(Level::Warn, "address_conflict", message);
            }
        }
    }

    /// Whether this node is the one that asks whether somebody else has the farm's VIPs.
    pub fn probes(&self) -> bool {
        let snapshot = self.latest.get();
        let first = snapshot.view.owners().iter().next();
        snapshot.state == NodeState::Up && first == Some(self.own)
    }

    /// The groups with their kernel numbers and their blocks. Numbered in the order of the file
    /// from 1 on; 0 is the built-in group.
    fn kernel_groups(&self) -> impl Iterator<Item = (usize, usize, &Group)> {
        let blocks = self.farm.vips.iter().enumerate();
        let groups = blocks.flat_map(|(vip, block)| block.groups.iter().map(move |g| (vip, g)));
        (1..).zip(groups).map(|(kernel_group, (vip, group))| (kernel_group, vip, group))
    }
}

impl Source for Reporter {
    fn status(&self) -> Status {
        let snapshot = self.latest.get();
        let groups = self.groups(&snapshot);
        let lease = snapshot.deadline.saturating_since(realtime::now());
        Status {
            farm: self.farm.name.clone(),
            node: self.farm.nodes[self.own.index()].name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            state: snapshot.state,
            epoch: snapshot.view.epoch,
            converged: snapshot.converged,
            powers_version: snapshot.view.powers.version().counter,
            lease_ms: lease.as_secs_f64() * 1e3,
            uptime_s: self.started.elapsed().as_secs_f64(),
            nodes: self.nodes(&snapshot, &groups),
            vips: self.vips(),
            groups,
            packets: sum(self
                .watched
                .iter()
                .filter_map(|w| w.counters.packets().ok())
                .flatten()
                .map(|(reason, count)| (reason.as_str(), count))),
            guard: sum(self.watched.iter().filter_map(|w| w.counters.guard().ok()).flatten()),
            heartbeats: snapshot.heartbeats.iter().cloned().collect(),
            lateness: snapshot.lateness,
            last_view_change: snapshot.view_change,
        }
    }

    fn events_since(&self, seq: u64) -> Vec<EventRecord> {
        self.history.since(seq)
    }

    fn newest_event(&self) -> watch::Receiver<u64> {
        self.history.newest()
    }

    fn explain(&self, query: &ExplainQuery) -> Result<Explanation, String> {
        let snapshot = self.latest.get();
        let block = self
            .farm
            .vips
            .iter()
            .position(|block| block.addresses.iter().any(|address| address.addr == query.vip));
        let interface = block.map_or(0, |block| self.interface_of[block]);
        Viewpoint {
            farm: &self.farm,
            node: self.own,
            view: &snapshot.view,
            hash_key: self.hash_key,
            port: &self.watched[interface].port,
            accept: &snapshot.accept[interface],
            fenced: snapshot.deadline <= realtime::now(),
        }
        .explain(query)
    }

    fn set_power<'a>(
        &'a self,
        request: &'a PowerRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let command = self.power_command(request, reply)?;
            self.commander.send(command).map_err(|error| error.to_string())?;
            let version = answer.await.map_err(|_ended| "the agent is stopping".to_owned())?;
            let version = version.map_err(|full| full.to_string())?;
            Ok(PowerReply { version })
        })
    }
}

impl Reporter {
    /// The command for a change of powers that the farm can take.
    fn power_command(
        &self,
        request: &PowerRequest,
        reply: oneshot::Sender<Result<u64, TooManyOverrides>>,
    ) -> Result<Command, String> {
        let farm = &self.farm;
        let node = farm.node_named(&request.node).ok_or_else(|| {
            let names: Vec<&str> = farm.nodes.iter().map(|node| node.name.as_str()).collect();
            format!(
                "farm {} has no node `{}`; its nodes are {}",
                farm.name,
                request.node,
                names.join(", ")
            )
        })?;
        let group = request.group.as_ref().map(|name| self.group_index(name)).transpose()?;
        if let Some(power) = request.power.filter(|&power| power > MAX_POWER) {
            return Err(format!("a power is 0 to {MAX_POWER}, not {power}"));
        }
        Ok(Command::SetPower { group, node, power: request.power, reply })
    }

    fn group_index(&self, name: &str) -> Result<u8, String> {
        let groups = || self.kernel_groups().map(|(_, _, group)| group.name.as_str());
        let index = groups().position(|group| group == name).and_then(|at| u8::try_from(at).ok());
        index.ok_or_else(|| {
            let names: Vec<&str> = groups().collect();
            format!(
                "farm {} has no group `{name}`; its groups are {}",
                self.farm.name,
                names.join(", ")
            )
        })
    }

    fn nodes(&self, snapshot: &Snapshot, groups: &[GroupStatus]) -> Vec<NodeStatus> {
        let now = realtime::now();
        let status = |(id, node): (NodeId, &crate::model::Node)| {
            let own = id == self.own;
            let peer = snapshot.peers.iter().find(|peer| peer.node == id);
            let mac = if own { Some(self.own_mac) } else { peer.and_then(|peer| peer.mac) };
            NodeStatus {
                name: node.name.clone(),
                addresses: node.addresses.iter().map(ToString::to_string).collect(),
                own,
                state: if own {
                    snapshot.state
                } else {
                    peer.map_or(NodeState::Down, |peer| peer.state)
                },
                alive: snapshot.view.alive.contains(id),
                heard_ms: peer
                    .and_then(|peer| peer.heard)
                    .map(|heard| now.saturating_since(heard).as_secs_f64() * 1e3),
                mac: mac.map(|mac| mac.to_string()),
                load: groups.iter().filter_map(|group| group.load.get(&node.name)).sum(),
                config_differs: peer.map_or_else(Vec::new, |peer| {
                    peer.config_differs.iter().map(ToString::to_string).collect()
                }),
            }
        };
        self.farm.node_ids().zip(&self.farm.nodes).map(status).collect()
    }

    fn vips(&self) -> Vec<VipStatus> {
        let status = |(block, &interface): (&crate::model::Vip, &usize)| VipStatus {
            interface: self.watched[interface].interface.clone(),
            mode: block.mode,
            vmac: block.vmac.to_string(),
            addresses: block
                .addresses
                .iter()
                .map(|address| format!("{}/{}", address.addr, address.prefix))
                .collect(),
            xdp: self.watched[interface].mode.as_str().into(),
            open: block.open == Open::Auto,
        };
        self.farm.vips.iter().zip(&self.interface_of).map(status).collect()
    }

    fn groups(&self, snapshot: &Snapshot) -> Vec<GroupStatus> {
        let named = |id: NodeId| self.farm.nodes[id.index()].name.clone();
        let status = |(kernel_group, vip, group): (usize, usize, &Group)| {
            let interface = self.interface_of[vip];
            let port = &self.watched[interface].port;
            let table = port.table(kernel_group, &snapshot.view);
            let power = |id: NodeId| {
                let in_file = group.powers.get(id.index()).copied().flatten();
                let now = port.power(kernel_group, id, &snapshot.view);
                in_file.map(|_| now).or_else(|| (now > 0).then_some(now))
            };
            GroupStatus {
                name: group.name.clone(),
                vip,
                rules: rules(group),
                powers: self
                    .farm
                    .node_ids()
                    .filter_map(|id| Some((named(id), power(id)?)))
                    .collect(),
                load: self.farm.node_ids().map(|id| (named(id), table.load(id))).collect(),
                owners: table.owners().iter().map(|owner| owner.map(NodeId::index)).collect(),
                bitmap: snapshot.accept[interface][kernel_group],
            }
        };
        self.kernel_groups().map(status).collect()
    }
}

/// The rules, most specific first.
fn rules(group: &Group) -> Vec<RuleStatus> {
    let mut rules: Vec<&Rule> = group.rules.iter().collect();
    rules.sort_by_key(|rule| (rule.virtual_addr.is_none(), rule.port.is_none()));
    let any = || "*".to_owned();
    let status = |rule: &Rule| RuleStatus {
        virtual_addr: rule.virtual_addr.map_or_else(any, |addr| addr.to_string()),
        port: rule.port.map_or_else(any, |port| port.to_string()),
        proto: rule.proto,
        filter: rule.filter,
    };
    rules.into_iter().map(status).collect()
}

fn sum<'w>(counts: impl Iterator<Item = (&'w str, u64)>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (word, count) in counts {
        *sums.entry(word.to_owned()).or_insert(0) += count;
    }
    sums
}
