//! A node or a client: what one can do at it, to it, and see of it.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::Ebpf;
use serde::Deserialize;
use vipfarm::model::Mac;

use crate::{
    capture::{Capture, Captured},
    ethtool,
    flood::Flood,
    iproute::{checked, ip, query},
    lab::beside,
    ns::Namespace,
    offload,
    packet_socket::PacketSocket,
    process::Process,
    switch::Switch,
    xdp::PortProgram,
};

/// The interface of every host.
pub const INTERFACE: &str = "eth0";

/// One machine of the lab: a namespace with `lo` and `eth0`, on one port of the switch.
#[derive(Debug)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) namespace: Namespace,
    pub(crate) switch: Arc<Switch>,
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) mac: Mac,
    pub(crate) logs: PathBuf,
}

impl Host {
    /// `node1`, `client2`; also the name of its switch port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its first address.
    pub fn address(&self) -> Ipv4Addr {
        self.addresses[0]
    }

    /// All addresses it was made with.
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// Of its addresses those of that one's family; of IPv6 only with
    /// [`Topology::ipv6`](crate::Topology::ipv6).
    pub fn addresses_like(&self, other: IpAddr) -> Vec<IpAddr> {
        let like = |&own: &Ipv4Addr| if other.is_ipv4() { own.into() } else { beside(own).into() };
        self.addresses.iter().map(like).collect()
    }

