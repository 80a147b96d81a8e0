//! The farm's keys as a file names them: one secret for everything, or, while the heartbeats' key is
//! changed, up to three.

use std::path::{Path, PathBuf};

use super::{
    diagnostic::{Located, Report},
    fields::{self, Fields},
    key::Secret,
    yaml::Value,
};

/// The keys that one agent uses.
#[derive(Debug, Clone)]
pub struct Keys {
    own: Secret,
    accepted: Option<Secret>,
    hash: Option<Secret>,
}

impl Keys {
    /// Keys of the heartbeats' tags: the first seals, all are accepted.
    pub fn heartbeat_keys(&self) -> Vec<[u8; 32]> {
        [Some(&self.own), self.accepted.as_ref()]
            .into_iter()
            .flatten()
            .map(Secret::membership_key)
            .collect()
    }

    /// The key of the bucket hash, the same on every node.
    pub fn bucket_key(&self) -> [u8; 16] {
        self.hash_secret().bucket_key()
    }

    /// Tells the secrets of two bucket hash keys apart without telling anything else about them.
    pub fn hash_id(&self) -> [u8; 8] {
        self.hash_secret().id()
    }

    fn hash_secret(&self) -> &Secret {
        self.hash.as_ref().unwrap_or(&self.own)
    }
}

/// One secret for everything.
impl From<Secret> for Keys {
    fn from(own: Secret) -> Self {
        Self { own, accepted: None, hash: None }
    }
}

/// The key files as read.
pub(super) struct KeyFiles {
    pub(super) own: Option<Located<PathBuf>>,
    pub(super) accepted: Option<Located<PathBuf>>,
    pub(super) hash: Option<Located<PathBuf>>,
}

impl KeyFiles {
    /// Takes them out of the file. No key is read yet.
    pub(super) fn read(fields: &Fields<'_>, report: &mut Report) -> Self {
        let own = fields.require("key_file", "key_file: /etc/vipfarm/farm.key", report);
        let mut path = |value: Option<&Value>, what| path(value?, what, report);
        let files = Self {
            own: path(own, "`key_file`"),
            accepted: path(fields.get("accept_key_file"), "`accept_key_file`"),
            hash: path(fields.get("hash_key_file"), "`hash_key_file`"),
        };
        if let (Some(own), Some(accepted)) = (&files.own, &files.accepted)
            && own.value == accepted.value
        {
            report_same(accepted, report);
        }
        files
    }

    /// Reads the keys. What is reported makes them unusable.
    pub(super) fn load(&self, report: &mut Report) -> Option<Keys> {
        let load = |file: &Option<Located<PathBuf>>| {
            let file = file.as_ref()?;
            Secret::load(&file.value)
                .map_err(|error| report.error(file.at, error.problem.to_string(), error.help()))
                .ok()
        };
        let [own, accepted, hash] = [&self.own, &self.accepted, &self.hash].map(load);
        let keys = Keys { own: own?, accepted, hash };
        if let (Some(own), Some(accepted)) = (&self.own, &self.accepted)
            && keys.accepted.as_ref().is_some_and(|accepted| accepted.id() == keys.own.id())
            && own.value != accepted.value
        {
            report_same(accepted, report);
        }
        Some(keys)
    }
}

/// A relative path starts at the directory of the configuration file.
fn path(value: &Value, what: &str, report: &mut Report) -> Option<Located<PathBuf>> {
    let text = fields::text(value, what, "/etc/vipfarm/farm.key", report)?;
    let directory = Path::new(report.file()).parent().unwrap_or(Path::new(""));
    Some(Located { at: value.at, value: directory.join(text) })
}

fn report_same(accepted: &Located<PathBuf>, report: &mut Report) {
    report.error(
        accepted.at,
        "`accept_key_file` holds the same key as `key_file`",
        "name the file of the other key, or remove the line when the rotation is over",
    );
}
