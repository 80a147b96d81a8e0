//! Interfaces, addresses and forwarding entries, through rtnetlink: the only module that imports it.

mod driver;
#[cfg(test)]
pub(crate) mod fixture;
mod ioctl;
mod offload;
mod settings;
pub mod sockets;
pub mod undo;

use std::{io, net::IpAddr};

use futures::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo},
    link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
        VlanProtocol,
    },
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use rtnetlink::{Handle, MulticastGroup};
use thiserror::Error;

pub use self::{
    driver::{Driver, XdpFeatures},
    offload::Offloads,
    settings::{Settings, default_route},
};
use crate::model::Mac;

/// One network interface and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Own MAC; zero for a device without one.
    pub mac: Mac,
    /// Administratively up.
    pub up: bool,
    /// Its cable is plugged: frames can leave.
    pub carrier: bool,
    /// Id of the XDP program attached to it.
    pub xdp_program: Option<u32>,
    /// What its hardware does to frames.
    pub offloads: Offloads,
    /// Which frames of another interface it has, if it is a VLAN device.
    pub vlan: Option<Vlan>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// A VLAN device's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    /// Kernel index of the interface whose frames it has.
    pub parent: u32,
    /// The VLAN identifier in their outermost tag.
    pub id: u16,
    /// Whether that is a service tag (IEEE 802.1ad).
    pub service: bool,
}

/// A rtnetlink connection; cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    handle: Handle,
}

/// Why a change to the network failed.
#[derive(Debug, Error)]
pub enum Error {
    /// No connection to the kernel.
    #[error("netlink: {0}")]
    Connect(io::Error),
    /// The kernel refused.
    #[error("cannot {what}: {reason}")]
    Refused {
        /// What was to be done.
        what: String,
        /// The kernel's words.
        reason: String,
        /// The error number, if the kernel gave one.
        code: Option<i32>,
    },
}

impl Network {
    /// Connects, in the network namespace of the calling thread. Needs a tokio runtime.
    pub fn connect() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Connect)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All interfaces of this network namespace. By a connection of its own: the kernel refuses a
    /// listing on one that has another under way, even if nobody waits for that any more.
    pub async fn interfaces() -> Result<Vec<Interface>, Error> {
        let Self { handle } = Self::connect()?;
        let refused = |error| refused("list the interfaces", &error);
        let links: Vec<LinkMessage> =
            handle.link().get().execute().try_collect().await.map_err(refused)?;
        let addresses: Vec<AddressMessage> =
            handle.address().get().execute().try_collect().await.map_err(refused)?;
        let mut interfaces: Vec<_> = links.iter().map(|link| interface(link, &addresses)).collect();
        for interface in &mut interfaces {
            // One that is gone meanwhile will be missed by the next who looks.
            interface.offloads = Offloads::of(&interface.name).unwrap_or_default();
        }
        Ok(interfaces)
    }

    /// Wakes up whenever a link or an address of this network namespace has changed.
    pub fn changes() -> Result<impl Stream<Item = ()> + Unpin, Error> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(Error::Connect)?;
        tokio::spawn(connection);
        Ok(messages.map(drop))
    }

    /// Adds a virtual address: as a host address, so that it is never chosen as the source of the
    /// node's own traffic (T16), and lives on when the interface's first address goes. That it is
    /// there already is fine.
    ///
    /// Of IPv6, without duplicate address detection, for the other nodes have it (T6); and as a
    /// deprecated address, for one that resembles a target more than the node's own is preferred as
    /// the source otherwise (RFC 6724 section 5, rules 3 and 8).
    pub async fn add_vip(&self, interface: &Interface, vip: IpAddr) -> Result<(), Error> {
        let mut request = self.handle.address().add(interface.index, vip, bits(vip));
        if vip.is_ipv6() {
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, FOREVER);
            request.message_mut().attributes.extend([
                AddressAttribute::Flags(AddressFlags::Nodad),
                AddressAttribute::CacheInfo(lifetime),
            ]);
        }
        match request.execute().await {
            Err(error) if code(&error) != Some(libc::EEXIST) => {
                Err(refused(&format!("add {vip} to {}", interface.name), &error))
            }
            _ => Ok(()),
        }
    }

    /// Removes a virtual address. That it is not there is fine.
    pub async fn remove_vip(&self, interface: &Interface, vip: IpAddr) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family =
            if vip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.prefix_len = bits(vip);
        message.header.index = interface.index;
        message.attributes = vec![
            AddressAttribute::Local(vip),
            AddressAttribute::Address(vip),
            AddressAttribute::Flags(AddressFlags::empty()),
        ];
        match self.handle.address().del(message).execute().await {
            Err(error) if code(&error) != Some(libc::EADDRNOTAVAIL) => {
                Err(refused(&format!("remove {vip} from {}", interface.name), &error))
            }
            _ => Ok(()),
        }
    }

    /// Lets the interface receive frames for the VMAC: by its unicast filter, or promiscuously if
    /// the driver has none. That it does already is fine.
    pub async fn add_vmac(&self, interface: &Interface, vmac: Mac) -> Result<(), Error> {
        // `Own` is the crate's name for NTF_SELF.
        let request = self.handle.neighbours().add_bridge(interface.index, &vmac.0);
        match request.flags(NeighbourFlags::Own).execute().await {
            Err(error) if code(&error) != Some(libc::EEXIST) => {
                Err(refused(&format!("receive {vmac} on {}", interface.name), &error))
            }
            _ => Ok(()),
        }
    }

    /// Has the kernel take it for certain, for half a minute or so, that a neighbour has that MAC.
    pub async fn keep_neighbour(
        &self,
        interface: &Interface,
        address: IpAddr,
        mac: Mac,
    ) -> Result<(), Error> {
        let request = self.handle.neighbours().add(interface.index, address);
        let request = request.link_layer_address(&mac.0).state(NeighbourState::Reachable);
        let outcome = request.replace().execute().await;
        outcome.map_err(|error| refused(&format!("keep {address} at {mac}"), &error))
    }

    /// Undoes [`Network::add_vmac`]. That there is nothing to undo is fine.
    pub async fn remove_vmac(&self, interface: &Interface, vmac: Mac) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = interface.index;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vmac.0.to_vec()));
        match self.handle.neighbours().del(message).execute().await {
            Err(error) if code(&error) != Some(libc::ENOENT) => {
                Err(refused(&format!("stop receiving {vmac} on {}", interface.name), &error))
            }
            _ => Ok(()),
        }
    }
}

