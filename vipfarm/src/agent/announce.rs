//! Tells clients of a directed VIP whose MAC to send to, when that has changed and now and then.
//!
//! Clients keep the MAC of the node that answered them, and ask that node alone whether it still
//! lives. So a node that takes over from one that is gone tells all of them, by broadcast, to send to
//! itself; when all who took over have done so, each client that has asked lately is told by name
//! which node is its own, and the shares are as they should be. Planned changes need the second
//! step only: a node that lives hands on whatever comes to it. Never on the heartbeat thread.

pub(super) mod frame;
mod shares;
pub(super) mod teller;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};
use vipfarm_common::hash;

use self::{shares::Shares, teller::Tellers};
use super::{
    bring_up::Up,
    configurations::{Configuration, Configurations, vips_of},
    conflicts::send,
    engine::{Latest, Snapshot},
    history::{History, Level},
};
use crate::{
    config::keys::Keys,
    datapath::{self, Datapath, Requesters},
    model::{ArpRefresh, Mac, Mode, NodeId, View, VlanTags},
    net::Interface,
    plan::HeldVip,
    status::NodeState,
};

/// How often to look for who has asked, and for a view whose report was lost.
const ROUND: Duration = Duration::from_millis(250);

/// Before each broadcast of a burst: one that is lost must cost no second.
pub(super) const BURST: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(200)];

/// After the burst: the others' are over too, which would undo what clients are told by name.
const SETTLED: Duration = Duration::from_millis(200);

/// Clients told at a time, and the pause after them: 16,384 are told in a second and a half.
const AT_ONCE: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);

/// Clients of one VIP remembered at most: as many as the kernel notes.
const MOST: usize = 16_384;

/// Views at most by which clients may go: they changed faster than clients could be told, and the
/// refresh makes up for the rest.
const MOST_VIEWS: usize = 8;

/// What the runtime's parts tell each other of announcements.
#[derive(Debug, Default)]
pub(super) struct Announcing {
    /// Another view is in force.
    pub(super) installed: Notify,
    broadcast: AtomicU64,
    moved: AtomicU64,
    refreshed: AtomicU64,
}

impl Announcing {
    /// Counts a broadcast, if it could be sent.
    pub(super) fn count_broadcast(&self, sent: bool) {
        self.broadcast.fetch_add(u64::from(sent), Ordering::Relaxed);
    }

    /// The announcements sent, by occasion.
    pub(super) fn by_word(&self) -> BTreeMap<String, u64> {
        let counts = [
            ("broadcast", &self.broadcast),
            ("moved", &self.moved),
            ("refreshed", &self.refreshed),
        ];
        counts.map(|(word, count)| (word.into(), count.load(Ordering::Relaxed))).into()
    }
}

/// Sends the announcements.
pub(super) struct Announcer {
    own: NodeId,
    hash_key: [u64; 2],
    interfaces: Vec<Interface>,
    /// The links by which their peers are known, in the same order.
    networks: Vec<u8>,
    /// Of the interfaces, in the same order.
    requesters: Vec<Requesters>,
    socket: OwnedFd,
    configurations: Configurations,
    latest: Latest,
    history: Arc<History>,
    /// Shared with whoever reports.
    pub(super) announcing: Arc<Announcing>,
    clients: BTreeMap<Place, Clients>,
    /// The view by which clients have been told; several if a further one came meanwhile.
    told: Vec<View>,
}

/// A VIP: the place of its interface, its VLAN, its address. Another VLAN may have the same address.
type Place = (usize, VlanTags, IpAddr);

/// Who has asked for a VIP.
struct Clients {
    seen: HashMap<IpAddr, Seen>,
    /// When all of them were last told.
    refreshed: Instant,
}

impl Clients {
    /// The machines that have asked by another address than a link-local one, with which they see whether
    /// an entry is still good.
    fn named(&self) -> impl Iterator<Item = Mac> {
        let named = self.seen.iter().filter(|(client, _)| !is_link_local(**client));
        named.map(|(_, seen)| seen.mac)
    }
}

