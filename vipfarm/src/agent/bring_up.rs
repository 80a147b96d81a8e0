//! Changes this machine for the farm, and takes the changes back.
//!
//! The order matters. Up: the filter, fenced, which nobody else may have, then the record of what
//! will change, then what lets frames in, then the VIP: there is no instant at which the node's
//! kernel could answer for the VIP by itself. Down: the other way round.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use ipnet::IpNet;

use super::{
    configurations::{Configuration, Configurations, place_of, vips_of},
    conflicts::Prober,
    handover::LONGEST_HOLD,
    history::{History, Level},
    hold, linger,
    links::Links,
    options::AgentOptions,
    ports::Port,
    realtime,
    site::{self, Networks},
    watch::Needs,
};
use crate::{
    config::{self, keys::Keys},
    datapath::{Buffers, Datapath, LeftOver, Options},
    membership::BootTime,
    model::{Farm, Mac, Mode, NodeId, Vip},
    net::{
        Interface, Network,
        undo::{self, InterfaceChanges, Undo, UndoError},
    },
    plan::HeldVip,
};

/// What was brought up.
pub(super) struct Up {
    /// This node.
    pub(super) own: NodeId,
    /// The networks that its heartbeats run on.
    pub(super) networks: Networks,
    /// The heartbeat sockets.
    pub(super) links: Links,
    /// The interfaces with a filter.
    pub(super) interfaces: Vec<Interface>,
    /// Their kernel sides, in the same order.
    pub(super) datapaths: Vec<Datapath>,
    /// What their tables say: this node's old connections go on.
    pub(super) ports: Vec<Port>,
    /// The file, as the only configuration so far.
    pub(super) configurations: Configurations,
    /// What to take back.
    pub(super) undo: Record,
    /// The connection to take it back by.
    pub(super) network: Network,
    /// Asks for the VIPs.
    pub(super) prober: Prober,
    /// What the machine must keep.
    pub(super) needs: Needs,
}

/// The record of changes, with its place.
#[derive(Debug, Clone)]
pub struct Record {
    undo: Undo,
    path: PathBuf,
}

impl Up {
    /// Says what was found, and what will not be done.
    pub(super) fn announce(&self, digest: [u8; 16], history: &History) {
        let config = self.configurations.get(digest);
        let farm = &config.farm;
        let name = &farm.nodes[self.own.index()].name;
        for (block, &interface) in farm.vips.iter().zip(&config.interface_of) {
            let addresses: Vec<String> =
                block.addresses.iter().map(|address| address.addr.to_string()).collect();
            let datapath = &self.datapaths[interface];
            let (holds, mac) = match (block.mode, block.virtual_mac()) {
                (Mode::Failover, _) => ("may hold", "with its own MAC".to_owned()),
                (_, Some(vmac)) => ("holds", format!("virtual MAC {vmac}")),
                (_, None) => ("holds", "each node's own MAC".to_owned()),
            };
            let message = format!(
                "{name} {holds} {} on {} ({mac}, {} XDP)",
                addresses.join(" "),
                datapath.interface(),
                datapath.xdp_mode().as_str(),
            );
            history.push(Level::Info, "vip_held", message);
        }
        for datapath in self.datapaths.iter().filter(|d| d.fell_back()) {
            let message = format!(
                "the driver of {} has no native XDP: the filter runs in generic mode, which costs several times more per packet",
                datapath.interface()
            );
            history.push(Level::Warn, "generic_xdp", message);
        }
    }
}

