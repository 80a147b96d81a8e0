//! Who owns the buckets of each group of a farm in a view: what the file says, and what was changed at
//! run time. Pure.

mod traffic;

use std::{borrow::Cow, sync::Arc};

use self::traffic::Traffic;
use crate::{
    assign::{
        Assigner,
        floating::{self, Floating, Holder, Staying},
    },
    model::{BUCKETS, Failover, Farm, NodeId, NodeSet, Overrides, Table, View},
};

/// Name of the built-in group of all nodes, whose buckets say who answers ARP and echo. No group of
/// a file can have it.
pub const RESOLVE_GROUP: &str = "(resolve)";

/// The groups of a farm, by kernel group: the first is the built-in one, the others are in the order
/// of the file. A clone shares what is large.
#[derive(Debug, Clone)]
pub struct Placement {
    groups: Arc<[Members]>,
    /// Those of `groups` that are failover VIPs.
    floating: Arc<[Floating]>,
    /// Of `groups`, with these powers; a failover VIP has none.
    assigners: Arc<[Option<Assigner>]>,
    powers: Arc<Overrides>,
    traffic: Arc<Traffic>,
}

/// Who shares a group, by the file.
#[derive(Debug, Clone)]
struct Members {
    name: String,
    /// In file order over all blocks; `None` for the built-in group.
    index: Option<u8>,
    nodes: Vec<(String, u16)>,
    /// Whether it has connections that stay where they are when their bucket moves.
    lingers: bool,
    /// Whether some of them are flows of UDP.
    keeps_flows: bool,
    /// The place among the failover VIPs, if it is one.
    floating: Option<usize>,
}

/// What a group was in another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// That group, with its clients in the same buckets.
    Group(usize),
    /// Some of its clients went by other groups, or were in other buckets.
    Elsewhere,
    /// Nothing: it had no clients.
    Nowhere,
}

impl Origin {
    /// The group whose buckets it has.
    pub fn group(self) -> Option<usize> {
        if let Self::Group(group) = self { Some(group) } else { None }
    }
}

impl Members {
    /// The placement with powers changed at run time. A power of 0 leaves the node its home, so
    /// that draining and undraining move no other buckets.
    fn assigner(&self, powers: &Overrides) -> Option<Assigner> {
        let power = |(node, (name, power)): (usize, &'_ (String, u16))| {
            let changed = self.index.and_then(|index| powers.power(index, NodeId::new(node)?));
            (name.clone(), changed.filter(|&changed| changed > 0).unwrap_or(*power))
        };
        let nodes: Vec<_> = self.nodes.iter().enumerate().map(power).collect();
        let nodes: Vec<_> = nodes.iter().map(|(name, power)| (name.as_str(), *power)).collect();
        self.floating.is_none().then(|| Assigner::new(&self.name, &nodes))
    }

    fn power(&self, node: NodeId, powers: &Overrides) -> u16 {
        let changed = self.index.and_then(|index| powers.power(index, node));
        let in_file = self.nodes.get(node.index()).map_or(0, |(_, power)| *power);
        changed.unwrap_or(in_file)
    }

    /// The nodes that may own buckets of the group, which has that number in the kernel.
    fn owners(&self, kernel_group: usize, view: &View) -> NodeSet {
        let has_power = |&node: &NodeId| {
            let changed = self.index.and_then(|index| view.powers.power(index, node));
            changed != Some(0) && !view.abstains(node, kernel_group)
        };
        view.owners().iter().filter(has_power).collect()
    }
}

impl Placement {
    /// That of a file.
    pub fn new(farm: &Farm) -> Self {
        let names = || farm.nodes.iter().map(|node| node.name.clone());
        let everybody = names().map(|name| (name, 1)).collect();
        let mut groups = vec![Members {
            name: RESOLVE_GROUP.into(),
            index: None,
            nodes: everybody,
            lingers: false,
            keeps_flows: false,
            floating: None,
        }];
        let mut vips = Vec::new();
        for (index, group) in farm.vips.iter().flat_map(|block| &block.groups).enumerate() {
            let nodes = names().zip(farm.node_ids()).map(|(name, id)| (name, group.power(id)));
            let nodes: Vec<_> = nodes.collect();
            let floating = group.failover.map(|failover: Failover| {
                let names = nodes.iter().map(|(name, _)| name.as_str());
                vips.push(Floating::new(&group.name, failover, names));
                vips.len() - 1
            });
            groups.push(Members {
                name: group.name.clone(),
                index: u8::try_from(index).ok(),
                nodes,
                lingers: group.lingers(),
                keeps_flows: group.keeps_flows(),
                floating,
            });
        }
        let powers = Arc::<Overrides>::default();
        Self {
            assigners: groups.iter().map(|group| group.assigner(&powers)).collect(),
            groups: groups.into(),
            floating: vips.into(),
            powers,
            traffic: Arc::new(Traffic::of(farm)),
        }
    }

