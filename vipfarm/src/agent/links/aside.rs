//! A second socket on the port of the heartbeats, for datagrams that come from no peer: were they to wait
//! with the peers' heartbeats, some thousands of them would leave those no room.
//!
//! The kernel sorts them, by a program of classic BPF on the group of the two sockets
//! (`SO_ATTACH_REUSEPORT_CBPF`, Linux 4.5). It returns the number of a socket in the order in which they
//! came into the group.

use std::{
    ffi::OsStr,
    io,
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::{
    libc::{self, sock_filter, sock_fprog},
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
        sockopt::{AttachReusePortCbpf, BindToDevice, ReusePort},
    },
};

/// The sockets' numbers.
const PEERS: u32 = 0;
const OTHERS: u32 = 1;

/// Where a header has the source, in bytes from its start, as the kernel is told.
const SOURCE_V4: u32 = libc::SKF_NET_OFF.cast_unsigned() + 12;
const SOURCE_V6: u32 = libc::SKF_NET_OFF.cast_unsigned() + 8;

/// Opens a second socket with the address of that one, which is bound to that interface if to any. Both get
/// some of everything until the kernel is told who the peers are.
///
/// The first one was bound as the only one, so that a port that another program has is found to be in use.
pub(super) fn open(first: &UdpSocket, interface: Option<&OsStr>) -> io::Result<UdpSocket> {
    let address = first.local_addr()?;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let second = socket(family, SockType::Datagram, flags, None)?;
    setsockopt(first, ReusePort, &true)?;
    setsockopt(&second, ReusePort, &true)?;
    if let Some(interface) = interface {
        setsockopt(&second, BindToDevice, &interface.to_owned())?;
    }
    bind(second.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(second.into())
}

/// Has the kernel give the datagrams from those peers to the first socket of the group, and all others to the
/// second one.
///
/// The source is loaded once: a load from a packet becomes eight instructions, and before Linux 6.8 no more than
/// 20 kB of them are taken (`net.core.optmem_max`).
pub(super) fn sort(first: &UdpSocket, peers: impl Iterator<Item = IpAddr>) -> io::Result<()> {
    let is_v4 = first.local_addr()?.is_ipv4();
    let (source, words) = if is_v4 { (SOURCE_V4, 1) } else { (SOURCE_V6, 4) };
    let load = |word: u32| {
        let place = source + 4 * word;
        [step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, place, 0), step(libc::BPF_ST, word, 0)]
    };
    let mut program: Vec<_> = (0..words).flat_map(load).collect();
    program.extend(peers.filter(|peer| peer.is_ipv4() == is_v4).flat_map(from));
    program.push(give_to(OTHERS));
    let len = program.len().try_into().map_err(io::Error::other)?;
    setsockopt(first, AttachReusePortCbpf, &sock_fprog { len, filter: program.as_mut_ptr() })?;
    Ok(())
}

/// Gives what comes from that peer to the peers' socket, and leaves everything else to what follows.
fn from(peer: IpAddr) -> Vec<sock_filter> {
    let address = match peer {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (words, _) = address.as_chunks();
    // To the next peer: over the rest of the comparisons, and what is done if all hold.
    let rest = |word: usize| u8::try_from(2 * (words.len() - word - 1) + 1).expect("few words");
    let compare = |(word, bytes): (usize, &[u8; 4])| {
        let (slot, is) = (u32::try_from(word).expect("few words"), u32::from_be_bytes(*bytes));
        [
            step(libc::BPF_LD | libc::BPF_MEM, slot, 0),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, is, rest(word)),
        ]
    };
    words.iter().enumerate().flat_map(compare).chain([give_to(PEERS)]).collect()
}

fn give_to(socket: u32) -> sock_filter {
    step(libc::BPF_RET | libc::BPF_K, socket, 0)
}

/// One instruction; a comparison that does not hold skips `otherwise` of those that follow.
fn step(code: u32, k: u32, otherwise: u8) -> sock_filter {
    let code = u16::try_from(code).expect("the codes have eight bits");
    sock_filter { code, jt: 0, jf: otherwise, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which socket gets what `sender` sends to the address of `first`, with those peers.
    fn number(first: &UdpSocket, sender: &str, peers: &[&str]) -> u32 {
        let peers = peers.iter().map(|peer| peer.parse().expect("an address"));
        sort(first, peers).expect("a valid program");
        let sender = UdpSocket::bind((sender, 0)).expect("the loopback");
        sender.send_to(b"here", first.local_addr().expect("it is bound")).expect("sent");
        let is_there = |socket: &UdpSocket| socket.recv(&mut [0; 8]).is_ok();
        if is_there(first) { PEERS } else { OTHERS }
    }

    #[test]
    fn peers_are_told_from_others_in_both_families() {
        let open = |address: &str| {
            let first = UdpSocket::bind((address, 0)).expect("the loopback");
            first.set_nonblocking(true).expect("a valid mode");
            let second = open(&first, None).expect("a second one");
            (first, second)
        };
        let (first, _second) = open("127.0.0.1");
        let many: Vec<_> = (1..64).map(|n| format!("127.0.1.{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(number(&first, "127.0.0.2", &["127.0.0.3", "127.0.0.2"]), PEERS);
        assert_eq!(number(&first, "127.0.0.2", &["127.0.0.3"]), OTHERS);
        assert_eq!(number(&first, "127.0.0.2", &[]), OTHERS);
        assert_eq!(number(&first, "127.0.1.1", &many), PEERS, "the first of many");
        assert_eq!(number(&first, "127.0.1.63", &many), PEERS, "the last");
        assert_eq!(number(&first, "127.0.1.64", &many), OTHERS);

        let (first, _second) = open("::1");
        assert_eq!(number(&first, "::1", &["::2", "::1"]), PEERS);
        let many: Vec<_> = (2..65).map(|n| format!("ff{n:02}:ffff:ffff:ffff::1")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).chain(["::1"]).collect();
        assert_eq!(number(&first, "::1", &many), PEERS, "the last of many");
        for other in ["::2", "::1:0:1", "0:0:1::1", "1::1"] {
            assert_eq!(number(&first, "::1", &[other]), OTHERS, "{other}");
        }
    }

    #[test]
    fn a_port_that_is_in_use_is_not_shared() {
        let first = UdpSocket::bind(("127.0.0.1", 0)).expect("the loopback");
        let _second = open(&first, None).expect("a second one");
        let third = UdpSocket::bind(first.local_addr().expect("it is bound"));
        assert_eq!(third.expect_err("in use").kind(), io::ErrorKind::AddrInUse);
    }
}
