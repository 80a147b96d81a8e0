//! The kernel's decision, run on the host: what `explain` and the tests ask.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use vipfarm_common::{
    Generation, Guarded, Reason, State, Tables, decide, guard,
    hash::{Start, key_words},
    layout::{Control, active_word},
    packet::{Connection, FlowKey, FragmentKey, HostPacket, MAX_FRAGMENTS, Tuple},
};

use crate::{
    model::Mac,
    plan::{Change, Plan},
};

/// A connection's client and VIP, then their ports, as packets have them.
type Ends = ([u8; 16], [u8; 16], [u8; 2], [u8; 2]);

/// What first fragments came to; the oldest are forgotten, as the kernel does, nearly.
#[derive(Debug, Clone, Default)]
struct Fragments {
    fates: BTreeMap<FragmentKey, u32>,
    /// In the order of their coming.
    keys: VecDeque<FragmentKey>,
}

impl Fragments {
    fn put(&mut self, key: FragmentKey, fate: u32) {
        if self.fates.insert(key, fate).is_some() {
            return;
        }
        self.keys.push_back(key);
        if self.keys.len() > MAX_FRAGMENTS as usize
            && let Some(oldest) = self.keys.pop_front()
        {
            self.fates.remove(&oldest);
        }
    }
}

/// Tables as the kernel of one node would see them.
#[derive(Debug, Clone)]
pub struct HostTables {
    state: Box<State>,
    hash_start: Start,
    own_mac: Mac,
    ticks: u64,
    boot_ns: u64,
    observed: Cell<Option<(u32, u8)>>,
    fragments: RefCell<Fragments>,
    connections: BTreeMap<Ends, Connection>,
    flows: RefCell<BTreeMap<FlowKey, u64>>,
}

impl HostTables {
    /// The tables of a plan, with a lease in force.
    #[expect(clippy::large_stack_arrays, reason = "140 KB, on their way to the heap")]
    pub fn new(plan: &Plan, hash_key: [u8; 16], own_mac: Mac) -> Self {
        let tables: Generation = *plan.generation();
        let active = active_word(0, &tables);
        let control = Control { active, deadline_ticks: 2, deadline_ns: 2 };
        let state = Box::new(State { control, generations: [tables, tables] });
        let hash_start = key_words(hash_key).into();
        Self {
            state,
            hash_start,
            own_mac,
            ticks: 1,
            boot_ns: 1,
            observed: Cell::new(None),
            fragments: RefCell::default(),
            connections: BTreeMap::new(),
            flows: RefCell::default(),
        }
    }

    /// The same tables when the lease has ended.
    #[must_use]
    pub fn fenced(mut self) -> Self {
        self.state.control.deadline_ticks = 0;
        self.state.control.deadline_ns = 0;
        self
    }

    /// The same tables with a lease that is valid, but too near its end for the hot path.
    #[must_use]
    pub fn forced_slow(mut self) -> Self {
        self.state.control.deadline_ticks = 0;
        self
    }

    /// Has so much time pass, with a lease that stays in force.
    pub fn pass(&mut self, time: Duration) {
        self.boot_ns += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.state.control.deadline_ns = self.boot_ns + 1;
    }

    /// Brings the tables to another plan, as a running agent would; what was remembered of flows and
    /// fragments stays.
    pub fn apply(&mut self, plan: &Plan) {
        let tables = *plan.generation();
        self.state.control.active = active_word(0, &tables);
        self.state.generations[0] = tables;
    }

    /// Takes one of the steps to a plan, in the place of the agent's stores.
    pub fn change(&mut self, change: Change, plan: &Plan) {
        let tables = &mut self.state.generations[0];
        match change {
            Change::Structure => self.apply(plan),
            Change::Bitmap { group, bitmap } => tables.groups[group].mine = bitmap.0,
            Change::Moving { group, bitmap } => tables.groups[group].moving = bitmap.0,
            Change::Former { group, owners } => tables.groups[group].former = owners.0,
            Change::Owners { group, owners } => tables.groups[group].owners = owners.0,
            Change::Turns { group, turns } => {
                let group = &mut tables.groups[group];
                (group.first, group.next) = (turns.first.0, turns.next.0);
                group.tenure = turns.tenure;
            }
            Change::Peer { index, mac } => tables.peers[index] = mac,
            Change::PeerSlot { slot, mac } => tables.peer_slots[slot] = mac,
        }
    }