fn is_link_local(client: IpAddr) -> bool {
    matches!(client, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    mac: Mac,
    at: Instant,
}

/// A VIP whose nodes answer with their own MACs.
struct Directed {
    place: usize,
    vip: HeldVip,
    /// The kernel group whose buckets say who answers.
    group: usize,
    refresh: Option<ArpRefresh>,
}

impl Directed {
    fn key(&self) -> Place {
        (self.place, self.vip.tags, self.vip.addr)
    }
}

/// How far a round of telling came.
struct Told {
    clients: u64,
    /// No further view came meanwhile.
    all: bool,
}

impl Announcer {
    /// An announcer for what was brought up.
    pub(super) fn new(
        keys: &Keys,
        up: &mut Up,
        latest: Latest,
        history: Arc<History>,
    ) -> anyhow::Result<Self> {
        // Protocol 0: it hears nothing.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot open a packet socket: run as root, or with CAP_NET_RAW")?;
        let requesters: Result<_, datapath::Error> =
            up.datapaths.iter_mut().map(Datapath::take_requesters).collect();
        Ok(Self {
            own: up.own,
            hash_key: hash::key_words(keys.bucket_key()),
            interfaces: up.interfaces.clone(),
            networks: up.networks.of.clone(),
            requesters: requesters?,
            socket,
            configurations: up.configurations.clone(),
            latest,
            history,
            announcing: Arc::default(),
            clients: BTreeMap::new(),
            told: Vec::new(),
        })
    }

    /// Does so for as long as it is awaited.
    pub(super) async fn follow(mut self) -> Infallible {
        let announcing = Arc::clone(&self.announcing);
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = announcing.installed.notified() => {}
                _ = round.tick() => {}
            }
            let snapshot = self.latest.get();
            let config = self.configurations.get(snapshot.digest);
            let directed: Vec<_> = directed(&config).collect();
            self.gather(&config, &directed);
            if snapshot.state == NodeState::Up {
                self.follow_view(&config, &directed, &snapshot).await;
                self.refresh(&config, &directed, &snapshot).await;
            }
        }
    }

    /// Learns who has asked since the last time, and forgets who has not for long.
    fn gather(&mut self, config: &Configuration, directed: &[Directed]) {
        let now = Instant::now();
        self.clients.retain(|key, _| directed.iter().any(|directed| directed.key() == *key));
        for directed in directed {
            let new = || Clients { seen: HashMap::new(), refreshed: now };
            let clients = self.clients.entry(directed.key()).or_insert_with(new);
            let keep = directed.refresh.unwrap_or(ArpRefresh::DEFAULT).duration;
            clients.seen.retain(|_, seen| now.saturating_duration_since(seen.at) < keep);
        }
        let ports = self.requesters.iter_mut().zip(&config.ports);
        for (place, (requesters, port)) in ports.enumerate() {
            let asked = match requesters.take() {
                Ok(asked) => asked,
                Err(error) => {
                    tracing::debug!("who asked for a VIP: {error}");
                    continue;
                }
            };
            for (requester, mac) in asked {
                let [identity, ..] = requester.vip.to_le_bytes();
                let vip = port.services().vip(identity);
                let Some((tags, vip)) = vip else { continue };
                let Some(clients) = self.clients.get_mut(&(place, tags, vip)) else { continue };
                let client = address(requester.addr, vip);
                if clients.seen.len() < MOST || clients.seen.contains_key(&client) {
                    clients.seen.insert(client, Seen { mac, at: now });
                }
            }
        }
    }

    /// Tells clients what the installed view has changed for them.
    async fn follow_view(
        &mut self,
        config: &Configuration,
        directed: &[Directed],
        snapshot: &Snapshot,
    ) {
        let view = &snapshot.view;
        if self.told.last().is_some_and(|told| told.epoch == view.epoch) {
            return;
        }
        let mut before = std::mem::take(&mut self.told);
        let shares = |directed: &Directed| {
            let table = |view: &View| config.ports[directed.place].table(directed.group, view);
            let before = before.iter().map(|view| (view, table(view))).collect();
            Shares::new(self.own, before, (view, table(view)))
        };
        let shares: Vec<_> = directed.iter().map(shares).collect();
        if shares.iter().any(Shares::is_from_the_dead) {
            let taken = directed.iter().zip(&shares).filter(|(_, shares)| shares.take_over());
            let taken: Vec<_> = taken.map(|(directed, _)| directed).collect();
            self.broadcast(config, &taken).await;
        }
        let mut all = true;
        for (directed, shares) in directed.iter().zip(&shares) {
            let told = self.tell(config, directed, snapshot, |bucket| shares.to_tell(bucket)).await;
            self.announcing.moved.fetch_add(told.clients, Ordering::Relaxed);
            all &= told.all;
            let (vip, told) = (directed.vip.addr, told.clients);
            if shares.take_over() {
                self.inform(format!(
                    "all clients of {vip} were told to send to this node, because another one is gone; {told} of them by name"
                ));
            } else if told > 0 {
                self.inform(format!("{told} clients of {vip} were told to which node to send now"));
            }
        }
        drop(shares);
        if all {
            before.clear();
        }
        before.push(view.clone());
        before.drain(..before.len().saturating_sub(MOST_VIEWS));
        self.told = before;
    }

    /// Has all clients of those VIPs send to this node, and waits until other nodes have done so too.
    async fn broadcast(&self, config: &Configuration, taken: &[&Directed]) {
        let tellers = Tellers::now(&config.farm, taken.iter().map(|directed| directed.vip)).await;
        for Directed { place, vip, .. } in taken {
            let interface = &self.interfaces[*place];
            if frame::to_all(tellers.of(interface, *vip), *vip).is_none() {
                self.history.push(Level::Warn, "clients_not_told", unspoken(interface, *vip));
            }
        }
        for pause in BURST {
            sleep(pause).await;
            if self.latest.get().state != NodeState::Up {
                return;
            }
            for Directed { place, vip, .. } in taken {
                let interface = &self.interfaces[*place];
                let frame = frame::to_all(tellers.of(interface, *vip), *vip);
                let sent = frame.is_some_and(|frame| self.send(interface, &frame).is_ok());
                self.announcing.count_broadcast(sent);
            }
        }
        sleep(SETTLED).await;
    }

    /// Tells this node's own clients that they are, if that is due.
    async fn refresh(
        &mut self,
        config: &Configuration,
        directed: &[Directed],
        snapshot: &Snapshot,
    ) {
        for directed in directed {
            let due = |clients: &&mut Clients| {
                let since = clients.refreshed.elapsed();
                directed.refresh.is_some_and(|refresh| since >= refresh.interval)
            };
            let clients = self.clients.get_mut(&directed.key());
            let Some(clients) = clients.filter(due) else { continue };
            clients.refreshed = Instant::now();
            let table = config.ports[directed.place].table(directed.group, &snapshot.view);
            let own = |bucket| table.owner(bucket).filter(|&owner| owner == self.own);
            let told = self.tell(config, directed, snapshot, own).await;
            self.announcing.refreshed.fetch_add(told.clients, Ordering::Relaxed);
        }
    }

    /// Tells each known client of the VIP to which node to send, if `node` says one for its bucket.
    /// Gives up when a further view is in force: what it says of this one is old then.
    async fn tell(
        &self,
        config: &Configuration,
        directed: &Directed,
        snapshot: &Snapshot,
        node: impl Fn(u8) -> Option<NodeId>,
    ) -> Told {
        let interface = &self.interfaces[directed.place];
        let link = usize::from(self.networks[directed.place]);
        let mac_of = |node: NodeId| {
            let peer = || snapshot.peers.iter().find(|peer| peer.node == node);
            let told = || peer()?.macs.get(link).copied().flatten();
            if node == self.own { Some(interface.mac) } else { told() }
        };
        let clients = self.clients.get(&directed.key()).filter(|clients| !clients.seen.is_empty());
        let Some(clients) = clients else { return Told { clients: 0, all: true } };
        let tellers = Tellers::now(&config.farm, [directed.vip].into_iter()).await;
        let teller = tellers.of(interface, directed.vip);
        let named: BTreeSet<Mac> = clients.named().collect();
        let (mut told, mut tried) = (0, 0);
        for (&client, seen) in &clients.seen {
            // It has one entry for the VIP, and asks in two names: the other one is that of its requests.
            if is_link_local(client) && named.contains(&seen.mac) {
                continue;
            }
            let node = node(self.bucket(client, directed.group));
            let Some(mac) = node.and_then(mac_of) else { continue };
            let to = (seen.mac, client);
            let frame = frame::to_one(teller, directed.vip, mac, to);
            told += u64::from(frame.is_some_and(|frame| self.send(interface, &frame).is_ok()));
            tried += 1;
            if tried % AT_ONCE == 0 {
                sleep(PAUSE).await;
                if self.latest.get().view.epoch != snapshot.view.epoch {
                    return Told { clients: told, all: false };
                }
            }
        }
        Told { clients: told, all: true }
    }

    /// As the filter chooses who answers that client.
    fn bucket(&self, client: IpAddr, group: usize) -> u8 {
        let hash = match client {
            IpAddr::V4(addr) => hash::hash_v4(self.hash_key, addr.octets(), [0; 2], hash::ARP),
            IpAddr::V6(addr) => hash::hash_v6(self.hash_key, addr.octets(), [0; 2], hash::ARP),
        };
        hash::bucket(hash, u32::try_from(group).unwrap_or_default())
    }

    /// What cannot be sent now, for want of a carrier say, the next refresh makes up for.
    fn send(&self, interface: &Interface, frame: &[u8]) -> io::Result<()> {
        send(&self.socket, interface.index, frame)
    }

    fn inform(&self, message: String) {
        self.history.push(Level::Info, "clients_told", message);
    }
}

