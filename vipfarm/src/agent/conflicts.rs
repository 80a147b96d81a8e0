//! Other farms, and other machines, that use what is this farm's (T34): how they are found, and what
//! is told of them.
//!
//! How another farm answers for a VIP is heard by the client alone that asked. So the first serving
//! node of each farm asks for its own VIPs from time to time, by ARP probes: they come from no IP
//! address, so nobody learns anything from them (RFC 5227, section 2.1.1), and name the virtual MAC
//! where the target's hardware address has its place, so that a farm's probe is known as one. The
//! filters of the farm's own nodes drop it; those of another farm with that VIP or virtual MAC
//! count it as a conflict; a machine that simply has the address answers, which is one too.

use std::{
    io,
    mem::size_of,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use vipfarm_common::layout::Claim;

use crate::{model::Mac, net::Interface, plan::HeldVip};

/// How often a farm asks for each of its VIPs.
pub const PROBE_ROUND: Duration = Duration::from_secs(3);

/// The least time between two events of one interface: a conflict lasts until somebody mends it.
const PAUSE: Duration = Duration::from_mins(1);

/// Ethernet and ARP for IPv4.
const LEN: usize = 14 + 28;

/// Sends the farm's probes.
#[derive(Debug)]
pub struct Prober {
    socket: OwnedFd,
    /// The MAC by which the other nodes know this one.
    known_as: Mac,
}

impl Prober {
    /// A prober that can send; `known_as` is the MAC by which the other nodes know this one.
    pub fn open(known_as: Mac) -> anyhow::Result<Self> {
        // Protocol 0: it hears nothing.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot open a packet socket: run as root, or with CAP_NET_RAW")?;
        Ok(Self { socket, known_as })
    }

    /// Asks once for each VIP, with its virtual MAC, on its interface. What cannot be sent now, for
    /// want of a carrier say, is sent in the next round.
    pub fn probe<'i>(&self, vips: impl Iterator<Item = (&'i Interface, HeldVip)>) {
        for (interface, vip) in vips {
            let IpAddr::V4(addr) = vip.addr else { continue };
            let vmac = vip.vmac.unwrap_or(Mac([0; 6]));
            let frame = probe(interface.mac, self.known_as, vmac, addr);
            let _unsent = send(&self.socket, interface.index, &frame);
        }
    }
}

fn probe(source: Mac, sender: Mac, vmac: Mac, vip: Ipv4Addr) -> [u8; LEN] {
    let fields: [&[u8]; 8] = [
        &[0xff; 6],
        &source.0,
        &[0x08, 0x06],
        // Ethernet, IPv4, their lengths, a request.
        &[0, 1, 8, 0, 6, 4, 0, 1],
        &sender.0,
        &Ipv4Addr::UNSPECIFIED.octets(),
        &vmac.0,
        &vip.octets(),
    ];
    fields.concat().try_into().expect("the fields of an ARP packet")
}

/// Sends a frame as it is.
pub(super) fn send(socket: &OwnedFd, interface: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: zero bytes are a valid address.
    let mut to = unsafe { std::mem::zeroed::<libc::sockaddr_ll>() };
    to.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    to.sll_ifindex = interface.cast_signed();
    let len =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the pointers are valid for the lengths beside them.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const to).cast(),
            len,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The conflicts on one interface: how many have been told of, and when more may be.
#[derive(Debug, Default)]
pub struct Conflicts(Mutex<(u64, Option<Instant>)>);

impl Conflicts {
    /// How many of `count` conflicts are to be told of now. None, also later, if it was no
    /// `stranger`.
    pub fn untold(&self, now: Instant, count: u64, stranger: bool) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, next) = *told;
        if !stranger {
            told.0 = count;
            return None;
        }
        if count <= before || next.is_some_and(|next| now < next) {
            return None;
        }
        *told = (count, Some(now + PAUSE));
        Some(count - before)
    }
}

/// What is told of the last of `count` claims; `vip` is the address that it is about.
pub fn words(claim: Claim, vip: Option<IpAddr>, count: u64) -> String {
    let mac = Mac(claim.mac);
    match vip {
        Some(vip) if claim.farm => format!(
            "another farm, of which {mac} is a node, has the VIP {vip} too ({count} ARP packets): clients are answered twice; give each farm addresses of its own"
        ),
        None if claim.farm => format!(
            "another farm, of which {mac} is a node, has a virtual MAC of this farm ({count} ARP packets): give its VIP another `vmac`"
        ),
        vip => format!(
            "another machine, {mac}, claims {} as its own ({count} ARP packets): take the address from it",
            vip.map_or_else(|| "a VIP".to_owned(), |vip| vip.to_string())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_speaks_for_no_address_and_names_the_virtual_mac() {
        let (nic, known_as, vmac) = (Mac([2; 6]), Mac([4; 6]), Mac([0x5a; 6]));
        let frame = probe(nic, known_as, vmac, Ipv4Addr::new(192, 168, 1, 222));
        assert_eq!(
            frame[..22],
            [&[0xff; 6][..], &[2; 6], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat()[..]
        );
        assert_eq!(
            frame[22..],
            [&[4; 6][..], &[0; 4], &[0x5a; 6], &[192, 168, 1, 222]].concat()[..]
        );
    }

    #[test]
    fn a_conflict_that_lasts_is_told_of_once_a_minute_with_all_that_came() {
        let (conflicts, start) = (Conflicts::default(), Instant::now());
        assert_eq!(conflicts.untold(start, 0, true), None);
        assert_eq!(conflicts.untold(start, 2, true), Some(2));
        assert_eq!(conflicts.untold(start + PAUSE / 2, 20, true), None);
        assert_eq!(conflicts.untold(start + PAUSE, 40, true), Some(38));
        assert_eq!(conflicts.untold(start + 3 * PAUSE, 40, true), None);
    }

    #[test]
    fn a_member_that_was_not_known_yet_is_no_conflict() {
        let (conflicts, start) = (Conflicts::default(), Instant::now());
        assert_eq!(conflicts.untold(start, 3, false), None);
        assert_eq!(conflicts.untold(start, 3, true), None, "forgotten");
        assert_eq!(conflicts.untold(start, 4, true), Some(1));
    }

    #[test]
    fn who_and_what_is_named() {
        let claim = Claim { mac: [2, 0, 0, 0, 0, 7], vip: 1, farm: true };
        let vip = Some(IpAddr::from([192, 168, 1, 222]));
        for (claim, vip, part) in [
            (claim, vip, "has the VIP 192.168.1.222 too"),
            (claim, None, "has a virtual MAC of this farm"),
            (Claim { farm: false, ..claim }, vip, "claims 192.168.1.222 as its own"),
        ] {
            let words = words(claim, vip, 5);
            assert!(words.contains(part) && words.contains("02:00:00:00:00:07"), "{words}");
        }
    }
}