    /// What each group was in another file. It is the one of its name, if whatever goes by it went by that
    /// one or by none, and in the same buckets: where it did not, a node that goes by this file and one that
    /// goes by the other could both take a client for their own.
    pub fn origins_in(&self, former: &Self) -> Vec<Origin> {
        let alike = |group: usize| {
            let name = self.name(group);
            let theirs = (0..former.groups()).find(|&other| former.name(other) == name)?;
            // The number chooses the hash, which is nothing to one that has all buckets.
            let floats = self.floating(group).is_some() && former.floating(theirs).is_some();
            (theirs == group || floats).then_some(theirs)
        };
        let origin = |group| alike(group).map_or(Origin::Nowhere, Origin::Group);
        let mut origins: Vec<_> = (0..self.groups()).map(origin).collect();
        for (group, before, same) in self.traffic.since(&former.traffic) {
            if origins[group] != Origin::Group(before) || !same {
                origins[group] = Origin::Elsewhere;
            }
        }
        origins
    }

    /// Whether the other was made from the same groups as this one, or a clone of it.
    pub fn has_groups_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.groups, &other.groups)
    }

    /// How many groups, the built-in one included.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// A group's name.
    pub fn name(&self, group: usize) -> &str {
        &self.groups[group].name
    }

    /// Which groups have connections that stay where they are when their bucket moves.
    pub fn lingers(&self) -> Vec<bool> {
        self.groups.iter().map(|group| group.lingers).collect()
    }

    /// Which have flows of UDP that do.
    pub fn keeps_flows(&self) -> Vec<bool> {
        self.groups.iter().map(|group| group.keeps_flows).collect()
    }

    /// A group's power at a node as that view has it.
    pub fn power(&self, group: usize, node: NodeId, view: &View) -> u16 {
        self.groups[group].power(node, &view.powers)
    }

    /// The owners of a group's buckets in that view.
    pub fn table(&self, group: usize, view: &View) -> Table {
        self.table_with(group, view, &self.holders(view, Staying::AsConfigured))
    }

    /// The same of all groups.
    pub fn tables(&self, view: &View) -> Vec<Table> {
        let holders = self.holders(view, Staying::AsConfigured);
        (0..self.groups.len()).map(|group| self.table_with(group, view, &holders)).collect()
    }

    fn table_with(&self, group: usize, view: &View, holders: &[Option<Holder>]) -> Table {
        let members = &self.groups[group];
        if let Some(place) = members.floating {
            return Table::new([holders[place].map(|holder| holder.node); BUCKETS]);
        }
        let known = if view.powers == self.powers {
            Cow::Borrowed(&self.assigners[group])
        } else {
            Cow::Owned(members.assigner(&view.powers))
        };
        let assigner = known.as_ref().as_ref().expect("no failover VIP");
        assigner.table(members.owners(group, view))
    }

    /// The failover VIP that a group is.
    pub fn floating(&self, group: usize) -> Option<&Floating> {
        self.floating.get(self.groups[group].floating?)
    }

    /// Who holds the failover VIP that a group is, in that view; `None` if nobody can.
    pub fn holder(&self, group: usize, view: &View) -> Option<Holder> {
        self.holders(view, Staying::AsConfigured)[self.groups[group].floating?]
    }

    /// Who would, if no node stayed only because it holds it.
    pub fn favourite(&self, group: usize, view: &View) -> Option<NodeId> {
        let holders = self.holders(view, Staying::Never);
        holders[self.groups[group].floating?].map(|holder| holder.node)
    }

    /// The holders of the failover VIPs, in their order.
    fn holders(&self, view: &View, staying: Staying) -> Vec<Option<Holder>> {
        let members = self.groups.iter().enumerate().filter(|(_, it)| it.floating.is_some());
        let members: Vec<_> = members.collect();
        let owners = view.owners();
        let priority = |vip: usize, node| {
            let (group, members) = members[vip];
            let serves = owners.contains(node) && !view.abstains(node, group);
            if serves { members.power(node, &view.powers) } else { 0 }
        };
        floating::holders(&self.floating, &view.powers, staying, priority)
    }

    /// Prepares for the powers of a view: its tables are asked for often.
    pub fn take_powers(&mut self, view: &View) {
        // Not only of another version: see `Membership::overrides`.
        if view.powers != self.powers {
            self.powers = Arc::clone(&view.powers);
            self.assigners = self.groups.iter().map(|group| group.assigner(&self.powers)).collect();
        }
    }
}
