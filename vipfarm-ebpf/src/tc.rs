//! The TC programs. Where the kernel has no TCX their names are those of the filters on the clsact
//! qdisc, which others use too: hence the prefix.

use aya_ebpf::{macros::classifier, programs::TcContext};
use vipfarm_common::{
    Guarded, Tables,
    packet::{Head, Packet},
};

use crate::{
    frame::Frame,
    tables::{TC, count_guard},
};

/// `TC_ACT_UNSPEC`: let the next program, or the stack, have the frame.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// `ETH_P_ARP` as `__sk_buff::protocol` has it, in packet order.
const ETH_P_ARP: u32 = 0x0806_u16.to_be() as u32;
/// Ethernet and ARP for IPv4.
const ARP_BYTES: u32 = 14 + 28;
/// `ETH_P_IPV6`, likewise.
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Ethernet, IPv6, a neighbour discovery message, and two options.
const ND_BYTES: u32 = 14 + 40 + 24 + 16;

/// All stations of a network.
const ALL: [u8; 6] = [0xff; 6];
/// `PACKET_HOST` (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;

/// Egress: corrects what would teach the network a wrong MAC, or drops it.
#[classifier]
#[inline(always)]
fn vipfarm_guard(ctx: TcContext) -> i32 {
    // SAFETY: `skb` is the valid context of this run.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    // A ring of a packet socket leaves all but the link header in another page. A shorter frame
    // cannot be pulled, and is no ARP; of a neighbour discovery message all that there is is wanted.
    if protocol == ETH_P_ARP {
        let _ = ctx.pull_data(ARP_BYTES);
    } else if protocol == ETH_P_IPV6 && ctx.data_end() - ctx.data() < ND_BYTES as usize {
        let _ = ctx.pull_data(ctx.len().min(ND_BYTES));
    }
    let frame = Frame::of_tc(&ctx);
    let guarded = vipfarm_common::guard(&frame, &TC);
    if guarded != Guarded::Clean {
        count_guard(guarded);
    }
    if guarded == Guarded::Refused { DROP } else { NEXT }
}

/// Ingress: a device that classified the frame before XDP rewrote its destination (veth) took it
/// for another host's, or everybody's; say that it is ours (T20). And what XDP cannot: two frames out of
/// one (T8, T9, T12).
#[classifier]
#[inline(always)]
fn vipfarm_fixup(ctx: TcContext) -> i32 {
    // SAFETY: `skb` is the valid context of this run.
    let kind = unsafe { (*ctx.skb.skb).pkt_type };
    let Some(ethernet) = Frame::of_tc(&ctx).head::<14>(0) else { return NEXT };
    let own = TC.own_mac();
    let is_own = ethernet.get::<0, 6>() == own;
    if kind != PACKET_HOST && is_own {
        // Fails only for a type that does not exist.
        let _ = ctx.change_type(PACKET_HOST);
    }
    let mut marked = own;
    marked[0] |= 1;
    if ethernet.get::<6, 6>() != marked {
        return NEXT;
    }
    // To all stations, so that no node's filter refuses it; from this node, so that nobody hands it on.
    ethernet.set::<0, 6>(ALL);
    ethernet.set::<6, 6>(own);
    // SAFETY: as above.
    let index = unsafe { (*ctx.skb.skb).ifindex };
    // Fails without memory: the packet is then lost, as on any other hop.
    let _ = ctx.clone_redirect(index, 0);
    if !is_own {
        return DROP;
    }
    if let Some(ethernet) = Frame::of_tc(&ctx).head::<14>(0) {
        ethernet.set::<0, 6>(own);
    }
    NEXT
}

/// Writes jiffies64 and the boot clock, read in one breath, over the frame's first 16 bytes: the
/// agent sets deadlines in both. Never attached. Not an XDP program, because kernels before 5.18
/// wait for all CPUs when one is run by hand.
#[classifier]
#[inline(always)]
fn vipfarm_clock(ctx: TcContext) -> i32 {
    let frame = Frame::of_tc(&ctx);
    let Some(out) = frame.head::<16>(0) else { return 1 };
    out.set::<0, 8>(TC.ticks().to_ne_bytes());
    out.set::<8, 8>(TC.boot_ns().to_ne_bytes());
    0
}
