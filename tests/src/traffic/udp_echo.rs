//! A node's UDP echo: answers each datagram with its tag and the node's name.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
    sockopt::{IpFreebind, RcvBufForce},
};

use super::{Task, probe_log::TAG_BYTES};
use crate::host::Host;

/// Kernel buffer in bytes: what arrives while the task waits for its turn must not be lost.
pub(super) const RECEIVE_BUFFER: usize = 4 << 20;

/// A running echo; it closes its port when dropped.
#[derive(Debug)]
pub struct UdpEcho {
    _task: Task,
}

impl UdpEcho {
    /// Answers on `address`, which the node need not hold yet.
    ///
    /// Bound to the address, not to all: the kernel then answers from it, where for a wildcard
    /// socket it would choose the node's own.
    pub fn start(host: &Host, address: impl Into<SocketAddr>) -> Result<Self> {
        let address = address.into();
        let socket = host
            .in_ns(|| bind_free(address))
            .and_then(|socket| Ok(tokio::net::UdpSocket::from_std(socket)?))
            .with_context(|| format!("{}: bind UDP {address}", host.name()))?;
        let name = host.name().to_owned();
        Ok(Self { _task: Task::spawn(async move { echo(&socket, &name).await }) })
    }
}

async fn echo(socket: &tokio::net::UdpSocket, name: &str) {
    let mut buffer = [0; 64];
    loop {
        // Errors are about earlier datagrams, or the VIP is not here now: either way go on.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(tag) = buffer[..length].first_chunk::<TAG_BYTES>() {
            let answer = [tag, name.as_bytes()].concat();
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

fn bind_free(address: SocketAddr) -> Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, flags, None)?;
    setsockopt(&fd, IpFreebind, &true)?;
    setsockopt(&fd, RcvBufForce, &RECEIVE_BUFFER)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(fd))
}
