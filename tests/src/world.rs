//! A farm on paper, for tests that ask the decision about single frames: VIPs of both families, in a
//! VLAN, with and without a MAC of their own, rules of every kind, three nodes; the point of view is
//! node1's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vipfarm::{
    agent::ports::Port,
    config,
    datapath::{Buffers, Datapath, Error, Options, manual::Manual},
    host::HostTables,
    model::{Bitmap, Farm, Mac, NodeId, NodeSet, View, VlanTags},
    plan::{HeldVip, OwnAddresses, Owners, Plan, Turns},
};
use vipfarm_common::{
    hash,
    layout::{NOBODY, SEVERAL},
};

use crate::bpffs::Bpffs;

/// The file.
const FARM: &str = "
farm: paper
key_file: /nonexistent
nodes:
  - { name: node1, addresses: [10.9.0.11] }
  - { name: node2, addresses: [10.9.0.12] }
  - { name: node3, addresses: [10.9.0.13] }
vips:
  - addresses: [10.9.0.100/24, 10.9.0.101/24]
    groups:
      - name: web
        powers: { node1: 2, node2: 1, node3: 1 }
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { virtual_addr: 10.9.0.101, port: \"*\", proto: tcp, filter: on_addr }
      - name: dns
        rules:
          - { port: 53, proto: udp, filter: on_ipid }
          - { port: 514, proto: udp, filter: on_addr }
          - { port: 7000, proto: udp, filter: on_port }
          - { port: \"*\", proto: udp, filter: on_port, linger: 30s }
  - addresses: [10.9.0.102/24]
    vmac: 5a:fe:00:00:00:02
    icmp_echo: drop
    other: on_addr
    groups:
      - name: strangers
        powers: { node2: 1 }
        rules: [{ port: 22, proto: tcp, filter: on_addr }]
  - addresses: [10.9.0.103/24]
    groups: [{ name: shut, rules: [{ port: 80, proto: tcp, filter: on_port }] }]
  - addresses: [\"fd00:9::100/64\", \"fd00:9::101/64\"]
    vmac: 5a:fe:00:00:00:06
    other: on_addr
    groups:
      - name: web6
        powers: { node1: 2, node2: 1, node3: 1 }
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { virtual_addr: \"fd00:9::101\", port: \"*\", proto: tcp, filter: on_addr }
          - { port: 514, proto: udp, filter: on_addr }
          - { port: 9999, proto: udp, filter: on_addr }
          - { port: 4433, proto: udp, filter: on_port, linger: 30s }
  - addresses: [10.9.0.104/24, \"fd00:9::104/64\"]
    mode: vmac_directed
    groups:
      - name: direct
        rules:
          - { port: 80, proto: tcp, filter: on_port }
          - { port: \"*\", proto: udp, filter: on_port, linger: 30s }
          - { virtual_addr: 10.9.0.104, port: 53, proto: udp, filter: on_ipid }
      - name: answer
        powers: { node1: 1, node2: 1 }
        rules: [{ proto: arp, filter: on_addr }]
  - addresses: [10.9.0.105/24, \"fd00:9::105/64\"]
    vlan: 10
    vmac: 5a:fe:00:00:00:05
    groups: [{ name: tagged, rules: [{ port: 80, proto: tcp, filter: on_port }] }]
  - addresses: [10.9.0.105/24]
    vlan: 30
    vmac: 5a:fe:00:00:00:05
    groups: [{ name: elsewhere, powers: { node2: 1 }, rules: [{ port: 80, proto: tcp, filter: on_port }] }]
  - addresses: [10.9.0.106/24]
    vlan: [20, 10]
    vmac: 5a:fe:00:00:00:07
    groups: [{ name: twice, rules: [{ port: 80, proto: tcp, filter: on_port }] }]
  - addresses: [10.9.0.107/24, \"fd00:9::107/64\"]
    vlan: 40
    mode: vmac_directed
    groups: [{ name: direct-tagged, rules: [{ port: 80, proto: tcp, filter: on_port }] }]
  - addresses: [10.9.0.108/24, \"fd00:9::108/64\"]
    mode: failover
    priorities: { node1: 3, node2: 2, node3: 1 }
  - addresses: [10.9.0.109/24, \"fd00:9::109/64\"]
    mode: failover
    priorities: { node1: 2, node2: 3 }
    rules: [{ port: 80, proto: tcp }]
";

/// The two addresses of the first block, and the second block's.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// See [`VIP`].
pub const VIP_BY_ADDR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 101);
/// See [`VIP`].
pub const VIP_OF_NODE2: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 102);
/// See [`VIP`]; closed.
pub const VIP_CLOSED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 103);
/// VIPs of IPv6: the second by address.
pub const VIP6: Ipv6Addr = v6(0x100);
/// See [`VIP6`].
pub const VIP6_BY_ADDR: Ipv6Addr = v6(0x101);
/// Nodes answer for these with their own MACs.
pub const VIP_DIRECTED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 104);
/// See [`VIP_DIRECTED`].
pub const VIP6_DIRECTED: Ipv6Addr = v6(0x104);
/// In VLAN 10; in VLAN 30 node2 has it alone.
pub const VIP_TAGGED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 105);
/// In VLAN 10.
pub const VIP6_TAGGED: Ipv6Addr = v6(0x105);
/// In VLAN 10 within service VLAN 20.
pub const VIP_TAGGED_TWICE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 106);
/// VMAC of the IPv6 block.
pub const VMAC6: Mac = Mac([0x5a, 0xfe, 0, 0, 0, 6]);
/// VMAC of the block in one VLAN.
pub const VMAC_TAGGED: Mac = Mac([0x5a, 0xfe, 0, 0, 0, 5]);
/// VMAC of the block in two.
pub const VMAC_TAGGED_TWICE: Mac = Mac([0x5a, 0xfe, 0, 0, 0, 7]);
/// Nodes answer for these with their own MACs too, in VLAN 40.
pub const VIP_DIRECTED_TAGGED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 107);
/// See [`VIP_DIRECTED_TAGGED`].
pub const VIP6_DIRECTED_TAGGED: Ipv6Addr = v6(0x107);
/// One node at a time has these: node1 does.
pub const VIP_FLOATING: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 108);
/// See [`VIP_FLOATING`].
pub const VIP6_FLOATING: Ipv6Addr = v6(0x108);
/// One node at a time has these: node2 does.
pub const VIP_FLOATED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 109);
/// See [`VIP_FLOATED`].
pub const VIP6_FLOATED: Ipv6Addr = v6(0x109);
/// The node's own addresses.
pub const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);
/// See [`OWN_V4`].
pub const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x11);
/// Those that it has in VLAN 40.
pub const OWN_V4_TAGGED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 41);
/// See [`OWN_V4_TAGGED`].
pub const OWN_V6_TAGGED: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x41);
/// VMAC of the first block.
pub const VMAC: Mac = Mac([0x5a, 0xfe, 10, 9, 0, 100]);
/// VMAC of the closed block.
pub const VMAC_CLOSED: Mac = Mac([0x5a, 0xfe, 10, 9, 0, 103]);
/// VMAC of the second block.
pub const VMAC_OF_NODE2: Mac = Mac([0x5a, 0xfe, 0, 0, 0, 2]);
/// The node's own MAC.
pub const OWN: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
/// A peer's MAC.
pub const PEER: Mac = Mac([2, 0, 0, 0, 0, 0x12]);
/// The nodes' MACs.
pub const MACS: [Mac; 3] = [OWN, PEER, Mac([2, 0, 0, 0, 0, 0x13])];
/// A client's MAC.
pub const CLIENT: Mac = Mac([2, 0, 0, 0, 1, 1]);

