//! The TC programs. Where the kernel has no TCX their names are those of the filters on the clsact
//! qdisc, which others use too: hence the prefix.

use aya_ebpf::{macros::classifier, programs::TcContext};
use vipfarm_common::{
    Guarded, Reason, Tables,
    packet::{Head, Packet},
};

use crate::{
    frame::Frame,
    tables::{TC, count_guard},
};

/// `TC_ACT_UNSPEC`: let the next program, or the stack, have the frame.
const NEXT: i32 = -1;
/// `ETH_P_ARP` as `__sk_buff::protocol` has it, in packet order.
const ETH_P_ARP: u32 = 0x0806_u16.to_be() as u32;
/// Ethernet and ARP for IPv4.
const ARP_BYTES: u32 = 14 + 28;
/// `ETH_P_IPV6`, likewise.
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Ethernet, IPv6, a neighbour discovery message, and two options.
const ND_BYTES: u32 = 14 + 40 + 24 + 16;

/// `ETH_P_IP`, likewise.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
/// The offset of an IPv4 fragment that is not the first (RFC 791 section 3.1).
const LATER: u16 = 0x1fff;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// `PACKET_HOST` and `PACKET_OTHERHOST` (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

/// Egress: corrects what would teach the network a wrong MAC.
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
    NEXT
}

/// Ingress: a device that classified the frame before XDP rewrote its destination (veth) took it
/// for another host's; say that it is ours (T20). And what XDP cannot: two frames out of one.
#[classifier]
#[inline(always)]
fn vipfarm_fixup(ctx: TcContext) -> i32 {
    // SAFETY: `skb` is the valid context of this run.
    let kind = unsafe { (*ctx.skb.skb).pkt_type };
    let frame = Frame::of_tc(&ctx);
    if kind == PACKET_OTHERHOST
        && let Some(ethernet) = frame.head::<14>(0)
        && ethernet.get::<0, 6>() == TC.own_mac()
    {
        // Fails only for a type that does not exist.
        let _ = ctx.change_type(PACKET_HOST);
    }
    if is_in_parts(&ctx) {
        copy_to_nodes(&ctx);
    }
    NEXT
}

/// Whether the frame may hold a fragment without ports: a look that costs others next to nothing.
#[inline(always)]
fn is_in_parts(ctx: &TcContext) -> bool {
    // SAFETY: `skb` is the valid context of this run.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    let frame = Frame::of_tc(ctx);
    if protocol == ETH_P_IP {
        let Some(head) = frame.head::<34>(0) else { return false };
        u16::from_be_bytes(head.get::<20, 2>()) & LATER != 0
    } else if protocol == ETH_P_IPV6 {
        let Some(head) = frame.head::<54>(0) else { return false };
        !matches!(head.get::<20, 1>(), [TCP | UDP | ICMPV6])
    } else {
        false
    }
}

/// Copies a fragment to the farm's other nodes, if it came to this one alone and before the one that
/// says whose it is (T8). The decision is asked anew, since XDP cannot tell.
#[inline(always)]
fn copy_to_nodes(ctx: &TcContext) {
    let frame = Frame::of_tc(ctx);
    let outcome = vipfarm_common::slow(&frame, &TC);
    if outcome != Reason::CopiedFragment.into() {
        return;
    }
    let own = TC.own_mac();
    let Some(ethernet) = frame.head::<14>(0) else { return };
    let source = ethernet.get::<6, 6>();
    // To all stations, so that no node's filter refuses it; from this node, so that nobody hands it on.
    ethernet.set::<0, 6>([0xff; 6]);
    ethernet.set::<6, 6>(own);
    // SAFETY: `skb` is the valid context of this run.
    let index = unsafe { (*ctx.skb.skb).ifindex };
    // Fails without memory: the packet is then lost, as on any other hop.
    let _ = ctx.clone_redirect(index, 0);
    if let Some(ethernet) = Frame::of_tc(ctx).head::<14>(0) {
        ethernet.set::<0, 6>(own);
        ethernet.set::<6, 6>(source);
    }
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
