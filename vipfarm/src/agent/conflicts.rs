//! Other farms, and other machines, that use what is this farm's (T34): how they are found, and what
//! is told of them.
//!
//! How another farm answers for a VIP is heard by the client alone that asked. So the first serving
//! node of each farm asks for its own VIPs from time to time, by ARP probes: they come from no IP
//! address, so nobody learns anything from them (RFC 5227, section 2.1.1), and name the virtual MAC,
//! or the node's own if there is none, where the target's hardware address has its place, so that a
//! farm's probe is known as one. The filters of the farm's own nodes drop it; those of another farm with
//! that VIP or virtual MAC count it as a conflict; a machine that simply has the address answers, which
//! is one too, to the node alone that asked. So where a check wants to know (`claimed: false`), every
//! node asks, also one that serves nothing because that check fails: two farms with one VIP that both
//! have such a check go on hearing each other.
//!
//! For IPv6 it is what duplicate address detection sends (RFC 4862, section 5.4.2), which has no
//! place for a virtual MAC: what makes it known as a farm's is the node's MAC in the place of a random
//! number (RFC 7527), which no other machine reads.

use std::{
    collections::BTreeMap,
    io,
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use vipfarm_common::{
    Reason,
    layout::{Claim, ClaimKind},
};

use super::CONFLICT_ROUND;
use crate::{
    model::{Mac, Probe, VlanTags},
    net::Interface,
    plan::HeldVip,
};

/// How often a farm asks for each of its VIPs.
pub const PROBE_ROUND: Duration = Duration::from_secs(2);

/// A look at what has been heard must not fall between two answers.
const _: () = assert!(
    (PROBE_ROUND.as_millis() + CONFLICT_ROUND.as_millis()) < Probe::SHORTEST_UNCLAIMED.as_millis()
);

/// The least time between two events of one interface: a conflict lasts until somebody mends it.
const PAUSE: Duration = Duration::from_mins(1);

/// A link-layer address for a group of addresses begins so (RFC 2464 section 7).
const GROUP: [u8; 2] = [0x33, 0x33];
/// Of a VIP's solicited-node address, all but the last three bytes (RFC 4291 section 2.7.1).
const SOLICITED_NODE: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
/// Protocol number and type of a neighbour solicitation (RFC 4861 section 4.3), and the hop limit
/// that proves it is from this link.
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
/// Kind and length of the option (RFC 7527 section 4.1).
const NONCE: [u8; 2] = [14, 1];
const NEAR: u8 = 255;

/// Sends the farm's probes.
#[derive(Debug)]
pub struct Prober {
    socket: OwnedFd,
}

impl Prober {
    /// A prober that can send.
    pub fn open() -> anyhow::Result<Self> {
        // Protocol 0: it hears nothing.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot open a packet socket: run as root, or with CAP_NET_RAW")?;
        Ok(Self { socket })
    }

    /// Asks once for each VIP, with its virtual MAC, on its interface. What cannot be sent now, for
    /// want of a carrier say, is sent in the next round.
    pub fn probe<'i>(&self, vips: impl Iterator<Item = (&'i Interface, HeldVip)>) {
        for (interface, vip) in vips {
            let vmac = vip.vmac.unwrap_or(interface.mac);
            let frame = match vip.addr {
                IpAddr::V4(addr) => probe_v4(interface.mac, vmac, addr),
                IpAddr::V6(addr) => probe_v6(interface.mac, addr),
            };
            let _unsent = send(&self.socket, interface.index, &tagged(&frame, vip.tags));
        }
    }
}

/// An ARP probe.
fn probe_v4(sender: Mac, vmac: Mac, vip: Ipv4Addr) -> Vec<u8> {
    let fields: [&[u8]; 8] = [
        &[0xff; 6],
        &sender.0,
        &[0x08, 0x06],
        // Ethernet, IPv4, their lengths, a request.
        &[0, 1, 8, 0, 6, 4, 0, 1],
        &sender.0,
        &Ipv4Addr::UNSPECIFIED.octets(),
        &vmac.0,
        &vip.octets(),
    ];
    fields.concat()
}

