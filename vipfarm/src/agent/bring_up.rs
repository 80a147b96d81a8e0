//! Changes this machine for the farm, and takes the changes back.
//!
//! The order matters. Up: the record of what will change, then the filter, fenced, then what lets
//! frames in, then the VIP: there is no instant at which the node's kernel could answer for the VIP
//! by itself. Down: the other way round.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};

use super::{options::AgentOptions, ports::Port, site};
use crate::{
    config::key::Secret,
    datapath::{Datapath, Options},
    model::{Farm, Mac, NodeId, Vip},
    net::{
        Interface, Network,
        undo::{self, Undo, UndoError},
    },
};

/// What was brought up.
pub struct Up {
    /// This node.
    pub own: NodeId,
    /// Its MAC on the first VIP's network.
    pub mac: Mac,
    /// The heartbeat socket, bound and non-blocking.
    pub socket: UdpSocket,
    /// The interfaces' desired states.
    pub ports: Vec<Port>,
    /// The interfaces' kernel sides, in the same order.
    pub datapaths: Vec<Datapath>,
    /// For each VIP block of the file, its interface's place in `ports`.
    pub interface_of: Vec<usize>,
    /// What to take back.
    pub undo: Record,
    /// The connection to take it back by.
    pub network: Network,
}

/// The record of changes, with its place.
#[derive(Debug, Clone)]
pub struct Record {
    undo: Undo,
    path: PathBuf,
}

/// Brings everything up, or takes back what it had done.
pub(super) async fn bring_up(
    options: &AgentOptions,
    farm: &Farm,
    secret: &Secret,
) -> anyhow::Result<Up> {
    let network = Network::connect()?;
    let interfaces = network.interfaces().await?;
    let own = site::own_node(farm, options.place.node.as_deref(), &interfaces)?;
    let placed: Vec<&Interface> = farm
        .vips
        .iter()
        .map(|block| site::interface_of(block, &interfaces))
        .collect::<Result<_, _>>()?;
    let mut used: Vec<&Interface> = Vec::new();
    for &interface in &placed {
        if !used.contains(&interface) {
            used.push(interface);
        }
    }
    let interface_of: Vec<usize> = placed
        .iter()
        .filter_map(|interface| used.iter().position(|other| other == interface))
        .collect();
    let ports = (0..used.len())
        .map(|place| Port::new(farm, |block| interface_of[block] == place))
        .collect::<Result<Vec<_>, _>>()?;
    let socket = bind(farm, own)?;

    let mut undo = Record::read(&options.place.run_dir, &farm.name)?;
    undo.note(farm, &placed)?;
    let mut datapaths = Vec::new();
    let done = async {
        for (interface, port) in used.iter().zip(&ports) {
            datapaths.push(attach(options, secret, interface, port)?);
        }
        for (block, interface) in farm.vips.iter().zip(&placed) {
            receive(&network, block, interface).await?;
        }
        anyhow::Ok(())
    }
    .await;
    if let Err(error) = done {
        if let Err(left) = take_down(&network, &undo, datapaths).await {
            tracing::warn!("{left:#}");
        }
        return Err(error);
    }
    let mac = used.first().map_or(Mac([0; 6]), |interface| interface.mac);
    Ok(Up { own, mac, socket, ports, datapaths, interface_of, undo, network })
}

/// Takes everything back. The filter goes last, so that the kernel never answers for a VIP alone.
pub(super) async fn take_down(
    network: &Network,
    undo: &Record,
    datapaths: Vec<Datapath>,
) -> anyhow::Result<()> {
    let rolled_back = undo.roll_back(network).await;
    for datapath in datapaths {
        datapath.remove()?;
    }
    rolled_back
}

/// Where a node's heartbeats are sent: its first address, on the VIP's own network.
pub(super) fn heartbeat_address(farm: &Farm, node: NodeId) -> Option<SocketAddr> {
    let address = *farm.node(node)?.addresses.first()?;
    Some(SocketAddr::new(address, farm.membership.port))
}

impl Record {
    /// The record of that farm's agent; empty if none was left.
    pub fn read(run_dir: &Path, farm: &str) -> Result<Self, UndoError> {
        let path = run_dir.join(format!("{farm}.undo.json"));
        Ok(Self { undo: Undo::read(&path)?, path })
    }

    /// The interfaces with changes.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.undo.interfaces.iter().map(|changes| changes.name.as_str())
    }

    /// The changes in words.
    pub fn changes(&self) -> Vec<String> {
        let words = |changes: &undo::InterfaceChanges| {
            let name = changes.name.clone();
            let vips = changes.vips.iter().map(|vip| format!("VIP {vip} on {name}"));
            let vmacs = changes.vmacs.iter().map(|vmac| format!("virtual MAC {vmac} on {name}"));
            let sysctls = changes.sysctls.iter().map(|s| format!("{} = {} again", s.key, s.former));
            vips.chain(vmacs).chain(sysctls).collect::<Vec<_>>()
        };
        self.undo.interfaces.iter().flat_map(words).collect()
    }

    /// Takes the changes back and forgets them.
    pub(super) async fn roll_back(&self, network: &Network) -> anyhow::Result<()> {
        let failures = self.undo.roll_back(network, &self.path).await;
        if failures.is_empty() {
            return Ok(());
        }
        let failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
        bail!(
            "not everything could be taken back; {} remembers it: {}",
            self.path.display(),
            failures.join("; ")
        )
    }

    /// Writes down what [`bring_up`] is about to change, beside what an agent that crashed has
    /// noted.
    fn note(&mut self, farm: &Farm, placed: &[&Interface]) -> Result<(), UndoError> {
        for (block, interface) in farm.vips.iter().zip(placed) {
            let changes = self.undo.on(&interface.name);
            changes.note_sysctls()?;
            let vmac = block.vmac.to_string();
            if !changes.vmacs.contains(&vmac) {
                changes.vmacs.push(vmac);
            }
            for vip in block.addresses.iter().map(|address| address.addr) {
                if let IpAddr::V4(vip) = vip
                    && !changes.vips.contains(&vip)
                {
                    changes.vips.push(vip);
                }
            }
        }
        self.undo.write(&self.path)
    }
}

fn attach(
    options: &AgentOptions,
    secret: &Secret,
    interface: &Interface,
    port: &Port,
) -> anyhow::Result<Datapath> {
    let loaded = Datapath::load(&Options {
        interface: interface.name.clone(),
        mac: interface.mac,
        hash_key: secret.bucket_key(),
        bpf_dir: options.place.bpf_dir.clone(),
        generic: options.generic,
        clsact: false,
        trace: options.trace,
    })?;
    Ok(loaded.attach(port.plan())?)
}

async fn receive(network: &Network, block: &Vip, interface: &Interface) -> anyhow::Result<()> {
    undo::set_arp_sysctls(&interface.name)?;
    network.add_vmac(interface, block.vmac).await?;
    for address in &block.addresses {
        if let IpAddr::V4(vip) = address.addr {
            network.add_vip(interface, vip).await?;
        }
    }
    Ok(())
}

fn bind(farm: &Farm, own: NodeId) -> anyhow::Result<UdpSocket> {
    let address = heartbeat_address(farm, own).ok_or_else(|| anyhow!("the node has no address"))?;
    let socket = UdpSocket::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "UDP port {} is in use on {}: end the program that has it (`ss -ulpn`), or set another `membership.port` on every node",
            address.port(),
            address.ip()
        ),
        _ => anyhow!("cannot open the heartbeat socket {address}: {error}"),
    })?;
    socket.set_nonblocking(true).context("the heartbeat socket")?;
    Ok(socket)
}
