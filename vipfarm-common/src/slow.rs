//! Everything variable or rare: IPv4 options, fragments, ICMP, ARP, and the lease near its end.
//!
//! A superset of [`crate::filter()`]: forced through here, every frame gets the same verdict.

use crate::{
    hash,
    layout::{
        Claim, Generation, MAX_PEERS, MAX_VIPS, RESOLVE_GROUP, State, VIP_CLOSED, VIP_NO_ECHO,
        mac_word, mix, multiplier,
    },
    packet::{Head, Packet, Tables},
    reason::{Outcome, Reason},
    vip::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, Ethernet, FRAGMENT, ICMP, TCP, UDP},
};

const ECHO_REQUEST: u8 = 8;
const DESTINATION_UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

const ARP_REQUEST: [u8; 2] = [0, 1];
/// Hardware type Ethernet, protocol type IPv4, lengths 6 and 4 (RFC 826).
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// The same decision as [`crate::decide`] for every frame, without the hot path's short cuts.
#[inline(always)]
pub fn slow<P: Packet, T: Tables>(packet: &P, tables: &T) -> Outcome {
    match judge(packet, tables) {
        Ok(outcome) => outcome,
        Err(reason) => reason.into(),
    }
}

/// `Ok` is an owner's verdict, `Err` a reason why it does not come to one.
#[inline(always)]
fn judge<P: Packet, T: Tables>(packet: &P, tables: &T) -> Result<Outcome, Reason> {
    let ethernet = vip::ethernet(packet)?;
    let state = tables.state().ok_or(Reason::Broken)?;
    let (now, active) = vip::active(tables, state);
    let frame = Frame { packet, tables, state, now, active, ethernet };
    match frame.ethernet.ethertype {
        ETHERTYPE_IPV4 => frame.ipv4(),
        ETHERTYPE_ARP => frame.arp(),
        _ => Err(Reason::NotIp),
    }
}

/// A frame and what it is judged by.
struct Frame<'a, P: Packet, T: Tables> {
    packet: &'a P,
    tables: &'a T,
    state: &'a State,
    /// The generation in force, and the word that says which.
    now: &'a Generation,
    active: u64,
    ethernet: Ethernet<P::Head<14>>,
}

impl<P: Packet, T: Tables> Frame<'_, P, T> {
    /// Whether the VIP serves at all at this moment.
    #[inline(always)]
    fn serves(&self, vip: u32) -> Result<(), Reason> {
        if self.tables.boot_ns() >= self.tables.volatile(&self.state.control.deadline_ns) {
            Err(Reason::Fenced)
        } else if vip & VIP_CLOSED != 0 {
            Err(Reason::Closed)
        } else {
            Ok(())
        }
    }

    #[inline(always)]
    fn ipv4(&self) -> Result<Outcome, Reason> {
        let &Self { packet, tables, now, active, ref ethernet, .. } = self;
        // Too short for an IPv4 header: no address to go by, and the stack refuses it.
        let ip = packet.head::<20>(ethernet.network).ok_or(Reason::NotVip)?;
        let addr = u32::from_ne_bytes(ip.get::<16, 4>());
        let vip = vip::find(now, active, addr);
        if vip == 0 {
            return Err(Reason::NotVip);
        }
        if !vip::claim(&ethernet.head, tables, now, vip) {
            return Err(Reason::OtherMac);
        }
        self.serves(vip)?;
        let [version_ihl] = ip.get::<0, 1>();
        if version_ihl >> 4 != 4 || version_ihl & 15 < 5 {
            return Err(Reason::Malformed);
        }
        if u16::from_be_bytes(ip.get::<6, 2>()) & FRAGMENT != 0 {
            return Err(Reason::Fragment);
        }
        let transport = ethernet.network + usize::from(version_ihl & 15) * 4;
        let client = ip.get::<12, 4>();
        let [proto] = ip.get::<9, 1>();
        let flow = match proto {
            TCP | UDP => {
                let [a, b, c, d] = packet.at::<4>(transport).ok_or(Reason::Malformed)?;
                Flow {
                    client,
                    client_port: [a, b],
                    vip_port: [c, d],
                    ip_id: ip.get::<4, 2>(),
                    proto,
                }
            }
            ICMP => icmp(packet, vip, addr, client, transport)?,
            _ => return Err(Reason::OtherProto),
        };
        flow.owner(tables, now, mix(addr, multiplier(active)), vip)
    }

    /// Address resolution: exactly one node answers a request, every node hears a reply (T4, T5).
    #[inline(always)]
    fn arp(&self) -> Result<Outcome, Reason> {
        let &Self { packet, tables, now, active, ref ethernet, .. } = self;
        let arp = packet.head::<28>(ethernet.network).ok_or(Reason::NotVip)?;
        if arp.get::<0, 6>() != ARP_ETHERNET_IPV4 {
            return Err(Reason::NotVip);
        }
        let sender_mac = arp.get::<8, 6>();
        let sender = arp.get::<14, 4>();
        let target = u32::from_ne_bytes(arp.get::<24, 4>());
        let vmac = arp.get::<18, 6>();
        let (from_peer, names_vmac) = known(now, sender_mac, vmac);
        let claimed = vip::find(now, active, u32::from_ne_bytes(sender));
        let vip = vip::find(now, active, target);
        let from_vmac = now.vmacs[claimed as usize & (2 * MAX_VIPS - 1)] == mac_word(sender_mac);
        let request = arp.get::<6, 2>() == ARP_REQUEST;
        // What another farm's node asks for is the VIP it holds, and it says with which VMAC (T34).
        let names_mac = mac_word(vmac) != 0 && vmac[0] & 1 == 0;
        let by_farm = request && sender == [0; 4] && (names_vmac || names_mac && vip != 0);
        if (by_farm || claimed != 0 && !from_vmac) && !from_peer {
            let [vip, ..] = if by_farm { vip } else { claimed }.to_le_bytes();
            tables.note_claim(Claim { mac: sender_mac, vip, farm: by_farm });
            return Err(Reason::ArpConflict);
        }
        if vip == 0 {
            return Err(Reason::NotVip);
        }
        if !vip::claim(&ethernet.head, tables, now, vip) {
            return Err(Reason::OtherMac);
        }
        if !request {
            // The answer to a node that asked as the VIP came to the VMAC, hence to every node.
            return Err(Reason::ArpReply);
        }
        if claimed != 0 || from_peer {
            return Err(Reason::ArpPeer);
        }
        self.serves(vip)?;
        let key = tables.hash_key();
        let hash = if sender == [0; 4] {
            hash::hash_mac(key, sender_mac)
        } else {
            hash::hash_v4(key, sender, [0; 2], hash::ARP)
        };
        Ok(vip::owner_of(tables, now, RESOLVE_GROUP, hash))
    }
}

