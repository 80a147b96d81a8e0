//! The persistent powers on this node's disk: written by the runtime when those of the view in force
//! have changed, read when the agent starts. After a restart of the whole farm the newest of all
//! nodes' files counts.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task, time};

use super::{
    configurations::Configurations,
    engine::Latest,
    history::{History, Level},
};
use crate::{
    file,
    model::{Farm, Override, Overrides, Stay, StayKind, Version, VipId},
};

/// How often to look without being told: a lost report, or a disk that was full, costs no more.
const ROUND: Duration = Duration::from_secs(1);

/// Of a directory that is made.
const MODE: u32 = 0o755;

/// Why persistent powers cannot be kept or known.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    /// The directory.
    #[error(
        "cannot keep powers in {path} ({error}): make it a directory that this agent may write to, or name another one with --state-dir", path = path.display()
    )]
    Directory {
        /// Where it is to be.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not what an agent wrote.
    #[error(
        "{path} is damaged ({reason}): it says which powers were set with --persist; mend it, or remove it to start without them", path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
}

/// The text of the file. Nodes and groups have their names: their numbers are those of one
/// configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: Version,
    powers: Vec<StoredPower>,
    /// Failover VIPs that were moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    moved: Vec<StoredMove>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMove {
    /// The name of its group.
    vip: String,
    node: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPower {
    node: String,
    /// Absent: all groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    power: u16,
}

/// What the runtime's parts tell each other of the file.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// Another view is in force.
    pub(super) installed: Notify,
    /// The version of the powers in the file.
    pub(super) saved: AtomicU64,
}

/// The file of one farm.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    /// As on the disk.
    stored: Stored,
    pub(super) keeping: Arc<Keeping>,
}

impl Keeper {
    /// Reads the farm's file below `directory`, which is made if it is missing; without a file there
    /// are no persistent powers yet.
    pub(super) fn open(directory: &Path, farm: &str) -> Result<Self, KeepError> {
        let made = DirBuilder::new().recursive(true).mode(MODE).create(directory);
        let usable = made.and_then(|()| Ok(access(directory, AccessFlags::W_OK)?));
        usable.map_err(|error| KeepError::Directory { path: directory.into(), error })?;
        let path = directory.join(format!("{farm}.powers.json"));
        let stored = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stored::default()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
            Err(error) => return Err(KeepError::File { path, error }),
        };
        let checked = stored.and_then(|stored: Stored| stored.check().map(|()| stored));
        match checked {
            Ok(stored) => {
                let keeping = Arc::<Keeping>::default();
                keeping.saved.store(stored.version.counter, Ordering::Relaxed);
                Ok(Self { path, stored, keeping })
            }
            Err(reason) => Err(KeepError::Damaged { path, reason }),
        }
    }

    /// The powers in the file as the farm's file numbers nodes and groups, and, in words, those that
    /// it does not know.
    pub(super) fn overrides(&self, farm: &Farm) -> (Overrides, Vec<String>) {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for stored in &self.stored.powers {
            match stored.entry(farm) {
                Ok(entry) => known.push(entry),
                Err(missing) => unknown.push(format!(
                    "power {} of {} is forgotten: {missing} is not in the file any more",
                    stored.power, stored.node
                )),
            }
        }
        let overrides = Overrides::new(self.stored.version, known);
        let moved = self.stored.moved.iter().filter_map(|moved| {
            let stay = moved.stay(farm);
            if stay.is_none() {
                let StoredMove { vip, node } = moved;
                unknown.push(format!("that {vip} was moved to {node} is forgotten: one of them is not in the file any more"));
            }
            stay
        });
        let overrides = overrides.and_then(|overrides| overrides.and(moved.collect::<Vec<_>>()));
        (overrides.expect("`check` has seen it"), unknown)
    }

    /// Writes what is persistent of the powers in force whenever they have changed, for ever.
    pub(super) async fn follow(
        mut self,
        latest: Latest,
        configurations: Configurations,
        history: Arc<History>,
    ) {
        let mut told = None;
        loop {
            // Either way there may be something to do.
            let _ = time::timeout(ROUND, self.keeping.installed.notified()).await;
            let view = latest.get().view.clone();
            if view.epoch == 0 {
                continue;
            }
            let now = Stored::of(&view.powers, &configurations.get(view.digest).farm);
            if now == self.stored {
                continue;
            }
            let outcome = self.write(now).await.err().map(|error| error.to_string());
            if let Some(error) = outcome.as_ref().filter(|_| outcome != told) {
                let message = format!("powers will not outlast a restart of this node: {error}");
                history.push(Level::Warn, "powers_not_kept", message);
            }
            told = outcome;
        }
    }

    async fn write(&mut self, stored: Stored) -> io::Result<()> {
        let path = self.path.clone();
        let text = serde_json::to_string_pretty(&stored).map_err(io::Error::other)?;
        let written = task::spawn_blocking(move || {
            file::replace(&path, &text)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
        });
        written.await.map_err(io::Error::other)??;
        self.keeping.saved.store(stored.version.counter, Ordering::Relaxed);
        self.stored = stored;
        Ok(())
    }
}

