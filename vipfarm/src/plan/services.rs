//! What an interface's tables say of VIPs and rules: it changes with the configuration only.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use thiserror::Error;
use vipfarm_common::hash;
use vipfarm_common::layout::{
    self, Generation, MAC_SLOTS, MAX_GROUPS, MAX_LINGER_S, MAX_RULES, MAX_VIPS, NO_VMAC,
    RESOLVE_GROUP, RULE_ON_IPID, RULE_ON_PORT, RULE_SLOTS, RuleSlot, VIP_CLOSED, VIP_DIRECTED,
    VIP_FAILOVER, VIP_NO_ECHO, VIP_OTHER, VIP_SLOTS, Vip6Slot, VipSlot, key_v4, mac_word, mix,
    mix_v6, rule_index, vip_index,
};

use super::{addr_word, addr_words, mac_set, multipliers};
use crate::model::{Filter, IcmpEcho, Mac, Mode, OtherProtocols, Proto, Rule, Vip, VlanTags};

/// Protocol numbers, as they are hashed.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// As whom a node asks where it must not ask as a VIP: by VIP, its own address on that network, of
/// IPv6 the link-local one if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnAddresses(pub BTreeMap<(VlanTags, IpAddr), IpAddr>);

/// The structural part of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// In the order of their identities, which start at 1.
    vips: Vec<VipEntry>,
    rules: BTreeMap<RuleKey, RuleEntry>,
    own: OwnAddresses,
    groups: usize,
    /// Found here once: the thread that writes the tables has no time to try a million.
    vip_multiplier: u64,
    rule_multiplier: u64,
    vmac_multiplier: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct VipEntry {
    addr: IpAddr,
    tags: VlanTags,
    /// `None` = nodes answer with their own.
    vmac: Option<Mac>,
    flags: u32,
    /// Kernel group of address resolution.
    resolve: u32,
    /// Kernel group of what has no ports.
    other: u32,
    /// See [`VipRules::later`].
    later: [Option<RuleEntry>; 2],
}

impl VipEntry {
    fn mixed(&self, multiplier: u64) -> u64 {
        match self.addr {
            IpAddr::V4(addr) => mix(key_v4(addr_word(addr), self.vlans()), multiplier),
            IpAddr::V6(addr) => mix_v6(addr_words(addr), self.vlans(), multiplier),
        }
    }

    fn vlans(&self) -> u32 {
        layout::vlans(self.tags.outer, self.tags.inner)
    }

