//! The networks that heartbeats run on: one socket for each address of this node.

use std::{
    ffi::OsString,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use anyhow::{Context, anyhow};
use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{BindToDevice, RxqOvfl},
    },
};

use crate::{
    membership::MAX_DATAGRAM,
    model::{Farm, Node, NodeId},
    net::Interface,
};

/// Datagrams read from one socket in one turn at most: more than its buffer holds by default, so
/// that all that waited are read; and a flood cannot keep the thread from its time-outs.
const DATAGRAMS_PER_TURN: usize = 4096;

/// All links of this node, by the index of its addresses: the first is the VIP's own network.
#[derive(Debug)]
pub struct Links {
    links: Vec<Link>,
    /// UDP port of all nodes.
    port: u16,
}

#[derive(Debug)]
struct Link {
    socket: UdpSocket,
    peers: Vec<SocketAddr>,
    /// Datagrams that the kernel had no room for, as it last counted them.
    lost: u32,
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
    /// Binds a socket to each of the node's addresses.
    pub fn open(farm: &Farm, own: NodeId, interfaces: &[Interface]) -> anyhow::Result<Self> {
        let addresses = farm.node(own).map(|node| node.addresses.as_slice()).unwrap_or_default();
        let open = |(link, &address): (usize, &IpAddr)| {
            let peers = peers(own, &farm.nodes, link, farm.membership.port);
            // Heartbeats say that clients on the VIP's network reach this node: they must not find
            // another way when that one is broken.
            let interfaces = if link == 0 { interfaces } else { &[] };
            let address = SocketAddr::new(address, farm.membership.port);
            Ok(Link { socket: bind(address, interfaces)?, peers: peers.collect(), lost: 0 })
        };
        let links = addresses.iter().enumerate().map(open).collect::<anyhow::Result<_>>()?;
        Ok(Self { links, port: farm.membership.port })
    }

    /// The sockets, to wait for.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().map(|link| link.socket.as_fd())
    }

    /// Sends to all peers on that link; says whether the datagram left for any. One that cannot be
    /// reached now is the membership's business; that none can is this node's own trouble.
    pub fn send(&self, link: u8, datagram: &[u8]) -> bool {
        let Some(link) = self.links.get(usize::from(link)) else { return false };
        let send = |peer: &&SocketAddr| link.socket.send_to(datagram, peer).is_ok();
        link.peers.is_empty() || link.peers.iter().filter(send).count() > 0
    }

    /// Sends to one address on the first link. Whether it arrives is the other's concern.
    pub fn send_to(&self, address: IpAddr, datagram: &[u8]) {
        if let Some(link) = self.links.first() {
            let _ = link.socket.send_to(datagram, SocketAddr::new(address, self.port));
        }
    }

    /// Sends to all of those nodes from now on.
    pub fn know(&mut self, own: NodeId, nodes: &[Node]) {
        let port = self.port;
        for (number, link) in self.links.iter_mut().enumerate() {
            link.peers = peers(own, nodes, number, port).collect();
        }
    }

    /// Reads all that waits and passes it on with its link and source.
    pub fn receive(&mut self, mut take: impl FnMut(u8, IpAddr, &[u8])) -> Received {
        let mut received = Received::default();
        for (number, link) in (0..).zip(&mut self.links) {
            link.receive(&mut received, |source, datagram| take(number, source, datagram));
        }
        received
    }
}

impl Link {
    fn receive(&mut self, received: &mut Received, mut take: impl FnMut(IpAddr, &[u8])) {
        // One more than the longest: what is longer is seen to be, and refused for its size.
        let mut buffer = [0; MAX_DATAGRAM + 1];
        let mut control = cmsg_space!(u32);
        for _ in 0..DATAGRAMS_PER_TURN {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let message = recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            );
            let message = match message {
                Ok(message) => message,
                Err(nix::errno::Errno::EAGAIN) => return,
                // An ICMP error about a peer that is down.
                Err(_) => continue,
            };
            received.any = true;
            for part in message.cmsgs().into_iter().flatten() {
                if let ControlMessageOwned::RxqOvfl(lost) = part
                    && lost != self.lost
                {
                    self.lost = lost;
                    received.lost = true;
                }
            }
            let (source, length) = (message.address.as_ref().and_then(ip_of), message.bytes);
            if let Some(source) = source {
                take(source, &buffer[..length]);
            }
        }
    }
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

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn bind(address: SocketAddr, interfaces: &[Interface]) -> anyhow::Result<UdpSocket> {
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
    let has_address =
        |interface: &&Interface| interface.addresses.iter().any(|net| net.addr() == address.ip());
    if let Some(interface) = interfaces.iter().find(has_address) {
        setsockopt(&socket, BindToDevice, &OsString::from(&interface.name))
            .with_context(|| format!("cannot bind the heartbeats to {}", interface.name))?;
    }
    Ok(socket)
}
