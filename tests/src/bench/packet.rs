//! What one packet costs in the XDP programs, run by the kernel on a frame of ours.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf,
    maps::{HashMap, ProgramArray},
    programs::{TestRun, TestRunOptions, Xdp},
};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use vipfarm::{
    datapath::manual::{Entry, Manual},
    model::Mac,
};

use super::statistics::median;
use crate::{
    Frame,
    frame::ACK,
    skip,
    world::{CLIENT, VIP, VMAC, World},
};

/// Rounds in which every path takes a turn.
const ROUNDS: usize = 21;
/// Packets a turn; one turn is about 20 ms.
const REPEAT: u32 = 500_000;

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Figures {
    /// An empty program, the kernel's test loop included.
    floor_ns: f64,
    /// One lookup in a kernel hash map with 8-byte keys, over the floor.
    lookup_ns: f64,
    /// Call instructions in the translated hot path: the tail call.
    hot_path_calls: usize,
    /// Instructions the verifier looked at: hot path, slow path.
    verified_instructions: [u32; 2],
    paths: Vec<PathFigures>,
}

#[derive(Debug, Serialize)]
struct PathFigures {
    name: &'static str,
    family: &'static str,
    over_floor_ns: f64,
    /// The least of the rounds.
    min_over_floor_ns: f64,
    ratio_to_lookup: f64,
    /// The most that the ratio may be.
    gate: f64,
    verdict: &'static str,
}

/// A path to time.
struct Timed {
    name: &'static str,
    family: &'static str,
    frame: Vec<u8>,
    verdict: &'static str,
    action: u32,
    gate: f64,
}

/// Times the hot path's verdicts; prints a table; says whether all gates hold.
pub fn packet(json: Option<&Path>) -> Result<bool> {
    skip::bpf().map_err(|reason| anyhow!(reason))?;
    let world = World::new();
    let mut kernel = world.kernel();
    // The lease outlasts the bench: only the hot path is timed.
    kernel.lease(std::time::Duration::from_hours(1))?;
    let mut lab = Reference::load()?;
    lab.follow_with(&mut kernel)?;
    let paths = paths(&world);
    let mut floor = Vec::new();
    let mut lookup = Vec::new();
    let (mut varied, mut varied_floor) = (Vec::new(), Vec::new());
    let mut samples = vec![Vec::new(); paths.len()];
    for _ in 0..ROUNDS {
        floor.push(lab.time("floor", 1)?);
        lookup.push(lab.time("lookup", 1)?);
        varied_floor.push(lab.time("vary_floor", 1)?);
        varied.push(lab.time_varied()?);
        for (path, samples) in paths.iter().zip(&mut samples) {
            samples.push(time_path(&mut kernel, path)?);
        }
    }
    let floor_ns = median(&mut floor);
    let lookup_ns = median(&mut lookup) - floor_ns;
    let mixed_ns = median(&mut varied) - median(&mut varied_floor);
    let mixed = PathFigures {
        name: "mixed, varying clients",
        family: "ipv4",
        over_floor_ns: mixed_ns,
        min_over_floor_ns: varied[0] - varied_floor[0],
        ratio_to_lookup: mixed_ns / lookup_ns,
        gate: 0.7,
        verdict: "half accept, half drop",
    };
    let figures = Figures {
        floor_ns,
        lookup_ns,
        hot_path_calls: hot_path_calls(&mut kernel)?,
        verified_instructions: [
            kernel.verified_instructions(Entry::Filter)?,
            kernel.verified_instructions(Entry::Slow)?,
        ],
        paths: paths
            .iter()
            .zip(&mut samples)
            .map(|(path, samples)| {
                let over_floor_ns = median(samples) - floor_ns;
                PathFigures {
                    name: path.name,
                    family: path.family,
                    over_floor_ns,
                    min_over_floor_ns: samples[0] - floor[0],
                    ratio_to_lookup: over_floor_ns / lookup_ns,
                    gate: path.gate,
                    verdict: path.verdict,
                }
            })
            .chain([mixed])
            .collect(),
    };
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(report(&figures))
}

