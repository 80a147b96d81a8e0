//! What an agent changes on a node, read back from the node: nothing of it may stay.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::programs::{
    SchedClassifier, TcAttachType,
    links::{FdLink, LinkType, PinnedLink},
};
use serde::Deserialize;

use crate::{
    host::{Host, INTERFACE},
    iproute::query,
};

/// Everything that an agent changes on a node. Two of the same node can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Addresses of `eth0`, those of its link aside.
    pub addresses: Vec<IpAddr>,
    /// MACs that `eth0` receives besides its own.
    pub macs: Vec<String>,
    /// Sysctls of `eth0` that an agent may set, with their values.
    pub sysctls: Vec<(&'static str, String)>,
    /// Id of the XDP program on `eth0`.
    pub xdp: Option<u32>,
    /// TC programs on `eth0`.
    pub tc: Vec<String>,
    /// Pinned XDP and TC links by name, with the kernel's number: a link keeps it as long as it is
    /// attached, whatever program it runs.
    pub links: Vec<(String, u32)>,
    /// Sockets, records and pins.
    pub files: Vec<PathBuf>,
}

impl Footprint {
    /// What is on `host` now; files are looked for below `directories`.
    pub(crate) fn of(host: &Host, directories: &[PathBuf]) -> Result<Self> {
        let mut files: Vec<_> = directories.iter().flat_map(|dir| files_below(dir)).collect();
        files.sort();
        let sysctl = |(family, name): (&str, &'static str)| {
            let path = format!("/proc/sys/net/{family}/conf/{INTERFACE}/{name}");
            let value = match host.in_ns(|| fs::read_to_string(&path)) {
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                value => value.with_context(|| path.clone())?,
            };
            Ok((name, value.trim().to_owned()))
        };
        let sysctls =
            [("ipv4", "arp_announce"), ("ipv4", "arp_ignore"), ("ipv6", "keep_addr_on_down")];
        let sysctls = sysctls.into_iter().map(sysctl);
        Ok(Self {
            addresses: addresses(host)?,
            macs: macs(host)?,
            sysctls: sysctls.collect::<Result<_>>()?,
            xdp: xdp(host)?,
            tc: host.in_ns(tc)?,
            links: files.iter().filter_map(|path| link(path)).collect(),
            files,
        })
    }
}

fn addresses(host: &Host) -> Result<Vec<IpAddr>> {
    #[derive(Deserialize)]
    struct Row {
        addr_info: Vec<Address>,
    }
    #[derive(Deserialize)]
    struct Address {
        local: IpAddr,
    }
    let line = format!("addr show dev {INTERFACE}");
    let rows: Vec<Row> = query("ip", host.namespace().name(), &line)?;
    let addresses = rows.iter().flat_map(|row| &row.addr_info).map(|address| address.local);
    let of_link =
        |address: &IpAddr| matches!(address, IpAddr::V6(v6) if Ipv6Addr::is_unicast_link_local(v6));
    Ok(addresses.filter(|address| !of_link(address)).collect())
}

/// The unicast ones: groups of multicast come and go by themselves.
fn macs(host: &Host) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Row {
        mac: String,
    }
    let line = format!("fdb show dev {INTERFACE}");
    let rows: Vec<Row> = query("bridge", host.namespace().name(), &line)?;
    let unicast = |mac: &String| !mac.starts_with("33:33:") && !mac.starts_with("01:00:5e:");
    Ok(rows.into_iter().map(|row| row.mac).filter(unicast).collect())
}

fn xdp(host: &Host) -> Result<Option<u32>> {
    #[derive(Deserialize)]
    struct Row {
        xdp: Option<Xdp>,
    }
    #[derive(Deserialize)]
    struct Xdp {
        prog: Program,
    }
    #[derive(Deserialize)]
    struct Program {
        id: u32,
    }
    let rows: Vec<Row> =
        query("ip", host.namespace().name(), &format!("-d link show dev {INTERFACE}"))?;
    Ok(rows.into_iter().find_map(|row| row.xdp).map(|xdp| xdp.prog.id))
}

/// In the namespace of the calling thread.
fn tc() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_, programs) = SchedClassifier::query_tcx(INTERFACE, direction)
            .with_context(|| format!("the TC programs of {INTERFACE}"))?;
        let name = |program: aya::programs::ProgramInfo| {
            String::from_utf8_lossy(program.name()).into_owned()
        };
        names.extend(programs.into_iter().map(name));
    }
    Ok(names)
}

/// Pins that are no links. A map's description begins as one of a link may.
const MAPS: [&str; 3] = ["guard", "jump", "packets"];

fn link(path: &Path) -> Option<(String, u32)> {
    if path.file_name().is_some_and(|name| MAPS.iter().any(|map| name == *map)) {
        return None;
    }
    let link: FdLink = PinnedLink::from_pin(path).ok()?.into();
    let info = link.info().ok()?;
    let attached = matches!(info.link_type(), Ok(LinkType::Xdp | LinkType::Tcx));
    attached.then(|| (path.file_name().unwrap_or_default().display().to_string(), info.id()))
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}
