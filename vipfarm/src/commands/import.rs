//! `vipfarm import`

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

use super::{Failure, screen};
use crate::{
    cli::{ImportArgs, ImportFrom, ImportInto},
    config::{self, Diagnostics},
    file,
    import::{self, Account, Imported, Source, Supplement},
};

pub(super) fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let (ImportFrom::Safekit { into, .. } | ImportFrom::Keepalived { into, .. }) = &args.from;
    if let Some(output) = &into.output
        && output.exists()
        && !into.force
    {
        return Err(exists(output).into());
    }
    match read(&args.from, into) {
        Ok(imported) => {
            write(&imported.yaml, into)?;
            tell(&imported.account, into)
        }
        Err(errors) if into.json => {
            hint_json(&Outcome { complete: false, account: None, errors: Some(&errors) })?;
            Err(Failure::Told(2).into())
        }
        Err(errors) => Err(errors.into()),
    }
}

fn read(from: &ImportFrom, into: &ImportInto) -> Result<Imported, Diagnostics> {
    let output = into.output.as_deref().unwrap_or(Path::new("(standard output)"));
    let supplement = Supplement {
        farm: into.farm.clone(),
        prefix: into.prefix,
        output: output.display().to_string(),
    };
    let named = |path: &Path| Ok((path.display().to_string(), config::read_text(path)?));
    match from {
        ImportFrom::Safekit { file, cluster, .. } => {
            let module = named(file)?;
            let cluster = cluster.as_deref().map(named).transpose()?;
            import::safekit(source(&module), cluster.as_ref().map(source), &supplement)
        }
        ImportFrom::Keepalived { file, .. } => {
            import::keepalived(source(&named(file)?), &supplement)
        }
    }
}

fn source((file, text): &(String, String)) -> Source<'_> {
    Source { file, text }
}

fn write(yaml: &str, into: &ImportInto) -> anyhow::Result<()> {
    let Some(output) = &into.output else { return Ok(screen::print(yaml)?) };
    let written = if into.force {
        file::replace(output, yaml)
    } else {
        // Between the first look and now somebody may have made it.
        let file = OpenOptions::new().write(true).create_new(true).open(output);
        file.and_then(|mut file| file.write_all(yaml.as_bytes()))
    };
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(output).into(),
        _ => Failure::Refused(format!("cannot write {}: {error}", output.display())).into(),
    })
}

fn exists(output: &Path) -> Failure {
    Failure::Refused(format!(
        "{} is there already; choose another name, or give --force to replace it",
        output.display()
    ))
}

/// What `--json` tells.
#[derive(Serialize)]
struct Outcome<'a> {
    /// The file passes `vipfarm check` and does all that the source did for VIPs.
    complete: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    account: Option<&'a Account>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a Diagnostics>,
}

/// Tells on standard error what became of the source: standard output may be the file.
fn tell(account: &Account, into: &ImportInto) -> anyhow::Result<()> {
    let complete = account.missing.is_empty();
    if into.json {
        hint_json(&Outcome { complete, account: Some(account), errors: None })?;
    } else {
        screen::hint(account.to_string().trim_end());
    }
    match complete {
        true => Ok(()),
        false if into.json => Err(Failure::Told(1).into()),
        false => Err(Failure::Refused(
            "the file is not complete: see what is missing, above, and its comments".into(),
        )
        .into()),
    }
}

fn hint_json(value: &impl Serialize) -> anyhow::Result<()> {
    screen::hint(&serde_json::to_string(value)?);
    Ok(())
}