/// The hot path's frames. Drop and accept differ in the client only.
fn paths(world: &World) -> Vec<Timed> {
    let frame = |owned: bool| {
        let port = (1024..u16::MAX)
            .find(|&port| world.is_mine(crate::world::WEB, [10, 1, 0, 1], port, 6) == owned);
        let client = (std::net::Ipv4Addr::new(10, 1, 0, 1), port.expect("half of them are"));
        Frame::tcp(std::net::SocketAddr::from(client), std::net::SocketAddr::from((VIP, 80)), ACK)
            .macs(CLIENT, VMAC)
            .payload(&[0; 10])
    };
    let not_ip = [&VMAC.0[..], &CLIENT.0, &[0x88, 0xcc], &[0; 50]].concat();
    let not_vip = Frame::tcp("10.1.0.1:4000", "10.9.0.99:80", ACK).macs(CLIENT, Mac([2; 6]));
    let timed = |name, frame, verdict, action, gate| Timed {
        name,
        family: "ipv4",
        frame,
        verdict,
        action,
        gate,
    };
    vec![
        Timed { family: "none", ..timed("pass: not IP", not_ip, "pass", 2, 0.15) },
        timed("pass: not a VIP", not_vip.payload(&[0; 10]).bytes(), "pass", 2, 0.15),
        timed("drop", frame(false).bytes(), "drop", 1, 0.6),
        timed("accept", frame(true).bytes(), "accept", 2, 0.6),
        timed("drop, priority tag", frame(false).vlan(0).bytes(), "drop", 1, 0.6),
    ]
}

/// Nanoseconds of CPU time a packet; an error if the verdict is not the claimed one.
fn time_path(kernel: &mut Manual, path: &Timed) -> Result<f64> {
    let before = thread_time()?;
    let (action, _) = kernel.time(Entry::Filter, &path.frame, REPEAT)?;
    let elapsed = thread_time()? - before;
    if action != path.action {
        bail!("{}: XDP action {action}, not {}", path.name, path.action);
    }
    Ok(elapsed / f64::from(REPEAT))
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

    /// Nanoseconds a packet of the hot path, and of drawing the client's port.
    fn time_varied(&mut self) -> Result<f64> {
        let vmac = [&VMAC.0[..], &self.frame[6..]].concat();
        let options =
            TestRunOptions { data_in: Some(&vmac), repeat: REPEAT, ..TestRunOptions::default() };
        let program = Self::program(&mut self.ebpf, "vary")?;
        let before = thread_time()?;
        let result = program.test_run(options)?;
        let elapsed = thread_time()? - before;
        if !matches!(result.return_value, 1 | 2) {
            bail!("vary: XDP action {}", result.return_value);
        }
        Ok(elapsed / f64::from(REPEAT))
    }

    fn time(&mut self, name: &str, action: u32) -> Result<f64> {
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: REPEAT,
            ..TestRunOptions::default()
        };
        let program = Self::program(&mut self.ebpf, name)?;
        let before = thread_time()?;
        let result = program.test_run(options)?;
        let elapsed = thread_time()? - before;
        if result.return_value != action {
            bail!("{name}: XDP action {}, not {action}", result.return_value);
        }
        Ok(elapsed / f64::from(REPEAT))
    }

    fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
        let program = ebpf.program_mut(name);
        Ok(program.with_context(|| format!("the lab object has no program {name}"))?.try_into()?)
    }
}

fn hot_path_calls(kernel: &mut Manual) -> Result<usize> {
    Ok(crate::translated::calls(kernel.program_id(Entry::Filter)?)?.len())
}

fn report(figures: &Figures) -> bool {
    let Figures { floor_ns, lookup_ns, hot_path_calls, verified_instructions, paths } = figures;
    println!("floor (an empty program)       {floor_ns:6.1} ns");
    println!("one kernel hash lookup         {lookup_ns:6.1} ns over the floor");
    println!("calls left in the hot path     {hot_path_calls:6} (the tail call)");
    println!(
        "instructions verified          {:6} hot path, {} slow path",
        verified_instructions[0], verified_instructions[1]
    );
    println!("\nmedian of {ROUNDS} rounds        over floor     min   ratio    gate");
    let mut held = *hot_path_calls == 1;
    for path in paths {
        let within = path.ratio_to_lookup <= path.gate;
        held &= within;
        println!(
            "{:24} {:6.1} ns {:6.1} {:7.2} {:7.2}  {}",
            path.name,
            path.over_floor_ns,
            path.min_over_floor_ns,
            path.ratio_to_lookup,
            path.gate,
            if within { "ok" } else { "TOO SLOW" }
        );
    }
    held
}

/// CPU time of this thread in nanoseconds: what other work on the machine takes is not in it.
fn thread_time() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}
