//! What nodes do not serve for now by their own word.

use super::NodeId;

/// The groups that a node does not serve for now, whatever its power there: a check of it fails, or
/// its VIP has not been opened. One bit for each kernel group, 0 the built-in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Abstention(u32);

impl Abstention {
    /// From nothing.
    pub const NONE: Self = Self(0);

    /// From all groups, the built-in one included: the node owns nothing.
    pub const ALL: Self = Self(u32::MAX);

    /// From the kernel groups that are one bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The kernel groups as one bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether it is from that kernel group.
    pub fn is_from(self, kernel_group: usize) -> bool {
        u32::try_from(kernel_group)
            .is_ok_and(|group| self.0.checked_shr(group).unwrap_or(0) & 1 == 1)
    }

    /// The same, and from that kernel group.
    #[must_use]
    pub fn and_from(self, kernel_group: usize) -> Self {
        let bit = u32::try_from(kernel_group).ok().and_then(|group| 1_u32.checked_shl(group));
        Self(self.0 | bit.unwrap_or(0))
    }
}

/// Who abstains from what, in ascending order of nodes; a node that serves all its groups is not
/// there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Abstentions(Vec<(NodeId, Abstention)>);

impl Abstentions {
    /// These; those of nothing are left out. `None` unless the nodes are in ascending order.
    pub fn new(entries: impl IntoIterator<Item = (NodeId, Abstention)>) -> Option<Self> {
        let entries = entries.into_iter().filter(|&(_, from)| from != Abstention::NONE);
        let entries: Vec<_> = entries.collect();
        entries.is_sorted_by(|(one, _), (next, _)| one < next).then_some(Self(entries))
    }

    /// What the node abstains from.
    pub fn of(&self, node: NodeId) -> Abstention {
        let entry = self.0.iter().find(|(of, _)| *of == node);
        entry.map_or(Abstention::NONE, |&(_, from)| from)
    }

    /// All of them.
    pub fn entries(&self) -> &[(NodeId, Abstention)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(index: usize) -> NodeId {
        NodeId::new(index).expect("in range")
    }

    #[test]
    fn groups_are_bits_and_there_is_none_beyond_them() {
        let two = Abstention::NONE.and_from(1).and_from(31).and_from(32);
        assert_eq!(two.bits(), 1 << 31 | 2);
        assert!(two.is_from(31) && !two.is_from(0) && !two.is_from(32));
        assert!((0..32).all(|group| Abstention::ALL.is_from(group)));
    }

    #[test]
    fn only_who_abstains_is_there_and_each_once() {
        let some = Abstention::NONE.and_from(1);
        let three = [(node(0), some), (node(1), Abstention::NONE), (node(2), Abstention::ALL)];
        let three = Abstentions::new(three).expect("in order");
        assert_eq!(three.entries().len(), 2);
        assert_eq!((three.of(node(2)), three.of(node(1))), (Abstention::ALL, Abstention::NONE));
        assert_eq!(Abstentions::new([(node(1), some), (node(0), some)]), None);
        assert_eq!(Abstentions::new([(node(1), some), (node(1), some)]), None);
    }
}
