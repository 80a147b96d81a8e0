//! What the kernels of a view must accept.

use crate::{
    agent::ports::Port,
    membership::Proof,
    model::{Bitmap, NodeId, Table, View},
};

/// What every member of a view must accept.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) view: View,
    port: Port,
    /// By kernel group.
    pub(super) tables: Vec<Table>,
    /// By node.
    proofs: Vec<Proof>,
}

impl Due {
    /// In that view, with the groups of that port.
    pub(super) fn by(view: &View, nodes: impl Iterator<Item = NodeId>, port: &Port) -> Self {
        let groups = 0..port.accept().len();
        let tables: Vec<_> = groups.map(|group| port.table(group, view)).collect();
        let bitmaps = |node| tables.iter().map(|table| table.bitmap(node)).collect();
        let proofs = nodes.map(|node| of(view, &[bitmaps(node)])).collect();
        Self { view: view.clone(), port: port.clone(), tables, proofs }
    }

    /// Whether that view and the groups of that port make the same.
    pub(super) fn is_by(&self, view: &View, port: &Port) -> bool {
        self.view == *view && self.port.placement().has_groups_of(port.placement())
    }

    /// What the node is to say.
    pub(super) fn proof(&self, node: NodeId) -> Proof {
        self.proofs.get(node.index()).copied().unwrap_or_default()
    }

    /// What the node is to accept of a kernel group.
    pub(super) fn bitmap(&self, group: usize, node: NodeId) -> Bitmap {
        self.tables.get(group).map_or_else(Bitmap::default, |table| table.bitmap(node))
    }

    /// Whether the node has any bucket.
    pub(super) fn owns(&self, node: NodeId) -> bool {
        self.tables.iter().any(|table| table.load(node) > 0)
    }

    /// The kernel groups without owners.
    pub(super) fn without_owner(&self) -> impl Iterator<Item = usize> {
        let is_empty = |table: &Table| table.owners().contains(&None);
        (0..self.tables.len()).filter(move |&group| is_empty(&self.tables[group]))
    }
}

/// The proof of what a node accepts in that view, by interface and kernel group: all interfaces
/// must have the same bitmaps, and one that differs from the first makes it another proof.
pub fn of(view: &View, interfaces: &[Vec<Bitmap>]) -> Proof {
    let mut hasher = blake3::Hasher::new_derive_key("vipfarm 1 proof");
    hasher.update(&view.epoch.to_be_bytes());
    hasher.update(&(view.coordinator.index() as u64).to_be_bytes());
    let groups = interfaces.iter().map(Vec::len).max().unwrap_or(0);
    for group in 0..groups {
        let mut bitmaps = interfaces.iter().map(|interface| interface.get(group).copied());
        let first = bitmaps.next().flatten();
        let others = bitmaps.filter(|&other| other != first);
        for bitmap in std::iter::once(first).chain(others) {
            for word in bitmap.unwrap_or_default().0 {
                hasher.update(&word.to_be_bytes());
            }
        }
    }
    let mut digest = [0; 8];
    hasher.finalize_xof().fill(&mut digest);
    Proof { epoch: view.epoch, digest: u64::from_be_bytes(digest) }
}
