//! The heartbeat on the wire: one datagram of fixed size, integers in network byte order.
//!
//! ```text
//!  0 magic u32 | version u8 | source u8 | flags u8 | zero u8
//!  8 farm id u32 | life u32
//! 16 incarnation u64
//! 24 sequence u64
//! 32 configuration digest, 16 bytes
//! 48 promised view: epoch u64 | alive bitmap u64 | hash, 16 bytes
//! 80 MAC, 6 bytes | zero u16
//! 88 tag: keyed BLAKE3 over bytes 0..88, cut to 16 bytes
//! ```
//!
//! Content is authenticated, not secret. Nothing but size, magic, version and farm id is looked at
//! before the tag has been verified.

use std::array;

use super::{
    counters::Dropped,
    view::{Life, Promise},
};
use crate::model::{Mac, NodeId, NodeSet};

/// Bytes of a heartbeat.
pub(super) const LEN: usize = 104;

const MAGIC: [u8; 4] = *b"VIPf";
const VERSION: u8 = 1;

const AT_VERSION: usize = 4;
const AT_SOURCE: usize = 5;
const AT_FLAGS: usize = 6;
const AT_ZERO: usize = 7;
const AT_FARM: usize = 8;
const AT_LIFE: usize = 12;
const AT_INCARNATION: usize = 16;
const AT_SEQUENCE: usize = 24;
const AT_DIGEST: usize = 32;
const AT_EPOCH: usize = 48;
const AT_ALIVE: usize = 56;
const AT_HASH: usize = 64;
const AT_MAC: usize = 80;
const AT_ZEROS: usize = 86;
const AT_TAG: usize = 88;

/// Tells farms on one network apart before any cryptography.
pub(super) type FarmId = [u8; 4];

/// What a node says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heartbeat {
    pub(super) source: NodeId,
    pub(super) activity: Activity,
    pub(super) life: Life,
    /// Rises with every heartbeat of an incarnation.
    pub(super) sequence: u64,
    /// Of the configuration all nodes must share.
    pub(super) digest: [u8; 16],
    /// What the node has promised last.
    pub(super) promise: Promise,
    /// The sender's own, on the VIP's network.
    pub(super) mac: Mac,
}

/// What a node is doing, the flags of its heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    /// Serves its buckets: no flag.
    Serving,
    /// Serves nothing yet.
    Joining,
    /// Serves nothing since its lease lapsed.
    Fenced,
    /// Serves nothing and will not come back in this incarnation.
    Leaving,
}

impl Activity {
    const ALL: [Self; 4] = [Self::Serving, Self::Joining, Self::Fenced, Self::Leaving];

    fn flags(self) -> u8 {
        match self {
            Self::Serving => 0,
            Self::Joining => 1,
            Self::Fenced => 2,
            Self::Leaving => 4,
        }
    }
}

/// The id of the farm of that name.
pub(super) fn farm_id(name: &str) -> FarmId {
    let hash = blake3::derive_key("vipfarm 1 farm id", name.as_bytes());
    array::from_fn(|byte| hash[byte])
}

/// The heartbeat as a datagram.
pub(super) fn seal(heartbeat: &Heartbeat, farm: FarmId, key: &[u8; 32]) -> Vec<u8> {
    let Heartbeat { source, activity, life, sequence, digest, promise, mac } = heartbeat;
    let mut bytes = vec![0; LEN];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC);
    put(AT_VERSION, &[VERSION]);
    put(AT_SOURCE, &source.index().to_le_bytes()[..1]);
    put(AT_FLAGS, &[activity.flags()]);
    put(AT_FARM, &farm);
    put(AT_LIFE, &life.number.to_be_bytes());
    put(AT_INCARNATION, &life.incarnation.to_be_bytes());
    put(AT_SEQUENCE, &sequence.to_be_bytes());
    put(AT_DIGEST, digest);
    put(AT_EPOCH, &promise.epoch.to_be_bytes());
    put(AT_ALIVE, &promise.alive.bits().to_be_bytes());
    put(AT_HASH, &promise.hash);
    put(AT_MAC, &mac.0);
    let tag = tag(&bytes[..AT_TAG], key);
    bytes[AT_TAG..].copy_from_slice(&tag);
    bytes
}

/// What can be said of a datagram at no cost and without trust: whether it may be a heartbeat of
/// this farm.
pub(super) fn screen(bytes: &[u8], farm: FarmId) -> Result<&[u8; LEN], Dropped> {
    let datagram: &[u8; LEN] = bytes.try_into().map_err(|_wrong_length| Dropped::Size)?;
    if field(datagram, 0) != MAGIC {
        return Err(Dropped::Magic);
    }
    if datagram[AT_VERSION] != VERSION {
        return Err(Dropped::Version);
    }
    if field(datagram, AT_FARM) != farm {
        return Err(Dropped::Farm);
    }
    Ok(datagram)
}

