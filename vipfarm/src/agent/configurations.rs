//! The configurations that this node can be asked to serve: one as a rule, more while the farm goes
//! over from one to another.

use std::sync::{Arc, PoisonError, RwLock};

use std::net::IpAddr;

use ipnet::IpNet;

use super::{command::Servable, ports::Port};
use crate::{
    model::{Farm, Group, Mode, Vip},
    net::Interface,
    plan::{HeldVip, OwnAddresses, PlanError},
};

/// One configuration, as this node serves it.
#[derive(Debug)]
pub(super) struct Configuration {
    /// Its digest.
    pub(super) digest: [u8; 16],
    /// The file.
    pub(super) farm: Farm,
    /// For each VIP block of the file, its interface's place among the agent's.
    pub(super) interface_of: Vec<usize>,
    /// The interfaces' desired states: nothing is accepted.
    pub(super) ports: Vec<Port>,
}

impl Configuration {
    /// The configuration of that file, whose blocks are on these of the agent's interfaces.
    pub(super) fn new(
        digest: [u8; 16],
        farm: Farm,
        interface_of: Vec<usize>,
        interfaces: &[Interface],
    ) -> Result<Self, PlanError> {
        let port = |(place, interface): (usize, &Interface)| {
            let own = own_addresses(&farm, interface);
            Port::new(&farm, |block| interface_of[block] == place, own)
        };
        let ports = interfaces.iter().enumerate().map(port).collect::<Result<_, _>>()?;
        Ok(Self { digest, farm, interface_of, ports })
    }

    /// The groups with their kernel numbers and their blocks. Numbered in the order of the file
    /// from 1 on; 0 is the built-in group.
    pub(super) fn kernel_groups(&self) -> impl Iterator<Item = (usize, usize, &Group)> {
        let blocks = self.farm.vips.iter().enumerate();
        let groups = blocks.flat_map(|(vip, block)| block.groups.iter().map(move |g| (vip, g)));
        (1..).zip(groups).map(|(kernel_group, (vip, group))| (kernel_group, vip, group))
    }

    /// The group of that index in file order over all blocks.
    pub(super) fn group(&self, index: u8) -> Option<&Group> {
        self.farm.vips.iter().flat_map(|block| &block.groups).nth(index.into())
    }

    /// The port of that block's interface.
    pub(super) fn port_of(&self, block: usize) -> &Port {
        &self.ports[self.interface_of[block]]
    }

    /// The VIPs with their interfaces' places.
    pub(super) fn vips(&self) -> impl Iterator<Item = (usize, HeldVip)> {
        let blocks = self.farm.vips.iter().zip(&self.interface_of);
        blocks.flat_map(|(block, &place)| vips_of(block).map(move |vip| (place, vip)))
    }

    /// What the heartbeat thread is to know of it, if those VIPs are on the interfaces as well.
    pub(super) fn servable(&self, held: &[(usize, HeldVip)]) -> Result<Servable, PlanError> {
        let mut ports = self.ports.clone();
        for (place, port) in ports.iter_mut().enumerate() {
            let here = held.iter().filter(|held| held.0 == place);
            port.close(&here.map(|&(_, vip)| vip).collect::<Vec<_>>())?;
        }
        Ok(Servable { digest: self.digest, ports })
    }
}

/// The VIPs of a block.
pub(super) fn vips_of(block: &Vip) -> impl Iterator<Item = HeldVip> {
    let (vmac, floats) = (block.virtual_mac(), block.mode == Mode::Failover);
    block.addresses.iter().map(move |vip| HeldVip {
        addr: vip.addr,
        tags: block.vlan,
        vmac,
        floats,
    })
}

/// As whom this node asks on an interface: with the address of a VIP's network, if it has one there.
fn own_addresses(farm: &Farm, interface: &Interface) -> OwnAddresses {
    let vips = || farm.vips.iter().flat_map(|block| &block.addresses).map(|vip| vip.addr);
    let own = || interface.addresses.iter().filter(|net| !vips().any(|vip| vip == net.addr()));
    let near = own().filter(|net| vips().any(|vip| net.contains(&vip)));
    let v4 = |net: &IpNet| match net.addr() {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    };
    let link_local = |net: &IpNet| match net.addr() {
        IpAddr::V6(addr) => addr.is_unicast_link_local().then_some(addr),
        IpAddr::V4(_) => None,
    };
    OwnAddresses { v4: near.chain(own()).find_map(v4), v6: own().find_map(link_local) }
}

/// All that can be served now, for whoever looks.
#[derive(Debug, Clone)]
pub(super) struct Configurations(Arc<RwLock<Vec<Arc<Configuration>>>>);

impl Configurations {
    /// One, which is in force.
    pub(super) fn new(first: Configuration) -> Self {
        Self(Arc::new(RwLock::new(vec![Arc::new(first)])))
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Configuration>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one with that digest.
    pub(super) fn get(&self, digest: [u8; 16]) -> Arc<Configuration> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|known| known.digest == digest).or_else(|| all.first());
        Arc::clone(found.expect("one is in force at all times"))
    }

    /// Replaces them all; the one in force must be among them.
    pub(super) fn set(&self, all: Vec<Arc<Configuration>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

/// The place of an interface among the agent's.
pub(super) fn place_of(interfaces: &[Interface], found: &Interface) -> Option<usize> {
    interfaces.iter().position(|interface| interface.index == found.index)
}
