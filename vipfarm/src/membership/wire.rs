//! The heartbeat on the wire: one datagram, integers in network byte order.
//!
//! ```text
//!   0 magic u32 | version u8 | link u8 | source u8 | nodes u8
//!   8 farm id u32 | flags u16 | links on which the sender hears anybody, bitmap u16
//!  16 incarnation u64
//!  24 sequence u64
//!  32 digest of the configuration in force, 16 bytes
//!  48 digest of the staged one, 16 bytes; zero without its flag
//!  64 installed view: epoch u64 | coordinator u8 | its incarnation u64 | hash, 16 bytes
//!  97 promised view: the same
//! 130 ready for the promised view, bitmap u64
//! 138 hears, bitmap u64
//! 146 linked (hears and is heard by), bitmap u64
//! 154 highest epoch seen u64
//! 162 version of the overrides: counter u64 | author u8
//! 171 the sender's MAC on the datagram's link, 6 bytes
//! 177 proof: epoch u64 | digest u64; zero = none
//! 193 kernel groups that the sender abstains from, bitmap u32 | the same of the staged configuration
//! 201 acknowledged, by node index, `nodes` times: life u32 | sequence u32
//!     the promised view, with its flag: alive u64 | idle u64 | digest, 16 bytes |
//!         life u32 of each member in ascending order | overrides |
//!         count u8 | `count` times: node u8 | kernel groups that it abstains from, bitmap u32
//!     overrides, with their flag: counter u64 | author u8 | count u16 |
//!         `count` times: node u8 | 1 one group, 2 of one life: u8 | group u8 | power u16 |
//!         life u32; what the second byte does not name is zero;
//!         count u8 of nodes that are to hold failover VIPs | `count` times: VIP u64 | node u8 |
//!         1 pinned, 2 of one life: u8 | life u32 likewise
//!     what lingers, with its flag: length u16 | as many bytes, opaque here
//!     tag: keyed BLAKE3 over everything before it, cut to 16 bytes
//! ```
//!
//! 233 bytes for 2 nodes, 729 for 64; the view adds 45 and 4 a member, what lingers 3 and 33 a group. It is sent while it is
//! promised and not installed; the overrides while a peer knows older ones only. Only
//! more than about fifty overrides on a farm of 64 nodes make a datagram that is longer than an
//! Ethernet frame.
//!
//! Content is authenticated, not secret. Nothing but size, magic, version and farm id is looked at
//! before the tag has been verified.

use std::{array, sync::Arc};

use self::codec::{Reader, Writer};
use super::{
    counters::Dropped,
    view::{Agreement, Digest, Life, Proof, Stamp},
};
use crate::model::{Abstention, MAX_NODES, Mac, NodeId, NodeSet, Overrides, Version};

mod codec;
#[cfg(test)]
mod tests;

/// Bytes before the acknowledgements.
const HEAD: usize = 201;
const ACK: usize = 8;
const TAG: usize = 16;
const OVERRIDES: usize = 12 + 9 * Overrides::MAX + 14 * Overrides::MAX_STAYS;
const ABSTENTIONS: usize = 1 + 5 * MAX_NODES;
const CONTENT: usize = 32 + 4 * MAX_NODES + OVERRIDES + ABSTENTIONS;

/// Bytes of a heartbeat at least.
pub(super) const MIN_LEN: usize = HEAD + ACK + TAG;
/// Bytes of a heartbeat at most.
pub(super) const MAX_LEN: usize =
    HEAD + ACK * MAX_NODES + CONTENT + OVERRIDES + 2 + MAX_LINGERING + TAG;

/// Bytes at most that say what lingers.
pub(super) const MAX_LINGERING: usize = 1100;

const MAGIC: [u8; 4] = *b"VIPf";
const VERSION: u8 = 6;
const AT_VERSION: usize = 4;
const AT_LINK: usize = 5;
const AT_FARM: usize = 8;
pub(super) const AT_MAC: usize = 171;

