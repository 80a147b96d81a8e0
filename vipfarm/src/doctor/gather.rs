//! Looks at the machine, and changes nothing on it.

mod hidden;
mod lacks;

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
};

use nix::sys::{
    resource::{RLIM_INFINITY, Resource, getrlimit},
    utsname::uname,
};

use super::{
    facts::{Facts, Families, FileFacts, FileKind, InterfaceFacts, LackFacts},
    judge::split,
};
use crate::{
    agent::{self, rights, site, trust},
    config::key::Secret,
    datapath::{self, Buffers, Datapath},
    model::{Farm, Mac, Timers, Vip},
    net::{Driver, Interface, Network, Settings, default_route},
};

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// A farm, with its file.
    pub farm: Option<(&'a Path, &'a Farm)>,
    /// The node's name in it, if it is not to be found out.
    pub node: Option<&'a str>,
    /// An interface to look at besides those that the farm's VIPs are on.
    pub interface: Option<&'a str>,
    /// Where agents have their control sockets.
    pub run_dir: &'a Path,
    /// Where they pin their programs.
    pub bpf_dir: &'a Path,
    /// The filter is wanted in generic mode.
    pub generic: bool,
    /// The asker is the farm's agent, which has its filter in place.
    pub by_agent: bool,
}

/// Looks. Errors where not even the interfaces can be listed.
pub async fn gather(scope: &Scope<'_>) -> anyhow::Result<Facts> {
    let present = Network::interfaces().await?;
    let release = uname()?.release().to_string_lossy().into_owned();
    let timers = scope.farm.map_or(Timers::BALANCED, |(_, farm)| farm.membership.timers);
    let agent = scope.by_agent || scope.farm.is_some_and(|(_, farm)| runs(scope, farm));
    let (misfits, interfaces) = place(scope, agent, &present)?;
    Ok(Facts {
        version: version(&release),
        release,
        jit: jit(),
        programs: (!scope.by_agent).then(try_programs),
        capabilities: rights::effective(),
        locks_memory: getrlimit(Resource::RLIMIT_MEMLOCK)
            .is_ok_and(|(soft, _)| soft == RLIM_INFINITY),
        real_time: agent::real_time(&timers),
        bpf_dir: (scope.bpf_dir.to_owned(), datapath::is_on_bpffs(scope.bpf_dir)),
        files: scope.farm.map(files).unwrap_or_default(),
        misfits,
        lacks: lacks_of(scope, &present),
        agent,
        default_route: default_route().unwrap_or_default(),
        interfaces,
    })
}

/// What checks and hooks lack. An agent finds out by running them, and asks no directory of users here: that
/// may hang.
fn lacks_of(scope: &Scope<'_>, present: &[Interface]) -> Vec<LackFacts> {
    let farm = scope.farm.filter(|_| !scope.by_agent);
    farm.map_or_else(Vec::new, |(_, farm)| lacks::lacks(farm, present, &hidden::by_unit()))
}

/// Of a release, the two numbers it begins with.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn jit() -> Option<bool> {
    let text = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok()?;
    Some(text.trim() != "0")
}

/// Has the kernel verify the programs, and forget them.
fn try_programs() -> Result<bool, String> {
    let options = datapath::Options {
        interface: String::new(),
        index: 0,
        mac: Mac([0; 6]),
        hash_key: [0; 16],
        bpf_dir: PathBuf::new(),
        generic: false,
        buffers: Buffers::Several,
        clsact: false,
        trace: false,
    };
    Datapath::verify(&options).map_err(|error| error.to_string())
}

/// Whether somebody listens at the farm's control socket.
fn runs(scope: &Scope<'_>, farm: &Farm) -> bool {
    UnixStream::connect(agent::control::socket_path(scope.run_dir, &farm.name)).is_ok()
}

fn files((path, farm): (&Path, &Farm)) -> Vec<FileFacts> {
    let keys = farm.key_files().map(|path| {
        let problem = Secret::load(path).err();
        let problem = problem.map(|error| (error.problem.to_string(), error.help()));
        (path, FileKind::Key, problem)
    });
    let exposed = site::refuse_exposed(path).err();
    let exposed = exposed.map(|error| split(&error.to_string(), "chmod 644"));
    let untrusted = || trust::refuse(path, farm).err();
    let untrusted = || untrusted().map(|error| split(&error.to_string(), "chown root"));
    let exposed = exposed.or_else(untrusted);
    let all = [(path, FileKind::Configuration, exposed)].into_iter().chain(keys);
    let facts = all.map(|(path, kind, problem)| {
        let metadata = fs::metadata(path).ok();
        FileFacts {
            path: path.to_owned(),
            kind,
            mode: metadata.as_ref().map_or(0, |it| it.mode() & 0o7777),
            owner: metadata.as_ref().map_or(0, MetadataExt::uid),
            group: metadata.as_ref().map_or(0, MetadataExt::gid),
            problem,
        }
    });
    facts.collect()
}

