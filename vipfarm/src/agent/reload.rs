//! Takes over a changed file without a packet lost: makes everything ready beside what is in force,
//! then says so to the other nodes, who go over together in one view.
//!
//! A VIP that is new is closed in the kernel tables before the interface has it, and one that is
//! dropped stays closed there until the interface has lost it: the node's kernel never answers for
//! a VIP without the filter.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{anyhow, bail};
use tokio::sync::{oneshot, watch};

use super::{
    bring_up::{self, Record, Up},
    command::{Command, Commander},
    configurations::{Configuration, Configurations, place_of},
    health::Health,
    rights, site, trust,
    upgrade::{Upgrader, refuse_other_farm},
    watch::Needs,
};
use crate::{
    config::{self, keys::Keys},
    model::{Farm, Mode, Node, NodeId},
    net::{Interface, Network},
    plan::HeldVip,
};

/// What the reading of a file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    /// The file's digest.
    pub(super) digest: [u8; 16],
    /// How it differs from the one in force, in words.
    pub(super) changes: Vec<String>,
}

/// What has to be told and changed when the file changes.
pub(super) struct Reloader {
    file: PathBuf,
    own: NodeId,
    /// The farm's hash key, which is compiled into the filters.
    hash_key: [u8; 16],
    /// The interfaces with a filter.
    pub(super) interfaces: Vec<Interface>,
    configurations: Configurations,
    /// To the heartbeat thread.
    pub(super) commander: Commander,
    /// For a changed program.
    pub(super) upgrader: Upgrader,
    pub(super) network: Network,
    /// What to take back in the end.
    pub(super) undo: Record,
    /// What must be right for this node to serve.
    pub(super) health: Arc<Health>,
    /// What must not be lost meanwhile.
    needs: watch::Sender<Needs>,
}

/// Reads the file of the farm and its keys, which may take seconds: names are looked up.
pub(super) async fn read(file: PathBuf) -> anyhow::Result<(Farm, Keys)> {
    tokio::task::spawn_blocking(move || read_now(&file)).await?
}

/// The same on this thread.
pub(super) fn read_now(file: &Path) -> anyhow::Result<(Farm, Keys)> {
    let read = config::load_with_keys(file)?;
    site::refuse_exposed(file)?;
    trust::refuse(file, &read.0)?;
    Ok(read)
}

impl Reloader {
    /// A reader of that file for what was brought up, and what must not be lost meanwhile.
    pub(super) fn new(
        file: PathBuf,
        keys: &Keys,
        up: &Up,
        commander: Commander,
        upgrader: Upgrader,
        health: Arc<Health>,
    ) -> (Self, watch::Receiver<Needs>) {
        let (needs, needed) = watch::channel(up.needs.clone());
        let reloader = Self {
            file,
            own: up.own,
            hash_key: keys.bucket_key(),
            interfaces: up.interfaces.clone(),
            configurations: up.configurations.clone(),
            commander,
            upgrader,
            network: up.network.clone(),
            undo: up.undo.clone(),
            health,
            needs,
        };
        (reloader, needed)
    }

    /// What to read anew.
    pub(super) fn file(&self) -> PathBuf {
        self.file.clone()
    }

    /// Makes what was read anew the next configuration. If that fails, nothing is to change: what was
    /// prepared for it, [`Reloader::tidy`] takes back.
    pub(super) async fn take_over(
        &mut self,
        (farm, keys): (Farm, Keys),
        force: bool,
    ) -> anyhow::Result<Read> {
        let digest = config::digest(&farm, &keys);
        let current = self.configurations.get(self.servable().await?[0]);
        let changes = differences(&current.farm, &farm);
        self.refuse_what_needs_a_restart(&current.farm, &farm, &keys)?;
        let present = Network::interfaces().await?;
        let next = self.configuration(digest, farm, &present)?;
        let nodes = next.farm.nodes.clone();
        self.make_ready(next, &present).await?;
        let keys = keys.heartbeat_keys();
        self.ask(|reply| Command::Stage { keys, nodes, digest, force, reply }).await?;
        Ok(Read { digest, changes })
    }