    /// Takes that MAC for the node's from now on.
    pub fn set_own_mac(&mut self, mac: Mac) {
        self.own_mac = mac;
    }

    /// The same tables of a node whose stack has that of a TCP connection.
    #[must_use]
    pub fn with_connection(
        mut self,
        client: SocketAddr,
        vip: SocketAddr,
        connection: Connection,
    ) -> Self {
        let bytes = |addr| match addr {
            IpAddr::V4(addr) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&addr.octets());
                bytes
            }
            IpAddr::V6(addr) => addr.octets(),
        };
        let ports = [client.port().to_be_bytes(), vip.port().to_be_bytes()];
        let ends = (bytes(client.ip()), bytes(vip.ip()), ports[0], ports[1]);
        self.connections.insert(ends, connection);
        self
    }

    /// The UDP flows that it remembers, with the time of each one's last datagram as
    /// [`vipfarm_common::packet::seen`] has it.
    pub fn flows(&self) -> Vec<(FlowKey, u64)> {
        self.flows.borrow().iter().map(|(key, seen)| (*key, *seen)).collect()
    }

    /// Nanoseconds of the boot clock.
    pub fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    /// The kernel group and the bucket that decided the last frame, if any did.
    pub fn observed(&self) -> Option<(u32, u8)> {
        self.observed.get()
    }

    /// What the egress guard does to the frame.
    pub fn guard(&self, frame: &mut [u8]) -> Guarded {
        guard(&HostPacket::new(frame), self)
    }

    /// What becomes of the frame, whose MACs are rewritten as the kernel would.
    pub fn decide(&self, frame: &mut [u8]) -> Reason {
        self.observed.set(None);
        decide(&HostPacket::new(frame), self).reason()
    }
}

impl Tables for HostTables {
    fn state(&self) -> &State {
        &self.state
    }

    fn volatile<T: Copy>(&self, word: &T) -> T {
        *word
    }

    fn ticks(&self) -> u64 {
        self.ticks
    }

    fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    fn hash_start(&self) -> Start {
        self.hash_start
    }

    fn own_mac(&self) -> [u8; 6] {
        self.own_mac.0
    }

    fn connection(&self, tuple: &Tuple) -> Connection {
        let Tuple { client, vip, client_port, vip_port, .. } = *tuple;
        let known = self.connections.get(&(client, vip, client_port, vip_port));
        known.copied().unwrap_or(Connection::None)
    }

    fn flow_seen(&self, flow: &Tuple) -> u64 {
        self.flows.borrow().get(&flow.into()).copied().unwrap_or(0)
    }

    fn note_flow(&self, flow: &Tuple, seen: u64) {
        self.flows.borrow_mut().insert(flow.into(), seen);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<u32> {
        self.fragments.borrow().fates.get(key).copied()
    }

    fn put_fragment(&self, key: &FragmentKey, fate: u32) {
        self.fragments.borrow_mut().put(*key, fate);
    }

    fn may_keep_fragment(&self) -> bool {
        true
    }

    fn observe(&self, group: u32, bucket: u8) {
        self.observed.set(Some((group, bucket)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_fragments_are_remembered_than_the_kernel_does() {
        let key = |id| FragmentKey { source: [0; 16], id, proto: 17, vip: 1 };
        let mut fragments = Fragments::default();
        (0..MAX_FRAGMENTS).for_each(|id| fragments.put(key(id), id));
        fragments.put(key(1), 7);
        assert_eq!(
            (fragments.fates.get(&key(0)), fragments.fates.get(&key(1))),
            (Some(&0), Some(&7))
        );
        fragments.put(key(MAX_FRAGMENTS), 8);
        assert_eq!(fragments.fates.len(), MAX_FRAGMENTS as usize);
        assert_eq!((fragments.fates.get(&key(0)), fragments.fates.get(&key(1))), (None, Some(&7)));
    }
}
