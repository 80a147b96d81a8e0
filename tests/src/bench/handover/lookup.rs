//! What a packet costs whose bucket is in a move: the slow path, and a search for its connection.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use vipfarm::datapath::manual::{Entry, Manual};
use vipfarm_common::Reason;

use crate::{
    Frame,
    bench::{statistics::median, thread_time},
    frame::ACK,
    world::{CLIENT, VIP, VMAC, WEB, World},
};

/// Packets in one run of the program.
const REPEAT: u32 = 50_000;
const ROUNDS: usize = 21;
const TCP: u8 = 6;

/// Medians of rounds in which the two packets take turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Lookup {
    /// Nanoseconds that the packet costs more than one of a settled bucket.
    #[serde(rename = "lookup_ns")]
    pub(super) over_ns: f64,
    /// The one over the other, both with what the kernel's test loop takes.
    #[serde(rename = "lookup_ratio")]
    pub(super) ratio: f64,
}

/// Two packets of old connections that are dropped, one after a search in vain.
pub(super) fn measure() -> Result<Lookup> {
    let world = World::new().in_a_move();
    let mut kernel = world.kernel();
    kernel.lease(Duration::from_hours(1))?;
    let frame = |moving| {
        let client = |port| SocketAddr::from(([10, 1, 0, 1], port));
        let port = (1024..u16::MAX).find(|&port| {
            let client = client(port).ip();
            !world.is_mine(WEB, client, port, TCP)
                && world.former(WEB, client, port, TCP).is_some() == moving
        });
        let client = client(port.context("no client fits")?);
        anyhow::Ok(Frame::tcp(client, (VIP, 80), ACK).macs(CLIENT, VMAC).payload(&[0; 10]).bytes())
    };
    let (settled, moving) = (frame(false)?, frame(true)?);
    let (mut over, mut ratio) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let settled = time(&mut kernel, &settled)?;
        let moving = time(&mut kernel, &moving)?;
        over.push(moving - settled);
        ratio.push(moving / settled);
    }
    Ok(Lookup { over_ns: median(&mut over), ratio: median(&mut ratio) })
}

/// Nanoseconds of CPU time a packet; an error if one was not another node's.
fn time(kernel: &mut Manual, frame: &[u8]) -> Result<f64> {
    let before = kernel.packets()?[&Reason::NotMine];
    let begin = thread_time()?;
    kernel.repeat(Entry::Filter, frame, REPEAT)?;
    let ns = (thread_time()? - begin) / f64::from(REPEAT);
    let judged = kernel.packets()?[&Reason::NotMine] - before;
    ensure!(judged == u64::from(REPEAT), "{judged} of {REPEAT} packets were another node's");
    Ok(ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{require, skip};

    #[test]
    fn a_search_for_a_connection_costs_something() {
        require!(skip::bpf());
        let Lookup { over_ns, ratio } = measure().unwrap();
        assert!(over_ns > 0.0 && ratio > 1.0, "{over_ns} ns, {ratio}");
    }
}
