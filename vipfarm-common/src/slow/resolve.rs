//! Address resolution: exactly one node answers a request, every node hears a reply (T4, T5, T6, T7).

use super::{Address, Frame, V4, V6};
use crate::{
    hash,
    layout::{Claim, ClaimKind, MAX_VIPS, VIP_DIRECTED, VIP_FAILOVER, mac_word},
    packet::{Head, Packet, Requester, Tables},
    reason::{Outcome, Reason},
    vip,
};

const ARP_REQUEST: [u8; 2] = [0, 1];
/// Hardware type Ethernet, protocol type IPv4, lengths 6 and 4 (RFC 826).
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// RFC 4861 sections 4.3 and 4.4.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The option with which others make sure that they do not hear themselves, and its length (RFC 7527).
const NONCE: [u8; 2] = [14, 1];
/// What no router has let through (RFC 4861 section 7.1).
const NEAR: [u8; 1] = [255];

impl<P: Packet, T: Tables> Frame<'_, P, T> {
    #[inline(always)]
    pub(super) fn arp(&self) -> Result<Outcome, Reason> {
        let &Self { packet, now, active, ref ethernet, .. } = self;
        let arp = packet.head::<28>(ethernet.network).ok_or(Reason::NotVip)?;
        if arp.get::<0, 6>() != ARP_ETHERNET_IPV4 {
            return Err(Reason::NotVip);
        }
        let sender_mac = arp.get::<8, 6>();
        let sender = arp.get::<14, 4>();
        let vmac = arp.get::<18, 6>();
        let from_peer = vip::is_peer(now, mac_word(sender_mac));
        let claimed = vip::look_up_v4(now, active, sender, ethernet.vlans).vip;
        let vip = vip::look_up_v4(now, active, arp.get::<24, 4>(), ethernet.vlans).vip;
        let from_vmac = now.vmacs[claimed as usize & (2 * MAX_VIPS - 1)] == mac_word(sender_mac);
        let request = arp.get::<6, 2>() == ARP_REQUEST;
        // What another farm's node asks for is the VIP it holds, and it says with which VMAC (T34).
        let names_mac = mac_word(vmac) != 0 && vmac[0] & 1 == 0;
        let by_farm = request
            && sender == [0; 4]
            && names_mac
            && (vip != 0 || vip::is_vmac(now, mac_word(vmac)));
        if (by_farm || claimed != 0 && !from_vmac) && !from_peer {
            let (vip, kind) =
                if by_farm { (vip, ClaimKind::Farm) } else { (claimed, ClaimKind::Holds) };
            self.note_claim(sender_mac, vip, kind);
            return Err(Reason::ArpConflict);
        }
        if vip == 0 {
            return Err(Reason::NotVip);
        }
        self.claim(vip)?;
        // Of a failover VIP, the nodes that do not have it are clients like all others.
        let is_client = from_peer && (vip | claimed) & VIP_FAILOVER != 0;
        if claimed != 0 && is_client {
            return Err(Reason::ArpReply);
        }
        if claimed != 0 || from_peer && request && !is_client {
            return Err(Reason::ArpPeer);
        }
        if !request {
            // The answer to a node that asked as the VIP came to the VMAC, hence to every node.
            return Err(Reason::ArpReply);
        }
        let sender = (sender != [0; 4]).then_some(V4(sender));
        let probe = (!from_peer).then_some(Reason::ArpProbe);
        self.answerer(vip, sender, sender_mac, probe)
    }

    /// A neighbour discovery message at `offset`, to that VIP or, 0, to a group of addresses.
    #[inline(always)]
    pub(super) fn neighbour(
        &self,
        offset: usize,
        source: [u8; 16],
        hop_limit: [u8; 1],
        to: u32,
    ) -> Result<Outcome, Reason> {
        let &Self { packet, now, active, ref ethernet, .. } = self;
        // To a group, and not about a VIP: nobody's here.
        let not_ours = if to == 0 { Reason::NotVip } else { Reason::IcmpType };
        let [kind, ..] = packet.at::<8>(offset).ok_or(not_ours)?;
        let target = packet.at::<16>(offset + 8).ok_or(not_ours)?;
        let vip = vip::look_up_v6(now, active, target, ethernet.vlans).vip;
        if kind == ADVERTISEMENT && vip == 0 && to != 0 {
            // The answer to a node that asked as the VIP came to the VMAC, hence to every node.
            return Err(Reason::NdReply);
        }
        if vip == 0 || kind != SOLICITATION && kind != ADVERTISEMENT {
            return Err(not_ours);
        }
        if hop_limit != NEAR {
            return Err(Reason::Malformed);
        }
        self.claim(vip)?;
        let mac = ethernet.head.get::<6, 6>();
        let from_peer = vip::is_peer(now, mac_word(mac));
        if from_peer && vip & VIP_FAILOVER == 0 {
            return Err(Reason::NdPeer);
        }
        if from_peer && kind == ADVERTISEMENT {
            // A node that does not have a failover VIP is its client.
            return Err(Reason::NdReply);
        }
        let claimed = vip::look_up_v6(now, active, source, ethernet.vlans).vip;
        // What another farm's node asks for is the VIP it holds, and it says its own MAC twice (T34).
        let ([a, b], [c, d, e, f, g, h]) = (NONCE, mac);
        let by_farm = kind == SOLICITATION
            && source == [0; 16]
            && packet.at::<8>(offset + 24) == Some([a, b, c, d, e, f, g, h]);
        if !from_peer && (kind == ADVERTISEMENT || claimed != 0 || by_farm) {
            let vip = if claimed != 0 { claimed } else { vip };
            let kind = if by_farm { ClaimKind::Farm } else { ClaimKind::Holds };
            self.note_claim(mac, vip, kind);
            return Err(Reason::NdConflict);
        }
        let source = (source != [0; 16]).then_some(V6(source));
        let probe = (!from_peer).then_some(Reason::NdProbe);
        self.answerer(vip, source, mac, probe)
    }

    /// Who answers for a VIP: chosen by the asking address, or by the MAC of one that has none yet
    /// (RFC 5227 section 2.1.1, RFC 4862 section 5.4.2): a stranger that wants the VIP for itself, which
    /// its answerer counts as `probe` (T5).
    #[inline(always)]
    fn answerer<A: Address>(
        &self,
        vip: u32,
        sender: Option<A>,
        mac: [u8; 6],
        probe: Option<Reason>,
    ) -> Result<Outcome, Reason> {
        self.serves(vip)?;
        if vip & VIP_DIRECTED != 0 {
            if let Some(addr) = sender {
                let requester = Requester { addr: addr.bytes(), vip: vip & 0xff };
                self.tables.note_requester(&requester, mac);
            }
            // Asked by name, to see whether it still lives: nobody else can answer.
            if self.ethernet.head.get::<0, 6>() == self.tables.own_mac() {
                return Err(Reason::Mine);
            }
        }
        let start = self.tables.hash_start();
        let hash = match sender {
            Some(addr) => addr.hash(start, [0; 2], hash::ARP),
            None => hash::hash_mac(start, mac),
        };
        let group = self.vip_rules(vip).resolve;
        let outcome = self.owner(vip, group, hash::bucket(hash, group));
        match (sender, probe) {
            (None, Some(probe)) if outcome == Reason::Mine.into() => {
                self.note_claim(mac, vip, ClaimKind::Asks);
                Err(probe)
            }
            _ => Ok(outcome),
        }
    }

    #[inline(always)]
    fn note_claim(&self, mac: [u8; 6], vip: u32, kind: ClaimKind) {
        let [vip, ..] = vip.to_le_bytes();
        self.tables.note_claim(Claim { mac, vip, kind });
    }
}
