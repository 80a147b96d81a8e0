//! What is told of failover VIPs, and what of a wish to move one.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::oneshot;

use super::Reporter;
use crate::{
    agent::{command::Command, configurations::Configuration, engine::Snapshot},
    membership::PowerRefused,
    model::{Group, NodeId, StayKind, VipId},
    status::{FailoverStatus, MoveRequest},
};

impl Reporter {
    /// Who has the failover VIP of that block; `None` of another block.
    pub(super) fn failover(
        &self,
        config: &Configuration,
        block: usize,
        snapshot: &Snapshot,
    ) -> Option<FailoverStatus> {
        let (number, group) = group_of(config, block)?;
        let failover = group.failover?;
        let placement = config.port_of(block).placement();
        let (view, id) = (&snapshot.view, VipId::of(&group.name));
        let holder = placement.holder(number, view);
        let name = |node: NodeId| config.farm.nodes[node.index()].name.clone();
        let pin = view.powers.stay(id, StayKind::Pinned);
        let millis = failover.preempt_delay.as_millis();
        Some(FailoverStatus {
            holder: holder.map(|holder| name(holder.node)),
            why: holder.map(|holder| holder.why),
            persist: pin.is_some_and(|pin| pin.life.is_none()),
            since_s: self.holding.since(id).map(|since| since.as_secs()),
            favourite: placement.favourite(number, view).map(name),
            preempt: failover.preempt,
            preempt_delay_ms: u64::try_from(millis).unwrap_or(u64::MAX),
            balance: failover.balance,
        })
    }

    /// The command that moves a VIP, if the farm can.
    pub(super) fn move_command(
        &self,
        request: &MoveRequest,
        reply: oneshot::Sender<Result<u64, PowerRefused>>,
    ) -> Result<Command, String> {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let block = failover_block(&config, &request.vip)?;
        let (number, group) = group_of(&config, block).ok_or("the block has no group")?;
        let find = |name: &String| super::node_named(&config.farm, name);
        let node = request.node.as_ref().map(find).transpose()?;
        if let Some(node) = node {
            let name = &config.farm.nodes[node.index()].name;
            if config.port_of(block).placement().power(number, node, &snapshot.view) == 0 {
                return Err(format!(
                    "{name} cannot have {}: it has no priority for it, or is drained or closed",
                    request.vip
                ));
            }
        }
        let vip = VipId::of(&group.name);
        Ok(Command::Move { vip, node, persist: request.persist, reply })
    }
}

/// The only group of a failover block, with its number in the kernel.
fn group_of(config: &Configuration, block: usize) -> Option<(usize, &Group)> {
    let mut groups = config.kernel_groups();
    let (number, _, group) = groups.find(|&(_, of, _)| of == block)?;
    Some((number, group))
}

/// The failover block with that address.
fn failover_block(config: &Arc<Configuration>, vip: &str) -> Result<usize, String> {
    let blocks = || config.farm.vips.iter().enumerate();
    let floats =
        |block: usize| group_of(config, block).is_some_and(|(_, group)| group.failover.is_some());
    let addr: Option<IpAddr> = vip.parse().ok();
    let has = |addr| {
        move |&(_, block): &(usize, &crate::model::Vip)| {
            block.addresses.iter().any(|address| Some(address.addr) == addr)
        }
    };
    match blocks().find(has(addr)) {
        Some((block, _)) if floats(block) => Ok(block),
        Some(_) => Err(format!(
            "{vip} is on all nodes at once: only a VIP with `mode: failover` can be moved; `vipfarm power` changes the nodes' shares"
        )),
        None => {
            let names = blocks().filter(|&(block, _)| floats(block));
            let names = names.flat_map(|(_, block)| &block.addresses);
            let names: Vec<_> = names.map(|address| address.addr.to_string()).collect();
            let names = if names.is_empty() { "none".into() } else { names.join(", ") };
            Err(format!(
                "farm {} has no VIP {vip}; its failover VIPs are {names}",
                config.farm.name
            ))
        }
    }
}