    /// Forgets the configurations that cannot be served any more, with their VIPs. To be called now
    /// and then: it does nothing while the farm has not gone over.
    pub(super) async fn tidy(&mut self) -> anyhow::Result<()> {
        let known = self.configurations.all();
        if known.len() == 1 {
            return Ok(());
        }
        let servable = self.servable().await?;
        let (kept, gone): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|known| servable.contains(&known.digest));
        if gone.is_empty() {
            return Ok(());
        }
        let present = Network::interfaces().await?;
        // Before anything is removed: it must not be taken for a loss.
        let current = self.configurations.get(servable[0]);
        self.needs.send_replace(self.needs_of(&current, &present));
        let still: Vec<_> = kept.iter().flat_map(|kept| kept.vips()).collect();
        for (place, vip) in gone.iter().flat_map(|gone| gone.vips()) {
            let interface = &self.interfaces[place];
            let here = || still.iter().filter(|it| it.0 == place).map(|it| it.1);
            let kept = || here().any(|it| (it.addr, it.tags) == (vip.addr, vip.tags));
            let vmac = vip.vmac.filter(|vmac| !here().any(|it| it.vmac == Some(*vmac)));
            // A VLAN device that is gone took its addresses along.
            let holder = site::holder(interface, vip.tags, &present).filter(|_| !kept());
            if let Some(holder) = holder {
                self.network.remove_vip(holder, vip.addr).await?;
                self.undo.forget(holder, Some(vip.addr), None)?;
            }
            if let Some(vmac) = vmac {
                self.network.remove_vmac(interface, vmac).await?;
                self.undo.forget(interface, None, Some(vmac))?;
            }
        }
        self.know(kept, &still).await
    }

    /// Gives the interfaces those VIPs back, whose filters have stood all the while: the first one that
    /// could not be is the error.
    pub(super) async fn put_back(&self, vips: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let present = Network::interfaces().await?;
        let known = self.configurations.all();
        let mut outcome = Ok(());
        for (place, vip) in known.iter().flat_map(|known| known.vips()) {
            if vips.contains(&vip.addr) {
                let interface = &self.interfaces[place];
                let put = bring_up::receive_vip(&self.network, vip, interface, &present).await;
                outcome = outcome.and(put);
            }
        }
        outcome
    }

    /// The file on this machine's interfaces.
    fn configuration(
        &self,
        digest: [u8; 16],
        farm: Farm,
        present: &[Interface],
    ) -> anyhow::Result<Configuration> {
        let placed = bring_up::place(&farm, present)?;
        let places: Option<Vec<usize>> =
            placed.iter().map(|interface| place_of(&self.interfaces, interface)).collect();
        let Some(places) = places else {
            let new = placed.iter().find(|found| place_of(&self.interfaces, found).is_none());
            bail!(
                "{}: there is no filter on {} yet, and a reload cannot put one there: restart this agent",
                self.file.display(),
                new.map_or("an interface", |interface| interface.name.as_str())
            );
        };
        Ok(Configuration::new(digest, farm, places, &self.interfaces, present)?)
    }

    /// Has the kernel know the configuration's VIPs, closed, then the interfaces have them.
    async fn make_ready(
        &mut self,
        next: Configuration,
        present: &[Interface],
    ) -> anyhow::Result<()> {
        let known = self.configurations.all();
        let held: Vec<_> = known.iter().flat_map(|known| known.vips()).collect();
        let added: Vec<_> = next.vips().filter(|vip| !held.contains(vip)).collect();
        for &(place, HeldVip { addr: vip, .. }) in &added {
            let name = &self.interfaces[place].name;
            let has = |i: &&Interface| i.addresses.iter().any(|net| net.addr() == vip);
            let ours = held.iter().any(|(_, held)| held.addr == vip);
            if let Some(interface) = present.iter().find(has).filter(|_| !ours) {
                bail!(
                    "{vip} is an address of {} already: remove it there, or take it off the VIPs of {name}",
                    interface.name
                );
            }
        }
        let mut all: Vec<_> =
            known.into_iter().filter(|known| known.digest != next.digest).collect();
        let next = Arc::new(next);
        all.push(Arc::clone(&next));
        let held: Vec<_> = held.into_iter().chain(added.iter().copied()).collect();
        self.know(all, &held).await?;
        let placed = bring_up::place(&next.farm, present)?;
        self.undo.note(&next.farm, &placed, present)?;
        self.undo.set_sysctls()?;
        for (place, vip) in added.into_iter().filter(|(_, vip)| !vip.floats) {
            bring_up::receive_vip(&self.network, vip, &self.interfaces[place], present).await?;
        }
        Ok(())
    }

    /// Tells the heartbeat thread, and whoever looks, what can be served while the interfaces have
    /// those VIPs.
    async fn know(
        &self,
        all: Vec<Arc<Configuration>>,
        held: &[(usize, HeldVip)],
    ) -> anyhow::Result<()> {
        let configurations =
            all.iter().map(|known| known.servable(held)).collect::<Result<_, _>>()?;
        self.configurations.set(all);
        self.health.follow_configurations();
        self.ask(|reply| Command::Know { configurations, reply }).await
    }

    /// Which configurations may be served, the one in force first: as the heartbeat thread knows
    /// it, since what it shows may be a turn old.
    async fn servable(&self) -> anyhow::Result<Vec<[u8; 16]>> {
        self.ask(|reply| Command::Servable { reply }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> anyhow::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commander.send(command(reply))?;
        answer.await.map_err(|_ended| anyhow!("the agent is stopping"))
    }

    fn needs_of(&self, config: &Configuration, present: &[Interface]) -> Needs {
        let placed = config.interface_of.iter().map(|&place| &self.interfaces[place]);
        Needs::of(&config.farm, placed, present)
    }

    fn refuse_what_needs_a_restart(
        &self,
        now: &Farm,
        next: &Farm,
        keys: &Keys,
    ) -> anyhow::Result<()> {
        let own = self.own.index();
        let mut both = now.nodes.iter().zip(&next.nodes);
        if next.nodes.len() <= own {
            bail!(
                "{}: {} is not among the nodes any more: stop this agent, and the others go over",
                self.file.display(),
                now.nodes[own].name
            );
        }
        refuse_other_farm(&self.file, &now.name, &next.name)?;
        let what = if now.membership != next.membership {
            "other timers or another port for the heartbeats".to_owned()
        } else if keys.bucket_key() != self.hash_key {
            "another key, which decides where every client goes".to_owned()
        } else if next.runs_as_others() && rights::refuse_users(next).is_err() {
            "checks or hooks run as another `user`, and the agent has given up the rights for that"
                .to_owned()
        } else if let Some(vip) = changed_mode(now, next) {
            format!("{vip} goes over to `mode: failover`, or back")
        } else if let Some((is, would)) = both.find(|(is, would)| is != would) {
            changed_node(is, would)
        } else {
            return Ok(());
        };
        bail!(
            "{}: {what}: a reload cannot take that over; `vipfarm upgrade --all-at-once` on all nodes at the same time can",
            self.file.display()
        );
    }
}

