//! Where the farm meets this machine: which node it is, and which interface each VIP lives on.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    slice,
};

use ipnet::IpNet;
use thiserror::Error;

use crate::{
    membership::OwnLink,
    model::{Farm, Mac, NodeId, Vip, VipAddr, VlanTags},
    net::{Interface, Vlan},
};

/// Why the file and the machine do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SiteError {
    /// `--node` names no node of the file.
    #[error("farm {farm} has no node `{name}`; its nodes are {nodes}: correct `--node`")]
    NoSuchNode {
        /// Farm name.
        farm: String,
        /// What `--node` said.
        name: String,
        /// The names in the file.
        nodes: String,
    },
    /// No node's first address is on this machine.
    #[error(
        "this machine has none of the nodes' first addresses ({addresses}): correct `nodes` in the file, or bring the interface up"
    )]
    NoNodeHere {
        /// The nodes' first addresses.
        addresses: String,
    },
    /// More than one node's first address is on this machine.
    #[error(
        "this machine has the addresses of several nodes ({nodes}): say which one it is with --node"
    )]
    SeveralNodesHere {
        /// Their names.
        nodes: String,
    },
    /// The own node's first address is not on this machine.
    #[error(
        "{node}'s first address {address} is not on this machine: correct `nodes` in the file, or bring the interface up"
    )]
    NotHere {
        /// Node name.
        node: String,
        /// Its first address.
        address: IpAddr,
    },
    /// The interface that the file names does not exist.
    #[error("there is no interface `{name}` for VIP {vip}; this machine has {present}")]
    NoSuchInterface {
        /// Its name in the file.
        name: String,
        /// The block's first address.
        vip: IpAddr,
        /// The interfaces that exist.
        present: String,
    },
    /// No interface has an address in the VIP's subnet.
    #[error(
        "no interface has an address in the subnet of VIP {vip}/{prefix}: correct the VIP, or name its interface with `interface:`"
    )]
    NoInterface {
        /// The VIP.
        vip: IpAddr,
        /// Its prefix length.
        prefix: u8,
    },
    /// The interface has no address in the VIP's subnet.
    #[error(
        "VIP {vip}/{prefix} is outside the subnets of {interface} ({subnets}): clients on that network could never reach it"
    )]
    OutsideSubnet {
        /// The VIP.
        vip: IpAddr,
        /// Its prefix length.
        prefix: u8,
        /// Interface name.
        interface: String,
        /// The interface's subnets.
        subnets: String,
    },
    /// Heartbeats do not run where the VIP's clients are.
    #[error(
        "VIP {vip} is on {interface}, and none of {node}'s `addresses` is: add the addresses that the nodes have on that network, at the same place of each node's list, so that they hear each other where their clients are"
    )]
    NoHeartbeats {
        /// The first VIP of the interface.
        vip: IpAddr,
        /// Interface name.
        interface: String,
        /// Node name.
        node: String,
    },
    /// The VIP is an address of this machine already.
    #[error(
        "{vip} is an address of {interface} already: remove it (`ip addr del {vip}/{prefix} dev {interface}`) and keep others from adding it; the agent does both"
    )]
    VipPresent {
        /// The VIP.
        vip: IpAddr,
        /// Prefix length with which it is there.
        prefix: u8,
        /// Interface name.
        interface: String,
    },
    /// The VIP is an address of this machine already, behind a filter.
    #[error(
        "{vip} is an address of {interface} already, and an XDP program filters that interface: if another agent runs here (`pgrep -a vipfarm`), stop it; if one has crashed, clear up with `vipfarm down` and the directories it was given"
    )]
    VipServed {
        /// The VIP.
        vip: IpAddr,
        /// Interface name.
        interface: String,
    },
    /// The interface is administratively down.
    #[error("{interface} is down: `ip link set {interface} up`")]
    Down {
        /// Interface name.
        interface: String,
    },
    /// The VIP's VLAN has no device.
    #[error(
        "there is no VLAN device on {interface} for VIP {vip}: {commands}, and give it an address of the VIP's subnet"
    )]
    NoVlanDevice {
        /// Interface name.
        interface: String,
        /// The block's first address.
        vip: IpAddr,
        /// What makes it.
        commands: String,
    },
    /// The hardware merges segments.
    #[error(
        "{interface} merges TCP segments before the filter sees them (LRO), and native XDP does not go with that: `ethtool -K {interface} lro off`, or run with --generic"
    )]
    Merges {
        /// Interface name.
        interface: String,
    },
    /// The hardware takes VLAN tags off.
    #[error(
        "{interface} takes VLAN tags off before the filter sees them, which could not tell VIP {vip} in its VLAN from the same address elsewhere: `ethtool -K {interface} rxvlan off`"
    )]
    TakesTagsOff {
        /// Interface name.
        interface: String,
        /// The block's first address.
        vip: IpAddr,
    },
    /// The VLAN device has another MAC than the interface below it, whose filter knows one.
    #[error(
        "{device} has the MAC {mac}, and the filter on {interface} takes for this node's what comes to {filtered}: clients that send to the former would pass it by, whoever is to serve them: `ip link set {device} address {filtered}`"
    )]
    OtherMac {
        /// The VLAN device's name.
        device: String,
        /// Its MAC.
        mac: Mac,
        /// The name of the interface with the filter.
        interface: String,
        /// Its MAC.
        filtered: Mac,
    },
    /// Whoever has an account here could change the file.
    #[error("{path} has mode {mode:04o}: anybody could change what root does here: `chmod 644 {path}`", path = path.display())]
    Exposed {
        /// The farm's file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The interface has no Ethernet address.
    #[error("{interface} is not an Ethernet interface: VIP {vip} needs one")]
    NotEthernet {
        /// Interface name.
        interface: String,
        /// The block's first address.
        vip: IpAddr,
    },
}

