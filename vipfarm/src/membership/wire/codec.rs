//! Bytes in network byte order, one after the other; whatever is missing is an error, not a panic.

use std::sync::Arc;

use super::{
    super::{
        counters::Dropped,
        view::{Content, Proof, Stamp, ViewId},
    },
    Ack,
};
use crate::model::{
    Abstention, Abstentions, NodeId, NodeSet, Override, Overrides, Stay, StayKind, Version, VipId,
};

/// What an override names besides its node and power.
const ONE_GROUP: u8 = 1;
const ONE_LIFE: u8 = 2;
/// How a node is to hold a failover VIP.
const PINNED: u8 = 1;

/// Writes fields.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn node(&mut self, node: NodeId) {
        self.bytes(&node.index().to_le_bytes()[..1]);
    }

    pub(super) fn nodes(&mut self, nodes: NodeSet) {
        self.u64(nodes.bits());
    }

    pub(super) fn version(&mut self, version: Version) {
        self.u64(version.counter);
        self.u8(version.author);
    }

    pub(super) fn stamp(&mut self, stamp: &Stamp) {
        self.u64(stamp.id.epoch);
        self.node(stamp.id.coordinator);
        self.u64(stamp.id.incarnation);
        self.bytes(&stamp.hash);
    }

    pub(super) fn proof(&mut self, proof: Proof) {
        self.u64(proof.epoch);
        self.u64(proof.digest);
    }

    pub(super) fn ack(&mut self, ack: Ack) {
        self.u32(ack.life);
        self.u32(ack.sequence);
    }

    pub(super) fn content(&mut self, content: &Content) {
        self.nodes(content.alive);
        self.nodes(content.idle);
        self.bytes(&content.digest);
        content.lives.iter().for_each(|&life| self.u32(life));
        self.overrides(&content.powers);
        let abstentions = content.abstentions.entries();
        self.u8(u8::try_from(abstentions.len()).expect("at most `MAX_NODES`"));
        for (node, from) in abstentions {
            self.node(*node);
            self.u32(from.bits());
        }
    }

    pub(super) fn overrides(&mut self, overrides: &Overrides) {
        self.version(overrides.version());
        let count = overrides.entries().len();
        self.u16(u16::try_from(count).expect("at most `Overrides::MAX`"));
        for entry in overrides.entries() {
            self.node(entry.node);
            let group = entry.group.map_or(0, |_| ONE_GROUP);
            self.u8(group | entry.life.map_or(0, |_| ONE_LIFE));
            self.u8(entry.group.unwrap_or(0));
            self.u16(entry.power);
            self.u32(entry.life.unwrap_or(0));
        }
        let count = overrides.stays().len();
        self.u8(u8::try_from(count).expect("at most `Overrides::MAX_STAYS`"));
        for stay in overrides.stays() {
            self.u64(stay.vip.0);
            self.node(stay.node);
            let kind = if stay.kind == StayKind::Pinned { PINNED } else { 0 };
            self.u8(kind | stay.life.map_or(0, |_| ONE_LIFE));
            self.u32(stay.life.unwrap_or(0));
        }
    }
}

/// Reads fields. What no writer writes is [`Dropped::Malformed`].
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

type Read<T> = Result<T, Dropped>;

impl Reader<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Dropped::Malformed)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Read<&[u8]> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Dropped::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> Read<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Read<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn node(&mut self) -> Read<NodeId> {
        NodeId::new(self.u8()?.into()).ok_or(Dropped::Malformed)
    }

    pub(super) fn nodes(&mut self) -> Read<NodeSet> {
        self.u64().map(NodeSet::from_bits)
    }

    pub(super) fn version(&mut self) -> Read<Version> {
        Ok(Version { counter: self.u64()?, author: self.u8()? })
    }

    pub(super) fn stamp(&mut self) -> Read<Stamp> {
        let (epoch, coordinator, incarnation) = (self.u64()?, self.node()?, self.u64()?);
        Ok(Stamp { id: ViewId { epoch, coordinator, incarnation }, hash: self.array()? })
    }

    pub(super) fn proof(&mut self) -> Read<Proof> {
        Ok(Proof { epoch: self.u64()?, digest: self.u64()? })
    }

    pub(super) fn ack(&mut self) -> Read<Ack> {
        Ok(Ack { life: self.u32()?, sequence: self.u32()? })
    }

    pub(super) fn content(&mut self) -> Read<Content> {
        let (alive, idle, digest) = (self.nodes()?, self.nodes()?, self.array()?);
        if !idle.is_subset(alive) {
            return Err(Dropped::Malformed);
        }
        let lives = (0..alive.len()).map(|_| self.u32()).collect::<Read<_>>()?;
        let powers = Arc::new(self.overrides()?);
        let abstentions = Arc::new(self.abstentions()?);
        Ok(Content { alive, idle, digest, lives, powers, abstentions })
    }

    fn abstentions(&mut self) -> Read<Abstentions> {
        let count = usize::from(self.u8()?);
        let entry = |from: &mut Self| Ok((from.node()?, Abstention::from_bits(from.u32()?)));
        let entries = (0..count).map(|_| entry(self)).collect::<Read<Vec<_>>>()?;
        let abstentions = Abstentions::new(entries).ok_or(Dropped::Malformed)?;
        // Written with one of nothing, it would not be what was hashed.
        Some(abstentions).filter(|read| read.entries().len() == count).ok_or(Dropped::Malformed)
    }

    pub(super) fn overrides(&mut self) -> Read<Overrides> {
        let (version, count) = (self.version()?, usize::from(self.u16()?));
        if count > Overrides::MAX {
            return Err(Dropped::Malformed);
        }
        let entries = (0..count).map(|_| self.entry()).collect::<Read<Vec<_>>>()?;
        let count = usize::from(self.u8()?);
        let stays = (0..count).map(|_| self.stay()).collect::<Read<Vec<_>>>()?;
        let overrides = Overrides::new(version, entries.iter().copied());
        let overrides = overrides.and_then(|it| it.and(stays.iter().copied()));
        // Written in another order, or twice, it would not be what was hashed.
        let same = |read: &Overrides| read.entries() == entries && read.stays() == stays;
        overrides.filter(same).ok_or(Dropped::Malformed)
    }

    fn stay(&mut self) -> Read<Stay> {
        let (vip, node, names, life) = (VipId(self.u64()?), self.node()?, self.u8()?, self.u32()?);
        let has = |part| names & part != 0;
        if names & !(PINNED | ONE_LIFE) != 0 || (!has(ONE_LIFE) && life != 0) {
            return Err(Dropped::Malformed);
        }
        let kind = if has(PINNED) { StayKind::Pinned } else { StayKind::Incumbent };
        Ok(Stay { vip, kind, node, life: has(ONE_LIFE).then_some(life) })
    }

    fn entry(&mut self) -> Read<Override> {
        let (node, names, group) = (self.node()?, self.u8()?, self.u8()?);
        let (power, life) = (self.u16()?, self.u32()?);
        let has = |part| names & part != 0;
        let stray = (!has(ONE_GROUP) && group != 0) || (!has(ONE_LIFE) && life != 0);
        if stray || names & !(ONE_GROUP | ONE_LIFE) != 0 {
            return Err(Dropped::Malformed);
        }
        let group = has(ONE_GROUP).then_some(group);
        Ok(Override { node, group, power, life: has(ONE_LIFE).then_some(life) })
    }
}
