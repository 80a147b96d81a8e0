//! The desired state of one interface's kernel tables, and how to get there from the present one.
//!
//! Pure: the same plan always makes the same tables. [`crate::datapath`] writes them; `explain` and
//! the tests read them as the kernel would.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use thiserror::Error;
use vipfarm_common::layout::{
    self, Generation, GroupBitmap, MAX_GROUPS, MAX_PEERS, MAX_RULES, MAX_VIPS, RULE_ON_IPID,
    RULE_ON_PORT, RULE_SLOTS, RuleSlot, VIP_CLOSED, VIP_NO_ECHO, VIP_SLOTS, VipSlot, mac_word, mix,
    rule_index, vip_index,
};

use crate::model::{Bitmap, Filter, IcmpEcho, Mac, Open, Proto, Vip};

/// Everything that the tables of one interface are to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Addresses and rules: they change with the configuration only.
    pub services: Arc<Services>,
    /// The buckets this node accepts, by kernel group; the first is the built-in group's.
    pub bitmaps: Vec<Bitmap>,
    /// MACs of the other nodes on this network, by node; `None` = own, or not known yet.
    pub peers: Vec<Option<Mac>>,
}

/// A step from one plan to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Addresses or rules differ: write the idle generation and switch.
    Structure,
    /// One group's bitmap differs: four word stores in place.
    Bitmap {
        /// Kernel group.
        group: usize,
        /// Its new bitmap.
        bitmap: Bitmap,
    },
    /// One peer's MAC differs: a word store in place.
    Peer {
        /// Its place in [`Generation::peers`].
        index: usize,
        /// The MAC; `None` = the place is free.
        mac: Option<Mac>,
    },
}

impl Plan {
    /// What to do to get from `old` (`None` = nothing is written yet) to this plan.
    pub fn changes_from(&self, old: Option<&Self>) -> Vec<Change> {
        let Some(old) = old.filter(|old| old.services == self.services) else {
            return vec![Change::Structure];
        };
        let bitmaps = self.bitmaps.iter().enumerate();
        let bitmaps = bitmaps
            .filter(|&(group, bitmap)| old.bitmaps.get(group) != Some(bitmap))
            .map(|(group, &bitmap)| Change::Bitmap { group, bitmap });
        let peers = self.peers.iter().enumerate();
        let peers = peers
            .filter(|&(index, mac)| old.peers.get(index) != Some(mac))
            .map(|(index, &mac)| Change::Peer { index, mac });
        bitmaps.chain(peers).collect()
    }

    /// The complete tables.
    pub fn generation(&self) -> Box<Generation> {
        let mut tables = empty_generation();
        self.services.place_vips(&mut tables);
        self.services.place_rules(&mut tables);
        for (slot, bitmap) in tables.groups.iter_mut().zip(&self.bitmaps) {
            *slot = GroupBitmap { mine: bitmap.0 };
        }
        for (slot, mac) in tables.peers.iter_mut().zip(&self.peers) {
            *slot = mac.map_or(0, |mac| mac_word(mac.0));
        }
        tables
    }
}

