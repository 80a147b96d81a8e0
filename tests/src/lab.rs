//! A lab's topology, its making and its end.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    slice,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::Ebpf;
use vipfarm::model::Mac;

pub use crate::switch::FdbEntry;
use crate::{
    bpffs,
    host::{Host, INTERFACE},
    iproute::ip_batch,
    ns::Namespace,
    skip,
    sweep::{self, BPF},
    switch::Switch,
    xdp::PortProgram,
};

/// Prefix length of the lab's network, 10.77.0.0.
pub const PREFIX: u8 = 16;

/// The address that farms in the lab share.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

/// Prefix length of the lab's IPv6 network, `fd00:77::`.
pub const PREFIX_V6: u8 = 64;

/// The IPv6 address that farms in the lab share.
pub const VIP_V6: Ipv6Addr = beside(VIP);

/// The IPv6 address that goes with an IPv4 one: `fd00:77::a4d:b` with 10.77.0.11.
pub const fn beside(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, high, low)
}

/// The directory in a lab's directory with its processes' output.
const LOGS: &str = "logs";

/// What a lab is made of.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    /// Nodes, at most 80: `node1` has 10.77.0.11.
    pub nodes: u8,
    /// Clients, at most 200: `client1` has 10.77.1.1 and the following.
    pub clients: u8,
    /// Addresses of each client, `1..=254`.
    pub client_addresses: u8,
    /// How long the switch remembers a silent station.
    pub ageing: Duration,
    /// Whether the switch floods frames to stations it does not know, as switches do.
    pub flood: bool,
    /// Whether the switch snoops multicast.
    pub mcast_snooping: bool,
    /// Whether hosts have an IPv6 address [`beside`] each of IPv4.
    pub ipv6: bool,
}

impl Topology {
    /// That many nodes and clients on a plain switch.
    pub fn new(nodes: u8, clients: u8) -> Self {
        Self { nodes, clients, ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        ensure!(self.nodes <= 80, "a lab has at most 80 nodes");
        ensure!(self.clients <= 200, "a lab has at most 200 clients");
        ensure!((1..=254).contains(&self.client_addresses), "a client has 1 to 254 addresses");
        Ok(())
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            nodes: 1,
            clients: 1,
            client_addresses: 4,
            ageing: Duration::from_mins(5),
            flood: true,
            mcast_snooping: false,
            ipv6: false,
        }
    }
}

/// A switch with nodes and clients; dropping it removes all of it.
#[derive(Debug)]
pub struct Lab {
    programs: Mutex<Option<Ebpf>>,
    pub(crate) nodes: Vec<Host>,
    clients: Vec<Host>,
    pub(crate) switch: Arc<Switch>,
    /// The clients of the nodes' other network, if there is one.
    pub(crate) elsewhere: OnceLock<Vec<Host>>,
    /// Last, so that nothing is in use any more when it goes.
    remains: Remains,
}

impl Lab {
    /// Builds a lab; `name` is for people who look at `ip netns`.
    ///
    /// Any number may exist at once, in one process or in many. Errors without root, without
    /// iproute2, and where namespaces or bpffs are not to be had.
    pub fn new(name: &str, topology: &Topology) -> Result<Self> {
        topology.check()?;
        if let Err(reason) = skip::lab() {
            bail!("no lab can be made here: {reason}");
        }
        sweep::sweep();
        let remains = Remains { id: sweep::unique_name(name) };
        let logs = make_directory(&remains.directory())?;

        let node = |i| (format!("node{i}"), vec![Ipv4Addr::new(10, 77, 0, 10 + i)], b'N', i);
        let client = |i| {
            let addresses = 1..=topology.client_addresses;
            let addresses = addresses.map(|n| Ipv4Addr::new(10, 77, i, n)).collect();
            (format!("client{i}"), addresses, b'C', i)
        };
        let plan = (1..=topology.nodes).map(node).chain((1..=topology.clients).map(client));
        let plan: Vec<_> = plan.collect();

        let namespace = |name: &str| format!("{}-{name}", remains.id);
        let names = plan.iter().map(|(name, ..)| name.as_str()).chain(["switch"]);
        let lines: Vec<_> = names.map(|name| format!("netns add {}", namespace(name))).collect();
        ip_batch(None, &lines).context("make the namespaces")?;

        let switch = Namespace::open(&namespace("switch"))?;
        let switch = Arc::new(Switch::new(switch, topology));
        let mut hosts = Vec::new();
        for (name, addresses, kind, i) in plan {
            let namespace = Namespace::open(&namespace(&name))?;
            let mac = Mac([2, 0, 0, 0, kind, i]);
            let (switch, logs) = (Arc::clone(&switch), logs.clone());
            hosts.push(Host { name, namespace, switch, addresses, mac, logs });
        }
        connect(&switch, &hosts, topology)?;
        let clients = hosts.split_off(usize::from(topology.nodes));
        let (programs, elsewhere) = (Mutex::new(None), OnceLock::new());
        Ok(Self { programs, nodes: hosts, clients, switch, elsewhere, remains })
    }

