//! What the agent changed on the node, written down before it is changed, so that a clean stop, the
//! next start after a crash, or `vipfarm down` can take it back.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Interface, Network};
use crate::{file, model::Mac};

/// The record of one farm's changes on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// By interface.
    pub interfaces: Vec<InterfaceChanges>,
}

/// The changes on one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceChanges {
    /// Interface name.
    pub name: String,
    /// Its kernel index.
    pub index: u32,
    /// It has a filter, or had one until its agent crashed.
    #[serde(default)]
    pub filtered: bool,
    /// Virtual addresses added.
    pub vips: Vec<IpAddr>,
    /// VMACs that it receives, as text.
    pub vmacs: Vec<String>,
    /// Sysctls set, with the values they had.
    pub sysctls: Vec<Sysctl>,
}

/// A sysctl and its former value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// Path under `/proc/sys`.
    pub key: String,
    /// The value before the agent came.
    pub former: String,
    /// The value it set.
    pub value: String,
}

/// Why the record could not be kept, or a change not be taken back.
#[derive(Debug, Error)]
pub enum UndoError {
    /// The record's file.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The record is not what this version wrote.
    #[error("{path} is damaged ({reason}): remove the VIP by hand (`ip addr del`), then this file")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// A sysctl.
    #[error("/proc/sys/{key}: {error}")]
    Sysctl {
        /// Path under `/proc/sys`.
        key: String,
        /// What the system said.
        error: io::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] super::Error),
}

/// A sysctl of an interface as the farm needs it: directory below `/proc/sys/net`, name, value.
type Setting = (&'static str, &'static str, &'static str);

/// ARP for every interface on the network of an IPv4 VIP: answer only for the addresses of the
/// interface asked on. Otherwise a second one there, which has no filter, answers for the VIP.
pub const BESIDE_VIP: &[Setting] = &[("ipv4", "arp_ignore", "1")];

/// What the interface of a VIP needs.
///
/// Of IPv4, to ask with the interface's address, never with a VIP (T1). Of IPv6, that the VIP
/// outlasts the interface's going down: the kernel forgets such addresses otherwise.
pub const fn for_vip(vip: IpAddr) -> &'static [Setting] {
    match vip {
        IpAddr::V4(_) => &[("ipv4", "arp_announce", "2"), ("ipv4", "arp_ignore", "1")],
        IpAddr::V6(_) => &[("ipv6", "keep_addr_on_down", "1")],
    }
}

impl Undo {
    /// Reads the record; an absent one is empty.
    pub fn read(path: &Path) -> Result<Self, UndoError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(UndoError::File { path: path.into(), error }),
        };
        serde_json::from_str(&text)
            .map_err(|error| UndoError::Damaged { path: path.into(), reason: error.to_string() })
    }

    /// Writes the record, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), UndoError> {
        let failed = |error| UndoError::File { path: path.into(), error };
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other).map_err(failed)?;
        file::replace(path, &text).map_err(failed)
    }

    /// The interface's changes, to be added to.
    pub fn on(&mut self, interface: &Interface) -> &mut InterfaceChanges {
        let index = self.interfaces.iter().position(|changes| changes.index == interface.index);
        let index = index.unwrap_or_else(|| {
            self.interfaces.push(InterfaceChanges {
                name: interface.name.clone(),
                index: interface.index,
                ..InterfaceChanges::default()
            });
            self.interfaces.len() - 1
        });
        &mut self.interfaces[index]
    }

    /// Parts the changes that are in `other` too from those that are not: the second value.
    pub fn parted(self, other: &Self) -> (Self, Self) {
        let parts = |changes: InterfaceChanges| {
            let same = |it: &&InterfaceChanges| {
                (it.index, it.name.as_str()) == (changes.index, changes.name.as_str())
            };
            let fallback = InterfaceChanges::default();
            changes.clone().parted(other.interfaces.iter().find(same).unwrap_or(&fallback))
        };
        let (both, rest): (Vec<_>, Vec<_>) = self.interfaces.into_iter().map(parts).unzip();
        let some = |mut interfaces: Vec<InterfaceChanges>| {
            interfaces.retain(|changes| !changes.is_empty());
            Self { interfaces }
        };
        (some(both), some(rest))
    }

    /// Takes everything back. Goes on after a failure, so that one thing that cannot be undone does
    /// not keep the rest; returns the failures.
    pub async fn roll_back(&self, network: &Network) -> Vec<UndoError> {
        let mut failures = Vec::new();
        let present = match Network::interfaces().await {
            Ok(present) => present,
            Err(error) => return vec![error.into()],
        };
        for changes in &self.interfaces {
            // An interface that is gone took its addresses and sysctls along.
            let same = |interface: &&Interface| {
                interface.index == changes.index && interface.name == changes.name
            };
            let Some(interface) = present.iter().find(same) else { continue };
            for &vip in &changes.vips {
                failures.extend(network.remove_vip(interface, vip).await.err().map(Into::into));
            }
            for vmac in changes.vmacs.iter().filter_map(|text| text.parse::<Mac>().ok()) {
                failures.extend(network.remove_vmac(interface, vmac).await.err().map(Into::into));
            }
            failures.extend(changes.sysctls.iter().filter_map(|sysctl| sysctl.restore().err()));
        }
        failures
    }

    /// Removes the record.
    pub fn remove(path: &Path) -> Result<(), UndoError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(UndoError::File { path: path.into(), error })
            }
            _ => Ok(()),
        }
    }
}

impl InterfaceChanges {
    fn is_empty(&self) -> bool {
        let has_none = self.vips.is_empty() && self.vmacs.is_empty() && self.sysctls.is_empty();
        has_none && !self.filtered
    }