/// Kernel group of ARP and echo, then the file's groups in order.
pub const RESOLVE: usize = 0;
/// See [`RESOLVE`].
pub const WEB: usize = 1;
/// See [`RESOLVE`].
pub const DNS: usize = 2;
/// See [`RESOLVE`].
pub const WEB6: usize = 5;
/// See [`RESOLVE`].
pub const DIRECT: usize = 6;
/// See [`RESOLVE`].
pub const ANSWER: usize = 7;
/// See [`RESOLVE`].
pub const TAGGED: usize = 8;
/// See [`RESOLVE`].
pub const TAGGED_TWICE: usize = 10;

const HASH_KEY: [u8; 16] = *b"0123456789abcdef";

/// The farm as node1 sees it.
pub struct World {
    port: Port,
    own: NodeId,
    mac: Mac,
    view: View,
    moves: bool,
}

impl World {
    /// The farm with all nodes alive, as node1 sees it, which does not know node3's MAC.
    ///
    /// # Panics
    /// If the file above is not valid.
    pub fn new() -> Self {
        let mut world = Self::seen_by(0);
        world.port.learn(NodeId::new(1).expect("1 is below the most"), PEER);
        world
    }

    /// The farm as that node sees it, by its place in the file, which knows no MAC but its own.
    ///
    /// # Panics
    /// If it has no such node.
    pub fn seen_by(node: usize) -> Self {
        Self::asking_as(node, own_addresses())
    }

