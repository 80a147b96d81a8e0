//! A failover VIP of a farm of two nodes: what keepalived is measured by, seen by the same probes.

use anyhow::Result;

use super::{
    Bench,
    events::{ABSENCE, Event},
    figures::FloatingFigures,
    keepalived::{CLIENT_ADDRESSES, EVENTS, Sample, all_at, holders},
    millis, phase,
    watch::{ECHO, Watch},
};
use crate::{
    bench::statistics::Summary,
    farm::Farm,
    host::INTERFACE,
    lab::{Lab, PREFIX, Topology, VIP},
    traffic::UdpEcho,
};

/// Measures all events in that profile.
pub(super) fn measure(bench: &Bench<'_>, profile: &'static str) -> Result<Vec<FloatingFigures>> {
    let mut samples = EVENTS.map(|event| (event, Vec::new()));
    for run in 0..bench.runs {
        for (event, samples) in &mut samples {
            let name = event.name();
            let what = format!("failover VIP {profile} {}/{} {name:13}", run + 1, bench.runs);
            let Some(sample) = bench.sample(&what, once(bench, profile, run, *event))? else {
                continue;
            };
            eprintln!("{what}: {sample}");
            samples.push(sample);
        }
    }
    let of = |(event, samples): &(Event, Vec<Sample>)| summary(bench, profile, *event, samples);
    Ok(samples.iter().map(of).collect())
}

fn summary(
    bench: &Bench<'_>,
    profile: &'static str,
    event: Event,
    samples: &[Sample],
) -> FloatingFigures {
    let Summary { median, max } = Summary::of(samples.iter().map(|sample| sample.outage_ms));
    FloatingFigures {
        profile,
        event: event.name(),
        median_ms: median,
        max_ms: max,
        double_answers: samples.iter().map(|sample| sample.double_answers).sum(),
        holders: samples.iter().map(|sample| sample.holders).max().unwrap_or(0),
        runs: samples.len(),
        wanted: bench.runs.into(),
        limit_ms: super::figures::outage_limit(event, profile),
    }
}

/// One event, in a lab of its own: the first node has the VIP.
fn once(bench: &Bench<'_>, profile: &str, run: u16, event: Event) -> Result<Sample> {
    let topology = Topology { client_addresses: CLIENT_ADDRESSES, ..Topology::new(2, 2) };
    let lab = Lab::new("floating", &topology)?;
    let echoes = lab.nodes().iter().map(|node| UdpEcho::start(node, ECHO));
    let _echoes = echoes.collect::<Result<Vec<_>>>()?;
    let mut farm = Farm::new(&lab, bench.program, "bench", &yaml(profile))?;
    farm.start()?;
    bench.agree(&farm, &[1, 2])?;

    let (first, second) = (lab.node(1), lab.node(2));
    // The second client asks who has the address; only the first one's packets are watched.
    let (clients, asker) = (&lab.clients()[..1], lab.client(2));
    let watch = Watch::start(bench, clients, phase(run, ABSENCE), all_at(first))?;
    let holders = match event {
        Event::SilentDeath => {
            first.cut()?;
            farm.kill(1)?;
            watch.until_served(all_at(second))?;
            holders(bench, asker)?
        }
        Event::GracefulStop => {
            farm.stop_node(1)?;
            watch.until_served(all_at(second))?;
            holders(bench, asker)?
        }
        _ => {
            farm.freeze(1, true)?;
            bench.interrupt.sleep(ABSENCE)?;
            let holders = holders(bench, asker)?;
            farm.freeze(1, false)?;
            bench.agree(&farm, &[1, 2])?;
            watch.until_served(all_at(first))?;
            holders
        }
    };
    let seen = watch.finish()?;
    Ok(Sample {
        outage_ms: millis(seen.log.longest_gap(seen.from, seen.until)),
        double_answers: seen.log.duplicates().len(),
        holders,
    })
}

/// The farm's file below its nodes.
fn yaml(profile: &str) -> String {
    format!(
        "membership: {{ profile: {profile} }}
vips:
  - interface: {INTERFACE}
    mode: failover
    addresses: [{VIP}/{PREFIX}]
    priorities: {{ node1: 150, node2: 100 }}
"
    )
}