/// The solicitation of duplicate address detection: from no address, hence without a link-layer
/// address to learn. Its nonce is the node's MAC.
fn probe_v6(source: Mac, vip: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = vip.octets();
    let group = [&SOLICITED_NODE[..], &[a, b, c]].concat();
    // Type, code, checksum, reserved, target, option.
    let message = |checksum: [u8; 2]| {
        [&[SOLICITATION, 0], &checksum[..], &[0; 4], &vip.octets(), &NONCE, &source.0].concat()
    };
    let unsummed = message([0; 2]);
    let length = u16::try_from(unsummed.len()).expect("32 bytes").to_be_bytes();
    // RFC 8200 section 8.1: source, destination, length and protocol count too.
    let pseudo_header =
        [&Ipv6Addr::UNSPECIFIED.octets()[..], &group, &[0, 0], &length, &[0, 0, 0, ICMPV6]];
    let checksum = checksum(&[&pseudo_header.concat()[..], &unsummed].concat());
    let fields: [&[u8]; 9] = [
        &[GROUP[0], GROUP[1], 0xff, a, b, c],
        &source.0,
        &[0x86, 0xdd],
        // Version, traffic class, flow label.
        &[0x60, 0, 0, 0],
        &length,
        &[ICMPV6, NEAR],
        &Ipv6Addr::UNSPECIFIED.octets(),
        &group,
        &message(checksum),
    ];
    fields.concat()
}

/// The Internet checksum of an even number of bytes (RFC 1071).
pub(super) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let [.., a, b] = (!((sum & 0xffff) + (sum >> 16))).to_be_bytes();
    [a, b]
}

/// The frame with the tags of a VLAN (IEEE 802.1ad and 802.1Q).
fn tagged(frame: &[u8], tags: VlanTags) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    let mut tagged = macs.to_vec();
    for (kind, id) in [([0x88, 0xa8], tags.outer), ([0x81, 0x00], tags.inner)] {
        if id != 0 {
            tagged.extend(kind);
            tagged.extend(id.to_be_bytes());
        }
    }
    tagged.extend(rest);
    tagged
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

/// The conflicts on one interface.
#[derive(Debug)]
pub struct Conflicts(Mutex<Told>);

/// What has been told of them.
#[derive(Debug)]
struct Told {
    count: u64,
    /// When more may be.
    next: Option<Instant>,
    /// Words of the last claim, until they are told.
    words: Option<String>,
}

impl Conflicts {
    /// So many were told of by a former agent.
    pub fn since(count: u64) -> Self {
        Self(Mutex::new(Told { count, next: None, words: None }))
    }

    /// What is to be told now that `count` have been counted, in the `words` for a stranger's last claim;
    /// `None` if there has been none since the last time. What has been counted without one is never told.
    pub fn untold(&self, now: Instant, count: u64, words: Option<String>) -> Option<String> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.words = words.or_else(|| told.words.take());
        if told.words.is_none() {
            told.count = count;
        }
        if count <= told.count || told.next.is_some_and(|next| now < next) {
            return None;
        }
        let more = count - told.count;
        (told.count, told.next) = (count, Some(now + PAUSE));
        told.words.take().map(|words| format!("{words} ({more} packets)"))
    }
}

/// How many of the packets counted were another's claims.
pub fn among(packets: &BTreeMap<Reason, u64>) -> u64 {
    let claims = [Reason::ArpConflict, Reason::NdConflict, Reason::ArpProbe, Reason::NdProbe];
    claims.iter().map(|claim| packets[claim]).sum()
}