    /// As node1 sees it while it has no addresses of its own.
    ///
    /// # Panics
    /// If the file above is not valid.
    pub fn without_addresses() -> Self {
        Self::asking_as(0, OwnAddresses::default())
    }

    fn asking_as(node: usize, addresses: OwnAddresses) -> Self {
        let farm: Farm = config::parse("paper.yaml", FARM).unwrap_or_else(|e| panic!("{e}"));
        let own = NodeId::new(node).expect("few nodes");
        let mac = MACS[node];
        let is_closed = |block: usize| farm.vips[block].addresses[0].addr == VIP_CLOSED;
        let mut port =
            Port::new(&farm, |block| !is_closed(block), addresses).expect("it fits the tables");
        let closed = HeldVip {
            addr: VIP_CLOSED.into(),
            tags: VlanTags::default(),
            vmac: Some(VMAC_CLOSED),
            floats: false,
        };
        port.close(&[closed]).expect("there is room");
        let view = View::of(farm.node_ids().collect());
        port.settle(own, &view);
        Self { port, own, mac, view, moves: false }
    }

    /// The same farm when only these nodes are alive.
    #[must_use]
    pub fn with_alive(mut self, alive: NodeSet) -> Self {
        self.view = View::of(alive);
        self.port.settle(self.own, &self.view);
        self
    }

    /// The same farm when every other bucket is in a move, to or from node2.
    #[must_use]
    pub fn in_a_move(mut self) -> Self {
        self.moves = true;
        self
    }

    /// What node1's tables say.
    pub fn plan(&self) -> Plan {
        let mut plan = self.port.plan();
        if self.moves {
            plan.moving = vec![Bitmap([0x5555_5555_5555_5555; 4]); plan.bitmaps.len()];
            let former =
                std::array::from_fn(|bucket| [SEVERAL, 1, 1, 1, NOBODY, 1, 1, 1][bucket % 8]);
            plan.former = vec![Owners(former); plan.bitmaps.len()];
            // Node3's MAC is not known here.
            let first = std::array::from_fn(|bucket| [NOBODY, 1, NOBODY, SEVERAL][bucket % 4]);
            let next = std::array::from_fn(|bucket| [NOBODY, 1, 2, SEVERAL][bucket / 4 % 4]);
            let turns = Turns { first: Owners(first), next: Owners(next), tenure: [1; 256] };
            plan.turns = vec![turns; plan.bitmaps.len()];
        }
        plan
    }

    /// The decision on the host.
    pub fn host(&self) -> HostTables {
        HostTables::new(&self.plan(), HASH_KEY, self.mac)
    }

    /// The programs in the kernel, with the same tables. They cannot be attached.
    ///
    /// # Panics
    /// If the kernel refuses them.
    pub fn kernel(&self) -> Manual {
        self.load(&self.options())
    }

