//! The hot path's outcomes, each on one frame again and again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap, ProgramArray},
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
    world::{
        CLIENT, DIRECT, OWN, VIP, VIP_DIRECTED, VIP6, VIP6_DIRECTED, VMAC, VMAC6, WEB, WEB6, World,
    },
};

/// Packets in one run of a program, which takes about 5 ms.
const REPEAT: u32 = 100_000;

/// Runs of each program in a round; the least counts, for whatever else the machine does adds time.
const LAPS: usize = 5;

/// How many times as many loads there may be as were asked for.
const MOST: usize = 3;

/// Of what differs by chance, the share that must come out one way at least.
const SHARE: f64 = 0.45;

/// How a path's frames come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frames {
    /// One, which the filter leaves as it is.
    Same,
    /// One, made anew for each run.
    Anew,
    /// The same with another client each time.
    Varied,
}

impl Frames {
    const ALL: [Self; 3] = [Self::Same, Self::Anew, Self::Varied];

    /// The lab's program that makes them and ends.
    fn floor(self) -> &'static str {
        match self {
            Self::Same => "floor",
            Self::Anew => "again_floor",
            Self::Varied => "vary_floor",
        }
    }
}

/// A path to time.
struct Path {
    name: &'static str,
    family: &'static str,
    frame: Vec<u8>,
    frames: Frames,
    /// One, or the two that the clients' buckets decide between.
    reasons: &'static [Reason],
    /// The most that it may cost, in hash lookups.
    gate: f64,
}

/// What came out of one load of the programs, in nanoseconds a packet.
struct Load {
    floor: f64,
    /// Over the floor.
    lookup: f64,
    /// Of each path the median and the least over its floor.
    paths: Vec<[f64; 2]>,
}

/// What was measured, as the medians of all loads of the programs.
pub(super) struct Measured {
    pub(super) loads: usize,
    /// In nanoseconds.
    pub(super) floor_ns: f64,
    /// One hash lookup over it.
    pub(super) lookup_ns: f64,
    pub(super) paths: Vec<PathFigures>,
}

/// Times all paths. The programs are loaded `loads` times and the middle one counts: where the kernel puts a
/// program and its maps is another place each time, for better or worse of all its packets. As long as a path
/// is too slow, as many again are measured: a neighbour that keeps the machine busy for a minute is outvoted.
pub(super) fn measure(loads: u16, rounds: u16) -> Result<Measured> {
    let world = World::new();
    let paths = paths(&world);
    let mut measured = Vec::new();
    loop {
        for _ in 0..loads {
            eprintln!("packet: load {}, {rounds} rounds", measured.len() + 1);
            measured.push(Load::measure(&mut world.kernel(), &paths, rounds)?);
        }
        let figures = figures(&paths, &measured);
        let missed: Vec<_> = figures.paths.iter().filter(|path| !path.held()).collect();
        if missed.is_empty() || measured.len() >= MOST * usize::from(loads) {
            return Ok(figures);
        }
        for path in missed {
            eprintln!("packet: {path}: more loads");
        }
    }
}

fn figures(paths: &[Path], loads: &[Load]) -> Measured {
    let middle = |of: &dyn Fn(&Load) -> f64| median(&mut loads.iter().map(of).collect::<Vec<_>>());
    let figures = paths.iter().enumerate().map(|(at, path)| {
        let words = |word: fn(Reason) -> &'static str| {
            path.reasons.iter().map(|reason| word(*reason)).collect::<Vec<_>>().join(", ")
        };
        let ratio = |load: &Load| load.paths[at][0] / load.lookup;
        let min = loads.iter().map(|load| load.paths[at][1]).fold(f64::INFINITY, f64::min);
        PathFigures {
            name: path.name,
            family: path.family,
            verdict: words(|reason| reason.verdict().as_str()),
            reason: words(Reason::as_str),
            over_floor_ns: middle(&|load| load.paths[at][0]),
            min_over_floor_ns: min,
            ratio_to_lookup: middle(&ratio),
            worst_ratio_to_lookup: loads.iter().map(ratio).fold(f64::NEG_INFINITY, f64::max),
            gate: path.gate,
        }
    });
    Measured {
        loads: loads.len(),
        floor_ns: middle(&|load| load.floor),
        lookup_ns: middle(&|load| load.lookup),
        paths: figures.collect(),
    }
}

