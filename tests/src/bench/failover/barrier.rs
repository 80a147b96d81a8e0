//! How long a change of view takes, from the first member's release to the last one's acquisition:
//! for so long a bucket that moves may have no owner.
//!
//! The agents take both times where they write the kernel's tables. All of the lab's nodes have one
//! boot clock, so that the times of one view can be compared.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipfarm::status::ViewChange;

use super::{Bench, GROUP, events::Verbs, farm_yaml, figures::BarrierFigures};
use crate::{
    bench::statistics::Summary,
    farm::{Farm, PATIENCE},
    lab::{Lab, Topology},
};

/// Sizes of the farms, the largest last.
const SIZES: [u8; 4] = [2, 3, 5, 8];

/// Changes of view measured on each.
const CHANGES: u16 = 20;

const PROFILE: &str = "balanced";

/// How the members come to change their view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One of them gets another power.
    Power,
    /// One of them starts again.
    Rejoin,
}

/// Measures all sizes.
pub(super) fn measure(bench: &Bench<'_>, verbs: &Verbs) -> Result<Vec<BarrierFigures>> {
    let way = if verbs.has("power") { Way::Power } else { Way::Rejoin };
    SIZES.into_iter().map(|nodes| of_size(bench, nodes, way)).collect()
}

fn of_size(bench: &Bench<'_>, nodes: u8, way: Way) -> Result<BarrierFigures> {
    let lab = Lab::new("barrier", &Topology::new(nodes, 0))?;
    let all: Vec<_> = (1..=lab.nodes().len()).collect();
    let mut farm = Farm::new(&lab, bench.program, "bench", &farm_yaml(PROFILE))?;
    farm.start()?;
    bench.agree(&farm, &all)?;
    let mut samples = Vec::new();
    for number in 0..CHANGES {
        let before = epoch(&farm, &all)?;
        let took = change(bench, &mut farm, &all, number, way).and_then(|()| {
            bench.until(PATIENCE, Duration::from_millis(20), || {
                barrier_ms(&changes(&farm, &all)?, before)
            })
        });
        let what = format!("barrier, {nodes} nodes, {}/{CHANGES}", number + 1);
        // A farm that does not agree any more has nothing more to say.
        let Some(took) = bench.sample(&what, took)? else { break };
        samples.push(took);
    }
    let Summary { median, max } = Summary::of(samples.iter().copied());
    let changes = samples.len();
    let way = match way {
        Way::Power => "power",
        Way::Rejoin => "rejoin",
    };
    let figures = BarrierFigures { nodes, median, max, changes, wanted: CHANGES.into(), way };
    eprintln!("barrier, {nodes} nodes: {figures}");
    Ok(figures)
}

/// Makes the view change, and waits until all agree on the next.
fn change(
    bench: &Bench<'_>,
    farm: &mut Farm<'_>,
    all: &[usize],
    number: u16,
    way: Way,
) -> Result<()> {
    let number = usize::from(number);
    match way {
        Way::Power => {
            let node = all[number / 2 % all.len()];
            let power = format!("node{node}={}", 2 - number % 2);
            farm.ask(1, &["power", GROUP, &power])?;
        }
        Way::Rejoin => {
            let node = all[number % all.len()];
            let others: Vec<_> = all.iter().copied().filter(|&other| other != node).collect();
            farm.stop_node(node)?;
            bench.agree(farm, &others)?;
            farm.start_node(node, &[])?;
        }
    }
    bench.agree(farm, all)
}

fn changes(farm: &Farm<'_>, nodes: &[usize]) -> Result<Vec<ViewChange>> {
    let change = |&node| farm.status(node)?.last_view_change.context("it has no view yet");
    nodes.iter().map(change).collect()
}

/// The newest view that any of them has installed.
fn epoch(farm: &Farm<'_>, nodes: &[usize]) -> Result<u64> {
    Ok(changes(farm, nodes)?.iter().map(|change| change.epoch).max().unwrap_or(0))
}

/// From the first release to the last acquisition of a view that is newer than `before`.
fn barrier_ms(changes: &[ViewChange], before: u64) -> Result<f64> {
    let (first, rest) = changes.split_first().context("there are no members")?;
    ensure!(first.epoch > before, "the view is still {}", first.epoch);
    ensure!(
        rest.iter().all(|change| change.epoch == first.epoch),
        "the members are in different views: {changes:?}"
    );
    let released = changes.iter().filter_map(|change| change.released_us).min();
    let released = released.context("nobody served before that view")?;
    let acquired = changes.iter().map(|change| change.acquired_us).max().unwrap_or(released);
    Ok(Duration::from_micros(acquired.saturating_sub(released)).as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(epoch: u64, released_us: Option<u64>, acquired_us: u64) -> ViewChange {
        ViewChange { epoch, released_us, acquired_us }
    }

    #[test]
    fn the_barrier_is_from_the_first_release_to_the_last_acquisition() {
        let joiner = change(8, None, 7_100);
        let members = [change(8, Some(5_000), 6_900), joiner, change(8, Some(4_600), 7_000)];
        let took = barrier_ms(&members, 7).expect("all are in view 8");
        assert!((took - 2.5).abs() < 1e-9, "{took}");
    }

    #[test]
    fn members_in_different_views_have_no_barrier_yet() {
        let members = [change(8, Some(1), 2), change(7, Some(1), 2)];
        barrier_ms(&members, 7).expect_err("one is missing");
        barrier_ms(&members[1..], 7).expect_err("nothing has changed");
        barrier_ms(&[change(8, None, 2)], 7).expect_err("a first view takes nothing from anybody");
    }
}
