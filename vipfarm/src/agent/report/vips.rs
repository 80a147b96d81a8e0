//! What is told of VIPs, and what of a wish to move one.

use std::net::IpAddr;

use tokio::sync::oneshot;

use super::Reporter;
use crate::{
    agent::{command::Command, configurations::Configuration, engine::Snapshot},
    membership::PowerRefused,
    model::{Group, NodeId, StayKind, Vip, VipId},
    status::{FailoverStatus, MoveRequest, VipStatus},
};

impl Reporter {
    /// All VIP blocks of the configuration.
    pub(super) fn vips(&self, config: &Configuration, snapshot: &Snapshot) -> Vec<VipStatus> {
        let status = |(index, block): (usize, &Vip)| {
            let interface = config.interface_of[index];
            VipStatus {
                failover: self.failover(config, index, snapshot),
                interface: self.watched[interface].interface.clone(),
                vlan: block.vlan.ids(),
                mode: block.mode,
                vmac: block.virtual_mac().map(|vmac| vmac.to_string()),
                addresses: block
                    .addresses
                    .iter()
                    .map(|address| format!("{}/{}", address.addr, address.prefix))
                    .collect(),
                connections: block
                    .addresses
                    .iter()
                    .filter_map(|vip| Some((vip.addr.to_string(), self.linger.of_vip(vip)?)))
                    .collect(),
                xdp: self.watched[interface].mode.as_str().into(),
                jumbo: self.watched[interface].jumbo,
                open: self.health.is_open(block),
            }
        };
        config.farm.vips.iter().enumerate().map(status).collect()
    }

    /// Who has the failover VIP of that block; `None` of another block.
    fn failover(
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
            name: group.name.clone(),
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
        let find = |name: &String| super::powers::node_named(&config.farm, name);
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

/// The failover block with that address, or whose group has that name.
fn failover_block(config: &Configuration, vip: &str) -> Result<usize, String> {
    let addr: Option<IpAddr> = vip.parse().ok();
    let has = |block: usize| {
        let mut addresses = config.farm.vips[block].addresses.iter();
        addresses.any(|address| Some(address.addr) == addr)
    };
    let floating = || {
        let groups = config.kernel_groups().filter(|(_, _, group)| group.failover.is_some());
        groups.map(|(_, block, group)| (block, group.name.as_str()))
    };
    let meant: Vec<_> = floating().filter(|&(block, name)| name == vip || has(block)).collect();
    let join = |names: Vec<&str>, with: &str| names.join(with);
    match meant[..] {
        [(block, _)] => Ok(block),
        [] if (0..config.farm.vips.len()).any(has) => Err(format!(
            "{vip} is on all nodes at once: only a VIP with `mode: failover` can be moved; `vipfarm power` changes the nodes' shares"
        )),
        [] => {
            let names = floating().map(|(_, name)| name).collect::<Vec<_>>();
            let names = if names.is_empty() { "none".into() } else { join(names, ", ") };
            let farm = &config.farm.name;
            Err(format!("farm {farm} has no VIP {vip}; its failover VIPs are {names}"))
        }
        _ => {
            let names = meant.iter().map(|&(_, name)| name).collect();
            Err(format!("{vip} is in several VLANs: say {}", join(names, " or ")))
        }
    }
}