/// Whether anybody could have changed the farm's file, by which an agent acts as root.
pub fn refuse_exposed(path: &Path) -> Result<(), SiteError> {
    // One that is not there will be missed by its reader.
    let mode = path.metadata().map_or(0, |file| file.mode() & 0o7777);
    if mode & 0o002 == 0 { Ok(()) } else { Err(SiteError::Exposed { path: path.into(), mode }) }
}

/// The node that this machine is.
pub fn own_node(
    farm: &Farm,
    asked: Option<&str>,
    interfaces: &[Interface],
) -> Result<NodeId, SiteError> {
    let here = |id: NodeId| {
        let address = farm.node(id).and_then(|node| node.addresses.first());
        address.is_some_and(|&address| has_address(interfaces, address))
    };
    if let Some(name) = asked {
        let id = farm.node_named(name).ok_or_else(|| SiteError::NoSuchNode {
            farm: farm.name.clone(),
            name: name.into(),
            nodes: join(farm.nodes.iter().map(|node| node.name.clone())),
        })?;
        let node = &farm.nodes[id.index()];
        return match node.addresses.first() {
            Some(&address) if !here(id) => {
                Err(SiteError::NotHere { node: node.name.clone(), address })
            }
            _ => Ok(id),
        };
    }
    let candidates: Vec<NodeId> = farm.node_ids().filter(|&id| here(id)).collect();
    match candidates[..] {
        [id] => Ok(id),
        [] => Err(SiteError::NoNodeHere {
            addresses: join(farm.nodes.iter().filter_map(|node| node.addresses.first())),
        }),
        _ => Err(SiteError::SeveralNodesHere {
            nodes: join(candidates.iter().map(|id| farm.nodes[id.index()].name.clone())),
        }),
    }
}

