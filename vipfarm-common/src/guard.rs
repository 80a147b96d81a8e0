//! What may leave a node (TC egress): nothing that tells the network another MAC for a VIP than
//! its VMAC (T1, T3), nothing that lets a switch learn the VMAC (T2), no question asked as a VIP
//! whose answer would come to one node only, and no claim to a VIP with a MAC that does not serve it.
//!
//! Sysctls steer the kernel's own ARP only; tools that write frames themselves pass here too. So does
//! what a node says whose agent is frozen or dead: its lease is over.

use crate::{
    layout::{Generation, MAX_VIPS, State, VIP_DIRECTED, VIP_FAILOVER, mac_word},
    packet::{Head, Packet, Tables},
    vip::{self, ETHERTYPE_ARP, ETHERTYPE_IPV6, Ethernet, ICMPV6},
};

/// What the guard did: index of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Guarded {
    /// Nothing to correct. Not counted.
    Clean = 0,
    /// An ARP packet that spoke for a VIP now carries the VMAC as its hardware address, or, where
    /// the VIP has none, asks as the node.
    Arp = 1,
    /// A frame that had the VMAC as its Ethernet source now carries the node's own.
    Source = 2,
    /// The same as for ARP in a neighbour discovery message.
    Nd = 3,
    /// Not sent: it claimed a VIP that has no VMAC for a MAC that does not serve it now, or asked as one
    /// that others serve too, in the place of which the node has no address to ask with.
    Refused = 4,
}

impl Guarded {
    /// The outcomes that are counted.
    pub const COUNTED: [Self; 4] = [Self::Arp, Self::Source, Self::Nd, Self::Refused];

    /// The word used everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Arp => "arp_corrected",
            Self::Source => "source_corrected",
            Self::Nd => "nd_corrected",
            Self::Refused => "refused",
        }
    }
}

/// VIPs whose nodes answer with their own MACs.
const OWN_MAC: u32 = VIP_DIRECTED | VIP_FAILOVER;

const ARP_REQUEST: [u8; 2] = [0, 1];
/// RFC 4861 sections 4.3, 4.4 and 4.6.1: an option is its type, its length in units of 8 bytes, and
/// for a link-layer address the MAC.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_MAC: [u8; 2] = [1, 1];
const TARGET_MAC: [u8; 2] = [2, 1];
/// Options looked at: the address comes first, or behind a nonce (RFC 7527).
const OPTIONS: usize = 2;

/// Corrects an outgoing frame in place, or refuses it.
#[inline(always)]
pub fn guard<P: Packet, T: Tables>(packet: &P, tables: &T) -> Guarded {
    let Ok(ethernet) = vip::ethernet(packet) else { return Guarded::Clean };
    let own = tables.own_mac();
    let source = ethernet.head.get::<6, 6>();
    let resolves = ethernet.ethertype == ETHERTYPE_ARP || ethernet.ethertype == ETHERTYPE_IPV6;
    if source == own && !resolves {
        return Guarded::Clean;
    }
    let state = tables.state();
    let (now, active) = vip::active(tables, state);
    let mut guarded = Guarded::Clean;
    if source != own && vip::is_vmac(now, mac_word(source)) {
        ethernet.head.set::<6, 6>(own);
        guarded = Guarded::Source;
    }
    let said = Said { tables, state, now, active };
    let spoken = match ethernet.ethertype {
        ETHERTYPE_ARP => said.arp(packet, &ethernet),
        ETHERTYPE_IPV6 => said.neighbour(packet, &ethernet),
        _ => Guarded::Clean,
    };
    if spoken == Guarded::Clean { guarded } else { spoken }
}

/// What a node says, and what it is judged by.
struct Said<'a, T: Tables> {
    tables: &'a T,
    state: &'a State,
    now: &'a Generation,
    active: u64,
}

