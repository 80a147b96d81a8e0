//! The hot path's outcomes, each on one frame again and again.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use aya::{
    Ebpf,
    maps::{HashMap, ProgramArray},
    programs::{TestRun, TestRunOptions, Xdp},
};
use vipfarm::{
    datapath::manual::{Entry, Manual},
    model::Mac,
};
use vipfarm_common::Reason;

use super::{figures::PathFigures, thread_time};
use crate::{
    Frame,
    bench::statistics::median,
    frame::ACK,
    skip,
    world::{CLIENT, VIP, VMAC, WEB, World},
};

/// Packets a turn; one turn is about 20 ms.
const REPEAT: u32 = 500_000;

/// Of what differs by chance, the share that must come out one way at least.
const SHARE: f64 = 0.45;

/// A path to time.
struct Path {
    name: &'static str,
    family: &'static str,
    frame: Vec<u8>,
    reason: Reason,
    /// The most that it may cost, in hash lookups.
    gate: f64,
}

/// The floor and one hash lookup over it, in nanoseconds, and all paths.
pub(super) fn measure(kernel: &mut Manual, rounds: u16) -> Result<(f64, f64, Vec<PathFigures>)> {
    // The lease outlasts the bench: only the hot path is timed.
    kernel.lease(Duration::from_hours(1))?;
    let mut lab = Reference::load()?;
    lab.follow_with(kernel)?;
    let paths = paths(&World::new());
    let (mut floor, mut lookup) = (Vec::new(), Vec::new());
    let (mut varied, mut varied_floor) = (Vec::new(), Vec::new());
    let mut samples = vec![Vec::new(); paths.len()];
    for _ in 0..rounds {
        floor.push(lab.time("floor", Reason::NotMine)?);
        lookup.push(lab.time("lookup", Reason::NotMine)?);
        varied_floor.push(lab.time("vary_floor", Reason::NotMine)?);
        varied.push(lab.time_varied(kernel)?);
        for (path, samples) in paths.iter().zip(&mut samples) {
            samples.push(time_path(kernel, path)?);
        }
    }
    let floor_ns = median(&mut floor);
    let lookup_ns = median(&mut lookup) - floor_ns;
    let of = |path: &Path, mut samples: Vec<f64>| PathFigures {
        name: path.name,
        family: path.family,
        verdict: path.reason.verdict().as_str(),
        reason: path.reason.as_str(),
        over_floor_ns: median(&mut samples) - floor_ns,
        // Sorted by now.
        min_over_floor_ns: samples[0] - floor[0],
        ratio_to_lookup: (median(&mut samples) - floor_ns) / lookup_ns,
        gate: path.gate,
    };
    let mut figures: Vec<_> = paths.iter().zip(samples).map(|(p, s)| of(p, s)).collect();
    let over_floor_ns = median(&mut varied) - median(&mut varied_floor);
    figures.push(PathFigures {
        name: "mixed, varying clients",
        family: "ipv4",
        verdict: "half accept, half drop",
        reason: "mine, not_mine",
        over_floor_ns,
        min_over_floor_ns: varied[0] - varied_floor[0],
        ratio_to_lookup: over_floor_ns / lookup_ns,
        gate: 0.7,
    });
    Ok((floor_ns, lookup_ns, figures))
}

/// The hot path's frames. Drop and accept differ in the client only.
fn paths(world: &World) -> Vec<Path> {
    let client = Ipv4Addr::new(10, 1, 0, 1);
    let frame = |owned: bool| {
        let port = (1024..u16::MAX).find(|&port| world.is_mine(WEB, client, port, 6) == owned);
        let client = SocketAddr::from((client, port.expect("half of them are")));
        Frame::tcp(client, SocketAddr::from((VIP, 80)), ACK).macs(CLIENT, VMAC).payload(&[0; 10])
    };
    let not_ip = [&VMAC.0[..], &CLIENT.0, &[0x88, 0xcc], &[0; 50]].concat();
    let not_vip = Frame::tcp("10.1.0.1:4000", "10.9.0.99:80", ACK).macs(CLIENT, Mac([2; 6]));
    let path = |name, frame, reason, gate| Path { name, family: "ipv4", frame, reason, gate };
    vec![
        Path { family: "none", ..path("pass: not IP", not_ip, Reason::NotIp, 0.15) },
        path("pass: not a VIP", not_vip.payload(&[0; 10]).bytes(), Reason::NotVip, 0.15),
        path("drop", frame(false).bytes(), Reason::NotMine, 0.6),
        path("accept", frame(true).bytes(), Reason::Mine, 0.6),
        path("drop, priority tag", frame(false).vlan(0).bytes(), Reason::NotMine, 0.6),
    ]
}

