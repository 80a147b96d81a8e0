//! What is told of groups.

use crate::{
    agent::{configurations::Configuration, engine::Snapshot, linger::Linger},
    model::{Group, NodeId, Rule},
    status::{ChangedPower, GroupStatus, RuleStatus},
};

/// All groups of the configuration as this node has them now.
pub(super) fn of(config: &Configuration, snapshot: &Snapshot, linger: &Linger) -> Vec<GroupStatus> {
    let named = |id: NodeId| config.farm.nodes[id.index()].name.clone();
    let status = |(kernel_group, vip, group): (usize, usize, &Group)| {
        let interface = config.interface_of[vip];
        let port = &config.ports[interface];
        let table = port.table(kernel_group, &snapshot.view);
        let power = |id: NodeId| {
            let in_file = group.powers.get(id.index()).copied().flatten();
            let now = port.placement().power(kernel_group, id, &snapshot.view);
            in_file.map(|_| now).or_else(|| (now > 0).then_some(now))
        };
        let changed = |id: NodeId| {
            let index = u8::try_from(kernel_group - 1).ok()?;
            let entry = snapshot.view.powers.in_force(index, id)?;
            let file = group.power(id);
            (entry.power != file).then_some(ChangedPower { file, persist: entry.life.is_none() })
        };
        GroupStatus {
            name: group.name.clone(),
            vip,
            rules: rules(group),
            powers: config.farm.node_ids().filter_map(|id| Some((named(id), power(id)?))).collect(),
            changed: config
                .farm
                .node_ids()
                .filter_map(|id| Some((named(id), changed(id)?)))
                .collect(),
            abstaining: config
                .farm
                .node_ids()
                .filter(|&id| snapshot.view.abstains(id, kernel_group))
                .map(named)
                .collect(),
            load: config.farm.node_ids().map(|id| (named(id), table.load(id))).collect(),
            owners: table.owners().iter().map(|owner| owner.map(NodeId::index)).collect(),
            bitmap: snapshot.accept[interface][kernel_group],
            handover: linger.handover(snapshot, kernel_group),
            connections: linger.by_bucket(config, kernel_group),
        }
    };
    config.kernel_groups().map(status).collect()
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
