//! What may leave a node (TC egress): nothing that tells the network another MAC for a VIP than
//! its VMAC (T1, T3), and nothing that lets a switch learn the VMAC (T2).
//!
//! Sysctls steer the kernel's own ARP only; tools that write frames themselves pass here too.

use crate::{
    layout::{Generation, MAX_VIPS, mac_word},
    packet::{Head, Packet, Tables},
    vip::{self, ETHERTYPE_ARP},
};

/// What the guard did: index of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Guarded {
    /// Nothing to correct. Not counted.
    Clean = 0,
    /// An ARP packet that spoke for a VIP now carries the VMAC as its hardware address.
    Arp = 1,
    /// A frame that had the VMAC as its Ethernet source now carries the node's own.
    Source = 2,
}

impl Guarded {
    /// The outcomes that are counted.
    pub const COUNTED: [Self; 2] = [Self::Arp, Self::Source];

    /// The word used everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Arp => "arp_corrected",
            Self::Source => "source_corrected",
        }
    }
}

/// Corrects an outgoing frame in place.
#[inline(always)]
pub fn guard<P: Packet, T: Tables>(packet: &P, tables: &T) -> Guarded {
    let Ok(ethernet) = vip::ethernet(packet) else { return Guarded::Clean };
    let own = tables.own_mac();
    let source = ethernet.head.get::<6, 6>();
    if source == own && ethernet.ethertype != ETHERTYPE_ARP {
        return Guarded::Clean;
    }
    let Some(state) = tables.state() else { return Guarded::Clean };
    let (now, active) = vip::active(tables, state);
    let mut guarded = Guarded::Clean;
    if source != own && is_vmac(now, source) {
        ethernet.head.set::<6, 6>(own);
        guarded = Guarded::Source;
    }
    if ethernet.ethertype == ETHERTYPE_ARP
        && let Some(arp) = packet.head::<28>(ethernet.network)
    {
        let claimed = vip::find(now, active, u32::from_ne_bytes(arp.get::<14, 4>()));
        let vmac = now.vmacs[claimed as usize & (2 * MAX_VIPS - 1)];
        if claimed != 0 && mac_word(arp.get::<8, 6>()) != vmac {
            let [a, b, c, d, e, f, ..] = vmac.to_ne_bytes();
            arp.set::<8, 6>([a, b, c, d, e, f]);
            guarded = Guarded::Arp;
        }
    }
    guarded
}

#[inline(always)]
fn is_vmac(now: &Generation, mac: [u8; 6]) -> bool {
    let mac = mac_word(mac);
    let mut found = false;
    let mut vip = 1;
    while vip <= MAX_VIPS {
        found |= now.vmacs[vip & (2 * MAX_VIPS - 1)] == mac;
        vip += 1;
    }
    found && mac != 0
}
