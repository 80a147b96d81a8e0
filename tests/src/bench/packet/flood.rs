//! A flood of small datagrams, from one end of a veth pair to the other, and what receiving it costs.
//!
//! The kernel sends the frames itself (`BPF_PROG_TEST_RUN` with live frames), and they are received by
//! the same thread, in the soft interrupt that sending raises: so the thread's CPU time is that of
//! sender and receiver, whatever else the machine does. A flood that is dropped instead of sent tells
//! what making the frames costs; handing them over to the pair counts as receiving them, which makes
//! the cheapest receiver look dearer than it is, and no ratio larger.

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use vipfarm::model::Mac;

use super::{
    figures::FloodFigures,
    receiver::{Kind, PORT, Receiver, Tally},
    thread_time,
};
use crate::{
    Frame,
    bench::statistics::median,
    flood::Flood,
    host::Host,
    lab::{Lab, Topology},
    skip,
    world::{CLIENT, VIP},
};

/// Frames in one call of the kernel.
const CALL: u32 = 100_000;

/// Floods all receivers in turn, that often for so many seconds of CPU time each. What this machine
/// cannot measure is told, and left out.
pub(super) fn measure(
    rounds: u16,
    seconds: f64,
    not_measured: &mut Vec<String>,
) -> Result<FloodFigures> {
    if let Err(reason) = skip::lab() {
        not_measured.push(format!("flood: {reason}"));
        return Ok(FloodFigures::default());
    }
    let lab = lab()?;
    let mut receivers = Vec::new();
    for (kind, host) in Kind::ALL.into_iter().zip(lab.nodes()) {
        match Receiver::new(kind, &lab, host) {
            Ok(receiver) => receivers.push((kind, receiver)),
            // That vipfarm itself does not start is no reason to leave it out.
            Err(error) if kind == Kind::Vipfarm => return Err(error),
            Err(error) => not_measured.push(format!("flood, {}: {error:#}", kind.name())),
        }
    }
    let flood = || {
        pin()?;
        let mut generator = Generator::load()?;
        let mut alone = Vec::new();
        let mut samples = vec![Vec::new(); receivers.len()];
        for _ in 0..rounds {
            let sending = generator.send_to_nobody(seconds)?;
            alone.push(sending);
            for ((kind, receiver), samples) in receivers.iter().zip(&mut samples) {
                let both = generator.send_to(receiver, seconds);
                samples.push(both.with_context(|| format!("flood, {}", kind.name()))? - sending);
            }
        }
        anyhow::Ok((alone, samples))
    };
    let (mut alone, mut samples) = lab.node(1).switch.namespace.in_ns(flood)?;
    let sending = median(&mut alone);
    let mut figures = FloodFigures::new(rounds, sending);
    let mut dearest = 0.0_f64;
    for ((kind, _), samples) in receivers.iter().zip(&mut samples) {
        figures.set(*kind, median(samples), samples[0]);
        dearest = dearest.max(median(samples));
    }
    if dearest < sending {
        not_measured.push("flood: this kernel accounts for soft interrupts apart".into());
        return Ok(FloodFigures::default());
    }
    Ok(figures)
}

/// A node for each receiver, to which nothing but the flood comes.
fn lab() -> Result<Lab> {
    let nodes = u8::try_from(Kind::ALL.len())?;
    let lab = Lab::new("flood", &Topology { nodes, clients: 0, ..Topology::default() })?;
    lab.nodes().iter().try_for_each(Host::cut)?;
    Ok(lab)
}

/// Keeps this thread on the processor that it is on.
fn pin() -> Result<()> {
    let mut processors = CpuSet::new();
    processors.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &processors)?)
}

/// The lab's flood, to be used in the switch's namespace.
struct Generator(Flood);

impl Generator {
    fn load() -> Result<Self> {
        Ok(Self(Flood::of(frame())?))
    }

    /// Nanoseconds of CPU time a frame, all work of the receiver included; an error if a frame did
    /// not come to its end.
    fn send_to(&mut self, receiver: &Receiver<'_>, seconds: f64) -> Result<f64> {
        self.0.aim(receiver.host().name(), receiver.mac())?;
        let before = receiver.tally()?;
        let (sent, ns) = self.send(seconds)?;
        let after = receiver.tally()?;
        let expected = Tally { arrived: before.arrived + sent, ended: before.ended + sent };
        ensure!(after == expected, "{sent} frames sent: {before:?} became {after:?}");
        Ok(ns / sent as f64)
    }

    /// The same of frames that are dropped instead of sent.
    fn send_to_nobody(&mut self, seconds: f64) -> Result<f64> {
        self.0.aim_at_nobody()?;
        let (sent, ns) = self.send(seconds)?;
        Ok(ns / sent as f64)
    }

    /// How many frames were sent in that time, and nanoseconds.
    fn send(&mut self, seconds: f64) -> Result<(u64, f64)> {
        let begin = thread_time()?;
        let (mut sent, mut ns) = (0, 0.0);
        while ns < seconds * 1e9 {
            sent += self.0.send(CALL)?;
            ns = thread_time()? - begin;
        }
        Ok((sent, ns))
    }
}

/// 64 bytes, without a UDP checksum, from the first of the clients.
fn frame() -> Vec<u8> {
    let frame = Frame::udp("10.77.16.0:40000", std::net::SocketAddrV4::new(VIP, PORT), &[0; 22]);
    let mut bytes = frame.macs(CLIENT, Mac([0; 6])).bytes();
    bytes[40..42].fill(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require;

    #[test]
    fn a_flood_is_accounted_for_to_the_frame() {
        require!(skip::lab());
        require!(skip::lab_object());
        let lab = lab().unwrap();
        let host = lab.node(1);
        let receiver = Receiver::new(Kind::Vipfarm, &lab, host).unwrap();
        let flood = |seconds| {
            let send = || Generator::load()?.send_to(&receiver, seconds);
            host.switch.namespace.in_ns(send)
        };
        let ns = flood(0.05).unwrap();
        assert!(ns > 0.0, "{ns} ns a frame");

        host.link_down().unwrap();
        let lost = flood(0.05).unwrap_err().to_string();
        assert!(lost.contains("frames sent"), "{lost}");
    }

    #[test]
    fn a_frame_has_64_bytes_and_no_udp_checksum() {
        let frame = frame();
        assert_eq!((frame.len(), &frame[40..42]), (64, &[0, 0][..]));
    }
}