/// Brings everything up, or takes back what it had done.
pub(super) async fn bring_up(
    options: &AgentOptions,
    farm: Farm,
    keys: &Keys,
) -> anyhow::Result<Up> {
    let network = Network::connect()?;
    let mut undo = Record::read(&options.place.run_dir, &farm.name)?;
    clear_up_after_another(&network, &mut undo, &options.place.bpf_dir, &farm).await?;
    let interfaces = Network::interfaces().await?;
    let own = site::own_node(&farm, options.place.node.as_deref(), &interfaces)?;
    let placed = place(&farm, &interfaces)?;
    let used = distinct(&placed);
    let networks = site::networks(&farm, own, &placed, &used, &interfaces)?;
    // First, because a second agent of this node is found out by it.
    let links = Links::open(&farm, own, &networks.links, &interfaces)?;
    site::refuse_present(&farm, &interfaces, |interface, vip| undo.has(interface, vip))?;
    if !options.generic {
        site::refuse_merging(&used)?;
    }
    refuse_others(&options.place.run_dir, &farm.name, &used)?;
    let used: Vec<Interface> = used.into_iter().cloned().collect();
    let places = placed.iter().filter_map(|interface| place_of(&used, interface)).collect();
    let digest = config::digest(&farm, keys);
    let config = Configuration::new(digest, farm.clone(), places, &used, &interfaces)?;
    let mut ports = ports_with_old_connections(&config, keys).await?;

    let word = hold::take(&options.place.run_dir, &farm.name);
    // After a crash nobody was told of any.
    let held_until = word.as_ref().map(hold::Word::until);
    let held_until = held_until.unwrap_or_else(|| realtime::now() + LONGEST_HOLD);
    let routes = word.map(|word| word.routes(digest)).unwrap_or_default();
    ports.iter_mut().zip(routes).for_each(|(port, route)| port.follow_route(route));
    let mut datapaths = Vec::new();
    let done = async {
        for (interface, port) in used.iter().zip(&ports) {
            datapaths.push(attach(options, keys, interface, port, held_until)?);
        }
        let prober = Prober::open()?;
        undo.note(&farm, &placed, &interfaces)?;
        undo.set_sysctls()?;
        for (block, interface) in farm.vips.iter().zip(&placed) {
            receive(&network, block, interface, &interfaces).await?;
        }
        anyhow::Ok(prober)
    }
    .await;
    let prober = match done {
        Ok(prober) => prober,
        Err(error) => {
            if let Err(left) = take_down(&network, &undo, datapaths).await {
                tracing::warn!("{left:#}");
            }
            return Err(error);
        }
    };
    let needs = Needs::of(&farm, placed.iter().copied(), &interfaces);
    let configurations = Configurations::new(config);
    Ok(Up {
        own,
        networks,
        links,
        interfaces: used,
        datapaths,
        ports,
        configurations,
        undo,
        network,
        prober,
        needs,
    })
}

/// The interface of each VIP block, in the order of the file.
pub(super) fn place<'i>(
    farm: &Farm,
    interfaces: &'i [Interface],
) -> Result<Vec<&'i Interface>, site::SiteError> {
    farm.vips.iter().map(|block| site::interface_of(block, interfaces)).collect()
}

/// Takes everything back. The filter goes last, and stays if a VIP could not be removed: without it
/// this node's kernel would answer for the VIP alone.
pub(super) async fn take_down(
    network: &Network,
    undo: &Record,
    datapaths: Vec<Datapath>,
) -> anyhow::Result<()> {
    undo.roll_back(network)
        .await
        .context("the filter stays, and refuses: `vipfarm down` clears up")?;
    let failed: Vec<String> = datapaths
        .into_iter()
        .filter_map(|datapath| datapath.remove().err())
        .map(|error| error.to_string())
        .collect();
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

/// Takes back what a former agent of this farm has left and the file no longer names, while that
/// agent's filter still stands: the file may have changed. The rest stays, and with it the connections
/// of the VIPs: this agent's filter will take the place of the other.
async fn clear_up_after_another(
    network: &Network,
    undo: &mut Record,
    bpf_dir: &Path,
    farm: &Farm,
) -> anyhow::Result<()> {
    if undo.undo.interfaces.is_empty() {
        return Ok(());
    }
    let interfaces = Network::interfaces().await?;
    let placed = place(farm, &interfaces)?;
    let mut wanted = Undo::default();
    note(&mut wanted, farm, &placed, &interfaces)?;
    let (kept, surplus) = std::mem::take(&mut undo.undo).parted(&wanted);
    let surplus = Record { undo: surplus, path: undo.path.clone() };
    surplus.take_back(network).await?;
    let filtered = surplus.undo.interfaces.iter().filter(|changes| changes.filtered);
    let filtered = filtered.map(|changes| (changes.name.as_str(), changes.index));
    LeftOver::hold(bpf_dir, filtered)?.remove()?;
    undo.undo = kept;
    Ok(undo.undo.write(&undo.path)?)
}

/// What the tables are to say at first: that buckets with connections to this node's sockets linger,
/// which a former agent's clients have.
async fn ports_with_old_connections(
    config: &Configuration,
    keys: &Keys,
) -> anyhow::Result<Vec<Port>> {
    let used = linger::used(config, keys.bucket_key()).await?;
    let mut ports = config.ports.clone();
    for port in &mut ports {
        port.find(&used);
    }
    Ok(ports)
}

/// The interfaces of VIP blocks, each once.
pub fn distinct<'i>(placed: &[&'i Interface]) -> Vec<&'i Interface> {
    let mut used: Vec<&Interface> = Vec::new();
    for &interface in placed {
        if !used.contains(&interface) {
            used.push(interface);
        }
    }
    used
}