/// Nanoseconds of CPU time a packet; an error if one was not decided as claimed.
fn time_path(kernel: &mut Manual, path: &Path) -> Result<f64> {
    let before = kernel.packets()?;
    let begin = thread_time()?;
    let action = kernel.repeat(Entry::Filter, &path.frame, REPEAT)?;
    let elapsed = thread_time()? - begin;
    let counted = counted(&before, &kernel.packets()?);
    let (name, reason) = (path.name, path.reason);
    ensure!(action == reason.action(), "{name}: XDP action {action}, not {}", reason.action());
    ensure!(
        counted == BTreeMap::from([(reason, u64::from(REPEAT))]),
        "{name}: of {REPEAT} packets not all were {}, but {counted:?}",
        reason.as_str()
    );
    Ok(elapsed / f64::from(REPEAT))
}

/// The counters that rose, by how much.
fn counted(before: &BTreeMap<Reason, u64>, after: &BTreeMap<Reason, u64>) -> BTreeMap<Reason, u64> {
    let rise = |(reason, count): (&Reason, &u64)| (*reason, count - before[reason]);
    after.iter().map(rise).filter(|(_, rise)| *rise > 0).collect()
}

/// The lab's programs: the floor, and the hash lookup that is the unit.
struct Reference {
    ebpf: Ebpf,
    frame: Vec<u8>,
}

impl Reference {
    fn load() -> Result<Self> {
        let object = skip::lab_object().map_err(|reason| anyhow!(reason))?;
        let mut ebpf = Ebpf::load_file(&object).with_context(|| object.display().to_string())?;
        let frame = Frame::tcp("10.1.0.1:4000", "10.9.0.100:80", ACK).payload(&[0; 10]).bytes();
        let services = ebpf.map_mut("SERVICES").context("the lab object has no map SERVICES")?;
        let mut services: HashMap<_, u64, u64> = services.try_into()?;
        for port in 80..96u16 {
            let addr = u32::from_ne_bytes(VIP.octets());
            let port = u16::from_ne_bytes(port.to_be_bytes());
            services.insert(u64::from(addr) << 16 | u64::from(port), 1, 0)?;
        }
        for name in ["floor", "lookup", "vary", "vary_floor"] {
            Self::program(&mut ebpf, name)?.load()?;
        }
        Ok(Self { ebpf, frame })
    }

    /// Lets `vary` go on with the hot path, and `vary_floor` with the floor.
    fn follow_with(&mut self, kernel: &mut Manual) -> Result<()> {
        let floor = Self::program(&mut self.ebpf, "floor")?.fd()?.try_clone()?;
        let next = self.ebpf.map_mut("NEXT").context("the lab object has no map NEXT")?;
        let mut next: ProgramArray<_> = next.try_into()?;
        kernel.put_into(&mut next, 0, Entry::Filter)?;
        Ok(next.set(1, &floor, 0)?)
    }

    /// Nanoseconds a packet of the hot path, and of drawing the client's port; an error unless about
    /// half of them were this node's.
    fn time_varied(&mut self, kernel: &Manual) -> Result<f64> {
        let vmac = [&VMAC.0[..], &self.frame[6..]].concat();
        let before = kernel.packets()?;
        let (_, ns) = self.run("vary", &vmac)?;
        let counted = counted(&before, &kernel.packets()?);
        let share = |reason| counted.get(&reason).map_or(0.0, |n| *n as f64 / f64::from(REPEAT));
        let (mine, not_mine) = (share(Reason::Mine), share(Reason::NotMine));
        ensure!(mine.min(not_mine) >= SHARE && counted.len() == 2, "vary: {counted:?}");
        Ok(ns)
    }

    /// Nanoseconds a packet of a program that ends as the reason does.
    fn time(&mut self, name: &str, like: Reason) -> Result<f64> {
        let frame = self.frame.clone();
        let (action, ns) = self.run(name, &frame)?;
        ensure!(action == like.action(), "{name}: XDP action {action}, not {}", like.action());
        Ok(ns)
    }

    fn run(&mut self, name: &str, frame: &[u8]) -> Result<(u32, f64)> {
        let options =
            TestRunOptions { data_in: Some(frame), repeat: REPEAT, ..TestRunOptions::default() };
        let program = Self::program(&mut self.ebpf, name)?;
        let begin = thread_time()?;
        let result = program.test_run(options)?;
        Ok((result.return_value, (thread_time()? - begin) / f64::from(REPEAT)))
    }

    fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
        let program = ebpf.program_mut(name);
        Ok(program.with_context(|| format!("the lab object has no program {name}"))?.try_into()?)
    }
}