impl Stored {
    fn of(powers: &Overrides, farm: &Farm) -> Self {
        let name = |entry: &Override| {
            let group = entry.group.map(|group| groups(farm).nth(group.into()));
            Some(StoredPower {
                node: farm.nodes.get(entry.node.index())?.name.clone(),
                group: group.map(|known| known.map(str::to_owned).ok_or(())).transpose().ok()?,
                power: entry.power,
            })
        };
        let persistent = powers.entries().iter().filter(|entry| entry.life.is_none());
        let moved = |stay: &Stay| {
            let vip = groups(farm).find(|name| VipId::of(name) == stay.vip)?.to_owned();
            Some(StoredMove { vip, node: farm.nodes.get(stay.node.index())?.name.clone() })
        };
        let stays = powers.stays().iter();
        let pins = stays.filter(|stay| stay.kind == StayKind::Pinned && stay.life.is_none());
        Self {
            version: powers.version(),
            powers: persistent.filter_map(name).collect(),
            moved: pins.filter_map(moved).collect(),
        }
    }

    /// What no agent writes is damage.
    fn check(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for StoredPower { node, group, power } in &self.powers {
            if *power > crate::model::MAX_POWER {
                return Err(format!("{node} has power {power}"));
            }
            if !seen.insert((node, group)) {
                return Err(format!("{node} is there twice"));
            }
        }
        let vips: BTreeSet<_> = self.moved.iter().map(|moved| &moved.vip).collect();
        if vips.len() < self.moved.len() {
            return Err("a VIP was moved twice".into());
        }
        let too_many = seen.len() > Overrides::MAX || vips.len() > Overrides::MAX_STAYS;
        if too_many { Err("too many powers".into()) } else { Ok(()) }
    }
}

impl StoredMove {
    /// `None` if the farm's file does not have one of them.
    fn stay(&self, farm: &Farm) -> Option<Stay> {
        let vip = groups(farm).find(|name| *name == self.vip).map(VipId::of)?;
        let node = farm.node_named(&self.node)?;
        Some(Stay { vip, kind: StayKind::Pinned, node, life: None })
    }
}

impl StoredPower {
    /// The error is what the farm's file does not have.
    fn entry(&self, farm: &Farm) -> Result<Override, String> {
        let node = farm.node_named(&self.node).ok_or_else(|| self.node.clone())?;
        let place = |name: &String| {
            let place = groups(farm).position(|group| group == name);
            place.and_then(|at| u8::try_from(at).ok()).ok_or_else(|| format!("group {name}"))
        };
        let group = self.group.as_ref().map(place).transpose()?;
        Ok(Override::persistent(node, group, self.power))
    }
}

