//! The frames that tell clients a MAC: ARP replies nobody asked for, and neighbour advertisements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::teller::Teller;
use crate::{
    agent::conflicts::checksum,
    model::{Mac, VlanTags},
    plan::HeldVip,
};

/// All nodes of the link (RFC 4291 section 2.7.1), and their group's MAC (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const BROADCAST: Mac = Mac([0xff; 6]);

/// The same, with a request for machines that believe no reply which they have not asked for (RFC 5227
/// section 3).
pub(in crate::agent) fn to_all_and_sundry(teller: Teller, vip: HeldVip) -> Vec<Vec<u8>> {
    let request = |addr: Ipv4Addr| {
        let header = ethernet(BROADCAST, teller.mac, vip.tags);
        [header, arp(REQUEST, teller.mac, addr, Mac([0; 6]))].concat()
    };
    let request = match vip.addr {
        IpAddr::V4(addr) => Some(request(addr)),
        IpAddr::V6(_) => None,
    };
    to_all(teller, vip).into_iter().chain(request).collect()
}

/// That all clients are to send to the teller's own MAC.
pub(super) fn to_all(teller: Teller, vip: HeldVip) -> Option<Vec<u8>> {
    match vip.addr {
        IpAddr::V4(_) => to_one(teller, vip, teller.mac, (BROADCAST, vip.addr)),
        IpAddr::V6(_) => to_one(teller, vip, teller.mac, (ALL_NODES_MAC, ALL_NODES.into())),
    }
}

/// That the client is to send to that MAC. `None` if the teller has no address to say it from.
pub(super) fn to_one(
    teller: Teller,
    vip: HeldVip,
    mac: Mac,
    (client_mac, client): (Mac, IpAddr),
) -> Option<Vec<u8>> {
    let ethernet = ethernet(client_mac, teller.mac, vip.tags);
    let body = match (vip.addr, client) {
        (IpAddr::V4(vip), _) => arp(REPLY, mac, vip, mac),
        (IpAddr::V6(vip), IpAddr::V6(client)) => advertisement(vip, mac, teller.address?, client),
        (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    Some([ethernet, body].concat())
}

fn ethernet(to: Mac, from: Mac, VlanTags { outer, inner }: VlanTags) -> Vec<u8> {
    let mut header = [to.0, from.0].concat();
    // IEEE 802.1ad around IEEE 802.1Q.
    for (kind, id) in [([0x88, 0xa8], outer), ([0x81, 0x00], inner)] {
        if id != 0 {
            header.extend(kind);
            header.extend(id.to_be_bytes());
        }
    }
    header
}

/// Operations of ARP (RFC 826).
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Sender and target are both the VIP: what Linux takes for gratuitous, so that it believes it whenever
/// it last learnt another MAC.
fn arp(operation: u8, sender: Mac, vip: Ipv4Addr, target: Mac) -> Vec<u8> {
    // Ethernet type ARP; Ethernet, IPv4, their lengths.
    let head = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0, &vip.octets(), &target.0, &vip.octets()].concat()
}

/// Unsolicited, with the override flag and the target's link-layer address (RFC 4861 sections 4.4 and
/// 7.2.6).
fn advertisement(vip: Ipv6Addr, mac: Mac, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(vip.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    let length = u16::try_from(message.len()).expect("32 bytes").to_be_bytes();
    // Length and next header stand in the pseudo-header too (RFC 8200 section 8.1).
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0], &length, &[0, 0, 0, 58]].concat();
    let checksum = checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&checksum);
    // Ethernet type IPv6; version, length, ICMPv6, hop limit 255.
    let header = [&[0x86, 0xdd, 0x60, 0, 0, 0][..], &length, &[58, 255]].concat();
    [&header[..], &from.octets(), &to.octets(), &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Mac = Mac([2, 0, 0, 0, 1, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0x12]);

    const TELLER: Teller = Teller {
        mac: Mac([2, 0, 0, 0, 0, 0x11]),
        address: Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x11)),
    };

    fn vip(addr: &str, tags: VlanTags) -> HeldVip {
        HeldVip { addr: addr.parse().expect("an address"), tags, vmac: None, floats: false }
    }

    #[test]
    fn all_are_told_the_own_mac_by_a_gratuitous_reply() {
        let frame = to_all(TELLER, vip("10.0.0.100", VlanTags::default())).expect("a frame");
        let own = TELLER.mac.0;
        let expected: [&[u8]; 7] = [
            &[0xff; 6],
            &own,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &own,
            &[10, 0, 0, 100],
            &own,
            &[10, 0, 0, 100],
        ];
        assert_eq!(frame, expected.concat());
    }

    #[test]
    fn one_is_told_anothers_mac_by_name_in_its_vlan() {
        let tags = VlanTags { outer: 100, inner: 10 };
        let to = (CLIENT, [10, 0, 0, 7].into());
        let frame = to_one(TELLER, vip("10.0.0.100", tags), OTHER, to).expect("a frame");
        assert_eq!(frame[..12], [CLIENT.0, TELLER.mac.0].concat());
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 10, 8, 6]);
        assert_eq!((&frame[30..36], &frame[40..46]), (&OTHER.0[..], &OTHER.0[..]));
    }

    #[test]
    fn an_advertisement_overrides_and_its_checksum_is_right() {
        let frame = to_all(TELLER, vip("fd00::100", VlanTags::default())).expect("a frame");
        assert_eq!(frame[..6], ALL_NODES_MAC.0);
        let (header, message) = frame[14..].split_at(40);
        assert_eq!(header[..8], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!((message[0], message[4]), (136, 0x20));
        assert_eq!(message[24..], [&[2, 1][..], &TELLER.mac.0].concat());
        let pseudo = [&header[8..], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&pseudo[..], message].concat()), [0, 0]);
        let without = Teller { address: None, ..TELLER };
        assert_eq!(to_all(without, vip("fd00::100", VlanTags::default())), None);
        assert!(
            to_all(without, vip("10.0.0.100", VlanTags::default())).is_some(),
            "ARP needs none"
        );
    }
}