    /// The MAC of its `eth0`.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// See [`Namespace::in_ns`].
    pub fn in_ns<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.namespace.in_ns(work)
    }

    /// See [`Namespace::command`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Runs a command line (split at blanks, no shell) to its end: its standard output, or an
    /// error with its standard error.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        let output = self.command(program).args(words).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("{}: run `{line}`", self.name))?;
        checked(&output, || line.to_owned()).with_context(|| self.name.clone())
    }

    /// Starts a command made by [`Host::command`]; its output goes to
    /// `<lab>/logs/<host>-<name>.log`.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        let name = format!("{}-{name}", self.name);
        let log = self.logs.join(format!("{name}.log"));
        Process::spawn(&name, command, log)
    }

    /// Cuts the host off silently: its carrier stays, and nothing it sends arrives anywhere.
    pub fn cut(&self) -> Result<()> {
        self.switch.leave(&self.name)
    }

    /// Undoes [`Host::cut`].
    pub fn heal(&self) -> Result<()> {
        self.switch.join(&self.name)
    }

    /// Loses what `other` sends to this host, and nothing else: a cut in one direction.
    pub fn deafen(&self, other: &Self) -> Result<()> {
        self.switch.lose(&self.name, other.mac)
    }

    /// Undoes [`Host::deafen`], for all others.
    pub fn undeafen(&self) -> Result<()> {
        self.switch.lose_nothing(&self.name)
    }

    /// Takes the cable out: the host loses its carrier.
    pub fn link_down(&self) -> Result<()> {
        self.switch.set_link(&self.name, false)
    }

    /// Undoes [`Host::link_down`].
    pub fn link_up(&self) -> Result<()> {
        self.switch.set_link(&self.name, true)
    }

    /// Whether `eth0` and the host's switch port keep VLAN tags beside the frames, out of the sight
    /// of XDP, as veth does unless told otherwise.
    pub fn set_vlan_offload(&self, on: bool) -> Result<()> {
        let set = |device: &str| {
            offload::set_vlan_offload(device, on).with_context(|| format!("VLAN tags on {device}"))
        };
        self.in_ns(|| set(INTERFACE))?;
        self.switch.namespace.in_ns(|| set(&self.name))
    }

    /// Has `eth0` send only frames with their checksums filled in. veth leaves that to the receiver,
    /// who no longer knows of it when the frame has been handed on with `XDP_TX`.
    pub fn fill_in_checksums(&self) -> Result<()> {
        let set = self.in_ns(|| ethtool::set_transmit_checksums(INTERFACE, false));
        set.with_context(|| format!("{}: checksums of {INTERFACE}", self.name))
    }

    /// Puts an XDP program that lets everything pass on `eth0`, from the lab's eBPF object; it
    /// stays until the result is dropped.
    pub fn occupy_xdp(&self, object: &Path) -> Result<Ebpf> {
        PortProgram::Pass.attach(object, &self.namespace, &[INTERFACE.to_owned()])
    }

    /// Records `eth0`: what got through the host's XDP program, and what its kernel sends.
    pub fn capture(&self) -> Result<Capture> {
        self.capture_if(|_| true)
    }

    /// As [`Host::capture`], only the frames that `keep` accepts.
    pub fn capture_if(&self, keep: impl Fn(&Captured) -> bool + Send + 'static) -> Result<Capture> {
        Capture::start(&self.namespace, INTERFACE, keep)
    }

    /// Records the host's switch port: outgoing is what the wire carries to the host before any
    /// of its programs sees it, incoming is what the host sent.
    pub fn capture_on_wire(&self) -> Result<Capture> {
        self.capture_on_wire_if(|_| true)
    }

    /// As [`Host::capture_on_wire`], only the frames that `keep` accepts.
    pub fn capture_on_wire_if(
        &self,
        keep: impl Fn(&Captured) -> bool + Send + 'static,
    ) -> Result<Capture> {
        Capture::start(&self.switch.namespace, &self.name, keep)
    }

    /// Sends one frame from `eth0` as it is.
    pub fn inject(&self, frame: &[u8]) -> Result<()> {
        let socket = PacketSocket::open(&self.namespace, INTERFACE)?;
        socket.send(frame).with_context(|| format!("{}: send a frame", self.name))
    }

    /// Sends frames from `eth0` as they are, in that order and so slowly that no receiver's queue
    /// overflows.
    pub fn inject_all(&self, frames: &[Vec<u8>]) -> Result<()> {
        // An end of a veth pair with an XDP program queues 256 frames.
        const AT_ONCE: usize = 32;
        let socket = PacketSocket::open(&self.namespace, INTERFACE)?;
        for frames in frames.chunks(AT_ONCE) {
            for frame in frames {
                socket.send(frame).with_context(|| format!("{}: send a frame", self.name))?;
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Sends frames from `eth0` over and over, as fast as it can, for so long; how many left.
    pub fn flood(&self, frames: &[Vec<u8>], time: Duration) -> Result<usize> {
        let socket = PacketSocket::open(&self.namespace, INTERFACE)?;
        let until = Instant::now() + time;
        let mut sent = 0;
        while Instant::now() < until {
            // A queue that is full loses some.
            sent += frames.iter().filter(|frame| socket.send(frame).is_ok()).count();
        }
        Ok(sent)
    }

    /// Has the switch send copies of a frame to this host for so long, as many as the kernel can make, as if
    /// from 4096 clients: see [`Flood::of`]. How many.
    pub fn deluge(&self, frame: Vec<u8>, time: Duration) -> Result<u64> {
        /// Frames between two looks at the clock.
        const CALL: u32 = 10_000;
        let (port, mac) = (&self.name, self.mac());
        self.switch.namespace.in_ns(|| {
            let mut flood = Flood::of(frame)?;
            flood.aim(port, mac)?;
            let until = Instant::now() + time;
            let mut sent = 0;
            while Instant::now() < until {
                sent += flood.send(CALL)?;
            }
            Ok(sent)
        })
    }

    /// The MAC that the host's neighbour table holds for `address`.
    pub fn neighbour(&self, address: IpAddr) -> Result<Option<Mac>> {
        #[derive(Deserialize)]
        struct Row {
            lladdr: Option<String>,
        }
        let line = format!("neigh show to {address} dev {INTERFACE} nud all");
        let rows: Vec<Row> = query("ip", self.namespace.name(), &line)?;
        let mac = rows.into_iter().find_map(|row| row.lladdr);
        mac.map(|mac| mac.parse().map_err(anyhow::Error::msg)).transpose()
    }

    /// Sets a static neighbour entry.
    pub fn set_neighbour(&self, address: IpAddr, mac: Mac) -> Result<()> {
        let line = format!("neigh replace {address} lladdr {mac} dev {INTERFACE} nud permanent");
        ip(self.namespace.name(), &line)
    }

    /// Adds an address, without duplicate address detection.
    pub fn add_address(&self, address: IpAddr, prefix: u8) -> Result<()> {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        ip(self.namespace.name(), &format!("addr add {address}/{prefix} dev {INTERFACE}{nodad}"))
    }

    /// Sets a sysctl of its namespace, by its path below `/proc/sys`.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.namespace.set_sysctl(name, value)
    }

    /// Removes an address.
    pub fn remove_address(&self, address: IpAddr, prefix: u8) -> Result<()> {
        ip(self.namespace.name(), &format!("addr del {address}/{prefix} dev {INTERFACE}"))
    }

    /// Whether `eth0` holds the address.
    pub fn has_address(&self, address: IpAddr) -> Result<bool> {
        #[derive(Deserialize)]
        struct Row {
            addr_info: Vec<Address>,
        }
        #[derive(Deserialize)]
        struct Address {
            local: IpAddr,
        }
        let rows: Vec<Row> =
            query("ip", self.namespace.name(), &format!("addr show dev {INTERFACE}"))?;
        Ok(rows.iter().flat_map(|row| &row.addr_info).any(|held| held.local == address))
    }
}
