//! What was found on the machine: data alone.

use std::path::PathBuf;

use crate::{
    agent::trust::Changeable,
    datapath::XdpMode,
    net::{Driver, Settings},
};

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release, such as `6.18.5-amd64`.
    pub release: String,
    /// Major and minor of it, where it begins with them.
    pub version: Option<(u32, u32)>,
    /// Whether programs are compiled; `None` where the kernel does not say.
    pub jit: Option<bool>,
    /// Whether the kernel takes the programs, and if so, for frames in several buffers too; `None` where
    /// that was not tried.
    pub programs: Option<Result<bool, String>>,
    /// The effective capabilities, one bit each.
    pub capabilities: u64,
    /// Whether as much memory as wanted may be locked without a capability.
    pub locks_memory: bool,
    /// The real-time scheduling of the heartbeats.
    pub real_time: RealTime,
    /// Where pins are to be, and whether that is on a BPF file system.
    pub bpf_dir: (PathBuf, bool),
    /// The farm's files.
    pub files: Vec<FileFacts>,
    /// Why the file does not fit this machine, in sentences.
    pub misfits: Vec<String>,
    /// What checks and hooks of the file need, and this machine does not have.
    pub lacks: Vec<LackFacts>,
    /// Whether an agent of the farm runs here.
    pub agent: bool,
    /// The interface of the default route, if there is one.
    pub default_route: Option<String>,
    /// The interfaces that have VIPs, or that were asked about.
    pub interfaces: Vec<InterfaceFacts>,
}

/// Whether the heartbeat thread runs before all ordinary ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealTime {
    /// It does.
    Granted,
    /// It does not, and timers as long as the farm's do not need it.
    Dispensable(String),
    /// It does not: the node may fence itself under load. What is wrong, and what to do.
    Missing(String, String),
    /// It does not, and the agent refuses to start.
    Needed(String, String),
}

/// A file that decides what the agent does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Its path.
    pub path: PathBuf,
    /// What is in it.
    pub kind: FileKind,
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub owner: u32,
    /// Its group.
    pub group: u32,
    /// Why it cannot be used, and what to do.
    pub problem: Option<(String, String)>,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The farm's file.
    Configuration,
    /// A key.
    Key,
}

/// Something that a check or a hook needs, and that this machine does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LackFacts {
    /// The check, as in `vipfarm status`, or the hook's key.
    pub of: String,
    /// Whether it is a check: what it is about is not served.
    pub is_check: bool,
    /// What it is.
    pub lack: Lack,
}

/// What a check or a hook needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// There is no such program.
    NoProgram(PathBuf),
    /// The file is there, and nobody may execute it, or it is none.
    NotExecutable(PathBuf),
    /// There is no such user: why.
    NoUser(String),
    /// Others may change it, and it runs as the agent's user.
    Changeable(Changeable),
    /// The agent's unit shows programs another folder under that name, or none.
    Hidden(PathBuf),
    /// There is no such interface; these are there.
    NoInterface(String),
    /// There is no such folder for a file, which is to be there or not.
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// Whether the file is to be there.
        present: bool,
    },
}

/// An interface.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// Its name.
    pub name: String,
    /// The name of the interface that has the VIPs: itself, or a VLAN device of it.
    pub holder: String,
    /// It is up.
    pub up: bool,
    /// Its cable is plugged.
    pub carrier: bool,
    /// Segments are merged.
    pub lro: bool,
    /// Whether it has VIPs, or is to have some, of these families.
    pub families: Families,
    /// Its driver and MTU.
    pub driver: Driver,
    /// An XDP program is attached to it.
    pub occupied: bool,
    /// Others' TC programs that come before the farm's, which they can keep frames from.
    pub programs_before: Vec<String>,
    /// How an agent's filter is pinned here, running or crashed.
    pub pinned: Option<XdpMode>,
    /// The filter is wanted in generic mode.
    pub generic: bool,
    /// Clients send to a virtual MAC here.
    pub has_vmac: bool,
    /// The settings of the interface that has the VIPs.
    pub settings: Settings,
}

/// Address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}