fn interface(link: &LinkMessage, addresses: &[AddressMessage]) -> Interface {
    let index = link.header.index;
    let mut interface = Interface {
        index,
        name: String::new(),
        mac: Mac([0; 6]),
        up: link.header.flags.contains(LinkFlags::Up),
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        xdp_program: None,
        offloads: Offloads::default(),
        vlan: vlan(link),
        addresses: addresses.iter().filter(|a| a.header.index == index).filter_map(net).collect(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                if let Ok(mac) = <[u8; 6]>::try_from(bytes.as_slice()) {
                    interface.mac = Mac(mac);
                }
            }
            LinkAttribute::Xdp(xdp) => {
                interface.xdp_program = xdp.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    interface
}

/// The place of a VLAN device; `None` if its frames are those of another namespace's interface.
fn vlan(link: &LinkMessage) -> Option<Vlan> {
    let attributes = || link.attributes.iter();
    let elsewhere = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkNetNsId(_));
    if attributes().any(elsewhere) {
        return None;
    }
    let parent = attributes().find_map(|attribute| match attribute {
        LinkAttribute::Link(parent) => Some(*parent),
        _ => None,
    })?;
    let infos = attributes().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    });
    let data = data.filter(|_| infos.contains(&LinkInfo::Kind(InfoKind::Vlan)))?;
    let id = data.iter().find_map(|value| match value {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let service = data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    Some(Vlan { parent, id, service })
}

fn net(message: &AddressMessage) -> Option<IpNet> {
    // IFA_LOCAL is the node's own end; without it (IPv6) IFA_ADDRESS is.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    IpNet::new(address, message.header.prefix_len).ok()
}

/// A lifetime in seconds that does not end (RFC 4861 section 4.6.2).
const FOREVER: u32 = u32::MAX;

/// Prefix length of a host address.
fn bits(addr: IpAddr) -> u8 {
    if addr.is_ipv6() { 128 } else { 32 }
}

fn code(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

fn refused(what: &str, error: &rtnetlink::Error) -> Error {
    let code = code(error);
    let reason = code
        .map_or_else(|| error.to_string(), |code| io::Error::from_raw_os_error(code).to_string());
    Error::Refused { what: what.into(), reason, code }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use rtnetlink::packet_core::{Emitable as _, Parseable as _};

    use super::*;

    /// A link as the kernel tells of it, by way of its bytes.
    fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        LinkMessage::parse(&bytes[..]).expect("a link message")
    }

    fn vlan_device(id: u16, protocol: VlanProtocol) -> LinkAttribute {
        let data = vec![InfoVlan::Id(id), InfoVlan::Protocol(protocol)];
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(data)),
        ])
    }

    #[test]
    fn a_vlan_device_is_known_by_its_tag_and_the_interface_below() {
        let below = || LinkAttribute::Link(2);
        let found =
            interface(&link(7, vec![below(), vlan_device(10, VlanProtocol::Ieee8021Q)]), &[]);
        assert_eq!(found.vlan, Some(Vlan { parent: 2, id: 10, service: false }));
        let service = link(7, vec![below(), vlan_device(20, VlanProtocol::Ieee8021Ad)]);
        assert_eq!(vlan(&service), Some(Vlan { parent: 2, id: 20, service: true }));
        let veth = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
        assert_eq!(vlan(&link(7, vec![below(), veth])), None, "another kind");
        let moved = LinkAttribute::LinkNetNsId(0);
        let tag = vlan_device(10, VlanProtocol::Ieee8021Q);
        assert_eq!(vlan(&link(7, vec![below(), moved, tag])), None, "another namespace's");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn several_can_list_the_interfaces_at_once_and_one_may_give_up() {
        for _ in 0..50 {
            // Given up under way, as a rule.
            drop(Network::interfaces().now_or_never());
            let listings = [(); 4].map(|()| Network::interfaces());
            for listing in futures::future::join_all(listings).await {
                listing.expect("listed");
            }
        }
    }
}