/// What is told where nobody can be.
pub(super) fn unspoken(interface: &Interface, vip: HeldVip) -> String {
    format!(
        "clients of {vip} cannot be told to send to this node: {name} has no IPv6 address of its own to say it from: give it one (`ip link set {name} addrgenmode eui64`)",
        vip = vip.addr,
        name = interface.name,
    )
}

/// The directed VIPs of a configuration.
fn directed(config: &Configuration) -> impl Iterator<Item = Directed> {
    let blocks = config.farm.vips.iter().zip(&config.interface_of);
    let blocks = blocks.filter(|(block, _)| block.mode == Mode::VmacDirected);
    blocks.flat_map(move |(block, &place)| {
        let of = move |vip: HeldVip| {
            let group = config.ports[place].services().resolve_group(vip.tags, vip.addr)?;
            Some(Directed { place, vip, group, refresh: block.arp_refresh })
        };
        vips_of(block).filter_map(of)
    })
}

/// The address of who asked for that VIP.
fn address(bytes: [u8; 16], vip: IpAddr) -> IpAddr {
    let [a, b, c, d, ..] = bytes;
    if vip.is_ipv4() { [a, b, c, d].into() } else { bytes.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, net::fixture::interface};

    #[test]
    fn twins_in_two_vlans_have_clients_and_answerers_of_their_own() {
        let block = |vlan: u16, name: &str| {
            format!(
                " - addresses: [10.0.0.100/24]\n   interface: eth0\n   mode: vmac_directed\n   vlan: {vlan}\n   groups: [{{ name: {name}, rules: [{{ port: 80, proto: tcp, filter: on_port }}, {{ proto: arp, filter: on_addr }}] }}]\n"
            )
        };
        let text = format!(
            "farm: web\nkey_file: k\nnodes:\n - {{ name: node1, addresses: [10.0.0.11] }}\nvips:\n{}{}",
            block(10, "a"),
            block(20, "b")
        );
        let farm = config::parse("farm.yaml", &text).unwrap_or_else(|error| panic!("{error}"));
        let config = Configuration::new([0; 16], farm, vec![0, 0], &[interface(1, &[])], &[]);
        let config = config.expect("it fits");
        let found: Vec<_> = directed(&config).collect();
        let vip = IpAddr::from([10, 0, 0, 100]);
        let tags = [10, 20].map(|inner| VlanTags { outer: 0, inner });
        let keys: Vec<_> = found.iter().map(Directed::key).collect();
        assert_eq!(keys, tags.map(|tags| (0, tags, vip)));
        assert_eq!(found.iter().map(|it| it.group).collect::<Vec<_>>(), [1, 2]);
        let known = |identity| config.ports[0].services().vip(identity);
        assert_eq!([1, 2].map(known), tags.map(|tags| Some((tags, vip))));
    }
}
