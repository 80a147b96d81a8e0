//! Which node owns which bucket.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// Buckets of a group: the values of one hash byte.
pub const BUCKETS: usize = 256;

/// Bucket → owner.
#[derive(Clone, PartialEq, Eq)]
pub struct Table([Option<NodeId>; BUCKETS]);

impl Table {
    /// A table with that owner in each bucket.
    pub fn new(owners: [Option<NodeId>; BUCKETS]) -> Self {
        Self(owners)
    }

    /// The bucket's owner; `None` when no node with power is alive.
    pub fn owner(&self, bucket: u8) -> Option<NodeId> {
        self.0[usize::from(bucket)]
    }

    /// All owners, by bucket.
    pub fn owners(&self) -> &[Option<NodeId>; BUCKETS] {
        &self.0
    }

    /// How many buckets the node owns.
    pub fn load(&self, node: NodeId) -> usize {
        self.0.iter().filter(|&&owner| owner == Some(node)).count()
    }

    /// The buckets the node owns: bit `b & 63` of word `b >> 6`.
    pub fn bitmap(&self, node: NodeId) -> Bitmap {
        let mut bitmap = Bitmap::default();
        for (bucket, &owner) in self.0.iter().enumerate() {
            if owner == Some(node) {
                bitmap.0[bucket >> 6] |= 1 << (bucket & 63);
            }
        }
        bitmap
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row =
            |owner: &Option<NodeId>| owner.map_or_else(|| "-".into(), |n| n.index().to_string());
        f.write_str(&self.0.iter().map(row).collect::<Vec<_>>().join(" "))
    }
}

/// 256 bits, one a bucket: bit `b & 63` of word `b >> 6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(transparent)]
pub struct Bitmap(pub [u64; 4]);

impl Bitmap {
    /// The buckets in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// Adds a bucket.
    pub fn add(&mut self, bucket: u8) {
        self.0[usize::from(bucket >> 6)] |= 1 << (bucket & 63);
    }

    /// The buckets in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// The buckets that are not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// Whether it has that bucket, below [`BUCKETS`].
    pub fn has(self, bucket: usize) -> bool {
        self.0[bucket >> 6] >> (bucket & 63) & 1 == 1
    }

    /// How many buckets.
    pub fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == [0; 4]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_has_the_tables_buckets() {
        let one = NodeId::new(1);
        let table =
            Table::new(std::array::from_fn(|bucket| if bucket % 2 == 1 { one } else { None }));
        let bitmap = table.bitmap(one.expect("in range"));
        assert_eq!(bitmap, Bitmap([0xaaaa_aaaa_aaaa_aaaa; 4]));
        assert_eq!(bitmap.len(), 128);
        assert!((0..BUCKETS).all(|bucket| bitmap.has(bucket) == (bucket % 2 == 1)));
    }
}
