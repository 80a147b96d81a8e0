//! The configurations that this node can be asked to serve: one as a rule, more while the farm goes
//! over from one to another.

use std::sync::{Arc, PoisonError, RwLock};

use std::net::IpAddr;

use ipnet::IpNet;

use super::{command::Servable, ports::Port, site};
use crate::{
    model::{Farm, Group, Mode, Vip, VlanTags},
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
    /// The configuration of that file, whose blocks are on these of the agent's interfaces; `present`
    /// are all of the machine.
    pub(super) fn new(
        digest: [u8; 16],
        farm: Farm,
        interface_of: Vec<usize>,
        interfaces: &[Interface],
        present: &[Interface],
    ) -> Result<Self, PlanError> {
        let vips = farm.vips.iter().flat_map(|block| &block.addresses);
        let vips: Vec<IpAddr> = vips.map(|vip| vip.addr).collect();
        let port = |(place, interface): (usize, &Interface)| {
            let here = |block: usize| interface_of[block] == place;
            let blocks = farm.vips.iter().enumerate().filter(|&(index, _)| here(index));
            let held = blocks.filter_map(|(_, block)| {
                Some((block, site::holder(interface, block.vlan, present)?))
            });
            let own = held.flat_map(|(block, device)| asks_as(block, &vips, device));
            Port::new(&farm, here, OwnAddresses(own.collect()))
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
        self.vips_if(|_| true)
    }

    /// The VIPs of the blocks of which that holds, likewise.
    pub(super) fn vips_if(
        &self,
        holds: impl Fn(&Vip) -> bool,
    ) -> impl Iterator<Item = (usize, HeldVip)> {
        let blocks = self.farm.vips.iter().zip(&self.interface_of);
        let blocks = blocks.filter(move |(block, _)| holds(block));
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

/// As whom this node asks in the place of the VIPs of a block: with an address of the device that has
/// them, which in a VLAN is not the interface.
fn asks_as<'b>(
    block: &'b Vip,
    vips: &'b [IpAddr],
    device: &'b Interface,
) -> impl Iterator<Item = ((VlanTags, IpAddr), IpAddr)> + 'b {
    let own = move || device.addresses.iter().filter(|net| !vips.contains(&net.addr()));
    let of = move |vip: IpAddr| {
        // The link-local one, or one of the VIP's network, if there is one.
        let is_first = |net: &&IpNet| match net.addr() {
            IpAddr::V4(_) => false,
            IpAddr::V6(own) => own.is_unicast_link_local(),
        };
        let near = own().filter(|net| net.contains(&vip));
        let mut all = own().filter(is_first).chain(near).chain(own()).map(IpNet::addr);
        all.find(|own| own.is_ipv4() == vip.is_ipv4())
    };
    block.addresses.iter().filter_map(move |vip| Some(((block.vlan, vip.addr), of(vip.addr)?)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        net::{Vlan, fixture},
    };

    fn device(index: u32, vlan: Option<u16>, addresses: &[&str]) -> Interface {
        let vlan = vlan.map(|id| Vlan { parent: 1, id, service: false });
        Interface { vlan, ..fixture::interface(index, addresses) }
    }

    /// What the tables of eth1 have a node ask as, for each VIP in the order of the file.
    fn asked_as(vips: &str, present: &[Interface]) -> Vec<String> {
        let text = format!(
            "farm: web\nkey_file: k\nnodes:\n - {{ name: node1, addresses: [10.0.0.11, 10.1.0.11] }}\nvips:\n{vips}"
        );
        let farm = config::parse("farm.yaml", &text).unwrap_or_else(|error| panic!("{error}"));
        let places = vec![0; farm.vips.len()];
        let count = farm.vips.iter().map(|block| block.addresses.len()).sum();
        let config = Configuration::new([0; 16], farm, places, &present[..1], present);
        let tables = config.expect("it fits").ports[0].plan().generation();
        let text = |[high, low]: [u64; 2]| {
            let bytes: [u8; 16] = [high, low].map(u64::to_ne_bytes).concat().try_into().ok()?;
            let [a, b, c, d, rest @ ..] = bytes;
            let addr = if rest == [0; 12] { [a, b, c, d].into() } else { IpAddr::from(bytes) };
            Some(addr.to_string())
        };
        tables.askers[1..=count].iter().filter_map(|&words| text(words)).collect()
    }

    const GROUP: &str = "rules: [{ port: 80, proto: tcp, filter: on_port }] }]\n";

    #[test]
    fn a_node_asks_with_its_address_on_each_vips_own_network() {
        let eth1 =
            device(1, None, &["10.0.0.100/24", "10.0.0.11/24", "10.1.0.11/24", "fe80::1/64"]);
        let vips = format!(
            " - addresses: [10.1.0.100/24, \"fd00::100/64\", 10.0.0.100/24]\n   groups: [{{ name: g, {GROUP}"
        );
        assert_eq!(asked_as(&vips, &[eth1]), ["10.1.0.11", "fe80::1", "10.0.0.11"]);
    }

    #[test]
    fn without_a_link_local_address_a_node_asks_with_another() {
        let eth1 = device(1, None, &["10.0.0.11/24", "fd01::11/64", "fd00::11/64"]);
        let vips = format!(" - addresses: [\"fd00::100/64\"]\n   groups: [{{ name: g, {GROUP}");
        assert_eq!(asked_as(&vips, &[eth1]), ["fd00::11"]);
    }

    #[test]
    fn in_a_vlan_a_node_asks_with_an_address_of_the_vlans_device() {
        let here = [
            device(1, None, &["10.0.0.11/24", "fe80::1/64"]),
            device(2, Some(10), &["10.0.0.12/24", "fe80::2/64"]),
        ];
        let block = |vlan: &str, name| {
            format!(
                " - addresses: [10.0.0.100/24, \"fd00::100/64\"]\n{vlan}   groups: [{{ name: {name}, {GROUP}"
            )
        };
        let vips = block("", "a") + &block("   vlan: 10\n", "b") + &block("   vlan: 11\n", "c");
        let none = "0.0.0.0";
        let expected = ["10.0.0.11", "fe80::1", "10.0.0.12", "fe80::2", none, none];
        assert_eq!(asked_as(&vips, &here), expected, "VLAN 11 has no device");
    }
}
