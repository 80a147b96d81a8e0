//! From other products' configuration to a farm's file, with an account of what became of each
//! element.
//!
//! A source is read into a `Draft`, which may have gaps, and the draft is written as YAML. What the
//! file then lacks is not guessed at: [`config`](crate::config) reads it as `vipfarm check` does, and
//! what it refuses is what is missing. What a source says and a farm cannot do yet is never written as
//! something else.

mod account;
mod draft;
mod keepalived;
mod safekit;
#[cfg(test)]
mod tests;
mod yaml;

use crate::config::{self, Diagnostics, Resolve};

pub use self::account::{Account, Entry, Outcome};
use self::{account::Notes, draft::Draft};

/// A file to read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its name, for places.
    pub file: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// What no source says.
#[derive(Debug, Clone)]
pub struct Supplement {
    /// The farm's name.
    pub farm: String,
    /// Prefix length of IPv4 VIPs for which the source has none.
    pub prefix: Option<u8>,
    /// The name of the file to be written, for the places in it.
    pub output: String,
}

impl Supplement {
    /// The prefix length of a VIP for which the source has none. Subnets of IPv6 have 64 bits (RFC 4291
    /// section 2.5.1).
    fn prefix_of(&self, host: &str) -> Option<u8> {
        if host.contains(':') { Some(64) } else { self.prefix }
    }
}

/// A farm's file, and how it came about.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The file.
    pub yaml: String,
    /// What became of the source.
    pub account: Account,
}

/// Reads `SafeKit`'s `userconfig.xml` of a module, and the nodes' addresses out of `cluster.xml`.
pub fn safekit(
    module: Source<'_>,
    cluster: Option<Source<'_>>,
    supplement: &Supplement,
) -> Result<Imported, Diagnostics> {
    safekit_with(module, cluster, supplement, &config::resolve)
}

fn safekit_with(
    module: Source<'_>,
    cluster: Option<Source<'_>>,
    supplement: &Supplement,
    resolve: Resolve<'_>,
) -> Result<Imported, Diagnostics> {
    let (draft, account) = safekit::read(module, cluster, supplement)?;
    Ok(finish("safekit", module.file, &draft, account, supplement, resolve))
}

/// Reads `keepalived.conf`.
pub fn keepalived(conf: Source<'_>, supplement: &Supplement) -> Result<Imported, Diagnostics> {
    let mut notes = Notes::new(conf.file);
    let draft = keepalived::read(conf.text, supplement, &mut notes);
    let account = notes.finish()?;
    Ok(finish("keepalived", conf.file, &draft, account, supplement, &config::resolve))
}

/// Writes the file and has it checked.
fn finish(
    kind: &str,
    source: &str,
    draft: &Draft,
    mut account: Account,
    supplement: &Supplement,
    resolve: Resolve<'_>,
) -> Imported {
    account.sort();
    let yaml = yaml::render(kind, source, draft, &account, &supplement.farm);
    if let Err(refused) = config::parse_with(&supplement.output, &yaml, resolve) {
        account.missing.extend(refused);
    }
    Imported { yaml, account }
}
