//! The networks that heartbeats run on: for each address of this node a socket for what its peers send, and
//! one `aside` for everything else.

mod aside;

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use anyhow::{Context, anyhow};
use nix::{
    errno::Errno,
    sys::socket::{
        SockaddrStorage, setsockopt,
        sockopt::{BindToDevice, ReceiveTimestampns, RxqOvfl},
    },
};

use super::{
    batch::{self, BATCH, Inbox},
    realtime,
    tally::Tally,
};
use crate::{
    membership::{BootTime, OwnLink},
    model::{Farm, Node, NodeId},
    net::Interface,
};

/// Datagrams read from one socket in one turn at most: more than its buffer holds by default, so
/// that all that waited are read; and a flood cannot keep the thread from its time-outs.
const DATAGRAMS_PER_TURN: usize = 4096;

/// All links of this node.
pub struct Links {
    /// By the index of the node's addresses: the first is the first VIP's own network.
    all: Vec<Link>,
    waits: Tally,
    /// UDP port of all nodes.
    port: u16,
}

struct Link {
    socket: UdpSocket,
    /// Gets what no peer has sent: of nodes that are not in this one's file, and of strangers. Nobody waits
    /// for it.
    aside: UdpSocket,
    peers: Vec<SockaddrStorage>,
    inbox: Inbox,
    /// Datagrams that the kernel had no room for, as it last counted them.
    lost: u32,
    /// When nothing waited.
    emptied: BootTime,
}

/// What a turn of reading brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Something was read.
    pub any: bool,
    /// Something could not be read, because the kernel had no room for it.
    pub lost: bool,
}

impl Links {
    /// Binds a socket to each of the node's addresses, whose links `networks` are.
    pub fn open(
        farm: &Farm,
        own: NodeId,
        networks: &[OwnLink],
        interfaces: &[Interface],
    ) -> anyhow::Result<Self> {
        let addresses = farm.node(own).map(|node| node.addresses.as_slice()).unwrap_or_default();
        let open = |(link, &address): (usize, &IpAddr)| {
            let peers = peers(own, &farm.nodes, link, farm.membership.port);
            // Heartbeats say that clients on a VIP's network reach this node: they must not find
            // another way when that one is broken.
            let has_vips = networks.get(link).is_some_and(|link| link.has_vips);
            let interfaces = if has_vips { interfaces } else { &[] };
            Link::open(SocketAddr::new(address, farm.membership.port), interfaces, peers)
        };
        let links = addresses.iter().enumerate().map(open).collect::<anyhow::Result<_>>()?;
        Ok(Self { all: links, waits: Tally::default(), port: farm.membership.port })
    }

    /// The sockets to wait for.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().map(|link| link.socket.as_fd())
    }

    /// Sends to all peers on that link; says whether the datagram left for any. One that cannot be
    /// reached now is the membership's business; that none can is this node's own trouble.
    pub fn send(&self, link: u8, datagram: &[u8]) -> bool {
        self.all.get(usize::from(link)).is_some_and(|link| link.send(datagram))
    }

    /// Sends to one address on the first link. Whether it arrives is the other's concern.
    pub fn send_to(&self, address: IpAddr, datagram: &[u8]) {
        if let Some(link) = self.all.first() {
            let _ = link.socket.send_to(datagram, SocketAddr::new(address, self.port));
        }
    }

    /// Sends to all of those nodes from now on.
    pub fn know(&mut self, own: NodeId, nodes: &[Node]) {
        let port = self.port;
        for (number, link) in self.all.iter_mut().enumerate() {
            // Whoever is taken for a stranger is heard, too.
            let _ = link.know(peers(own, nodes, number, port));
        }
    }

    /// Reads all that waits and passes it on with its link and source.
    pub fn receive(&mut self, mut take: impl FnMut(u8, IpAddr, &[u8])) -> Received {
        let mut received = Received::default();
        for (number, link) in (0..).zip(&mut self.all) {
            link.receive(&mut received, &mut self.waits, |source, datagram| {
                take(number, source, datagram);
            });
        }
        received
    }

    /// How long datagrams waited in the sockets before they were read.
    ///
    /// Of the kernel's times of arrival this is all the use: who is alive is judged by the boot
    /// clock at reading, for theirs is the wall clock, which may be set at any time, and a node must
    /// not be declared dead, or kept alive, by that.
    pub(super) fn waits(&self) -> Tally {
        self.waits
    }
}

