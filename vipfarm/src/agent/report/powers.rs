//! What operators change of this and other nodes' shares.

use std::time::Duration;

use tokio::{sync::oneshot, time::sleep};

use super::Reporter;
use crate::{
    agent::{
        command::Command,
        configurations::Configuration,
        health::{Change, Kept},
    },
    membership::{BootTime, PowerRefused},
    model::{Farm, Group, MAX_POWER, NodeId, Vip},
    status::{MoveRequest, OpenRequest, PowerReply, PowerRequest},
};

/// How often to look whether the thread has had its first turn.
const FIRST_TURN: Duration = Duration::from_millis(10);

impl Reporter {
    /// Changes a node's power in the farm's views: the version that will be in force.
    pub(super) async fn change_power(&self, request: &PowerRequest) -> Result<PowerReply, String> {
        let (reply, answer) = oneshot::channel();
        let command = self.power_command(request, reply)?;
        let about = match &command {
            Command::SetPower { group, node, .. } if *node == self.own => Some(*group),
            _ => None,
        };
        let reply = self.give(command, answer).await?;
        if let Some(group) = about {
            self.health.closed().forget(group);
        }
        Ok(reply)
    }

    /// Forgets what was closed here and opened by another word than `open`.
    pub(in crate::agent) fn heed_powers(&self) {
        if let Ok(_nobody_opens) = self.opening.try_lock() {
            self.health.closed().heed(&self.latest.get().powers, self.own);
        }
    }

    /// Moves a failover VIP, likewise.
    pub(super) async fn move_failover(&self, request: &MoveRequest) -> Result<PowerReply, String> {
        let (reply, answer) = oneshot::channel();
        let command = self.move_command(request, reply)?;
        self.give(command, answer).await
    }

    /// Gives the heartbeat thread a command that changes the powers.
    async fn give(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<u64, PowerRefused>>,
    ) -> Result<PowerReply, String> {
        self.commander.send(command).map_err(|error| error.to_string())?;
        let version = answer.await.map_err(|_ended| "the agent is stopping".to_owned())?;
        let version = version.map_err(|refused| refused.to_string())?;
        Ok(PowerReply { version })
    }

    /// Opens or closes groups at this node. Closed ones have no power here, and those that wait to be opened
    /// by hand are what this node abstains from. What another word than `close` keeps from being served
    /// stays so, which is an error.
    pub(super) async fn open_or_close(&self, request: &OpenRequest) -> Result<PowerReply, String> {
        // One after the other, each by the powers that the one before has left.
        let _turn = self.opening.lock().await;
        // What is on the disk is known with the thread's first turn.
        while self.latest.get().at == BootTime::ZERO {
            sleep(FIRST_TURN).await;
        }
        let snapshot = self.latest.get();
        let (config, known) = (self.configurations.get(snapshot.digest), &snapshot.powers);
        let names = groups_meant(&config, request.what.as_deref())?;
        let (open, named) = (request.open, request.what.is_some());
        let groups = names.iter().map(|name| group_index(&config, name));
        let groups: Vec<_> = groups.collect::<Result<_, _>>()?;
        let (changes, kept) = {
            let mut closed = self.health.closed();
            closed.follow(snapshot.digest);
            if open {
                let file = |group| config.group(group).map_or(0, |group| group.power(self.own));
                closed.open(known, self.own, &groups, named, file)
            } else {
                let each = groups.iter().copied().map(Some).collect();
                let groups = if named { each } else { vec![None] };
                (closed.close(known, self.own, &groups, request.persist), None)
            }
        };
        let mut reply = PowerReply { version: known.version().counter };
        for Change { group, power, persist } in changes {
            let (sender, answer) = oneshot::channel();
            let command =
                Command::SetPower { group, node: self.own, power, persist, reply: sender };
            reply = self.give(command, answer).await?;
        }
        while self.latest.get().powers.version().counter < reply.version {
            sleep(FIRST_TURN).await;
        }
        self.health.set_open(names.iter().map(String::as_str), open);
        let node = &config.farm.nodes[self.own.index()].name;
        match kept {
            None => Ok(reply),
            Some(Kept::Drained) => Err(format!(
                "{node} is drained and serves nothing before `vipfarm undrain {node}`: `open` takes back what `close` did to this agent, and no drain"
            )),
            Some(Kept::NoPower(group)) => {
                let name = config.group(group).map_or("", |group| &group.name);
                Err(format!(
                    "{node} has power 0 in group {name} by `power`, or by `close --persist` before its agent's start: `vipfarm open {name}` takes that back"
                ))
            }
        }
    }