impl Load {
    fn measure(kernel: &mut Manual, paths: &[Path], rounds: u16) -> Result<Self> {
        // The lease outlasts the bench: only the hot path is timed.
        kernel.lease(Duration::from_hours(1))?;
        let mut lab = Reference::load()?;
        lab.follow_with(kernel)?;
        let mut floors = Frames::ALL.map(|_| Vec::new());
        let mut lookup = Vec::new();
        let mut samples = vec![Vec::new(); paths.len()];
        for _ in 0..rounds {
            let mut round = Round::new(paths.len());
            for _ in 0..LAPS {
                round.lap(kernel, &mut lab, paths)?;
            }
            for (floors, floor) in floors.iter_mut().zip(round.floors) {
                floors.push(floor);
            }
            lookup.push(round.lookup);
            for (samples, sample) in samples.iter_mut().zip(round.paths) {
                samples.push(sample);
            }
        }
        let of = |(path, samples): (&Path, &Vec<f64>)| {
            let floor = &floors[path.frames as usize];
            [median_over(samples, floor), least(samples) - least(floor)]
        };
        Ok(Self {
            lookup: median_over(&lookup, &floors[0]),
            paths: paths.iter().zip(&samples).map(of).collect(),
            floor: median(&mut floors[0]),
        })
    }
}

/// The median of what the samples are over the floor of their round.
fn median_over(samples: &[f64], floor: &[f64]) -> f64 {
    let mut over: Vec<_> = samples.iter().zip(floor).map(|(ns, floor)| ns - floor).collect();
    median(&mut over)
}

fn least(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The least that each program took in one round, in nanoseconds a packet.
struct Round {
    floors: [f64; 3],
    lookup: f64,
    paths: Vec<f64>,
}

impl Round {
    fn new(paths: usize) -> Self {
        let none = f64::INFINITY;
        Self { floors: [none; 3], lookup: none, paths: vec![none; paths] }
    }

    fn lap(&mut self, kernel: &mut Manual, lab: &mut Reference, paths: &[Path]) -> Result<()> {
        for (least, frames) in self.floors.iter_mut().zip(Frames::ALL) {
            *least = least.min(lab.time(frames.floor(), Reason::NotMine)?);
        }
        self.lookup = self.lookup.min(lab.time("lookup", Reason::NotMine)?);
        for (least, path) in self.paths.iter_mut().zip(paths) {
            let ns = time(kernel, lab, path);
            *least = least.min(ns.with_context(|| format!("{} {}", path.name, path.family))?);
        }
        Ok(())
    }
}

/// The hot path's frames. Drop, accept and forward differ in the client only.
fn paths(world: &World) -> Vec<Path> {
    let not_ip = [&OWN.0[..], &CLIENT.0, &[0x88, 0xcc], &[0; 50]].concat();
    let path = |name, frame: Vec<u8>, reason: &'static [Reason], gate| {
        let family = if frame[12] == 0x86 { "ipv6" } else { "ipv4" };
        Path { name, family, frame, frames: Frames::Anew, reasons: reason, gate }
    };
    let pass =
        |name, frame, reason| Path { frames: Frames::Same, ..path(name, frame, reason, 0.15) };
    let mut paths = vec![Path { family: "none", ..pass("pass: not IP", not_ip, &[Reason::NotIp]) }];
    for family in &FAMILIES {
        let Family { stranger, vip, vmac, group, .. } = *family;
        let us = |owner| owner == 0;
        let drop = family.frame(vip, vmac, family.port(world, group, |owner| !us(owner)));
        let accept = family.frame(vip, vmac, family.port(world, group, us));
        // The MAC of the first peer alone is known.
        let forward = family.frame(family.directed, OWN, family.port(world, DIRECT, |o| o == 1));
        let not_vip = family.frame(stranger, OWN, 4000);
        let mixed = path("mixed, varying clients", drop.clone(), &MIXED, family.gates[2]);
        paths.extend([
            pass("pass: not a VIP", not_vip, &[Reason::NotVip]),
            path("drop", drop, &[Reason::NotMine], family.gates[0]),
            path("accept", accept, &[Reason::Mine], family.gates[0]),
            path("forward", forward, &[Reason::Forwarded], family.gates[1]),
            Path { frames: Frames::Varied, ..mixed },
        ]);
    }
    paths
}

const MIXED: [Reason; 2] = [Reason::Mine, Reason::NotMine];

/// What differs between the two versions of IP.
struct Family {
    client: IpAddr,
    stranger: IpAddr,
    vip: IpAddr,
    vmac: Mac,
    group: usize,
    directed: IpAddr,
    /// Of drop and accept, of forward, and of the mix.
    gates: [f64; 3],
}

const FAMILIES: [Family; 2] = [
    Family {
        client: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)),
        stranger: IpAddr::V4(Ipv4Addr::new(10, 9, 0, 99)),
        vip: IpAddr::V4(VIP),
        vmac: VMAC,
        group: WEB,
        directed: IpAddr::V4(VIP_DIRECTED),
        gates: [0.6, 0.65, 0.7],
    },
    Family {
        client: IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1)),
        stranger: IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x99)),
        vip: IpAddr::V6(VIP6),
        vmac: VMAC6,
        group: WEB6,
        directed: IpAddr::V6(VIP6_DIRECTED),
        gates: [0.8, 0.85, 0.7],
    },
];