impl<T: Tables> Said<'_, T> {
    #[inline(always)]
    fn arp<P: Packet>(&self, packet: &P, ethernet: &Ethernet<P::Head<14>>) -> Guarded {
        let Some(arp) = packet.head::<28>(ethernet.network) else { return Guarded::Clean };
        let claimed =
            vip::look_up_v4(self.now, self.active, arp.get::<14, 4>(), ethernet.vlans).vip;
        if claimed == 0 {
            return Guarded::Clean;
        }
        let mac = mac_word(arp.get::<8, 6>());
        if claimed & OWN_MAC != 0 {
            let asks = arp.get::<6, 2>() == ARP_REQUEST;
            let announces = arp.get::<24, 4>() == arp.get::<14, 4>();
            if !asks {
                return self.claim(claimed, mac);
            }
            // A question teaches the MAC to everybody who hears it.
            if announces && claimed & VIP_FAILOVER != 0 && self.is_true(claimed, mac) {
                return Guarded::Clean;
            }
            let [asker, _] = self.now.askers[claimed as usize & (2 * MAX_VIPS - 1)];
            if asker == 0 {
                return self.question(claimed, mac);
            }
            let [a, b, c, d, ..] = asker.to_ne_bytes();
            arp.set::<14, 4>([a, b, c, d]);
            return Guarded::Arp;
        }
        let vmac = self.now.vmacs[claimed as usize & (2 * MAX_VIPS - 1)];
        if mac == vmac {
            return Guarded::Clean;
        }
        let [a, b, c, d, e, f, ..] = vmac.to_ne_bytes();
        arp.set::<8, 6>([a, b, c, d, e, f]);
        Guarded::Arp
    }

    #[inline(always)]
    fn neighbour<P: Packet>(&self, packet: &P, ethernet: &Ethernet<P::Head<14>>) -> Guarded {
        let Some(message) = packet.head::<64>(ethernet.network) else { return Guarded::Clean };
        let [kind] = message.get::<40, 1>();
        if message.get::<6, 1>() != [ICMPV6] || kind != SOLICITATION && kind != ADVERTISEMENT {
            return Guarded::Clean;
        }
        let (speaks_for, option) = if kind == SOLICITATION {
            (message.get::<8, 16>(), SOURCE_MAC)
        } else {
            (message.get::<48, 16>(), TARGET_MAC)
        };
        let claimed = vip::look_up_v6(self.now, self.active, speaks_for, ethernet.vlans).vip;
        let checksum = message.get::<42, 2>();
        if claimed == 0 {
            return Guarded::Clean;
        }
        if claimed & OWN_MAC != 0 && kind == SOLICITATION {
            let [high, low] = self.now.askers[claimed as usize & (2 * MAX_VIPS - 1)];
            if high | low != 0 {
                let own = join(high.to_ne_bytes(), low.to_ne_bytes());
                message.set::<8, 16>(own);
                message.set::<42, 2>(adjusted(checksum, &speaks_for, &own));
                return Guarded::Nd;
            }
        }
        let vmac = self.now.vmacs[claimed as usize & (2 * MAX_VIPS - 1)];
        // An advertisement without the option is about the station that sends it.
        let mut named = mac_word(ethernet.head.get::<6, 6>());
        let mut index = 0;
        while index < OPTIONS {
            let Some(found) = packet.head::<8>(ethernet.network + 64 + 8 * index) else { break };
            let mac = found.get::<2, 6>();
            if found.get::<0, 2>() == option {
                named = mac_word(mac);
                if claimed & OWN_MAC == 0 && named != vmac {
                    let [a, b, c, d, e, f, ..] = vmac.to_ne_bytes();
                    found.set::<2, 6>([a, b, c, d, e, f]);
                    message.set::<42, 2>(adjusted(checksum, &mac, &[a, b, c, d, e, f]));
                    return Guarded::Nd;
                }
                break;
            }
            index += 1;
        }
        if claimed & OWN_MAC == 0 {
            Guarded::Clean
        } else if kind == SOLICITATION {
            self.question(claimed, named)
        } else {
            self.claim(claimed, named)
        }
    }

    /// Of a question as a VIP for which there is no other address: its holder may put it, for the answer is
    /// for it.
    #[inline(always)]
    fn question(&self, vip: u32, mac: u64) -> Guarded {
        if vip & VIP_FAILOVER == 0 { Guarded::Refused } else { self.claim(vip, mac) }
    }

    #[inline(always)]
    fn claim(&self, vip: u32, mac: u64) -> Guarded {
        if self.is_true(vip, mac) { Guarded::Clean } else { Guarded::Refused }
    }

    /// Whether what is for that VIP may be sent to that MAC, and this node is to say so: of a failover
    /// VIP, its holder; where several nodes serve, each of them, which tells clients of the others too.
    #[inline(always)]
    fn is_true(&self, vip: u32, mac: u64) -> bool {
        let leased = self.tables.boot_ns() < self.tables.volatile(&self.state.control.deadline_ns);
        let own = mac == mac_word(self.tables.own_mac());
        if vip & VIP_FAILOVER == 0 {
            return leased && (own || vip::is_peer(self.now, mac));
        }
        let group = self.now.vip_rules[vip as usize & (2 * MAX_VIPS - 1)].resolve;
        leased && own && vip::is_mine(self.tables, self.now, group, 0)
    }
}

#[inline(always)]
const fn join(high: [u8; 8], low: [u8; 8]) -> [u8; 16] {
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (high, low);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// The Internet checksum after bytes at an even offset changed (RFC 1624, equation 3).
#[inline(always)]
fn adjusted<const N: usize>(checksum: [u8; 2], old: &[u8; N], new: &[u8; N]) -> [u8; 2] {
    let mut sum = u32::from(!u16::from_be_bytes(checksum));
    let mut at = 0;
    while at < N {
        sum += u32::from(!u16::from_be_bytes([old[at], old[at + 1]]));
        sum += u32::from(u16::from_be_bytes([new[at], new[at + 1]]));
        at += 2;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_adjusted_as_if_it_were_computed_anew() {
        let sum = |bytes: &[u8]| {
            let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
            let sum: u32 = words.sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            let [.., high, low] = (!((sum & 0xffff) + (sum >> 16))).to_be_bytes();
            [high, low]
        };
        let (old, new) = ([0xff, 0xfe, 0, 1, 0x80, 0x7f], [0x5a, 0xfe, 10, 9, 0, 100]);
        let whole = |part: [u8; 6]| [&[1, 2, 3, 4][..], &part, &[0xff, 0xff]].concat();
        assert_eq!(adjusted(sum(&whole(old)), &old, &new), sum(&whole(new)));
        assert_eq!(adjusted(sum(&whole(old)), &old, &old), sum(&whole(old)));
    }
}