    /// The slots of the two families are apart.
    fn slot(&self, multiplier: u64) -> usize {
        let slot = vip_index(self.mixed(multiplier));
        if self.addr.is_ipv6() { VIP_SLOTS + slot } else { slot }
    }
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
    /// In seconds; 0 = not at all.
    linger_s: u16,
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
            own: OwnAddresses::default(),
            groups: 1,
            vip_multiplier: 1,
            rule_multiplier: 1,
            vmac_multiplier: 1,
        };
        for (index, block) in blocks.iter().enumerate() {
            for address in block.addresses.iter().filter(|_| here(index)) {
                services.add_vip(block, address.addr);
            }
            services.groups += block.groups.len();
        }
        services.fit()
    }

    /// The same services, and those addresses as VIPs that are closed, where they are none yet:
    /// whatever is for them is refused.
    pub fn with_closed(
        &self,
        closed: impl IntoIterator<Item = HeldVip>,
    ) -> Result<Self, PlanError> {
        let mut services = self.clone();
        for HeldVip { addr, tags, vmac, .. } in closed {
            if !services.has_vip(addr, tags) {
                services.vips.push(VipEntry {
                    addr,
                    tags,
                    vmac,
                    flags: VIP_CLOSED | VIP_NO_ECHO,
                    resolve: RESOLVE_GROUP,
                    other: RESOLVE_GROUP,
                    later: [None; 2],
                });
            }
        }
        services.fit()
    }

    /// The same services of a node with those addresses.
    #[must_use]
    pub fn asking_as(self, own: OwnAddresses) -> Self {
        Self { own, ..self }
    }

    /// Whether nodes hand frames over for any of the VIPs.
    pub fn is_directed(&self) -> bool {
        self.vips.iter().any(|vip| vip.flags & VIP_DIRECTED != 0)
    }

    /// Whether the address is a VIP here, open or closed.
    pub fn has_vip(&self, addr: IpAddr, tags: VlanTags) -> bool {
        self.vips.iter().any(|vip| vip.addr == addr && vip.tags == tags)
    }

    /// Finds the multipliers of tables that hold all of it.
    fn fit(mut self) -> Result<Self, PlanError> {
        limit("virtual addresses", self.vips.len(), MAX_VIPS)?;
        limit("groups", self.groups - 1, MAX_GROUPS - 1)?;
        limit("rules (one for every address counts once for each)", self.rules.len(), MAX_RULES)?;
        let fits = |&multiplier: &u64| {
            distinct::<{ 2 * VIP_SLOTS }>(self.vips.iter().map(|vip| vip.slot(multiplier)))
        };
        self.vip_multiplier = multipliers()
            .find(fits)
            .ok_or(PlanError::Crowded(self.vips.len(), "virtual addresses"))?;
        let vmacs = || self.vips.iter().filter_map(|vip| vip.vmac);
        self.vmac_multiplier = multipliers()
            .find(|&multiplier| mac_set(vmacs(), multiplier).is_some())
            .ok_or(PlanError::Crowded(self.vips.len(), "virtual MACs"))?;
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

    /// The kernel group and the bucket of a TCP connection to a VIP, for each VLAN in which it is one: a
    /// socket does not tell its own. Nothing where no rule covers it.
    pub fn buckets_of(
        &self,
        hash_key: [u8; 16],
        client: SocketAddr,
        vip: SocketAddr,
    ) -> impl Iterator<Item = (usize, u8)> {
        let vips = self.vips.iter().enumerate();
        let places = vips.filter(move |(_, entry)| entry.addr == vip.ip()).map(|(place, _)| place);
        let rules = places.filter_map(move |place| self.rule_of(place, vip.port(), false));
        rules.map(move |rule| rule.place(hash_key, client, TCP))
    }

    /// The same of a UDP flow in those VLANs (see [`layout::vlans`]) whose rule has it linger, and for how
    /// long.
    pub fn lingering_flow(
        &self,
        hash_key: [u8; 16],
        client: SocketAddr,
        vip: SocketAddr,
        vlans: u32,
    ) -> Option<((usize, u8), Duration)> {
        let is_its = |entry: &VipEntry| entry.addr == vip.ip() && entry.vlans() == vlans;
        let place = self.vips.iter().position(is_its)?;
        let rule = self.rule_of(place, vip.port(), true).filter(|rule| rule.linger_s > 0)?;
        Some((rule.place(hash_key, client, UDP), Duration::from_secs(rule.linger_s.into())))
    }

    /// Of the VIP at that place.
    fn rule_of(&self, place: usize, port: u16, udp: bool) -> Option<&RuleEntry> {
        let key = |port| RuleKey { vip: number(place + 1), udp, port };
        let exact = self.rules.get(&key(Some(port)));
        exact.or_else(|| self.rules.get(&key(None)))
    }

    /// The virtual address with that identity, and its VLAN.
    pub fn vip(&self, identity: u8) -> Option<(VlanTags, IpAddr)> {
        let entry = self.vips.get(usize::from(identity).checked_sub(1)?);
        entry.map(|vip| (vip.tags, vip.addr))
    }

    /// The kernel group whose buckets say who answers for a VIP.
    pub fn resolve_group(&self, tags: VlanTags, vip: IpAddr) -> Option<usize> {
        let entry = self.vips.iter().find(|entry| (entry.tags, entry.addr) == (tags, vip))?;
        usize::try_from(entry.resolve).ok()
    }

    /// Kernel groups, the built-in one included: how many bitmaps a [`Plan`] has.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Adds one address of a block and flattens the block's rules for it.
    fn add_vip(&mut self, block: &Vip, addr: IpAddr) {
        let vip = number(self.vips.len() + 1);
        let named: Vec<Option<u16>> =
            block.groups.iter().flat_map(|group| &group.rules).map(|rule| rule.port).collect();
        let mut later = [None; 2];
        for (proto, udp) in [(Proto::Tcp, false), (Proto::Udp, true)] {
            let mut entries = Vec::new();
            for port in named.iter().copied().chain([None]) {
                // A port may be hidden by a more specific rule for all ports: that has its entry.
                if let Some((index, rule)) = block.rule_for(addr, proto, port)
                    && rule.port == port
                {
                    let group = number(self.groups + index);
                    let entry = RuleEntry::of(group, rule);
                    entries.push(entry);
                    self.rules.insert(RuleKey { vip, udp, port }, entry);
                }
            }
            // Fragments of ports without a rule are taken too: without a first one they are nothing.
            later[usize::from(udp)] = entries.first().copied().filter(|first| {
                first.filter != Filter::OnPort
                    && first.linger_s == 0
                    && entries.iter().all(|entry| entry == first)
            });
        }
        let resolve = block.rule_for(addr, Proto::Arp, None);
        let resolve = resolve.map_or(RESOLVE_GROUP, |(index, _)| number(self.groups + index));
        let other = if block.mode == Mode::Failover { resolve } else { RESOLVE_GROUP };
        self.vips.push(VipEntry {
            addr,
            tags: block.vlan,
            vmac: block.virtual_mac(),
            flags: flags(block),
            resolve,
            other,
            later,
        });
    }

    pub(super) fn place_vips(&self, tables: &mut Generation) {
        tables.vip_multiplier = self.vip_multiplier;
        let vmacs = self.vips.iter().filter_map(|vip| vip.vmac);
        tables.vmac_multiplier = self.vmac_multiplier;
        tables.vmac_slots = mac_set(vmacs, self.vmac_multiplier).unwrap_or([0; MAC_SLOTS]);
        for (vip, entry) in (1u32..).zip(&self.vips) {
            let slot = vip_index(entry.mixed(self.vip_multiplier));
            let (word, vlans) = (vip | entry.flags, entry.vlans());
            match entry.addr {
                IpAddr::V4(addr) => {
                    let key = key_v4(addr_word(addr), vlans);
                    tables.vips[slot] = VipSlot { key, vip: word, padding: 0 };
                }
                IpAddr::V6(addr) => {
                    let addr = addr_words(addr);
                    tables.vips6[slot] = Vip6Slot { addr, vlans, vip: word, padding: 0 };
                }
            }
            if let Some(&own) = self.own.0.get(&(entry.tags, entry.addr)) {
                tables.askers[vip as usize] = match own {
                    IpAddr::V4(own) => {
                        let [a, b, c, d] = own.octets();
                        [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0]
                    }
                    IpAddr::V6(own) => addr_words(own),
                };
            }
            tables.vmacs[vip as usize] = entry.vmac.map_or(NO_VMAC, |mac| mac_word(mac.0));
            let rules = &mut tables.vip_rules[vip as usize];
            rules.resolve = entry.resolve;
            rules.other = entry.other;
            rules.later = entry.later.map(|rule| rule.map_or(0, RuleEntry::encode));
        }
    }

    pub(super) fn place_rules(&self, tables: &mut Generation) {
        tables.rule_multiplier = self.rule_multiplier;
        for (key, port) in self.keys_with_port() {
            tables.rules[self.rule_slot(self.rule_multiplier, key, port)] = RuleSlot {
                key: layout::rule_key(key.vip, key.udp, port),
                rule: self.rules[key].encode(),
            };
        }
        for (key, entry) in self.rules.iter().filter(|(key, _)| key.port.is_none()) {
            let rules = &mut tables.vip_rules[key.vip as usize];
            rules.any_port[usize::from(key.udp)] = entry.encode();
        }
    }

    fn rule_slot(&self, rule_multiplier: u64, key: &RuleKey, port: u16) -> usize {
        let vip = self.vips[key.vip as usize - 1].mixed(self.vip_multiplier);
        rule_index(vip, rule_multiplier, key.udp, port)
    }
}