impl Link {
    fn open(
        address: SocketAddr,
        interfaces: &[Interface],
        peers: impl Iterator<Item = SocketAddr>,
    ) -> anyhow::Result<Self> {
        let (socket, aside) = bind(address, interfaces)?;
        let (inbox, emptied) = (Inbox::new(), realtime::now());
        let mut link = Self { socket, aside, peers: vec![], inbox, lost: 0, emptied };
        link.know(peers).context("cannot sort the heartbeats by their sources")?;
        Ok(link)
    }

    fn know(&mut self, peers: impl Iterator<Item = SocketAddr>) -> io::Result<()> {
        let peers: Vec<_> = peers.collect();
        self.peers = peers.iter().copied().map(SockaddrStorage::from).collect();
        aside::sort(&self.socket, peers.iter().map(SocketAddr::ip))
    }

    fn send(&self, datagram: &[u8]) -> bool {
        self.peers.is_empty() || batch::send(self.socket.as_fd(), datagram, &self.peers) > 0
    }

    /// Reads what its peers have sent, and no more of the rest than one call takes.
    fn receive(
        &mut self,
        received: &mut Received,
        waits: &mut Tally,
        mut take: impl FnMut(IpAddr, &[u8]),
    ) {
        self.receive_from_peers(received, waits, &mut take);
        if let Ok(datagrams) = self.inbox.read(self.aside.as_fd(), BATCH) {
            for datagram in datagrams {
                if let Some(source) = datagram.source {
                    take(source, datagram.bytes);
                }
            }
        }
    }

    fn receive_from_peers(
        &mut self,
        received: &mut Received,
        waits: &mut Tally,
        take: &mut impl FnMut(IpAddr, &[u8]),
    ) {
        let mut most = DATAGRAMS_PER_TURN;
        while most > 0 {
            let asked = realtime::now();
            let datagrams = match self.inbox.read(self.socket.as_fd(), most) {
                Ok(datagrams) => datagrams,
                Err(Errno::EAGAIN) => {
                    self.emptied = asked;
                    return;
                }
                // An ICMP error about a peer that is down.
                Err(_) => {
                    most -= 1;
                    continue;
                }
            };
            let (wall_clock, now) = (realtime::wall_clock(), realtime::now());
            received.any = true;
            most -= datagrams.len();
            for datagram in datagrams {
                if let Some(lost) = datagram.dropped.filter(|&lost| lost != self.lost) {
                    self.lost = lost;
                    received.lost = true;
                }
                let since_empty = now.saturating_since(self.emptied);
                let wait = |arrived| waited(arrived, wall_clock, since_empty);
                if let Some(wait) = datagram.arrived.and_then(wait) {
                    waits.add(wait);
                }
                if let Some(source) = datagram.source {
                    take(source, datagram.bytes);
                }
            }
        }
    }
}

/// How long a datagram waited, by the wall clock. `None` if that clock was set meanwhile, which it
/// was if the datagram comes from the future, or is older than the time since the socket was empty.
fn waited(arrived: Duration, wall_clock: Duration, since_empty: Duration) -> Option<Duration> {
    wall_clock.checked_sub(arrived).filter(|&waited| waited <= since_empty)
}

/// Where the heartbeats on that link are sent.
fn peers(
    own: NodeId,
    nodes: &[Node],
    link: usize,
    port: u16,
) -> impl Iterator<Item = SocketAddr> + '_ {
    let others = nodes.iter().enumerate().filter(move |&(index, _)| index != own.index());
    others.filter_map(move |(_, node)| Some(SocketAddr::new(*node.addresses.get(link)?, port)))
}