/// The heartbeat in a screened datagram, if a holder of `key` has written it.
pub(super) fn open(datagram: &[u8; LEN], key: &[u8; 32]) -> Result<Heartbeat, Dropped> {
    if !same_tag(field(datagram, AT_TAG), tag(&datagram[..AT_TAG], key)) {
        return Err(Dropped::Tag);
    }
    let known = |activity: &Activity| activity.flags() == datagram[AT_FLAGS];
    let activity = Activity::ALL.into_iter().find(known).ok_or(Dropped::Malformed)?;
    let source = NodeId::new(datagram[AT_SOURCE].into()).ok_or(Dropped::Malformed)?;
    if datagram[AT_ZERO] != 0 || field(datagram, AT_ZEROS) != [0; AT_TAG - AT_ZEROS] {
        return Err(Dropped::Malformed);
    }
    Ok(Heartbeat {
        source,
        activity,
        life: Life {
            incarnation: u64::from_be_bytes(field(datagram, AT_INCARNATION)),
            number: u32::from_be_bytes(field(datagram, AT_LIFE)),
        },
        sequence: u64::from_be_bytes(field(datagram, AT_SEQUENCE)),
        digest: field(datagram, AT_DIGEST),
        promise: Promise {
            epoch: u64::from_be_bytes(field(datagram, AT_EPOCH)),
            alive: NodeSet::from_bits(u64::from_be_bytes(field(datagram, AT_ALIVE))),
            hash: field(datagram, AT_HASH),
        },
        mac: Mac(field(datagram, AT_MAC)),
    })
}

/// The `N` bytes at a constant offset of the layout above.
fn field<const N: usize>(datagram: &[u8; LEN], at: usize) -> [u8; N] {
    array::from_fn(|byte| datagram[at + byte])
}

fn tag(body: &[u8], key: &[u8; 32]) -> [u8; 16] {
    let hash = blake3::keyed_hash(key, body);
    array::from_fn(|byte| hash.as_bytes()[byte])
}

/// Compares in constant time, as [`blake3::Hash`] does: how long a refusal takes must not tell a
/// forger how much of the tag was right.
fn same_tag(ours: [u8; 16], theirs: [u8; 16]) -> bool {
    let widened = |tag: [u8; 16]| {
        let mut hash = [0; 32];
        hash[..16].copy_from_slice(&tag);
        blake3::Hash::from_bytes(hash)
    };
    widened(ours) == widened(theirs)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const KEY: [u8; 32] = [7; 32];
    const FARM: FarmId = [1, 2, 3, 4];

    fn decode(bytes: &[u8]) -> Result<Heartbeat, Dropped> {
        open(screen(bytes, FARM)?, &KEY)
    }

    fn heartbeats() -> impl Strategy<Value = Heartbeat> {
        (
            (0..crate::model::MAX_NODES, 0..Activity::ALL.len(), any::<(u64, u32, u64)>()),
            any::<([u8; 16], u64, u64, [u8; 16], [u8; 6])>(),
        )
            .prop_map(|((source, activity, (incarnation, number, sequence)), rest)| {
                let (digest, epoch, alive, hash, mac) = rest;
                Heartbeat {
                    source: NodeId::new(source).expect("in range"),
                    activity: Activity::ALL[activity],
                    life: Life { incarnation, number },
                    sequence,
                    digest,
                    promise: Promise { epoch, alive: NodeSet::from_bits(alive), hash },
                    mac: Mac(mac),
                }
            })
    }

    proptest! {
        #[test]
        fn a_heartbeat_is_read_as_it_was_written(heartbeat in heartbeats()) {
            prop_assert_eq!(decode(&seal(&heartbeat, FARM, &KEY)), Ok(heartbeat));
        }

        #[test]
        fn one_changed_bit_anywhere_is_refused(heartbeat in heartbeats(), bit in 0..LEN * 8) {
            let mut bytes = seal(&heartbeat, FARM, &KEY);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn a_cut_or_grown_heartbeat_is_refused(heartbeat in heartbeats(), len in 0..2 * LEN) {
            let mut bytes = seal(&heartbeat, FARM, &KEY);
            bytes.resize(len, 0);
            prop_assert_eq!(decode(&bytes).is_ok(), len == LEN);
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..2 * LEN)) {
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn a_key_holder_who_writes_nonsense_is_survived(body in vec(any::<u8>(), AT_TAG)) {
            let mut bytes = body;
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[AT_VERSION] = VERSION;
            bytes[AT_FARM..AT_FARM + 4].copy_from_slice(&FARM);
            let tag = tag(&bytes, &KEY);
            bytes.extend(tag);
            if let Err(reason) = decode(&bytes) {
                prop_assert_eq!(reason, Dropped::Malformed);
            }
        }
    }

    #[test]
    fn the_layout_is_frozen() {
        let heartbeat = Heartbeat {
            source: NodeId::new(3).expect("in range"),
            activity: Activity::Fenced,
            life: Life { incarnation: 0x1112_1314_1516_1718, number: 0x2122_2324 },
            sequence: 0x3132_3334_3536_3738,
            digest: [0x44; 16],
            promise: Promise {
                epoch: 0x5152_5354_5556_5758,
                alive: NodeSet::from_bits(0x6162_6364_6566_6768),
                hash: [0x77; 16],
            },
            mac: Mac([0x81, 0x82, 0x83, 0x84, 0x85, 0x86]),
        };
        let bytes = seal(&heartbeat, FARM, &KEY);
        let words: Vec<String> = bytes
            .chunks(8)
            .map(|word| {
                format!("{:016x}", u64::from_be_bytes(word.try_into().expect("whole words")))
            })
            .collect();
        assert_eq!(
            words,
            [
                "5649506601030200",
                "0102030421222324",
                "1112131415161718",
                "3132333435363738",
                "4444444444444444",
                "4444444444444444",
                "5152535455565758",
                "6162636465666768",
                "7777777777777777",
                "7777777777777777",
                "8182838485860000",
                "7622d54ba2ecad5e",
                "1a2b00aed74bb1b2",
            ]
        );
    }
}