    /// `node<i>`, counted from 1.
    ///
    /// # Panics
    /// If there is none.
    pub fn node(&self, i: usize) -> &Host {
        nth(&self.nodes, i, "node")
    }

    /// `client<i>`, counted from 1.
    ///
    /// # Panics
    /// If there is none.
    pub fn client(&self, i: usize) -> &Host {
        nth(&self.clients, i, "client")
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> &[Host] {
        &self.nodes
    }

    /// All clients, in order.
    pub fn clients(&self) -> &[Host] {
        &self.clients
    }

    /// The name that its namespaces and its directory begin with.
    pub fn id(&self) -> &str {
        &self.remains.id
    }

    /// A directory of its own, removed with the lab.
    pub fn directory(&self) -> PathBuf {
        self.remains.directory()
    }

    /// A bpffs of its own, in [`Lab::directory`].
    pub fn bpf_directory(&self) -> PathBuf {
        self.directory().join(BPF)
    }

    /// Moves the logs of all processes to where they outlive the lab, `<tmp>/<prefix>-<pid>-<n>`.
    pub fn keep_logs(&self, prefix: &str) -> Result<PathBuf> {
        let own = self.directory().join(LOGS);
        let kept = (0..).map(|n| format!("{prefix}-{}-{n}", std::process::id()));
        let kept = kept.map(|name| std::env::temp_dir().join(name)).find(|path| !path.exists());
        let kept = kept.context("every name is taken")?;
        fs::rename(&own, &kept)
            .with_context(|| format!("move {} to {}", own.display(), kept.display()))?;
        Ok(kept)
    }

    /// The stations that the switch has learnt.
    pub fn fdb(&self) -> Result<Vec<FdbEntry>> {
        self.switch.fdb()
    }

    /// The ports to which the switch sends what is for a group, of those that it was told of; needs
    /// [`Topology::mcast_snooping`].
    pub fn listeners(&self, group: IpAddr) -> Result<Vec<String>> {
        self.switch.listeners(group)
    }

    /// Makes the switch ports able to take what nodes send with `XDP_TX`.
    ///
    /// `object` is the lab's eBPF object, `target/bpf/lab-bpf`.
    pub fn pass_on_switch_ports(&self, object: &Path) -> Result<()> {
        self.set_port_program(PortProgram::Pass, object)
    }

    /// Makes the veth pairs behave as wires do for frames that nodes hand on; `object` as before.
    pub fn carry_handed_on_frames(&self, object: &Path) -> Result<()> {
        let mut clients = self.clients.iter().chain(self.clients_elsewhere());
        clients.try_for_each(Host::fill_in_checksums)?;
        self.pass_on_switch_ports(object)
    }

    /// Loses a share of all frames that hosts send, `0.0..=1.0`, by chance.
    pub fn lose_on_switch_ports(&self, object: &Path, share: f64) -> Result<()> {
        ensure!((0.0..=1.0).contains(&share), "the share of lost frames is between 0 and 1");
        self.set_port_program(PortProgram::Lossy(share), object)
    }

    /// Moves hosts to a second switch with a cable to the first: [`Lab::split`] takes it out. Once a
    /// lab.
    pub fn add_switch(&self, hosts: &[&Host]) -> Result<()> {
        let ports: Vec<_> = hosts.iter().map(|host| host.name()).collect();
        self.switch.move_to_second(&ports).context("make a second switch")
    }

    /// Takes the cable between the two switches out: no host sees its carrier go.
    pub fn split(&self) -> Result<()> {
        self.switch.set_cable(false)
    }

    /// Undoes [`Lab::split`].
    pub fn unite(&self) -> Result<()> {
        self.switch.set_cable(true)
    }

    /// The network namespace of the switch.
    pub fn switch_namespace(&self) -> &Namespace {
        &self.switch.namespace
    }

    /// Has hosts and switch carry packets of up to `mtu` bytes.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        let hosts = || self.nodes.iter().chain(&self.clients);
        let ports = hosts().map(|host| format!("link set {} mtu {mtu}", host.name));
        ip_batch(Some(self.switch.namespace.name()), &ports.collect::<Vec<_>>())?;
        let line = format!("link set {INTERFACE} mtu {mtu}");
        hosts().try_for_each(|host| ip_batch(Some(host.namespace.name()), slice::from_ref(&line)))
    }