/// Tells farms on one network apart before any cryptography.
pub(super) type FarmId = [u8; 4];

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Heartbeat {
    pub(super) source: NodeId,
    /// Random, drawn when the agent starts.
    pub(super) incarnation: u64,
    /// Rises with every heartbeat of an incarnation; the same on all links.
    pub(super) sequence: u64,
    pub(super) state: State,
    /// The sender's on the datagram's link. Beside the state, because it is another one on each.
    pub(super) mac: Mac,
    /// What the sender's kernel accepts. Beside the state, because it is no news: nobody decides by
    /// it.
    pub(super) proof: Proof,
    /// What the sender has heard last on the first link, by node.
    pub(super) acks: Vec<Ack>,
    /// The promised view, while it is not installed.
    pub(super) proposal: Option<Arc<Agreement>>,
    /// The newest overrides known, while a peer knows older ones only.
    pub(super) overrides: Option<Arc<Overrides>>,
    /// The buckets given away whose old connections the sender still serves: nobody decides by it.
    pub(super) lingering: Arc<[u8]>,
}

/// The part whose changes are news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) flags: Flags,
    pub(super) digest: Digest,
    pub(super) staged: Option<Digest>,
    pub(super) installed: Stamp,
    pub(super) promised: Stamp,
    /// Who is known to have promised the same.
    pub(super) ready: NodeSet,
    pub(super) hears: NodeSet,
    pub(super) linked: NodeSet,
    pub(super) max_epoch: u64,
    /// Of the newest overrides known.
    pub(super) overrides: Version,
    /// On which links the sender hears anybody: a bitmap of the first 16.
    pub(super) hears_on: u16,
    /// What the sender does not serve, with the configuration in force.
    pub(super) abstains: Abstention,
    /// The same with the staged one.
    pub(super) abstains_next: Abstention,
}

/// What the sender of a heartbeat is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub(super) struct Flags(u16);

impl Flags {
    /// Serves its buckets.
    pub(super) const SERVING: Self = Self(1);
    /// Served, and serves nothing until it has installed another view.
    pub(super) const FENCED: Self = Self(2);
    /// Wants to own nothing, and will not come back in this incarnation.
    pub(super) const LEAVING: Self = Self(4);
    /// Wants to own nothing for now: it cannot serve, or may not with its configuration.
    pub(super) const UNFIT: Self = Self(8);
    /// Its staged configuration, or the one in force, is to go before all others.
    pub(super) const FORCED: Self = Self(16);
    /// Has not heard the network for long enough to know who else serves: owns nothing in a view
    /// without all nodes of the farm.
    pub(super) const LISTENING: Self = Self(256);
    const STAGED: Self = Self(32);
    const PROPOSAL: Self = Self(64);
    const OVERRIDES: Self = Self(128);
    const LINGERING: Self = Self(512);
    const ALL: Self = Self(1023);

    /// Whether any of those flags is set.
    pub(super) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// With that flag, if `condition` holds.
    #[must_use]
    pub(super) fn with(self, flag: Self, condition: bool) -> Self {
        if condition { Self(self.0 | flag.0) } else { self }
    }

    /// The flags with that number.
    #[cfg(test)]
    pub(super) fn of(number: u16) -> Self {
        Self(number)
    }