/// The sockets of an address, for what peers send and for the rest.
fn bind(address: SocketAddr, interfaces: &[Interface]) -> anyhow::Result<(UdpSocket, UdpSocket)> {
    let socket = UdpSocket::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "UDP port {} is in use on {}: end the program that has it (`ss -ulpn`), or set another `membership.port` on every node",
            address.port(),
            address.ip()
        ),
        _ => anyhow!("cannot open the heartbeat socket {address}: {error}"),
    })?;
    socket.set_nonblocking(true).context("the heartbeat socket")?;
    setsockopt(&socket, RxqOvfl, &1).context("the heartbeat socket")?;
    setsockopt(&socket, ReceiveTimestampns, &true).context("the heartbeat socket")?;
    let has_address =
        |interface: &&Interface| interface.addresses.iter().any(|net| net.addr() == address.ip());
    let interface = interfaces.iter().find(has_address).map(|it| OsString::from(&it.name));
    if let Some(name) = &interface {
        setsockopt(&socket, BindToDevice, name)
            .with_context(|| format!("cannot bind the heartbeats to {}", name.display()))?;
    }
    let aside = aside::open(&socket, interface.as_deref())
        .with_context(|| format!("cannot open the second heartbeat socket {address}"))?;
    Ok((socket, aside))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::socket::sockopt::{Ipv4RecvErr, RcvBuf};

    use super::{batch::BATCH, *};
    use crate::membership::MAX_DATAGRAM;

    fn link(peers: Vec<SocketAddr>) -> Link {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Link::open(any, &[], peers.into_iter()).expect("the loopback")
    }

    /// One that hears that peer.
    fn link_to(peer: &UdpSocket) -> Link {
        link(vec![address(peer)])
    }

    fn address(socket: &UdpSocket) -> SocketAddr {
        socket.local_addr().expect("it is bound")
    }

    /// A socket that something can be sent to.
    fn peer() -> UdpSocket {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("the loopback");
        peer.set_nonblocking(true).expect("a valid mode");
        peer
    }

    fn heard(peer: &UdpSocket) -> Vec<Vec<u8>> {
        let mut buffer = [0; 64];
        let next = || {
            let length = peer.recv(&mut buffer).ok()?;
            Some(buffer[..length].to_vec())
        };
        std::iter::from_fn(next).collect()
    }

    fn receive(link: &mut Link) -> (Received, Tally, Vec<Vec<u8>>) {
        let (mut received, mut waits) = (Received::default(), Tally::default());
        let mut taken = Vec::new();
        link.receive(&mut received, &mut waits, |source, datagram| {
            assert_eq!(source, IpAddr::from([127, 0, 0, 1]));
            taken.push(datagram.to_vec());
        });
        (received, waits, taken)
    }

    #[test]
    fn one_datagram_reaches_more_peers_than_a_call_takes() {
        let peers: Vec<_> = (0..BATCH + 7).map(|_| peer()).collect();
        let link = link(peers.iter().map(address).collect());
        assert!(link.send(b"alive"));
        for peer in &peers {
            assert_eq!(heard(peer), [b"alive"]);
        }
    }

    #[test]
    fn a_peer_that_cannot_be_sent_to_does_not_cost_the_others_theirs() {
        let [first, second, third] = [peer(), peer(), peer()];
        // To an address of broadcast a socket may not send unasked.
        let refused = SocketAddr::from(([255, 255, 255, 255], 9));
        let nobody = address(&peer());
        let order = [refused, address(&first), refused, refused, nobody, address(&second), refused];
        let link = link([&order[..], &[address(&third)]].concat());
        // The second time after the ICMP error of the peer that is not there.
        for _ in 0..2 {
            assert!(link.send(b"alive"));
            for peer in [&first, &second, &third] {
                assert_eq!(heard(peer), [b"alive"]);
            }
        }
    }

    #[test]
    fn a_datagram_that_leaves_for_nobody_was_not_sent() {
        let refused = SocketAddr::from(([255, 255, 255, 255], 9));
        assert!(!link(vec![refused; BATCH + 7]).send(b"alive"));
        assert!(link(vec![]).send(b"alive"), "there is nobody to miss it");
    }

    #[test]
    fn a_burst_is_read_whole_and_in_order() {
        let sender = peer();
        let mut link = link_to(&sender);
        let sent: Vec<_> = (0..u8::try_from(2 * BATCH + 7).expect("few")).map(|n| [n]).collect();
        for datagram in &sent {
            sender.send_to(datagram, address(&link.socket)).expect("sent");
        }
        let (received, _, taken) = receive(&mut link);
        assert_eq!(received, Received { any: true, lost: false });
        assert_eq!(taken, sent);
        assert_eq!(receive(&mut link).0, Received::default(), "nothing is left");
    }

    #[test]
    fn a_datagram_that_is_too_long_is_seen_to_be() {
        let sender = peer();
        let mut link = link_to(&sender);
        for length in [0, MAX_DATAGRAM, MAX_DATAGRAM + 1, 2 * MAX_DATAGRAM, 3] {
            sender.send_to(&vec![7; length], address(&link.socket)).expect("sent");
        }
        let lengths: Vec<_> = receive(&mut link).2.iter().map(Vec::len).collect();
        assert_eq!(lengths, [0, MAX_DATAGRAM, MAX_DATAGRAM + 1, MAX_DATAGRAM + 1, 3]);
    }

    #[test]
    fn a_loss_is_seen_once_also_after_turns_without() {
        let sender = peer();
        let mut link = link_to(&sender);
        let to = address(&link.socket);
        setsockopt(&link.socket, RcvBuf, &2048).expect("a small one");
        sender.send_to(b"before", to).expect("sent");
        assert!(!receive(&mut link).0.lost);
        for _ in 0..BATCH {
            sender.send_to(&[0; 512], to).expect("sent");
        }
        // The kernel tells of it beside those that came later.
        assert!(receive(&mut link).2.len() < BATCH);
        for lost in [true, false] {
            sender.send_to(b"after", to).expect("sent");
            assert_eq!(receive(&mut link).0, Received { any: true, lost });
        }
    }

    #[test]
    fn what_others_send_takes_no_room_from_peers() {
        let (sender, stranger) = (peer(), UdpSocket::bind("127.0.0.2:0").expect("the loopback"));
        let mut link = link_to(&sender);
        // Many times what a socket holds.
        let to = address(&link.socket);
        for _ in 0..4096 {
            stranger.send_to(&[0; 512], to).expect("sent");
        }
        sender.send_to(b"alive", to).expect("sent");
        let (mut received, mut from_others) = (Received::default(), 0);
        let mut from_peers = vec![];
        link.receive(&mut received, &mut Tally::default(), |source, datagram| {
            if source == IpAddr::from([127, 0, 0, 2]) {
                from_others += 1;
            } else {
                from_peers.push(datagram.to_vec());
            }
        });
        assert_eq!(received, Received { any: true, lost: false });
        assert_eq!(from_peers, [b"alive"]);
        assert_eq!(from_others, BATCH, "some are read each time, not all");
    }

    #[test]
    fn an_icmp_error_hides_no_datagram() {
        // Which of the two sockets is told of an error, chance decides: of so many one is about the first.
        let mut peers: Vec<_> = (0..16).map(|_| address(&peer())).collect();
        let sender = peer();
        peers.push(address(&sender));
        let mut link = link(peers);
        // The heartbeat socket does not ask for them; this one does.
        setsockopt(&link.socket, Ipv4RecvErr, &true).expect("a valid option");
        sender.send_to(b"one", address(&link.socket)).expect("sent");
        assert!(link.send(b"nobody is there"));
        sender.send_to(b"two", address(&link.socket)).expect("sent");
        assert_eq!(receive(&mut link).2, [b"one", b"two"]);
    }

    #[test]
    fn the_wait_in_the_socket_is_measured() {
        let sender = peer();
        let mut link = link_to(&sender);
        receive(&mut link);
        let pause = Duration::from_millis(30);
        // The kernel stamps from a moment after it was asked to; what it has not stamped has not
        // waited.
        let stamped = (0..20).find_map(|_| {
            let begin = Instant::now();
            sender.send_to(b"early", address(&link.socket)).expect("sent");
            std::thread::sleep(pause);
            let wait = receive(&mut link).1.max_ms();
            (wait > 1.0).then(|| (wait, begin.elapsed()))
        });
        let (wait, longest) = stamped.expect("the kernel stamps");
        let bounds = pause.as_secs_f64() * 1e3..=longest.as_secs_f64() * 1e3;
        assert!(bounds.contains(&wait), "{wait} is not in {bounds:?}");
    }

    #[test]
    fn a_wall_clock_that_was_set_says_nothing_about_waits() {
        let millis = Duration::from_millis;
        assert_eq!(waited(millis(900), millis(950), millis(50)), Some(millis(50)));
        assert_eq!(waited(millis(900), millis(899), millis(50)), None, "set back");
        assert_eq!(waited(millis(900), millis(951), millis(50)), None, "set ahead");
    }
}