/// What is told of a claim; `vip` is the address that it is about.
pub fn words(claim: Claim, vip: Option<IpAddr>) -> String {
    let mac = Mac(claim.mac);
    let named = || vip.map_or_else(|| "a VIP".to_owned(), |vip| vip.to_string());
    match (claim.kind, vip) {
        (ClaimKind::Farm, Some(vip)) => format!(
            "another farm, of which {mac} is a node, has the VIP {vip} too: clients are answered twice; give each farm addresses of its own"
        ),
        (ClaimKind::Farm, None) => format!(
            "another farm, of which {mac} is a node, has a virtual MAC of this farm: give its VIP another `vmac`"
        ),
        (ClaimKind::Asks, _) => format!(
            "another machine, {mac}, asks whether {} is free, and is told that it is not: give it an address of its own",
            named()
        ),
        (ClaimKind::Holds, Some(IpAddr::V6(vip))) => format!(
            "another machine, or a node of another farm, {mac}, claims {vip} as its own: take the address from it, or give each farm addresses of its own"
        ),
        (ClaimKind::Holds, _) => {
            format!(
                "another machine, {mac}, claims {} as its own: take the address from it",
                named()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_speaks_for_no_address_and_names_the_virtual_mac() {
        let (nic, vmac) = (Mac([2; 6]), Mac([0x5a; 6]));
        let frame = probe_v4(nic, vmac, Ipv4Addr::new(192, 168, 1, 222));
        assert_eq!(
            frame[..22],
            [&[0xff; 6][..], &[2; 6], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat()[..]
        );
        assert_eq!(
            frame[22..],
            [&[2; 6][..], &[0; 4], &[0x5a; 6], &[192, 168, 1, 222]].concat()[..]
        );
    }

    #[test]
    fn a_solicitation_asks_the_vips_group_for_nobody_with_a_right_checksum() {
        let vip: Ipv6Addr = "fd00::12:3456".parse().expect("an address");
        let frame = probe_v6(Mac([2; 6]), vip);
        let ethernet = [&[0x33, 0x33, 0xff, 0x12, 0x34, 0x56][..], &[2; 6], &[0x86, 0xdd]];
        assert_eq!(frame[..14], ethernet.concat()[..]);
        let group: Ipv6Addr = "ff02::1:ff12:3456".parse().expect("an address");
        let header = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &[0; 16], &group.octets()];
        assert_eq!(frame[14..54], header.concat()[..]);
        assert_eq!((frame[54], &frame[62..78]), (135, &vip.octets()[..]));
        assert_eq!(frame[78..], [14, 1, 2, 2, 2, 2, 2, 2], "no address to learn");
        let summed = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &frame[54..]].concat();
        assert_eq!(checksum(&summed), [0; 2], "with its checksum, nothing is left");
    }

    #[test]
    fn a_probe_for_a_vip_in_a_vlan_has_its_tags() {
        let frame = probe_v4(Mac([2; 6]), Mac([0x5a; 6]), Ipv4Addr::LOCALHOST);
        assert_eq!(tagged(&frame, VlanTags::default()), frame);
        let one = tagged(&frame, VlanTags { outer: 0, inner: 258 });
        assert_eq!(one, [&frame[..12], &[0x81, 0, 1, 2], &frame[12..]].concat());
        let two = tagged(&frame, VlanTags { outer: 20, inner: 10 });
        assert_eq!(two[12..22], [0x88, 0xa8, 0, 20, 0x81, 0, 0, 10, 8, 6]);
    }

    #[test]
    fn a_conflict_that_lasts_is_told_of_once_a_minute_with_all_that_came() {
        let (conflicts, start) = (Conflicts::since(0), Instant::now());
        let untold = |after, count, words: Option<&str>| {
            conflicts.untold(start + after, count, words.map(str::to_owned))
        };
        let told = |words: &str| Some(words.to_owned());
        assert_eq!(untold(Duration::ZERO, 0, None), None);
        // The claim is there a moment before it is counted.
        assert_eq!(untold(Duration::ZERO, 0, Some("one")), None);
        assert_eq!(untold(Duration::ZERO, 2, None), told("one (2 packets)"));
        assert_eq!(untold(PAUSE / 2, 20, Some("two")), None);
        assert_eq!(untold(PAUSE / 2, 40, None), None);
        assert_eq!(untold(PAUSE, 40, None), told("two (38 packets)"), "though nobody claims now");
        assert_eq!(untold(3 * PAUSE, 40, None), None);
    }

    #[test]
    fn a_member_that_was_not_known_yet_is_no_conflict() {
        let (conflicts, start) = (Conflicts::since(0), Instant::now());
        let words = || Some("one".to_owned());
        assert_eq!(conflicts.untold(start, 3, None), None);
        assert_eq!(conflicts.untold(start, 3, words()), None, "forgotten");
        assert_eq!(conflicts.untold(start, 4, words()), Some("one (1 packets)".into()));
    }

    #[test]
    fn who_and_what_is_named() {
        let claim = |kind| Claim { mac: [2, 0, 0, 0, 0, 7], vip: 1, kind };
        let vip = Some(IpAddr::from([192, 168, 1, 222]));
        let vip6 = Some(IpAddr::from(Ipv6Addr::LOCALHOST));
        for (kind, vip, part) in [
            (ClaimKind::Holds, vip6, "or a node of another farm, 02:"),
            (ClaimKind::Farm, vip, "has the VIP 192.168.1.222 too"),
            (ClaimKind::Farm, None, "has a virtual MAC of this farm"),
            (ClaimKind::Holds, vip, "claims 192.168.1.222 as its own"),
            (ClaimKind::Asks, vip, "asks whether 192.168.1.222 is free"),
        ] {
            let words = words(claim(kind), vip);
            assert!(words.contains(part) && words.contains("02:00:00:00:00:07"), "{words}");
        }
    }
}