    /// As [`Undo::parted`].
    fn parted(self, other: &Self) -> (Self, Self) {
        let (vips, other_vips) = self.vips.into_iter().partition(|vip| other.vips.contains(vip));
        let (vmacs, other_vmacs) =
            self.vmacs.into_iter().partition(|vmac| other.vmacs.contains(vmac));
        let has = |sysctl: &Sysctl| other.sysctls.iter().any(|it| it.key == sysctl.key);
        let (sysctls, other_sysctls) = self.sysctls.into_iter().partition(has);
        let filtered = self.filtered && other.filtered;
        let rest = Self {
            name: self.name.clone(),
            index: self.index,
            filtered: self.filtered && !other.filtered,
            vips: other_vips,
            vmacs: other_vmacs,
            sysctls: other_sysctls,
        };
        (Self { name: self.name, index: self.index, filtered, vips, vmacs, sysctls }, rest)
    }

    /// Notes a virtual address.
    pub fn note_vip(&mut self, vip: IpAddr) {
        if !self.vips.contains(&vip) {
            self.vips.push(vip);
        }
    }

    /// Notes the filter, and a VMAC that it is to see the frames of.
    pub fn note_filter(&mut self, vmac: Option<Mac>) {
        self.filtered = true;
        let vmac = vmac.map(|vmac| vmac.to_string());
        self.vmacs.extend(vmac.filter(|vmac| !self.vmacs.contains(vmac)));
    }

    /// Forgets a virtual address and a VMAC that are gone.
    pub fn forget(&mut self, vip: Option<IpAddr>, vmac: Option<Mac>) {
        self.vips.retain(|&noted| Some(noted) != vip);
        let vmac = vmac.map(|vmac| vmac.to_string());
        self.vmacs.retain(|noted| Some(noted) != vmac.as_ref());
    }

    /// Notes the present values of the sysctls that [`InterfaceChanges::set_sysctls`] will change:
    /// [`BESIDE_VIP`] or those [`for_vip`].
    pub fn note_sysctls(&mut self, settings: &[Setting]) -> Result<(), UndoError> {
        for (family, name, value) in settings {
            let key = format!("net/{family}/conf/{}/{name}", self.name);
            if !self.sysctls.iter().any(|sysctl| sysctl.key == key) {
                let former = read_sysctl(&key)?;
                self.sysctls.push(Sysctl { key, former, value: (*value).into() });
            }
        }
        Ok(())
    }

    /// Sets the sysctls noted.
    pub fn set_sysctls(&self) -> Result<(), UndoError> {
        self.sysctls.iter().try_for_each(|sysctl| write_sysctl(&sysctl.key, &sysctl.value))
    }
}

impl Sysctl {
    /// Writes the former value, unless it is there already: /proc/sys may be read-only.
    fn restore(&self) -> Result<(), UndoError> {
        if read_sysctl(&self.key)? == self.former {
            return Ok(());
        }
        write_sysctl(&self.key, &self.former)
    }
}

fn read_sysctl(key: &str) -> Result<String, UndoError> {
    let value = fs::read_to_string(Path::new("/proc/sys").join(key));
    value
        .map(|value| value.trim().to_owned())
        .map_err(|error| UndoError::Sysctl { key: key.into(), error })
}

fn write_sysctl(key: &str, value: &str) -> Result<(), UndoError> {
    fs::write(Path::new("/proc/sys").join(key), value)
        .map_err(|error| UndoError::Sysctl { key: key.into(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::fixture;

    fn interface(index: u32) -> Interface {
        fixture::interface(index, &[])
    }

    fn record() -> Undo {
        let mut undo = Undo::default();
        let vip = std::net::Ipv4Addr::new(192, 168, 1, 222);
        undo.on(&interface(2)).note_vip(vip.into());
        undo.on(&interface(2)).note_filter(Some(Mac::of_vip(vip)));
        undo
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = std::env::temp_dir().join(format!("vipfarm-undo-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary directory");
        let path = dir.join("undo.json");
        record().write(&path).expect("written");
        assert_eq!(Undo::read(&path).expect("read"), record());
        fs::write(&path, "{").expect("written");
        let message = Undo::read(&path).expect_err("damaged").to_string();
        assert!(message.contains("remove the VIP by hand"), "{message}");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn an_absent_record_is_empty() {
        assert_eq!(
            Undo::read(Path::new("/nonexistent/undo.json")).expect("empty"),
            Undo::default()
        );
    }

    #[test]
    fn what_another_record_has_too_is_parted_from_what_it_has_not() {
        let mut other = Undo::default();
        other.on(&interface(2)).note_filter(None);
        other.on(&interface(2)).note_vip([192, 168, 1, 222].into());
        let mut undo = record();
        undo.on(&interface(2)).note_vip([192, 168, 1, 223].into());
        undo.on(&interface(3)).note_filter(None);
        let (both, mut rest) = undo.parted(&other);
        assert_eq!(both, other);
        assert!(rest.on(&interface(3)).filtered && !rest.on(&interface(2)).filtered);
        let changes = rest.on(&interface(2));
        assert_eq!(changes.vips, [IpAddr::from([192, 168, 1, 223])]);
        assert_eq!(changes.vmacs.len(), 1);
        assert_eq!(rest.clone().parted(&record()).1.interfaces.len(), 2);
        assert_eq!(record().parted(&record()), (record(), Undo::default()));
    }

    #[test]
    fn an_interface_has_one_entry() {
        let mut undo = record();
        undo.on(&interface(3));
        undo.on(&interface(2)).note_vip([192, 168, 1, 222].into());
        undo.on(&interface(2)).note_filter(Some(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!(undo.interfaces.len(), 2);
        assert_eq!((undo.interfaces[0].vips.len(), undo.interfaces[0].vmacs.len()), (1, 2));
    }
}