/// What the bucket of an IPv4 packet is taken from: its own header, or the one an ICMP error
/// quotes with the roles swapped.
struct Flow {
    client: [u8; 4],
    client_port: [u8; 2],
    vip_port: [u8; 2],
    ip_id: [u8; 2],
    proto: u8,
}

impl Flow {
    #[inline(always)]
    fn owner<T: Tables>(
        &self,
        tables: &T,
        now: &Generation,
        mixed: u64,
        vip: u32,
    ) -> Result<Outcome, Reason> {
        if self.proto == ICMP {
            let hash = hash::hash_v4(tables.hash_key(), self.client, [0; 2], ICMP);
            return Ok(vip::owner_of(tables, now, RESOLVE_GROUP, hash));
        }
        let port = u16::from_ne_bytes(self.vip_port);
        let rule = vip::rule_of(now, mixed, vip, self.proto == UDP, port);
        if rule == 0 {
            return Err(Reason::NoRule);
        }
        let field = vip::field_of(rule, self.client_port, self.ip_id);
        let hash = hash::hash_v4(tables.hash_key(), self.client, field, self.proto);
        Ok(vip::owner_of(tables, now, rule & 0xff, hash))
    }
}

/// Echo requests go by the client's address (T10), errors by the packet that they quote (T9).
#[inline(always)]
fn icmp<P: Packet>(
    packet: &P,
    vip: u32,
    addr: u32,
    client: [u8; 4],
    transport: usize,
) -> Result<Flow, Reason> {
    let [kind, ..] = packet.at::<8>(transport).ok_or(Reason::Malformed)?;
    match kind {
        ECHO_REQUEST if vip & VIP_NO_ECHO != 0 => Err(Reason::EchoDenied),
        ECHO_REQUEST => {
            Ok(Flow { client, client_port: [0; 2], vip_port: [0; 2], ip_id: [0; 2], proto: ICMP })
        }
        DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM => {
            quoted(packet, addr, transport + 8)
        }
        _ => Err(Reason::IcmpType),
    }
}

/// The flow of the packet that an ICMP error quotes (RFC 792: its IP header and 8 bytes more).
/// That packet was sent *by* the VIP, so its destination is the client.
#[inline(always)]
fn quoted<P: Packet>(packet: &P, addr: u32, inner: usize) -> Result<Flow, Reason> {
    let ip = packet.at::<20>(inner).ok_or(Reason::Malformed)?;
    if ip[0] >> 4 != 4 || ip[0] & 15 < 5 {
        return Err(Reason::Malformed);
    }
    if u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]) != addr {
        return Err(Reason::IcmpForeign);
    }
    let client = [ip[16], ip[17], ip[18], ip[19]];
    let proto = ip[9];
    match proto {
        TCP | UDP => {
            // A later fragment of a reply quotes no ports.
            if u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
                return Err(Reason::Fragment);
            }
            let ports = inner + usize::from(ip[0] & 15) * 4;
            let [a, b, c, d] = packet.at::<4>(ports).ok_or(Reason::Malformed)?;
            // The reply's IP-ID says nothing of the request's: such rules go by the address.
            Ok(Flow { client, client_port: [c, d], vip_port: [a, b], ip_id: [0; 2], proto })
        }
        ICMP => Ok(Flow { client, client_port: [0; 2], vip_port: [0; 2], ip_id: [0; 2], proto }),
        _ => Err(Reason::IcmpForeign),
    }
}

/// Whether `mac` is a farm node's and `vmac` a VIP's. In one loop, and before the caller's paths
/// part: the verifier walks it once for each of them.
#[inline(always)]
fn known(now: &Generation, mac: [u8; 6], vmac: [u8; 6]) -> (bool, bool) {
    const { assert!(MAX_PEERS == MAX_VIPS) }
    let (mac, vmac) = (mac_word(mac), mac_word(vmac));
    let (mut is_peer, mut is_vmac) = (false, false);
    let mut index = 0;
    while index < MAX_PEERS {
        is_peer |= now.peers[index] == mac;
        is_vmac |= now.vmacs[index + 1] == vmac;
        index += 1;
    }
    (is_peer && mac != 0, is_vmac && vmac != 0)
}
