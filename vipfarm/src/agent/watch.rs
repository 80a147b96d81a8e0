//! Notices when the machine loses what the farm needs: an interface, its filter, a VIP (T31).

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use futures::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::site;
use crate::{
    model::{Farm, Mode, Vip},
    net::{self, Interface, Network},
};

/// How often to look although nothing was announced: a loss must not go unnoticed because an
/// announcement was lost.
const ROUND: Duration = Duration::from_secs(5);

/// What must stay as it is.
#[derive(Debug, Clone)]
pub(super) struct Needs(Vec<Need>);

/// What one VIP block needs.
#[derive(Debug, Clone)]
struct Need {
    /// The interface with the filter.
    interface: Interface,
    /// The one with the addresses: the same, or its VLAN device.
    holder: Interface,
    vips: Vec<IpAddr>,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Other watched interfaces than before have no carrier: these. With none clients can reach this node's
    /// VIPs.
    NoCarrier(BTreeSet<String>),
    /// Other VIPs than before are missing on their interfaces: these.
    Missing(BTreeSet<IpAddr>),
    /// The kernel does not say what there is; why.
    Unknown(String),
    /// Something is lost for good; the sentence that says what.
    Lost(String),
}

impl Needs {
    /// The blocks with `check: true`, each on its interface, in the order of the file.
    pub(super) fn of<'i>(
        farm: &Farm,
        placed: impl Iterator<Item = &'i Interface>,
        present: &[Interface],
    ) -> Self {
        let need = |(block, interface): (&Vip, &'i Interface)| {
            let is_here = block.mode != Mode::Failover;
            let watched = block.addresses.iter().filter(|address| address.check && is_here);
            let holder = site::holder(interface, block.vlan, present).unwrap_or(interface);
            Need {
                interface: interface.clone(),
                holder: holder.clone(),
                vips: watched.map(|address| address.addr).collect(),
            }
        };
        let checked = farm.vips.iter().zip(placed).filter(|(block, _)| block.check);
        Self(checked.map(need).collect())
    }

    /// Tells of changes until something is lost, or nobody listens.
    pub(super) async fn watch(
        mut needs: watch::Receiver<Self>,
        changes: mpsc::Sender<Change>,
    ) -> Result<(), net::Error> {
        let mut announced = Network::changes()?;
        let (mut no_carrier, mut missing) = (BTreeSet::new(), BTreeSet::new());
        let mut blind = false;
        loop {
            let wanted = needs.borrow_and_update().clone();
            let present = match Network::interfaces().await {
                Ok(present) => present,
                Err(error) => {
                    if !std::mem::replace(&mut blind, true) {
                        let _ = changes.send(Change::Unknown(error.to_string())).await;
                    }
                    time::sleep(ROUND).await;
                    continue;
                }
            };
            blind = false;
            // A reload may have added a VIP, or taken one off on purpose, meanwhile.
            if needs.has_changed().unwrap_or(false) {
                continue;
            }
            if let Some(lost) = wanted.0.iter().find_map(|need| loss(need, &present)) {
                let _ = changes.send(Change::Lost(lost)).await;
                return Ok(());
            }
            let now_without = wanted.no_carrier(&present);
            if now_without != no_carrier {
                no_carrier = now_without;
                if changes.send(Change::NoCarrier(no_carrier.clone())).await.is_err() {
                    return Ok(());
                }
            }
            let now_missing = wanted.missing(&present);
            if now_missing != missing {
                missing = now_missing;
                if changes.send(Change::Missing(missing.clone())).await.is_err() {
                    return Ok(());
                }
            }
            // An end of the announcements leaves the rounds.
            if let Ok(None) = time::timeout(ROUND, announced.next()).await {
                time::sleep(ROUND).await;
            }
        }
    }

    fn no_carrier(&self, present: &[Interface]) -> BTreeSet<String> {
        let lacks = |need: &&Interface| {
            !present.iter().any(|found| found.index == need.index && found.carrier)
        };
        // What is on it lacks one for the same reason.
        let first = |need: &Need| [&need.interface, &need.holder].into_iter().find(lacks).cloned();
        self.0.iter().filter_map(first).map(|without| without.name).collect()
    }

    fn missing(&self, present: &[Interface]) -> BTreeSet<IpAddr> {
        let missing = |Need { holder, vips, .. }: &Need| {
            let found = present.iter().find(|found| found.index == holder.index);
            let has = |vip: &IpAddr| {
                found.is_some_and(|found| found.addresses.iter().any(|net| net.addr() == *vip))
            };
            vips.iter().copied().filter(|vip| !has(vip)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(missing).collect()
    }
}

fn loss(Need { interface: need, holder, .. }: &Need, present: &[Interface]) -> Option<String> {
    let name = &need.name;
    let find = |index| present.iter().find(|found| found.index == index);
    let gone = |name: &str| Some(format!("interface {name} is gone"));
    let Some(found) = find(need.index) else { return gone(name) };
    if found.mac != need.mac {
        return Some(format!("the MAC of {name} is {} now, and was {}", found.mac, need.mac));
    }
    if found.xdp_program.is_none() {
        return Some(format!("the filter was taken off {name}"));
    }
    let name = &holder.name;
    let Some(device) = find(holder.index) else { return gone(name) };
    let is_other = device.mac != need.mac;
    is_other
        .then(|| format!("the MAC of {name} is {} now, and the filter's {}", device.mac, need.mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Mac, net::fixture};

    fn eth0() -> Interface {
        let eth2 = fixture::interface(2, &["10.0.0.11/24", "10.0.0.100/32"]);
        Interface { name: "eth0".into(), xdp_program: Some(7), ..eth2 }
    }

    fn told(change: impl Fn(&mut Interface)) -> Option<String> {
        let mut present = eth0();
        change(&mut present);
        loss(&need(eth0()), &[present])
    }

    fn need(holder: Interface) -> Need {
        Need { interface: eth0(), holder, vips: vec![[10, 0, 0, 100].into()] }
    }

    #[test]
    fn what_stays_is_no_loss() {
        assert_eq!(told(|_| ()), None);
        assert_eq!(told(|eth0| eth0.xdp_program = Some(8)), None, "a new program is the agent's");
        assert_eq!(told(|eth0| eth0.addresses.push("10.9.0.1/24".parse().expect("a net"))), None);
        assert_eq!(told(|eth0| eth0.up = false), None, "heartbeats will tell");
    }

    #[test]
    fn a_cable_that_is_pulled_is_named() {
        let needs = Needs(vec![need(eth0())]);
        assert_eq!(needs.no_carrier(&[eth0()]), BTreeSet::new());
        let pulled = Interface { carrier: false, ..eth0() };
        assert_eq!(needs.no_carrier(&[pulled]), ["eth0".to_owned()].into());
        assert_eq!(Needs(vec![]).no_carrier(&[]), BTreeSet::new(), "nothing is watched");
    }

    #[test]
    fn a_vip_in_a_vlan_is_looked_for_on_its_vlan_device() {
        let device = || Interface { index: 3, name: "eth0.10".into(), ..eth0() };
        let below = || Interface { addresses: vec![], ..eth0() };
        let need = need(device());
        assert_eq!(loss(&need, &[below(), device()]), None);
        assert_eq!(loss(&need, &[below()]).as_deref(), Some("interface eth0.10 is gone"));
        let moved = Interface { mac: Mac([2, 0, 0, 0, 0, 9]), ..device() };
        let lost = loss(&need, &[below(), moved]).expect("its frames pass the filter by");
        assert!(lost.starts_with("the MAC of eth0.10 is 02:00:00:00:00:09 now"), "{lost}");
        let bare = Interface { addresses: vec![], ..device() };
        let needs = Needs(vec![need.clone()]);
        assert_eq!(needs.missing(&[eth0(), bare]), [[10, 0, 0, 100].into()].into());
        let down = Interface { carrier: false, ..device() };
        let without = Needs(vec![need]).no_carrier(&[below(), down]);
        assert_eq!(without, ["eth0.10".to_owned()].into());
    }

    #[test]
    fn each_loss_is_named() {
        assert_eq!(loss(&need(eth0()), &[]).as_deref(), Some("interface eth0 is gone"));
        assert_eq!(told(|eth0| eth0.index = 3).as_deref(), Some("interface eth0 is gone"));
        let lost = told(|eth0| eth0.mac = Mac([2, 0, 0, 0, 0, 2])).expect("the MAC changed");
        assert!(lost.contains("02:00:00:00:00:02"), "{lost}");
        assert_eq!(
            told(|eth0| eth0.xdp_program = None).as_deref(),
            Some("the filter was taken off eth0")
        );
    }

    #[test]
    fn a_vip_that_was_taken_off_is_missing_and_no_loss() {
        let needs = Needs(vec![need(eth0())]);
        assert_eq!(needs.missing(&[eth0()]), BTreeSet::new());
        let bare = || Interface { addresses: eth0().addresses[..1].into(), ..eth0() };
        assert_eq!(needs.missing(&[bare()]), [[10, 0, 0, 100].into()].into());
        assert_eq!(loss(&needs.0[0], &[bare()]), None);
        let unwatched = Needs(vec![Need { vips: vec![], ..need(eth0()) }]);
        assert_eq!(unwatched.missing(&[bare()]), BTreeSet::new());
    }
}