/// Why the file does not fit the machine, and the interfaces that matter.
fn place(
    scope: &Scope<'_>,
    agent: bool,
    present: &[Interface],
) -> anyhow::Result<(Vec<String>, Vec<InterfaceFacts>)> {
    let mut misfits = Vec::new();
    let mut interfaces = Vec::new();
    if let Some((_, farm)) = scope.farm {
        let mut placed = Vec::new();
        for block in &farm.vips {
            match site::interface_of(block, present) {
                Ok(interface) => placed.push((interface, block)),
                Err(error) => misfits.push(error.to_string()),
            }
        }
        misfits.extend(unfit(scope, farm, agent, &placed, present));
        for (interface, block) in placed {
            let has_vmac = block.virtual_mac().is_some();
            let holder = holder(interface, block, present);
            interfaces.push((interface, families(block), has_vmac, holder));
        }
    }
    if let Some(name) = scope.interface {
        let named = present.iter().find(|interface| interface.name == name);
        let named = named.ok_or_else(|| {
            let names: Vec<&str> = present.iter().map(|interface| &*interface.name).collect();
            let names = names.join(", ");
            anyhow::anyhow!("there is no interface `{name}`; this machine has {names}")
        })?;
        interfaces.push((named, Families { v4: true, v6: false }, false, named));
    }
    let mut facts: Vec<InterfaceFacts> = Vec::new();
    for (interface, families, has_vmac, holder) in interfaces {
        let same =
            |it: &&mut InterfaceFacts| (&it.name, &it.holder) == (&interface.name, &holder.name);
        if let Some(known) = facts.iter_mut().find(same) {
            known.families.v4 |= families.v4;
            known.families.v6 |= families.v6;
            known.has_vmac |= has_vmac;
        } else {
            let new = of_interface(scope, interface, families, holder)?;
            facts.push(InterfaceFacts { has_vmac, ..new });
        }
    }
    Ok((misfits, facts))
}

/// What else an agent refuses to start on.
fn unfit(
    scope: &Scope<'_>,
    farm: &Farm,
    agent: bool,
    placed: &[(&Interface, &Vip)],
    present: &[Interface],
) -> Vec<String> {
    let own = match site::own_node(farm, scope.node, present) {
        Ok(own) => own,
        Err(error) => return vec![error.to_string()],
    };
    if placed.len() < farm.vips.len() {
        return Vec::new();
    }
    let placed: Vec<&Interface> = placed.iter().map(|(interface, _)| *interface).collect();
    let used = agent::distinct(&placed);
    let mut misfits = Vec::new();
    match site::networks(farm, own, &placed, &used, present) {
        // The agent has the ports.
        Ok(_) if agent => {}
        Ok(networks) => {
            let opened = agent::links::Links::open(farm, own, &networks.links, present);
            misfits.extend(opened.err().map(|error| format!("{error:#}")));
        }
        Err(error) => misfits.push(error.to_string()),
    }
    let record = agent::Record::read(scope.run_dir, &farm.name);
    match record {
        Ok(record) => {
            let refused =
                site::refuse_present(farm, present, |interface, vip| record.has(interface, vip));
            misfits.extend(refused.err().map(|error| error.to_string()));
        }
        Err(error) => misfits.push(error.to_string()),
    }
    misfits
}

fn families(block: &Vip) -> Families {
    let has = |v6: bool| block.addresses.iter().any(|vip| vip.addr.is_ipv6() == v6);
    Families { v4: has(false), v6: has(true) }
}

fn holder<'i>(interface: &'i Interface, block: &Vip, present: &'i [Interface]) -> &'i Interface {
    site::holder(interface, block.vlan, present).unwrap_or(interface)
}

fn of_interface(
    scope: &Scope<'_>,
    interface: &Interface,
    families: Families,
    holder: &Interface,
) -> io::Result<InterfaceFacts> {
    Ok(InterfaceFacts {
        name: interface.name.clone(),
        holder: holder.name.clone(),
        up: interface.up,
        carrier: interface.carrier,
        lro: interface.offloads.lro,
        families,
        driver: Driver::of(&interface.name, interface.index)?,
        occupied: interface.xdp_program.is_some(),
        programs_before: datapath::programs_before(&interface.name),
        pinned: datapath::pinned(scope.bpf_dir, interface.index),
        generic: scope.generic,
        has_vmac: false,
        settings: Settings::of(&holder.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.18.5-amd64"), Some((6, 18)));
        assert_eq!(version("5.15.0"), Some((5, 15)));
        assert_eq!(version("6.1-rc1"), Some((6, 1)));
        assert_eq!(version("next"), None);
    }
}
