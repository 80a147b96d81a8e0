//! As whom a node tells clients whose MAC a VIP has.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::{
    agent::site,
    model::{Farm, Mac},
    net::{Interface, Network},
    plan::HeldVip,
};

/// Who tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) struct Teller {
    /// The interface's MAC.
    pub(in crate::agent) mac: Mac,
    /// The address that speaks for VIPs of IPv6, if there is one. ARP needs none.
    pub(in crate::agent) address: Option<Ipv6Addr>,
}

/// This machine's addresses. Read anew each time: one may come after the agent, or go.
pub(in crate::agent) struct Tellers {
    present: Vec<Interface>,
    vips: Vec<IpAddr>,
}

impl Tellers {
    /// Those for these VIPs of the farm.
    pub(in crate::agent) async fn now(
        farm: &Farm,
        mut told: impl Iterator<Item = HeldVip>,
    ) -> Self {
        let needed = told.any(|vip| vip.addr.is_ipv6());
        // Without the kernel's word nobody can speak, and the next announcement makes up for it.
        let present = if needed { Network::interfaces().await.unwrap_or_default() } else { vec![] };
        let vips = farm.vips.iter().flat_map(|block| &block.addresses);
        Self { present, vips: vips.map(|vip| vip.addr).collect() }
    }

    /// Who tells of that VIP: of the device that has it, or else of the interface below, the link-local
    /// address, or else any.
    pub(in crate::agent) fn of(&self, interface: &Interface, vip: HeldVip) -> Teller {
        let below = self.present.iter().find(|it| it.index == interface.index);
        let holder = below.and_then(|below| site::holder(below, vip.tags, &self.present));
        let own = |device: &Interface| {
            let own = device.addresses.iter().map(IpNet::addr);
            let own = own.filter(|addr| !self.vips.contains(addr));
            let own = own.filter_map(|addr| match addr {
                IpAddr::V4(_) => None,
                IpAddr::V6(addr) => Some(addr),
            });
            let own: Vec<_> = own.collect();
            own.iter().find(|addr| addr.is_unicast_link_local()).or(own.first()).copied()
        };
        let address = holder.into_iter().chain(below).find_map(own);
        Teller { mac: interface.mac, address }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::VlanTags,
        net::{Vlan, fixture},
    };

    fn device(index: u32, vlan: Option<u16>, addresses: &[&str]) -> Interface {
        let vlan = vlan.map(|id| Vlan { parent: 1, id, service: false });
        Interface { vlan, ..fixture::interface(index, addresses) }
    }

    /// Who tells of `fd00::100` in that VLAN.
    fn teller(vlan: u16, present: &[Interface]) -> Option<String> {
        let vip = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x100]);
        let tellers = Tellers { present: present.into(), vips: vec![vip] };
        let tags = VlanTags { outer: 0, inner: vlan };
        let vip = HeldVip { addr: vip, tags, vmac: None, floats: false };
        // As it was when the agent began.
        let teller = tellers.of(&device(1, None, &[]), vip);
        assert_eq!(teller.mac, present[0].mac);
        teller.address.map(|address| address.to_string())
    }

    #[test]
    fn a_vip_is_told_of_from_an_address_of_its_device_which_may_have_come_late() {
        let trunk = |addresses: &[&str]| {
            [device(1, None, addresses), device(2, Some(10), &["fd00::11/64", "fe80::2/64"])]
        };
        assert_eq!(teller(0, &trunk(&["10.0.0.11/24", "fe80::1/64"])).as_deref(), Some("fe80::1"));
        assert_eq!(teller(10, &trunk(&[])).as_deref(), Some("fe80::2"), "not the trunk's");
        let global = ["fd00::100/128", "fd00::11/64"];
        assert_eq!(teller(0, &trunk(&global)).as_deref(), Some("fd00::11"), "no link-local one");
        assert_eq!(teller(0, &trunk(&["10.0.0.11/24", "fd00::100/128"])), None, "only the VIP");
    }
}