/// The structural part of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// In the order of their identities, which start at 1.
    vips: Vec<VipEntry>,
    rules: BTreeMap<RuleKey, RuleEntry>,
    groups: usize,
    /// Found here once: the thread that writes the tables has no time to try a million.
    vip_multiplier: u64,
    rule_multiplier: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct VipEntry {
    addr: Ipv4Addr,
    vmac: Mac,
    flags: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RuleKey {
    vip: u32,
    udp: bool,
    /// `None` = any port without a rule of its own.
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RuleEntry {
    group: u32,
    filter: Filter,
}

/// Why a configuration does not fit the kernel tables.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Too many of something.
    #[error("{count} {what} but the kernel tables of an interface hold {most}")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// No multiplier spreads the entries.
    #[error("no collision-free kernel table of {0} {1} was found")]
    Crowded(usize, &'static str),
}

impl Services {
    /// The services of the farm's VIP blocks on one interface; `here` tells by its index in the file
    /// whether a block is.
    ///
    /// Kernel groups are numbered in the order of the whole file from 1 on, whatever interface they
    /// are on: a group's number chooses its hash byte, and all nodes must choose alike. 0 is the
    /// built-in group that answers ARP and echo.
    pub fn new(blocks: &[Vip], here: impl Fn(usize) -> bool) -> Result<Self, PlanError> {
        let mut services = Self {
            vips: Vec::new(),
            rules: BTreeMap::new(),
            groups: 1,
            vip_multiplier: 1,
            rule_multiplier: 1,
        };
        for (index, block) in blocks.iter().enumerate() {
            for address in block.addresses.iter().filter(|_| here(index)) {
                if let IpAddr::V4(addr) = address.addr {
                    services.vips.push(VipEntry { addr, vmac: block.vmac, flags: flags(block) });
                    services.add_rules(block, addr);
                }
            }
            services.groups += block.groups.len();
        }
        services.fit()
    }

    /// The same services, and those addresses as VIPs that are closed, where they are none yet:
    /// whatever is for them is refused.
    pub fn with_closed(
        &self,
        closed: impl IntoIterator<Item = (Ipv4Addr, Mac)>,
    ) -> Result<Self, PlanError> {
        let mut services = self.clone();
        for (addr, vmac) in closed {
            if !services.vips.iter().any(|vip| vip.addr == addr) {
                services.vips.push(VipEntry { addr, vmac, flags: VIP_CLOSED | VIP_NO_ECHO });
            }
        }
        services.fit()
    }

    /// Whether the address is a VIP here, open or closed.
    pub fn has_vip(&self, addr: Ipv4Addr) -> bool {
        self.vips.iter().any(|vip| vip.addr == addr)
    }

    /// Finds the multipliers of tables that hold all of it.
    fn fit(mut self) -> Result<Self, PlanError> {
        limit("virtual addresses", self.vips.len(), MAX_VIPS)?;
        limit("groups", self.groups - 1, MAX_GROUPS - 1)?;
        limit("rules (one for every address counts once for each)", self.rules.len(), MAX_RULES)?;
        let fits = |&multiplier: &u64| {
            distinct::<VIP_SLOTS>(self.vips.iter().map(|vip| vip_slot(multiplier, vip.addr)))
        };
        self.vip_multiplier = multipliers()
            .find(fits)
            .ok_or(PlanError::Crowded(self.vips.len(), "virtual addresses"))?;
        let keys: Vec<_> = self.keys_with_port().collect();
        let fits = |&multiplier: &u64| {
            distinct::<RULE_SLOTS>(
                keys.iter().map(|&(key, port)| self.rule_slot(multiplier, key, port)),
            )
        };
        self.rule_multiplier =
            multipliers().find(fits).ok_or(PlanError::Crowded(keys.len(), "rules"))?;
        Ok(self)
    }

    /// The rules for one port each, with the port as packets have it.
    fn keys_with_port(&self) -> impl Iterator<Item = (&RuleKey, u16)> {
        let port = |key: &RuleKey| Some(u16::from_ne_bytes(key.port?.to_be_bytes()));
        self.rules.keys().filter_map(move |key| Some((key, port(key)?)))
    }

    /// The virtual address with that identity.
    pub fn vip(&self, identity: u8) -> Option<Ipv4Addr> {
        self.vips.get(usize::from(identity).checked_sub(1)?).map(|vip| vip.addr)
    }

    /// Kernel groups, the built-in one included: how many bitmaps a [`Plan`] has.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Flattens the block's rules for the address that was added last.
    fn add_rules(&mut self, block: &Vip, addr: Ipv4Addr) {
        let vip = number(self.vips.len());
        let named: Vec<Option<u16>> =
            block.groups.iter().flat_map(|group| &group.rules).map(|rule| rule.port).collect();
        for (proto, udp) in [(Proto::Tcp, false), (Proto::Udp, true)] {
            for port in named.iter().copied().chain([None]) {
                // A port may be hidden by a more specific rule for all ports: that has its entry.
                if let Some((index, rule)) = block.rule_for(IpAddr::V4(addr), proto, port)
                    && rule.port == port
                {
                    let group = number(self.groups + index);
                    let entry = RuleEntry { group, filter: rule.filter };
                    self.rules.insert(RuleKey { vip, udp, port }, entry);
                }
            }
        }
    }

    fn place_vips(&self, tables: &mut Generation) {
        tables.vip_multiplier = self.vip_multiplier;
        for (vip, entry) in (1u32..).zip(&self.vips) {
            let slot = VipSlot { addr: addr_word(entry.addr), vip: vip | entry.flags };
            tables.vips[vip_slot(self.vip_multiplier, entry.addr)] = slot;
            tables.vmacs[vip as usize] = mac_word(entry.vmac.0);
        }
    }

    fn place_rules(&self, tables: &mut Generation) {
        tables.rule_multiplier = self.rule_multiplier;
        for (key, port) in self.keys_with_port() {
            tables.rules[self.rule_slot(self.rule_multiplier, key, port)] = RuleSlot {
                key: layout::rule_key(key.vip, key.udp, port),
                rule: self.rules[key].encode(),
            };
        }
        for (key, entry) in self.rules.iter().filter(|(key, _)| key.port.is_none()) {
            tables.any_port[key.vip as usize][usize::from(key.udp)] = entry.encode();
        }
    }

    fn rule_slot(&self, rule_multiplier: u64, key: &RuleKey, port: u16) -> usize {
        let addr = self.vips[key.vip as usize - 1].addr;
        let vip = mix(addr_word(addr), self.vip_multiplier);
        rule_index(vip, rule_multiplier, key.udp, port)
    }
}

impl RuleEntry {
    fn encode(self) -> u32 {
        let flags = match self.filter {
            Filter::OnAddr => 0,
            Filter::OnPort => RULE_ON_PORT,
            Filter::OnIpid => RULE_ON_IPID,
        };
        layout::rule(self.group, flags)
    }
}

fn vip_slot(multiplier: u64, addr: Ipv4Addr) -> usize {
    vip_index(mix(addr_word(addr), multiplier))
}

/// An address as the tables hold it: the native integer of its bytes in packet order.
pub fn addr_word(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

/// Tables in which nothing is a VIP.
#[expect(clippy::large_stack_arrays, reason = "32 KB, on their way to the heap")]
pub fn empty_generation() -> Box<Generation> {
    Box::new(Generation {
        vip_multiplier: 1,
        rule_multiplier: 1,
        vips: [VipSlot::default(); VIP_SLOTS],
        vmacs: [0; 2 * MAX_VIPS],
        any_port: [[0; 2]; 2 * MAX_VIPS],
        rules: [RuleSlot::default(); RULE_SLOTS],
        groups: [GroupBitmap::default(); MAX_GROUPS],
        peers: [0; MAX_PEERS],
    })
}

fn flags(block: &Vip) -> u32 {
    let closed = if block.open == Open::Manual { VIP_CLOSED } else { 0 };
    let no_echo = if block.icmp_echo == IcmpEcho::Drop { VIP_NO_ECHO } else { 0 };
    closed | no_echo
}

/// A count as the tables hold it; [`limit`] refuses far smaller ones.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn limit(what: &'static str, count: usize, most: usize) -> Result<(), PlanError> {
    if count > most { Err(PlanError::TooMany { what, count, most }) } else { Ok(()) }
}

fn distinct<const SLOTS: usize>(indices: impl Iterator<Item = usize>) -> bool {
    let mut taken = [false; SLOTS];
    indices.into_iter().all(|index| !std::mem::replace(&mut taken[index], true))
}

/// Odd 64-bit multipliers in a fixed order (`SplitMix64`), so that equal plans make equal tables. At
/// the limits about one in 3,000 fits; a million tries take well under a second.
fn multipliers() -> impl Iterator<Item = u64> {
    (1u64..1 << 20).map(|n| {
        let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) | 1
    })
}

#[cfg(test)]
mod tests;
