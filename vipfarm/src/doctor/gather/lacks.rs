//! What checks and hooks need of the machine, and it does not have: a check that cannot pass keeps the
//! node from serving from its start.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use crate::{
    agent::{program, trust},
    doctor::facts::{Lack, LackFacts},
    model::{Farm, Probe},
    net::Interface,
};

/// All that is lacking, in the order of the file.
pub(super) fn lacks(farm: &Farm, present: &[Interface], hidden: &[&str]) -> Vec<LackFacts> {
    let mut lacks = Vec::new();
    for (_, check) in farm.all_checks() {
        let found = match &check.probe {
            Probe::Exec(run) => of_program(&run.argv, run.user.as_deref(), hidden),
            Probe::File { path, present } => {
                folder(path, *present).into_iter().chain(is_hidden(path, hidden)).collect()
            }
            Probe::Interface(name) => interface(name, present).into_iter().collect(),
            // Whether somebody answers is what such a check is to find out.
            Probe::Tcp(_) | Probe::Http(_) | Probe::Unclaimed => Vec::new(),
        };
        let of = check.probe.to_string();
        lacks.extend(found.into_iter().map(|lack| LackFacts {
            of: of.clone(),
            is_check: true,
            lack,
        }));
    }
    for (key, argv) in farm.hooks.programs() {
        let found = of_program(argv, farm.hooks.user.as_deref(), hidden);
        let lack = |lack| LackFacts { of: key.into(), is_check: false, lack };
        lacks.extend(found.into_iter().map(lack));
    }
    lacks
}

fn of_program(argv: &[String], user: Option<&str>, hidden: &[&str]) -> Vec<Lack> {
    let path = argv.first().map(Path::new);
    let is_agents = user.is_none();
    let user = user.and_then(|user| program::identity(user).err()).map(Lack::NoUser);
    let changeable = path.filter(|_| is_agents).and_then(trust::changeable).map(Lack::Changeable);
    let elsewhere = path.and_then(|path| is_hidden(path, hidden));
    path.and_then(program_file).into_iter().chain(user).chain(changeable).chain(elsewhere).collect()
}

fn is_hidden(path: &Path, hidden: &[&str]) -> Option<Lack> {
    hidden.iter().any(|folder| path.starts_with(folder)).then(|| Lack::Hidden(path.to_owned()))
}

fn program_file(path: &Path) -> Option<Lack> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => None,
        Ok(_) => Some(Lack::NotExecutable(path.to_owned())),
        Err(error) => is_absent(&error).then(|| Lack::NoProgram(path.to_owned())),
    }
}

fn folder(path: &Path, present: bool) -> Option<Lack> {
    let folder = path.parent()?;
    let path = folder.to_owned();
    match fs::metadata(folder) {
        Ok(found) => (!found.is_dir()).then_some(Lack::NoFolder { path, present }),
        Err(error) => is_absent(&error).then_some(Lack::NoFolder { path, present }),
    }
}

fn interface(name: &str, present: &[Interface]) -> Option<Lack> {
    let names: Vec<&str> = present.iter().map(|interface| &*interface.name).collect();
    (!names.contains(&name)).then(|| Lack::NoInterface(names.join(", ")))
}

/// Whether it is not there; whoever may not look cannot tell.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_is_not_there_is_found_and_nothing_else() {
        let text = "farm: web
key_file: k
checks:
  - { exec: [/bin/sh, -c, 'true'], user: root }
  - { exec: [/nowhere/check], user: no-such-user }
  - { exec: /etc/passwd }
  - { file: /run/ready }
  - { tcp: '127.0.0.1:1' }
hooks: { on_ready: /nowhere/ready, on_closed: /bin/sh }
nodes: [{ name: node1, addresses: [10.0.0.11] }]
vips:
  - addresses: [10.0.0.100/24]
    checks: [{ file: /nowhere/down, present: false }, { file: /etc/passwd/ready }]
    groups:
      - name: g
        checks: [{ interface: none0 }]
        rules: [{ port: 80, proto: tcp, filter: on_port }]
";
        let farm = config::parse("farm.yaml", text).unwrap_or_else(|error| panic!("{error}"));
        let found = lacks(&farm, &[], &["/home", "/run/ready"]);
        let found: Vec<_> = found
            .into_iter()
            .map(|LackFacts { of, is_check, lack }| (of, is_check, lack))
            .collect();
        let check = |of: &str, lack| (of.to_owned(), true, lack);
        let folder = |path: &str, present| Lack::NoFolder { path: path.into(), present };
        let nobody = "there is no user no-such-user";
        let expected = [
            check("exec /nowhere/check", Lack::NoProgram("/nowhere/check".into())),
            check("exec /nowhere/check", Lack::NoUser(nobody.into())),
            check("exec /etc/passwd", Lack::NotExecutable("/etc/passwd".into())),
            check("file /run/ready", Lack::Hidden("/run/ready".into())),
            check("no file /nowhere/down", folder("/nowhere", false)),
            check("file /etc/passwd/ready", folder("/etc/passwd", true)),
            check("interface none0", Lack::NoInterface(String::new())),
            ("on_ready".to_owned(), false, Lack::NoProgram("/nowhere/ready".into())),
        ];
        assert_eq!(found, expected);
    }
}