/// Whose record names an interface has, or had until it crashed, the filter and VIPs there. In
/// place of that filter, this farm's would let every frame for those VIPs pass.
fn refuse_others(run_dir: &Path, farm: &str, used: &[&Interface]) -> anyhow::Result<()> {
    let listing = run_dir.read_dir().with_context(|| run_dir.display().to_string())?;
    for entry in listing {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(other) = name.strip_suffix(".undo.json").filter(|&other| other != farm) else {
            continue;
        };
        let record = Undo::read(&path)?;
        let taken = |interface: &&&Interface| {
            let mut changes = record.interfaces.iter();
            let filtered = |it: &InterfaceChanges| it.filtered || !it.vips.is_empty();
            changes.any(|changes| changes.index == interface.index && filtered(changes))
        };
        if let Some(interface) = used.iter().find(taken) {
            bail!(
                "farm {other} has VIPs on {interface} already: put those of both farms in one file, or, if it is not to run here any more, stop its agent or run `vipfarm down` with its file",
                interface = interface.name
            );
        }
    }
    Ok(())
}

impl Record {
    /// The record of that farm's agent; empty if none was left.
    pub fn read(run_dir: &Path, farm: &str) -> Result<Self, UndoError> {
        let path = run_dir.join(format!("{farm}.undo.json"));
        Ok(Self { undo: Undo::read(&path)?, path })
    }

    /// The interfaces with changes, by name and kernel index.
    pub fn interfaces(&self) -> impl Iterator<Item = (&str, u32)> {
        self.undo.interfaces.iter().map(|changes| (changes.name.as_str(), changes.index))
    }

    /// The changes in words.
    pub fn changes(&self) -> Vec<String> {
        let words = |changes: &InterfaceChanges| {
            let name = changes.name.clone();
            let vips = changes.vips.iter().map(|vip| format!("VIP {vip} on {name}"));
            let vmacs = changes.vmacs.iter().map(|vmac| format!("virtual MAC {vmac} on {name}"));
            let sysctls = changes
                .sysctls
                .iter()
                .map(|sysctl| format!("{} = {} (was {})", sysctl.key, sysctl.value, sysctl.former));
            vips.chain(vmacs).chain(sysctls).collect::<Vec<_>>()
        };
        self.undo.interfaces.iter().flat_map(words).collect()
    }

    /// Takes the changes back and forgets them.
    pub async fn roll_back(&self, network: &Network) -> anyhow::Result<()> {
        self.take_back(network).await?;
        Ok(Undo::remove(&self.path)?)
    }