/// The names of the groups in file order over all blocks.
fn groups(farm: &Farm) -> impl Iterator<Item = &str> {
    farm.vips.iter().flat_map(|block| &block.groups).map(|group| group.name.as_str())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{agent::fixture, model::NodeId};

    const GROUPS: &str = "[{ name: a, rules: [{ port: 80, proto: tcp, filter: on_port }] }, { name: b, rules: [{ port: 81, proto: tcp, filter: on_port }] }]";
    const SWAPPED: &str = "[{ name: b, rules: [{ port: 81, proto: tcp, filter: on_port }] }, { name: c, rules: [{ port: 80, proto: tcp, filter: on_port }] }]";

    /// A directory that is not there yet; removed with the value.
    struct Place(PathBuf);

    impl Place {
        fn new(test: &str) -> Self {
            let name = format!("vipfarm-keep-{test}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn open(&self) -> Result<Keeper, KeepError> {
            Keeper::open(&self.0.join("state"), "web")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Of node1 in group a for its agent's life; of node2 in b and of node3 in all for good.
    fn powers() -> Overrides {
        let node = |index| NodeId::new(index).expect("in range");
        let entries = [
            Override { life: Some(1), ..Override::persistent(node(0), Some(0), 9) },
            Override::persistent(node(1), Some(1), 3),
            Override::persistent(node(2), None, 0),
        ];
        let moved = |group, kind, life| Stay { vip: VipId::of(group), kind, node: node(2), life };
        let stays = [
            moved("a", StayKind::Incumbent, Some(1)),
            moved("a", StayKind::Pinned, None),
            moved("b", StayKind::Pinned, Some(1)),
        ];
        let overrides = Overrides::new(Version { counter: 7, author: 1 }, entries);
        overrides.and_then(|overrides| overrides.and(stays)).expect("few")
    }

    fn write(keeper: &mut Keeper) {
        let stored = Stored::of(&powers(), &fixture::farm(GROUPS));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(keeper.write(stored)).expect("written");
    }

    #[test]
    fn what_is_persistent_is_read_as_it_was_written_and_the_rest_is_not_written() {
        let place = Place::new("whole");
        let mut keeper = place.open().expect("made");
        let mode = fs::metadata(place.0.join("state")).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let farm = fixture::farm(GROUPS);
        assert_eq!(keeper.overrides(&farm), (Overrides::default(), Vec::new()));
        write(&mut keeper);
        let (known, unknown) = place.open().expect("readable").overrides(&farm);
        assert_eq!((known.version(), unknown), (powers().version(), Vec::new()));
        assert_eq!(known.entries(), &powers().entries()[1..]);
        let pin = powers().stay(VipId::of("a"), StayKind::Pinned).copied();
        assert_eq!(known.stays(), pin.as_slice());
        let files = fs::read_dir(place.0.join("state")).expect("readable");
        assert_eq!(files.count(), 1, "nothing else");
    }

    #[test]
    fn names_are_found_in_another_file_and_what_is_not_there_is_told() {
        let place = Place::new("names");
        let mut keeper = place.open().expect("made");
        write(&mut keeper);
        let (known, unknown) = keeper.overrides(&fixture::farm(SWAPPED));
        assert_eq!(
            unknown,
            ["that a was moved to node3 is forgotten: one of them is not in the file any more"]
        );
        let group = known.entries()[0].group;
        assert_eq!((known.entries().len(), group), (2, Some(0)), "b is the first group now");
        let mut farm = fixture::farm(&SWAPPED.replace("name: b", "name: d"));
        farm.nodes.pop();
        let (known, unknown) = keeper.overrides(&farm);
        assert_eq!((known.version(), known.entries()), (powers().version(), &[][..]));
        assert_eq!(
            unknown,
            [
                "power 3 of node2 is forgotten: group b is not in the file any more",
                "power 0 of node3 is forgotten: node3 is not in the file any more",
                "that a was moved to node3 is forgotten: one of them is not in the file any more"
            ]
        );
    }

    #[test]
    fn a_damaged_file_is_refused_by_name_and_stays() {
        let place = Place::new("damaged");
        let path = place.open().expect("made").path;
        let power = r#"{"node":"node1","power":0}"#;
        let whole = |powers: &str| {
            format!(r#"{{"version":{{"counter":1,"author":0}},"powers":[{powers}]}}"#)
        };
        fs::write(&path, whole(power)).expect("written");
        place.open().expect("whole");
        for (text, reason) in [
            (String::new(), "EOF"),
            (whole(power).replace(']', ""), "expected"),
            (whole(&power.replace(":0", ":1001")), "power 1001"),
            (whole(&power.replace("power", "weight")), "unknown field"),
            (whole(&format!("{power},{power}")), "twice"),
            ("[]".into(), "invalid"),
        ] {
            fs::write(&path, &text).expect("written");
            let message = place.open().expect_err(&text).to_string();
            let named = message.contains(&*path.to_string_lossy()) && message.contains("remove it");
            assert!(named && message.contains(reason), "{text}: {message}");
            assert_eq!(fs::read_to_string(&path).expect("still there"), text);
        }
        fs::write(&path, [0xff]).expect("written");
        assert!(matches!(place.open(), Err(KeepError::Damaged { .. })));
    }

    #[test]
    fn a_directory_that_cannot_be_used_names_the_option() {
        let place = Place::new("file");
        fs::create_dir(&place.0).expect("fresh");
        fs::write(place.0.join("state"), "").expect("a file in its place");
        let message = place.open().expect_err("no directory").to_string();
        assert!(message.contains("--state-dir") && message.contains("/state ("), "{message}");
    }
}