    /// Whether this node has no power in any group.
    pub(in crate::agent) fn is_drained(&self) -> bool {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        config.kernel_groups().all(|(kernel_group, vip, _)| {
            config.port_of(vip).placement().power(kernel_group, self.own, &snapshot.view) == 0
        })
    }

    /// The command for a change of powers that the farm can take.
    fn power_command(
        &self,
        request: &PowerRequest,
        reply: oneshot::Sender<Result<u64, PowerRefused>>,
    ) -> Result<Command, String> {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let farm = &config.farm;
        let node = node_named(farm, &request.node)?;
        let group = request.group.as_ref().map(|name| group_index(&config, name)).transpose()?;
        if let Some(power) = request.power.filter(|&power| power > MAX_POWER) {
            return Err(format!("a power is 0 to {MAX_POWER}, not {power}"));
        }
        let (mut power, mut persist) = (request.power, request.persist);
        if let (Some(group), None) = (group, power)
            && let Some(all) = snapshot.view.powers.entry(None, node)
        {
            // In the other groups, what was said of all of them goes on: an exception, for as long.
            power = Some(config.group(group).map_or(0, |group| group.power(node)));
            persist |= all.life.is_none();
        }
        Ok(Command::SetPower { group, node, power, persist, reply })
    }
}

/// The names of the groups that an operator means: one by its name, those of a VIP, or all.
fn groups_meant(config: &Configuration, what: Option<&str>) -> Result<Vec<String>, String> {
    let blocks = || config.farm.vips.iter();
    let names = |block: &Vip| block.groups.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    let Some(what) = what else { return Ok(blocks().flat_map(names).collect()) };
    let is_named = |group: &Group| group.name == what;
    if blocks().flat_map(|block| &block.groups).any(is_named) {
        return Ok(vec![what.to_owned()]);
    }
    let vip = what.parse().ok();
    let has = |block: &&Vip| block.addresses.iter().any(|it| Some(it.addr) == vip);
    if let Some(block) = blocks().find(has) {
        return Ok(names(block));
    }
    let vips = blocks().flat_map(|block| &block.addresses).map(|it| it.addr.to_string());
    let vips: Vec<_> = vips.collect();
    Err(format!(
        "farm {} has no group or VIP `{what}`; its groups are {}, its VIPs {}",
        config.farm.name,
        blocks().flat_map(names).collect::<Vec<_>>().join(", "),
        vips.join(", ")
    ))
}

/// The group's index in file order over all blocks.
fn group_index(config: &Configuration, name: &str) -> Result<u8, String> {
    let groups = || config.kernel_groups().map(|(_, _, group)| group.name.as_str());
    let index = groups().position(|group| group == name).and_then(|at| u8::try_from(at).ok());
    index.ok_or_else(|| {
        let names: Vec<&str> = groups().collect();
        format!(
            "farm {} has no group `{name}`; its groups are {}",
            config.farm.name,
            names.join(", ")
        )
    })
}

pub(super) fn node_named(farm: &Farm, name: &str) -> Result<NodeId, String> {
    farm.node_named(name).ok_or_else(|| {
        let names: Vec<&str> = farm.nodes.iter().map(|node| node.name.as_str()).collect();
        format!("farm {} has no node `{name}`; its nodes are {}", farm.name, names.join(", "))
    })
}
