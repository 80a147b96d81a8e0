//! The kernel's decision about one frame, with what it comes from by name.

use vipfarm_common::Reason;

use super::ports::Port;
use crate::{
    host::HostTables,
    model::{Bitmap, Farm, Mac, NodeId, NodeSet, Table, View},
    plan::{OwnAddresses, PlanError},
};

/// Judges frames by one set of tables, and knows whose the buckets are in a view.
#[derive(Debug)]
pub struct Judge<'a> {
    farm: &'a Farm,
    port: &'a Port,
    /// By kernel group.
    owners: Vec<Table>,
    tables: HostTables,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged<'a> {
    /// Why, which says what.
    pub reason: Reason,
    /// The bucket that decided; `None` if it did not come to one.
    pub bucket: Option<u8>,
    /// Its group's name.
    pub group: Option<&'a str>,
    /// Its owner's name; `None` also when no node with power is alive.
    pub owner: Option<&'a str>,
}

impl<'a> Judge<'a> {
    /// By those tables, which are of that port.
    pub fn new(farm: &'a Farm, view: &View, port: &'a Port, tables: HostTables) -> Self {
        let owners = (0..port.accept().len()).map(|group| port.table(group, view)).collect();
        Self { farm, port, owners, tables }
    }

    /// The same with other tables of the port.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(HostTables) -> HostTables) -> Self {
        self.tables = change(self.tables);
        self
    }

    /// Takes that MAC for the judging node's from now on.
    pub fn set_own_mac(&mut self, mac: Mac) {
        self.tables.set_own_mac(mac);
    }

    /// Judges a frame, whose MACs are rewritten as the kernel would.
    pub fn judge(&self, frame: &mut [u8]) -> Judged<'a> {
        let reason = self.tables.decide(frame);
        let Some((group, bucket)) = self.tables.observed() else {
            return Judged { reason, bucket: None, group: None, owner: None };
        };
        let group = group as usize;
        let owner = self.owners[group].owner(bucket).and_then(|owner| self.farm.node(owner));
        Judged {
            reason,
            bucket: Some(bucket),
            group: Some(self.port.placement().name(group)),
            owner: owner.map(|node| node.name.as_str()),
        }
    }
}

/// A network from the file alone: all VIPs are on it, and `alive` have agreed. It accepts what is
/// `node`'s, or what is anybody's: then the farm is judged as one.
///
/// The other nodes' MACs are not in the file: until they are learnt, made-up ones stand for them,
/// which no frame comes from.
pub fn imagined_port(
    farm: &Farm,
    alive: NodeSet,
    node: Option<NodeId>,
) -> Result<(Port, Vec<Bitmap>), PlanError> {
    let view = View::of(alive);
    let mut port = Port::new(farm, |_| true, OwnAddresses::default())?;
    for (index, id) in (0..).zip(farm.node_ids()) {
        if Some(id) != node {
            // With the group bit set, which no source has.
            port.learn(id, Mac([0x03, 0, 0, 0, 0, index]));
        }
    }
    let Some(node) = node else {
        let owned = |group| {
            let table = port.table(group, &view);
            let all = alive.iter().map(|node| table.bitmap(node));
            all.fold(Bitmap::default(), Bitmap::or)
        };
        let accept = (0..port.accept().len()).map(owned).collect();
        return Ok((port, accept));
    };
    port.settle(node, &view);
    let accept = port.accept().to_vec();
    Ok((port, accept))
}