/// A VIP that an interface holds, whether it is served or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldVip {
    /// The address.
    pub addr: IpAddr,
    /// Its VLAN.
    pub tags: VlanTags,
    /// Its virtual MAC; `None` = nodes answer with their own.
    pub vmac: Option<Mac>,
    /// Only one node's interface has it at a time, by the farm's views.
    pub floats: bool,
}

impl RuleEntry {
    fn of(group: u32, rule: &Rule) -> Self {
        let linger = rule.linger.map_or(0, |linger| linger.as_secs());
        let linger_s = u16::try_from(linger).unwrap_or(MAX_LINGER_S);
        Self { group, filter: rule.filter, linger_s }
    }

    /// The kernel group, and the client's bucket of it.
    fn place(self, hash_key: [u8; 16], client: SocketAddr, proto: u8) -> (usize, u8) {
        let field = match self.filter {
            Filter::OnPort => client.port().to_be_bytes(),
            Filter::OnAddr | Filter::OnIpid => [0; 2],
        };
        let words = hash::key_words(hash_key);
        let hash = match client.ip() {
            IpAddr::V4(addr) => hash::hash_v4(words, addr.octets(), field, proto),
            IpAddr::V6(addr) => hash::hash_v6(words, addr.octets(), field, proto),
        };
        (self.group as usize, hash::bucket(hash, self.group))
    }

    fn encode(self) -> u32 {
        let flags = match self.filter {
            Filter::OnAddr => 0,
            Filter::OnPort => RULE_ON_PORT,
            Filter::OnIpid => RULE_ON_IPID,
        };
        layout::rule(self.group, flags | layout::rule_linger(self.linger_s))
    }
}

/// What waits to be opened (`open: manual`) is not closed here: nodes abstain from it, so that nobody owns
/// its buckets, and to open it is a matter of views alone.
fn flags(block: &Vip) -> u32 {
    let no_echo = if block.icmp_echo == IcmpEcho::Drop { VIP_NO_ECHO } else { 0 };
    let mode = match block.mode {
        Mode::VmacInvisible => 0,
        Mode::VmacDirected => VIP_DIRECTED,
        Mode::Failover => VIP_FAILOVER,
    };
    let other = if block.other == OtherProtocols::OnAddr { VIP_OTHER } else { 0 };
    no_echo | mode | other
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