    fn without_sections(self) -> Self {
        let sections = Self::STAGED.0 | Self::PROPOSAL.0 | Self::OVERRIDES.0 | Self::LINGERING.0;
        Self(self.0 & !sections)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The newest heartbeat of a node that another has heard; all zero if none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Ack {
    pub(super) life: Life,
    /// Its low half.
    pub(super) sequence: u32,
}

/// The id of the farm of that name.
pub(super) fn farm_id(name: &str) -> FarmId {
    let hash = blake3::derive_key("vipfarm 1 farm id", name.as_bytes());
    array::from_fn(|byte| hash[byte])
}

/// The heartbeat as a datagram for one link, ready for [`reseal`].
pub(super) fn seal(heartbeat: &Heartbeat, link: u8, farm: FarmId, key: &[u8; 32]) -> Vec<u8> {
    let Heartbeat {
        source,
        incarnation,
        sequence,
        state,
        mac,
        proof,
        acks,
        proposal,
        overrides,
        lingering,
    } = heartbeat;
    let flags = state
        .flags
        .with(Flags::STAGED, state.staged.is_some())
        .with(Flags::PROPOSAL, proposal.is_some())
        .with(Flags::OVERRIDES, overrides.is_some())
        .with(Flags::LINGERING, !lingering.is_empty());
    let mut to = Writer::default();
    to.bytes(&MAGIC);
    to.u8(VERSION);
    to.u8(link);
    to.node(*source);
    to.u8(u8::try_from(acks.len()).expect("at most `MAX_NODES`"));
    to.bytes(&farm);
    to.u16(flags.0);
    to.u16(state.hears_on);
    to.u64(*incarnation);
    to.u64(*sequence);
    to.bytes(&state.digest);
    to.bytes(&state.staged.unwrap_or_default());
    to.stamp(&state.installed);
    to.stamp(&state.promised);
    to.nodes(state.ready);
    to.nodes(state.hears);
    to.nodes(state.linked);
    to.u64(state.max_epoch);
    to.version(state.overrides);
    to.bytes(&mac.0);
    to.proof(*proof);
    to.u32(state.abstains.bits());
    to.u32(state.abstains_next.bits());
    for &ack in acks {
        to.ack(ack);
    }
    if let Some(proposal) = proposal {
        to.content(&proposal.content);
    }
    if let Some(overrides) = overrides {
        to.overrides(overrides);
    }
    if !lingering.is_empty() {
        to.u16(u16::try_from(lingering.len()).expect("at most `MAX_LINGERING`"));
        to.bytes(lingering);
    }
    let tag = tag(&to.0, key);
    to.bytes(&tag);
    to.0
}

/// The same heartbeat for another link, on which the sender has that MAC.
pub(super) fn reseal(datagram: &[u8], link: u8, mac: Mac, key: &[u8; 32]) -> Vec<u8> {
    let mut bytes = datagram.to_vec();
    bytes.truncate(datagram.len().saturating_sub(TAG));
    bytes[AT_LINK] = link;
    bytes[AT_MAC..AT_MAC + mac.0.len()].copy_from_slice(&mac.0);
    let tag = tag(&bytes, key);
    bytes.extend(tag);
    bytes
}

/// What can be said of a datagram at no cost and without trust: whether it may be a heartbeat of
/// this farm.
pub(super) fn screen(bytes: &[u8], farm: FarmId) -> Result<(), Dropped> {
    if !(MIN_LEN..=MAX_LEN).contains(&bytes.len()) {
        return Err(Dropped::Size);
    }
    if bytes[..MAGIC.len()] != MAGIC {
        return Err(Dropped::Magic);
    }
    if bytes[AT_VERSION] != VERSION {
        return Err(Dropped::Version);
    }
    if bytes[AT_FARM..AT_FARM + farm.len()] != farm {
        return Err(Dropped::Farm);
    }
    Ok(())
}

/// The heartbeat in a screened datagram, if a holder of one of the keys has written it for that
/// link.
pub(super) fn open(bytes: &[u8], link: u8, keys: &[[u8; 32]]) -> Result<Heartbeat, Dropped> {
    let (body, theirs) = bytes.split_last_chunk::<TAG>().ok_or(Dropped::Size)?;
    if !keys.iter().any(|key| same_tag(*theirs, tag(body, key))) {
        return Err(Dropped::Tag);
    }
    if body.get(AT_LINK) != Some(&link) {
        return Err(Dropped::Link);
    }
    let mut from = Reader(body);
    let heartbeat = read(&mut from)?;
    if from.0.is_empty() { Ok(heartbeat) } else { Err(Dropped::Malformed) }
}

/// Reads any bytes as datagrams of every kind: what a fuzzer calls. Says whether they were a
/// heartbeat but for their tag; no input may panic, and what is read must be written the same.
pub fn fuzz(bytes: &[u8]) -> bool {
    const KEY: [u8; 32] = [7; 32];
    let farm = array::from_fn(|byte| bytes.get(AT_FARM + byte).copied().unwrap_or(0));
    let trusted = screen(bytes, farm).and_then(|()| open(bytes, 0, &[KEY])).is_ok();
    let Ok(heartbeat) = read(&mut Reader(bytes)) else { return trusted };
    let sealed = seal(&heartbeat, 0, farm, &KEY);
    let again = screen(&sealed, farm).and_then(|()| open(&sealed, 0, &[KEY]));
    assert_eq!(again, Ok(heartbeat), "what was read is written the same");
    true
}

fn read(from: &mut Reader<'_>) -> Result<Heartbeat, Dropped> {
    let [_, _, _, _, _, _] = from.array()?;
    let (source, nodes) = (from.node()?, usize::from(from.u8()?));
    let _farm: FarmId = from.array()?;
    let (flags, hears_on) = (Flags(from.u16()?), from.u16()?);
    if !(1..=MAX_NODES).contains(&nodes) || flags.0 & !Flags::ALL.0 != 0 {
        return Err(Dropped::Malformed);
    }
    let (incarnation, sequence) = (from.u64()?, from.u64()?);
    let (digest, staged) = (from.array()?, from.array()?);
    if !flags.has(Flags::STAGED) && staged != Digest::default() {
        return Err(Dropped::Malformed);
    }
    let mut state = State {
        flags: flags.without_sections(),
        digest,
        staged: flags.has(Flags::STAGED).then_some(staged),
        installed: from.stamp()?,
        promised: from.stamp()?,
        ready: from.nodes()?,
        hears: from.nodes()?,
        linked: from.nodes()?,
        max_epoch: from.u64()?,
        overrides: from.version()?,
        hears_on,
        abstains: Abstention::NONE,
        abstains_next: Abstention::NONE,
    };
    let mac = Mac(from.array()?);
    let proof = from.proof()?;
    state.abstains = Abstention::from_bits(from.u32()?);
    state.abstains_next = Abstention::from_bits(from.u32()?);
    let acks = (0..nodes).map(|_| from.ack()).collect::<Result<_, _>>()?;
    let proposal = flags.has(Flags::PROPOSAL).then(|| from.content()).transpose()?;
    let proposal = proposal.map(|content| Agreement { stamp: state.promised, content });
    let overrides = flags.has(Flags::OVERRIDES).then(|| from.overrides()).transpose()?;
    let lingering = if flags.has(Flags::LINGERING) {
        let length = usize::from(from.u16()?);
        // None at all has no flag.
        if !(1..=MAX_LINGERING).contains(&length) {
            return Err(Dropped::Malformed);
        }
        from.bytes(length)?.into()
    } else {
        Arc::default()
    };
    Ok(Heartbeat {
        source,
        incarnation,
        sequence,
        state,
        mac,
        proof,
        acks,
        proposal: proposal.map(Arc::new),
        overrides: overrides.map(Arc::new),
        lingering,
    })
}

fn tag(body: &[u8], key: &[u8; 32]) -> [u8; TAG] {
    let hash = blake3::keyed_hash(key, body);
    array::from_fn(|byte| hash.as_bytes()[byte])
}

/// Compares in constant time, as [`blake3::Hash`] does: how long a refusal takes must not tell a
/// forger how much of the tag was right.
fn same_tag(ours: [u8; TAG], theirs: [u8; TAG]) -> bool {
    let widened = |tag: [u8; TAG]| {
        let mut hash = [0; 32];
        hash[..TAG].copy_from_slice(&tag);
        blake3::Hash::from_bytes(hash)
    };
    widened(ours) == widened(theirs)
}