impl Family {
    /// A TCP segment to port 80.
    fn frame(&self, target: IpAddr, mac: Mac, port: u16) -> Vec<u8> {
        let (client, target) = (SocketAddr::new(self.client, port), SocketAddr::new(target, 80));
        Frame::tcp(client, target, ACK).macs(CLIENT, mac).payload(&[0; 10]).bytes()
    }

    /// A port by which the client belongs to a node that is wanted, by its place in the file.
    fn port(&self, world: &World, group: usize, wanted: impl Fn(usize) -> bool) -> u16 {
        let owner = |port| world.owner(group, self.client, port, TCP);
        let found = (1024..u16::MAX).find(|port| owner(*port).is_some_and(|o| wanted(o.index())));
        found.expect("every node has buckets")
    }
}

/// TCP's protocol number.
const TCP: u8 = 6;

/// Nanoseconds of CPU time a packet; an error if one was not decided as claimed.
fn time(kernel: &mut Manual, lab: &mut Reference, path: &Path) -> Result<f64> {
    lab.set_frame(&path.frame)?;
    let before = kernel.packets()?;
    let ns = match path.frames {
        Frames::Same => {
            let begin = thread_time()?;
            kernel.repeat(Entry::Filter, &path.frame, REPEAT)?;
            (thread_time()? - begin) / f64::from(REPEAT)
        }
        Frames::Anew => lab.run("again", &path.frame)?.1,
        Frames::Varied => lab.run("vary", &path.frame)?.1,
    };
    let counted = rises(&before, &kernel.packets()?);
    let share = |reason| counted.get(reason).map_or(0.0, |n| *n as f64 / f64::from(REPEAT));
    let least = if path.reasons.len() == 1 { 1.0 } else { SHARE };
    let all = path.reasons.iter().all(|reason| share(reason) >= least);
    ensure!(all && counted.len() == path.reasons.len(), "{REPEAT} packets were {counted:?}");
    Ok(ns)
}

/// The counters that rose, by how much.
fn rises(before: &BTreeMap<Reason, u64>, after: &BTreeMap<Reason, u64>) -> BTreeMap<Reason, u64> {
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
        for name in ["floor", "lookup", "again", "again_floor", "vary", "vary_floor"] {
            Self::program(&mut ebpf, name)?.load()?;
        }
        Ok(Self { ebpf, frame })
    }

    /// Lets `again` and `vary` go on with the hot path, and their floors with the floor.
    fn follow_with(&mut self, kernel: &mut Manual) -> Result<()> {
        let floor = Self::program(&mut self.ebpf, "floor")?.fd()?.try_clone()?;
        let next = self.ebpf.map_mut("NEXT").context("the lab object has no map NEXT")?;
        let mut next: ProgramArray<_> = next.try_into()?;
        kernel.put_into(&mut next, 0, Entry::Filter)?;
        Ok(next.set(1, &floor, 0)?)
    }

    /// What the programs that make frames anew make.
    fn set_frame(&mut self, frame: &[u8]) -> Result<()> {
        let map = self.ebpf.map_mut("FRAME").context("the lab object has no map FRAME")?;
        let mut map = Array::<_, u64>::try_from(map)?;
        let mac = |at: usize| {
            let mut word = [0; 8];
            word[..6].copy_from_slice(&frame[at..at + 6]);
            u64::from_ne_bytes(word)
        };
        // The length of an IPv6 header, or of an IPv4 one.
        let port = if frame[12] == 0x86 { 14 + 40 } else { 14 + 20 };
        for (index, word) in (0..).zip([mac(0), mac(6), port]) {
            map.set(index, word, 0)?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require;

    #[test]
    fn every_path_is_decided_as_it_claims() {
        require!(skip::bpf());
        require!(skip::lab_object());
        let figures = measure(2, 1).unwrap().paths;
        let names = figures.iter().map(|path| (path.name, path.family)).collect::<BTreeMap<_, _>>();
        assert_eq!((names.len(), figures.len()), (6, 11), "{names:?}");
    }

    #[test]
    fn a_path_that_claims_another_reason_is_found_out() {
        require!(skip::bpf());
        require!(skip::lab_object());
        let mut kernel = World::new().kernel();
        kernel.lease(Duration::from_hours(1)).unwrap();
        let mut lab = Reference::load().unwrap();
        lab.follow_with(&mut kernel).unwrap();
        for path in paths(&World::new()) {
            let wrong = Path { reasons: &[Reason::Broken], ..path };
            assert!(time(&mut kernel, &mut lab, &wrong).is_err(), "{}", wrong.name);
        }
    }
}
