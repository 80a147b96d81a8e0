//! The TC programs. Where the kernel has no TCX their names are those of the filters on the clsact
//! qdisc, which others use too: hence the prefix.

use aya_ebpf::{macros::classifier, programs::TcContext};
use vipfarm_common::{
    Guarded, Tables,
    packet::{Head, Packet},
};

use crate::{
    frame::Frame,
    tables::{Kernel, count_guard},
};

/// `TC_ACT_UNSPEC`: let the next program, or the stack, have the frame.
const NEXT: i32 = -1;
/// `PACKET_HOST` and `PACKET_OTHERHOST` (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

/// Egress: corrects what would teach the network a wrong MAC.
#[classifier]
fn vipfarm_guard(ctx: TcContext) -> i32 {
    let guarded = vipfarm_common::guard(&Frame::of_tc(&ctx), &Kernel);
    if guarded != Guarded::Clean {
        count_guard(guarded);
    }
    NEXT
}

/// Ingress: a device that classified the frame before XDP rewrote its destination (veth) took it
/// for another host's; say that it is ours (T20).
#[classifier]
fn vipfarm_fixup(ctx: TcContext) -> i32 {
    // SAFETY: `skb` is the valid context of this run.
    let kind = unsafe { (*ctx.skb.skb).pkt_type };
    if kind == PACKET_OTHERHOST
        && let Some(ethernet) = Frame::of_tc(&ctx).head::<14>(0)
        && ethernet.get::<0, 6>() == Kernel.own_mac()
    {
        // Fails only for a type that does not exist.
        let _ = ctx.change_type(PACKET_HOST);
    }
    NEXT
}
