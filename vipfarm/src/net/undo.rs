//! What the agent changed on the node, written down before it is changed, so that a clean stop, the
//! next start after a crash, or `vipfarm down` can take it back.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Network;
use crate::model::Mac;

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
    /// Virtual addresses added.
    pub vips: Vec<Ipv4Addr>,
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

/// ARP as a farm node needs it: ask with the address of the interface, never with a VIP
/// (`arp_announce` 2, T1); answer only for addresses of the interface asked on (`arp_ignore` 1).
const ARP_SYSCTLS: [(&str, &str); 2] = [("arp_announce", "2"), ("arp_ignore", "1")];

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
        let file = |error| UndoError::File { path: path.into(), error };
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other).map_err(file)?;
        let fresh = path.with_extension("new");
        fs::write(&fresh, text).map_err(file)?;
        fs::rename(&fresh, path).map_err(file)
    }

    /// The interface's changes, to be added to.
    pub fn on(&mut self, name: &str) -> &mut InterfaceChanges {
        let index = self.interfaces.iter().position(|changes| changes.name == name);
        let index = index.unwrap_or_else(|| {
            self.interfaces.push(InterfaceChanges { name: name.into(), ..Default::default() });
            self.interfaces.len() - 1
        });
        &mut self.interfaces[index]
    }

    /// Takes everything back and removes the record. Goes on after a failure, so that one thing
    /// that cannot be undone does not keep the rest; returns the failures.
    pub async fn roll_back(&self, network: &Network, path: &Path) -> Vec<UndoError> {
        let mut failures = Vec::new();
        let present = network.interfaces().await.unwrap_or_else(|error| {
            failures.push(error.into());
            Vec::new()
        });
        for changes in &self.interfaces {
            // An interface that is gone took its addresses and sysctls along.
            let Some(interface) = present.iter().find(|i| i.name == changes.name) else { continue };
            for &vip in &changes.vips {
                failures.extend(network.remove_vip(interface, vip).await.err().map(Into::into));
            }
            for vmac in changes.vmacs.iter().filter_map(|text| text.parse::<Mac>().ok()) {
                failures.extend(network.remove_vmac(interface, vmac).await.err().map(Into::into));
            }
            for sysctl in &changes.sysctls {
                failures.extend(write_sysctl(&sysctl.key, &sysctl.former).err());
            }
        }
        if failures.is_empty()
            && let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            failures.push(UndoError::File { path: path.into(), error });
        }
        failures
    }
}

impl InterfaceChanges {
    /// Notes the present values of the sysctls that [`set_arp_sysctls`] will change. A value that an
    /// earlier agent noted is the true one: the present one is that agent's.
    pub fn note_sysctls(&mut self) -> Result<(), UndoError> {
        for (name, _) in ARP_SYSCTLS {
            let key = arp_key(&self.name, name);
            if !self.sysctls.iter().any(|sysctl| sysctl.key == key) {
                let former = read_sysctl(&key)?;
                self.sysctls.push(Sysctl { key, former });
            }
        }
        Ok(())
    }
}

/// Sets the interface's ARP behaviour for a farm node.
pub fn set_arp_sysctls(interface: &str) -> Result<(), UndoError> {
    ARP_SYSCTLS.iter().try_for_each(|(name, value)| write_sysctl(&arp_key(interface, name), value))
}

fn arp_key(interface: &str, name: &str) -> String {
    format!("net/ipv4/conf/{interface}/{name}")
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

    fn record() -> Undo {
        let mut undo = Undo::default();
        undo.on("eth0").vips.push(Ipv4Addr::new(192, 168, 1, 222));
        undo.on("eth0").vmacs.push("5a:fe:c0:a8:01:de".into());
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
    fn an_interface_has_one_entry() {
        let mut undo = record();
        undo.on("eth1");
        undo.on("eth0");
        assert_eq!(undo.interfaces.len(), 2);
    }
}