/// The interface of a VIP block, which gets the filter: the one it names, or whose VLAN device it
/// names, else the one in whose subnet its first address lies. All its addresses must lie in a subnet
/// of the [`holder`].
pub fn interface_of<'i>(
    block: &Vip,
    interfaces: &'i [Interface],
) -> Result<&'i Interface, SiteError> {
    let Some(first) = block.addresses.first() else {
        unreachable!("a checked block has an address");
    };
    let covers = |interface: &Interface, vip: &VipAddr| {
        // VIPs may be there already, left by an agent that crashed.
        let is_own = |net: &&IpNet| !block.addresses.iter().any(|vip| vip.addr == net.addr());
        let mut own = interface.addresses.iter().filter(is_own);
        own.any(|net| net.contains(&vip.addr) || is_leased_beside(net, vip))
    };
    let of = |interface: &'i Interface| holder(interface, block.vlan, interfaces);
    let interface = if let Some(name) = &block.interface {
        let named = interfaces.iter().find(|interface| interface.name == *name);
        let named = named.ok_or_else(|| SiteError::NoSuchInterface {
            name: name.clone(),
            vip: first.addr,
            present: join(interfaces.iter().map(|interface| &interface.name)),
        })?;
        interfaces.iter().find(|&interface| of(interface) == Some(named)).unwrap_or(named)
    } else {
        let candidates = || {
            let holds = |it: &&'i Interface| of(it).is_some_and(|it| covers(it, first));
            interfaces.iter().filter(holds)
        };
        candidates()
            .find(|interface| interface.up)
            .or_else(|| candidates().next())
            .ok_or(SiteError::NoInterface { vip: first.addr, prefix: first.prefix })?
    };
    if block.vlan != VlanTags::default() && interface.offloads.rx_vlan {
        // Generic XDP comes too late as well: the tag is in the socket buffer by then.
        return Err(SiteError::TakesTagsOff { interface: interface.name.clone(), vip: first.addr });
    }
    let holder = of(interface).ok_or_else(|| SiteError::NoVlanDevice {
        interface: interface.name.clone(),
        vip: first.addr,
        commands: vlan_commands(interface, block.vlan, interfaces),
    })?;
    if let Some(outside) = block.addresses.iter().find(|vip| !covers(holder, vip)) {
        return Err(SiteError::OutsideSubnet {
            vip: outside.addr,
            prefix: outside.prefix,
            interface: holder.name.clone(),
            subnets: join(holder.addresses.iter().map(IpNet::trunc)),
        });
    }
    if let Some(down) = [interface, holder].into_iter().find(|interface| !interface.up) {
        return Err(SiteError::Down { interface: down.name.clone() });
    }
    if interface.mac == Mac([0; 6]) {
        return Err(SiteError::NotEthernet { interface: interface.name.clone(), vip: first.addr });
    }
    if holder.mac != interface.mac {
        return Err(SiteError::OtherMac {
            device: holder.name.clone(),
            mac: holder.mac,
            interface: interface.name.clone(),
            filtered: interface.mac,
        });
    }
    Ok(interface)
}

/// The networks that a node's heartbeats run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    /// By the index of the node's addresses.
    pub links: Vec<OwnLink>,
    /// For each interface with a filter, the link by which its peers are known: the first one whose
    /// address is on the interface, or on a VLAN device that has VIPs behind its filter.
    pub of: Vec<u8>,
}

/// The networks of node `own`. `placed` are the interfaces of the VIP blocks, in the order of the file,
/// `used` those with a filter, each once.
///
/// What a link's heartbeats tell is the MAC of the interface whose filter takes what is handed over
/// there.
pub fn networks(
    farm: &Farm,
    own: NodeId,
    placed: &[&Interface],
    used: &[&Interface],
    present: &[Interface],
) -> Result<Networks, SiteError> {
    let node = &farm.nodes[own.index()];
    let blocks_on = |interface: &Interface| {
        let blocks = farm.vips.iter().zip(placed);
        let on = blocks.filter(move |(_, placed)| placed.index == interface.index);
        on.map(|(block, _)| block).collect::<Vec<_>>()
    };
    let is_behind = |interface: &Interface, address: IpAddr| {
        let holders = blocks_on(interface).into_iter();
        let holders = holders.filter_map(|block| holder(interface, block.vlan, present));
        let mut devices = holders.chain([interface]);
        devices.any(|device| has_address(slice::from_ref(device), address))
    };
    let link_of = |interface: &&Interface| {
        let mut links = (0..).zip(&node.addresses);
        let first = links.find(|&(_, &address)| is_behind(interface, address));
        let vip =
            || blocks_on(interface).iter().find_map(|block| Some(block.addresses.first()?.addr));
        first.map(|(link, _)| link).ok_or_else(|| SiteError::NoHeartbeats {
            vip: vip().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            interface: interface.name.clone(),
            node: node.name.clone(),
        })
    };
    let of = used.iter().map(link_of).collect::<Result<_, _>>()?;
    let link = |&address: &IpAddr| {
        let filtered = used.iter().copied().find(|interface| is_behind(interface, address));
        let has = |interface: &&Interface| has_address(slice::from_ref(interface), address);
        let interface = filtered.or_else(|| present.iter().find(has));
        let mac = interface.map_or(Mac([0; 6]), |interface| interface.mac);
        OwnLink { mac, has_vips: filtered.is_some() }
    };
    Ok(Networks { links: node.addresses.iter().map(link).collect(), of })
}