    async fn take_back(&self, network: &Network) -> anyhow::Result<()> {
        let failures = self.undo.roll_back(network).await;
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

    /// Whether that is a VIP which a former agent has added there.
    pub fn has(&self, interface: &Interface, vip: IpAddr) -> bool {
        let mut all = self.undo.interfaces.iter();
        all.any(|changes| changes.index == interface.index && changes.vips.contains(&vip))
    }

    /// Adds the VIPs of the file that an interface holds: should the record be lost, they are taken
    /// back nevertheless. Without its filter a node would answer for them alone.
    pub fn add_held(&mut self, block: &Vip, interface: &Interface, present: &[Interface]) {
        let Some(holder) = site::holder(interface, block.vlan, present) else { return };
        for vip in vips_of(block) {
            if holder.addresses.contains(&IpNet::from(vip.addr)) {
                self.undo.on(holder).note_vip(vip.addr);
                self.undo.on(interface).note_filter(vip.vmac);
            }
        }
    }

    /// Forgets a VIP and a virtual MAC that the interface has no longer.
    pub fn forget(
        &mut self,
        interface: &Interface,
        vip: Option<IpAddr>,
        vmac: Option<Mac>,
    ) -> Result<(), UndoError> {
        self.undo.on(interface).forget(vip, vmac);
        self.undo.write(&self.path)
    }

    /// Sets the sysctls noted.
    pub(super) fn set_sysctls(&self) -> Result<(), UndoError> {
        self.undo.interfaces.iter().try_for_each(InterfaceChanges::set_sysctls)
    }

    /// Writes down what is about to be changed for that file.
    pub(super) fn note(
        &mut self,
        farm: &Farm,
        placed: &[&Interface],
        all: &[Interface],
    ) -> Result<(), UndoError> {
        note(&mut self.undo, farm, placed, all)?;
        self.undo.write(&self.path)
    }
}

/// Notes what is to be changed for that file.
fn note(
    undo: &mut Undo,
    farm: &Farm,
    placed: &[&Interface],
    all: &[Interface],
) -> Result<(), UndoError> {
    let mut holders = Vec::new();
    for (block, &interface) in farm.vips.iter().zip(placed) {
        let holder = site::holder(interface, block.vlan, all).unwrap_or(interface);
        holders.push(holder);
        for vip in vips_of(block) {
            undo.on(interface).note_filter(vip.vmac);
            undo.on(holder).note_sysctls(undo::for_vip(vip.addr))?;
            undo.on(holder).note_vip(vip.addr);
        }
    }
    // Each interface answers for its own IPv6 addresses alone, whatever its settings.
    let shares_network = |other: &&Interface| {
        let vips = farm.vips.iter().flat_map(|block| &block.addresses);
        let mut vips = vips.map(|vip| vip.addr).filter(IpAddr::is_ipv4);
        vips.any(|vip| other.addresses.iter().any(|net| net.contains(&vip)))
    };
    for other in all.iter().filter(shares_network).filter(|other| !holders.contains(other)) {
        undo.on(other).note_sysctls(undo::BESIDE_VIP)?;
    }
    Ok(())
}

fn attach(
    options: &AgentOptions,
    keys: &Keys,
    interface: &Interface,
    port: &Port,
    held_until: BootTime,
) -> anyhow::Result<Datapath> {
    let mut loaded = Datapath::load(&Options {
        interface: interface.name.clone(),
        index: interface.index,
        mac: interface.mac,
        hash_key: keys.bucket_key(),
        bpf_dir: options.place.bpf_dir.clone(),
        generic: options.generic,
        buffers: Buffers::Several,
        clsact: false,
        trace: options.trace,
    })?;
    let plan = port.plan();
    if plan.moving.iter().any(|moving| !moving.is_empty()) {
        // Until this agent has a lease of its own; nobody's bucket is accepted meanwhile.
        loaded.extend_lease(held_until.as_nanos())?;
    }
    Ok(loaded.attach(plan)?)
}

async fn receive(
    network: &Network,
    block: &Vip,
    interface: &Interface,
    present: &[Interface],
) -> anyhow::Result<()> {
    // Those that float come with a view that gives them to this node.
    for vip in vips_of(block).filter(|vip| !vip.floats) {
        receive_vip(network, vip, interface, present).await?;
    }
    Ok(())
}

/// Lets frames for a VIP in, then adds it.
pub(super) async fn receive_vip(
    network: &Network,
    vip: HeldVip,
    interface: &Interface,
    present: &[Interface],
) -> anyhow::Result<()> {
    let holder = site::holder(interface, vip.tags, present);
    let holder = holder.with_context(|| format!("VIP {} has lost its VLAN device", vip.addr))?;
    if let Some(vmac) = vip.vmac {
        network.add_vmac(interface, vmac).await?;
    }
    Ok(network.add_vip(holder, vip.addr).await?)
}