    /// The same in both flavours, by name: for frames in several buffers, and in one.
    ///
    /// # Panics
    /// If the kernel refuses them, or has but one flavour.
    pub fn kernels(&self) -> [(&'static str, Manual); 2] {
        let plain = Options { buffers: Buffers::One, ..self.options() };
        [("frags", self.kernel()), ("plain", self.load(&plain))]
    }

    /// The same; the slow path logs.
    ///
    /// # Panics
    /// If the kernel refuses them.
    pub fn kernel_that_logs(&self) -> Manual {
        self.load(&Options { trace: true, ..self.options() })
    }

    /// What the programs are to know; an interface must be named before they can be attached.
    pub fn options(&self) -> Options {
        Options {
            interface: "none".into(),
            index: 0,
            mac: self.mac,
            hash_key: HASH_KEY,
            bpf_dir: "/nonexistent".into(),
            generic: false,
            buffers: Buffers::Several,
            clsact: false,
            trace: false,
        }
    }

    /// The programs on an interface of the calling thread's namespace, without a lease.
    ///
    /// # Errors
    /// If the interface or the kernel refuses them.
    pub fn attach(&self, options: &Options) -> Result<Datapath, Error> {
        let index = nix::net::if_::if_nametoindex(options.interface.as_str()).unwrap_or(0);
        let options = Options { index, ..options.clone() };
        Datapath::load(&options)?.attach(self.plan())
    }

    fn load(&self, options: &Options) -> Manual {
        // Only for as long as it takes to load them.
        let bpffs = Bpffs::new().unwrap_or_else(|error| panic!("{error:#}"));
        let options = Options { bpf_dir: bpffs.path(), ..options.clone() };
        let loaded = Datapath::load(&options).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.has_frags(), options.buffers == Buffers::Several, "the flavour");
        loaded.by_hand(self.plan()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Whether node1 owns the bucket of that client in the kernel group: worked out beside the
    /// decision, from the hash and the table.
    pub fn is_mine(&self, group: usize, client: impl Into<IpAddr>, field: u16, proto: u8) -> bool {
        self.owner(group, client, field, proto) == Some(self.own)
    }

    /// Who owns it.
    pub fn owner(
        &self,
        group: usize,
        client: impl Into<IpAddr>,
        field: u16,
        proto: u8,
    ) -> Option<NodeId> {
        let hash = hash_of(client.into(), field, proto);
        self.port.table(group, &self.view).owner(bucket(group, hash))
    }

    /// Who has served the client's bucket before, if it is in a move: a node's index, or
    /// [`SEVERAL`].
    pub fn former(
        &self,
        group: usize,
        client: impl Into<IpAddr>,
        field: u16,
        proto: u8,
    ) -> Option<u8> {
        let bucket = usize::from(bucket(group, hash_of(client.into(), field, proto)));
        let plan = self.plan();
        let moves = plan.moving.get(group).is_some_and(|bitmap| bitmap.has(bucket));
        moves.then(|| plan.former[group].0[bucket])
    }

    /// The same for a client known by its MAC only.
    pub fn is_mine_by_mac(&self, mac: Mac) -> bool {
        self.owns(RESOLVE, hash::hash_mac(key(), mac.0))
    }

    fn owns(&self, group: usize, hash: u64) -> bool {
        self.port.table(group, &self.view).owner(bucket(group, hash)) == Some(self.own)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// As whom the node asks: its addresses on the networks of the VIPs without a MAC.
fn own_addresses() -> OwnAddresses {
    let tagged = VlanTags { outer: 0, inner: 40 };
    let asks: [((VlanTags, IpAddr), IpAddr); 6] = [
        ((VlanTags::default(), VIP_FLOATING.into()), OWN_V4.into()),
        ((VlanTags::default(), VIP_FLOATED.into()), OWN_V4.into()),
        ((VlanTags::default(), VIP_DIRECTED.into()), OWN_V4.into()),
        ((VlanTags::default(), VIP6_DIRECTED.into()), OWN_V6.into()),
        ((tagged, VIP_DIRECTED_TAGGED.into()), OWN_V4_TAGGED.into()),
        ((tagged, VIP6_DIRECTED_TAGGED.into()), OWN_V6_TAGGED.into()),
    ];
    OwnAddresses(asks.into())
}

const fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, last)
}

fn bucket(group: usize, hash: u64) -> u8 {
    hash::bucket(hash, u32::try_from(group).expect("few groups"))
}

fn hash_of(client: IpAddr, field: u16, proto: u8) -> u64 {
    let field = field.to_be_bytes();
    match client {
        IpAddr::V4(client) => hash::hash_v4(key(), client.octets(), field, proto),
        IpAddr::V6(client) => hash::hash_v6(key(), client.octets(), field, proto),
    }
}

fn key() -> [u64; 2] {
    let word = |half: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&HASH_KEY[half * 8..half * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    [word(0), word(1)]
}