/// Whether an address lies in the VIP's subnet without saying so: one that DHCP leases has no prefix,
/// and that the subnet is on the link is a router's word (RFC 5942 section 4).
fn is_leased_beside(own: &IpNet, vip: &VipAddr) -> bool {
    let subnet = IpNet::new(vip.addr, vip.prefix);
    vip.addr.is_ipv6()
        && own.prefix_len() == own.max_prefix_len()
        && subnet.is_ok_and(|subnet| subnet.contains(&own.addr()))
}

/// The interface that has a block's addresses: the VLAN device on `interface` for its tags, or
/// `interface` itself if it has none.
pub fn holder<'i>(
    interface: &'i Interface,
    tags: VlanTags,
    interfaces: &'i [Interface],
) -> Option<&'i Interface> {
    let outer = device(interface, tags.outer, true, interfaces)?;
    device(outer, tags.inner, false, interfaces)
}

/// The VLAN device for a tag; of two, the one for this kind of tag. The filter takes both.
fn device<'i>(
    below: &'i Interface,
    id: u16,
    service: bool,
    interfaces: &'i [Interface],
) -> Option<&'i Interface> {
    if id == 0 {
        return Some(below);
    }
    let fits = |vlan: Vlan| vlan.parent == below.index && vlan.id == id;
    let devices = interfaces.iter().filter(|device| device.vlan.is_some_and(fits));
    devices.max_by_key(|device| device.vlan.is_some_and(|vlan| vlan.service == service))
}

/// The commands that make what [`holder`] looks for.
fn vlan_commands(interface: &Interface, tags: VlanTags, interfaces: &[Interface]) -> String {
    let (mut below, mut commands) = (interface.name.clone(), Vec::new());
    let outer = device(interface, tags.outer, true, interfaces);
    for (id, proto) in [(tags.outer, " proto 802.1ad"), (tags.inner, "")] {
        if id == tags.outer
            && let Some(outer) = outer
        {
            below.clone_from(&outer.name);
            continue;
        }
        let mut name = format!("{below}.{id}");
        if name.len() >= libc::IFNAMSIZ {
            name = format!("vlan{id}");
        }
        commands.push(format!("`ip link add link {below} name {name} type vlan{proto} id {id}`"));
        below = name;
    }
    commands.join(", ")
}

/// Whether the hardware of one of the interfaces does what native XDP does not bear. Many drivers
/// refuse without saying why.
pub fn refuse_merging(interfaces: &[&Interface]) -> Result<(), SiteError> {
    let merges = |interface: &&&Interface| interface.offloads.lro;
    interfaces
        .iter()
        .find(merges)
        .map_or(Ok(()), |interface| Err(SiteError::Merges { interface: interface.name.clone() }))
}

/// Whether a VIP is on this machine already: then somebody else added it, and it would stay when the
/// filter goes.
pub fn refuse_present(
    farm: &Farm,
    interfaces: &[Interface],
    ours: impl Fn(&Interface, IpAddr) -> bool,
) -> Result<(), SiteError> {
    let vips = || farm.vips.iter().flat_map(|block| &block.addresses).map(|address| address.addr);
    for interface in interfaces {
        let is_vip = |net: &&IpNet| vips().any(|vip| vip == net.addr());
        let mut present = interface.addresses.iter().filter(is_vip);
        if let Some(net) = present.find(|net| !ours(interface, net.addr())) {
            let (vip, interface_name) = (net.addr(), interface.name.clone());
            return Err(if interface.xdp_program.is_some() {
                SiteError::VipServed { vip, interface: interface_name }
            } else {
                SiteError::VipPresent { vip, prefix: net.prefix_len(), interface: interface_name }
            });
        }
    }
    Ok(())
}

fn has_address(interfaces: &[Interface], address: IpAddr) -> bool {
    interfaces.iter().any(|i| i.addresses.iter().any(|net| net.addr() == address))
}

fn join<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

#[cfg(test)]
mod tests;