    /// Takes the programs off the switch ports.
    pub fn clear_switch_ports(&self) {
        *self.programs.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn set_port_program(&self, program: PortProgram, object: &Path) -> Result<()> {
        let ports = self.nodes.iter().chain(&self.clients).map(|host| host.name.clone());
        let ports: Vec<_> = ports.chain(self.ports_elsewhere()).collect();
        // A port takes one program: the old one must be gone first.
        self.clear_switch_ports();
        let attached = program.attach(object, &self.switch.namespace, &ports)?;
        *self.programs.lock().unwrap_or_else(PoisonError::into_inner) = Some(attached);
        Ok(())
    }
}

fn nth<'a>(hosts: &'a [Host], i: usize, kind: &str) -> &'a Host {
    let host = i.checked_sub(1).and_then(|index| hosts.get(index));
    host.unwrap_or_else(|| panic!("the lab has {kind}1 to {kind}{}, not {kind}{i}", hosts.len()))
}

/// Makes a lab's directory with its bpffs and the place for logs, which is returned.
fn make_directory(directory: &Path) -> Result<PathBuf> {
    bpffs::mount_in(directory)?;
    let logs = directory.join(LOGS);
    fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
    Ok(logs)
}

/// Makes the bridge, a veth pair from each host to it, and the hosts' addresses.
fn connect(switch: &Switch, hosts: &[Host], topology: &Topology) -> Result<()> {
    switch.namespace.in_ns(|| set_for_new_interfaces("disable_ipv6", "1"))?;
    let mut lines = Switch::script(topology);
    for Host { name, namespace, mac, .. } in hosts {
        namespace.in_ns(keep_quiet).with_context(|| format!("set up {name}"))?;
        let peer = namespace.name();
        lines.push(format!(
            "link add {name} type veth peer name {INTERFACE} address {mac} netns {peer}"
        ));
        lines.push(format!("link set {name} up"));
    }
    ip_batch(Some(switch.namespace.name()), &lines).context("make the switch")?;
    let ports: Vec<_> = hosts.iter().map(Host::name).collect();
    switch.join_all(&ports)?;
    hosts.iter().try_for_each(|host| bring_up(host, topology.ipv6))
}

fn bring_up(host: &Host, ipv6: bool) -> Result<()> {
    let mut lines = vec!["link set lo up".to_owned(), format!("link set {INTERFACE} up")];
    for address in &host.addresses {
        lines.push(format!("addr add {address}/{PREFIX} dev {INTERFACE}"));
        let beside = ipv6.then(|| beside(*address));
        lines.extend(beside.map(|v6| format!("addr add {v6}/{PREFIX_V6} dev {INTERFACE}")));
    }
    ip_batch(Some(host.namespace.name()), &lines).with_context(|| format!("set up {}", host.name))
}

/// IPv6 stays on, but says nothing unasked: no detection of duplicates, no search for routers.
pub(crate) fn keep_quiet() -> Result<()> {
    for (name, value) in
        [("accept_dad", "0"), ("dad_transmits", "0"), ("router_solicitations", "0")]
    {
        set_for_new_interfaces(name, value)?;
    }
    Ok(())
}

/// A sysctl of the thread's own namespace. Without IPv6 in the kernel there is nothing to set.
fn set_for_new_interfaces(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net/ipv6/conf/default").join(name);
    if !path.exists() {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("write {}", path.display()))
}

/// What stays behind unless it is removed; removed on drop, also when making the lab failed.
#[derive(Debug)]
struct Remains {
    id: String,
}

impl Remains {
    fn directory(&self) -> PathBuf {
        sweep::directory_of(&self.id)
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        sweep::remove_namespaces(&self.id);
        if let Err(error) = sweep::remove_directory(&self.directory()) {
            eprintln!("cannot remove {}: {error}", self.directory().display());
        }
    }
}
