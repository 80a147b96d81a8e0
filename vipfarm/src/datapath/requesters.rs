//! Who asked for the VIPs whose nodes answer with their own MACs.

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, MapError},
};
use vipfarm_common::packet::Requester;

use super::{Error, object};
use crate::model::Mac;

/// As the map has it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(Requester);

// SAFETY: plain bytes and an integer, without padding: 20 bytes aligned to four.
unsafe impl Pod for Key {}

/// The kernel's record of one interface.
pub struct Requesters(HashMap<MapData, Key, u64>);

impl Requesters {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, Error> {
        object::take(ebpf, "REQUESTERS").map(Self)
    }

    /// Those who have asked since the last call, with their MACs. The kernel forgets them: whoever
    /// asks again is there again.
    pub fn take(&mut self) -> Result<Vec<(Requester, Mac)>, Error> {
        let keys: Vec<Key> = self.0.keys().filter_map(Result::ok).collect();
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            match self.0.get(&key, 0) {
                Ok(word) => {
                    let [a, b, c, d, e, f, ..] = word.to_ne_bytes();
                    taken.push((key.0, Mac([a, b, c, d, e, f])));
                }
                // The kernel made room meanwhile.
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(object::map_error(&error)),
            }
            match self.0.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(object::map_error(&error)),
            }
        }
        Ok(taken)
    }
}