/// A VIP that one node at a time has in one of the files, and all nodes in the other.
fn changed_mode(now: &Farm, next: &Farm) -> Option<IpAddr> {
    let addresses = |farm: &Farm, floats: bool| {
        let blocks = farm.vips.iter().filter(|block| (block.mode == Mode::Failover) == floats);
        blocks.flat_map(|block| &block.addresses).map(|vip| vip.addr).collect::<Vec<_>>()
    };
    [true, false].into_iter().find_map(|floats| {
        let next = addresses(next, !floats);
        addresses(now, floats).into_iter().find(|vip| next.contains(vip))
    })
}

fn changed_node(is: &Node, would: &Node) -> String {
    if is.name == would.name {
        format!("other addresses for {}", is.name)
    } else {
        format!(
            "{} in the place of {} (nodes are numbered by their place: add new ones at the end, drop the last ones only)",
            would.name, is.name
        )
    }
}

/// How `next` differs from `now`, in words.
fn differences(now: &Farm, next: &Farm) -> Vec<String> {
    let names = |farm: &Farm| farm.nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    let vips = |farm: &Farm| {
        let addresses = farm.vips.iter().flat_map(|block| &block.addresses);
        addresses.map(|address| address.addr.to_string()).collect::<Vec<_>>()
    };
    let groups = |farm: &Farm| {
        let groups = farm.vips.iter().flat_map(|block| &block.groups);
        groups.map(|group| group.name.clone()).collect::<Vec<_>>()
    };
    let mut changes = Vec::new();
    for (what, now, next) in [
        ("node", names(now), names(next)),
        ("VIP", vips(now), vips(next)),
        ("group", groups(now), groups(next)),
    ] {
        let added = next.iter().filter(|name| !now.contains(name));
        changes.extend(added.map(|name| format!("{what} {name} is new")));
        let gone = now.iter().filter(|name| !next.contains(name));
        changes.extend(gone.map(|name| format!("{what} {name} is dropped")));
    }
    let group = |farm: &Farm, name: &str| {
        let mut groups = farm.vips.iter().flat_map(|block| &block.groups);
        groups.find(|group| group.name == name).cloned()
    };
    for name in groups(next) {
        if let (Some(before), Some(after)) = (group(now, &name), group(next, &name)) {
            // A node that is new is in no group of before.
            let same = before.powers.iter().zip(&after.powers).all(|(a, b)| a == b)
                && after.powers.iter().skip(before.powers.len()).all(Option::is_none);
            changes.extend((!same).then(|| format!("group {name} has other powers")));
            let other = before.rules != after.rules;
            changes.extend(other.then(|| format!("group {name} has other rules")));
            let other = before.handover_timeout != after.handover_timeout;
            changes.extend(other.then(|| format!("group {name} has another handover_timeout")));
            let other = before.checks != after.checks;
            changes.extend(other.then(|| format!("group {name} has other checks")));
        }
    }
    if changes.is_empty() && now.vips != next.vips {
        changes.push("VIPs have other settings".into());
    }
    for (what, same) in [
        ("checks of the whole farm are others", now.checks == next.checks),
        ("hooks are others", now.hooks == next.hooks),
        ("http is another", now.http == next.http),
    ] {
        changes.extend((!same).then(|| what.into()));
    }
    if now.stop_timeout != next.stop_timeout {
        changes.push("stop_timeout is another".into());
    }
    if !now.key_files().eq(next.key_files()) {
        changes.push("the keys lie in other files".into());
    }
    changes
}
