//! `vipfarm plan`

use std::{fmt::Write, sync::Arc};

use owo_colors::Style;
use serde::Serialize;

use super::{
    Failure,
    explain::named,
    screen::{self, Ink, Row},
};
use crate::{
    agent::forecast::{GroupForecast, Move, NodeForecast, Share, forecast},
    cli::{NodePower, PlanArgs},
    config,
    model::{
        BUCKETS, Failover, Farm, NodeId, NodeSet, Override, Overrides, Stay, StayKind, Version,
        View,
    },
    placement::Placement,
};

pub(super) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let farm = config::load(&args.config)?;
    let (before, after) = views(&farm, args)?;
    let outlook = Outlook { farm: farm.name.clone(), groups: forecast(&farm, &before, &after) };
    if args.json {
        return screen::print_json(&outlook);
    }
    Ok(screen::print(&render(&outlook, Ink::of_stdout()))?)
}

/// What is to come, by group.
#[derive(Debug, Serialize)]
pub(super) struct Outlook {
    farm: String,
    groups: Vec<GroupForecast>,
}

/// The farm's view before and after the change.
fn views(farm: &Farm, args: &PlanArgs) -> Result<(View, View), Failure> {
    let nodes = |names: &[String]| -> Result<NodeSet, Failure> {
        names.iter().map(|name| named(farm, name)).collect()
    };
    let (down, up) = (nodes(&args.down)?, nodes(&args.up)?);
    let (absent, drained) = (nodes(&args.absent)?, nodes(&args.drain)?);
    let mut seen = NodeSet::EMPTY;
    for node in [down, up, absent].into_iter().flat_map(NodeSet::iter) {
        if seen.contains(node) {
            let name = &farm.nodes[node.index()].name;
            let message =
                format!("{name} is in two of --down, --up and --absent: leave it in one of them");
            return Err(Failure::Usage(message));
        }
        seen = seen.with(node);
    }
    let present: NodeSet = farm.node_ids().filter(|&node| !absent.contains(node)).collect();
    let before = View::of(present.difference(up));
    let powers = overrides(farm, drained, &args.power)?;
    // As in the farm: who is drained in all groups is an idle member.
    let idle = drained.iter().filter(|&node| powers.is_drained(node)).collect();
    let after = View { idle, powers: Arc::new(powers), ..View::of(present.difference(down)) };
    if before == after {
        return Err(Failure::Usage(
            "nothing changes: say what does with --down, --up, --drain or --power".into(),
        ));
    }
    let after = remembering(farm, &before, after)?;
    Ok((before, after))
}

/// `powers` are pairs: a group, a node with its power.
fn overrides(farm: &Farm, drained: NodeSet, powers: &[String]) -> Result<Overrides, Failure> {
    let drained = drained.iter().map(|node| Override::persistent(node, None, 0));
    let mut entries: Vec<Override> = drained.collect();
    let (pairs, _) = powers.as_chunks::<2>();
    for [group, power] in pairs {
        let NodePower { node, power } = power.parse().map_err(Failure::Usage)?;
        let (group, node) = (group_named(farm, group)?, named(farm, &node)?);
        refuse_twice(farm, &entries, group, node)?;
        entries.push(Override::persistent(node, Some(group), power));
    }
    let too_many = || Failure::Usage(format!("more than {} powers differ", Overrides::MAX));
    Overrides::new(Version::default(), entries).ok_or_else(too_many)
}

/// Refuses a power of a node that is drained, or has been given one in that group.
fn refuse_twice(farm: &Farm, entries: &[Override], group: u8, node: NodeId) -> Result<(), Failure> {
    let mut own = entries.iter().filter(|entry| entry.node == node);
    let other = own.find(|entry| entry.group.is_none_or(|other| other == group));
    let name = &farm.nodes[node.index()].name;
    let message = match other {
        None => return Ok(()),
        Some(Override { group: None, .. }) => {
            format!("{name} is in --drain and in --power: leave it in one of them")
        }
        Some(_) => format!("{name} has two powers in one group: leave one --power out"),
    };
    Err(Failure::Usage(message))
}

/// The view after the change, when the farm remembers who had a failover VIP before.
fn remembering(farm: &Farm, before: &View, after: View) -> Result<View, Failure> {
    let placement = Placement::new(farm);
    let incumbent = |group: usize| {
        let floating = placement.floating(group)?;
        // Who waits for `preempt_delay` has it at last.
        let Failover { preempt, preempt_delay, .. } = floating.failover();
        let keeps = floating.remembers() && (!preempt || preempt_delay.is_zero());
        let node = placement.holder(group, before)?.node;
        keeps.then_some(Stay { vip: floating.id(), kind: StayKind::Incumbent, node, life: None })
    };
    let stays: Vec<Stay> = (0..placement.groups()).filter_map(incumbent).collect();
    let powers = Overrides::clone(&after.powers).and(stays);
    let powers = powers.ok_or_else(|| Failure::Usage("too many failover VIPs".into()))?;
    Ok(View { powers: Arc::new(powers), ..after })
}

/// The group's index in file order over all blocks.
fn group_named(farm: &Farm, name: &str) -> Result<u8, Failure> {
    let names = || farm.vips.iter().flat_map(|block| &block.groups).map(|group| &*group.name);
    let index = names().position(|group| group == name).and_then(|index| index.try_into().ok());
    index.ok_or_else(|| {
        let (farm, names) = (&farm.name, names().collect::<Vec<_>>().join(", "));
        Failure::Usage(format!("farm {farm} has no group `{name}`; its groups are {names}"))
    })
}

/// A sentence, a table and the moves of each group.
pub(super) fn render(outlook: &Outlook, ink: Ink) -> String {
    let groups: Vec<String> = outlook.groups.iter().map(|group| of_group(group, ink)).collect();
    groups.join("\n")
}

fn of_group(group: &GroupForecast, ink: Ink) -> String {
    let title = ink.paint(&format!("group {}", group.group), Style::new().bold());
    let mut text = format!("{title} of {}: {}\n", group.vips.join(", "), sentence(group));
    if group.by_file_alone {
        text += "  by the file alone: who has it now (`vipfarm status` says) may keep it\n";
    }
    if group.nobody > 0 {
        let warning = format!("! {} of {BUCKETS} buckets are served by nobody", group.nobody);
        text += &ink.paint(&warning, Style::new().red().bold());
        text.push('\n');
    }
    if !group.nodes.is_empty() {
        let header = ["NODE", "POWER", "LOAD", "SHARE"];
        let rows: Vec<Row> = group.nodes.iter().map(row).collect();
        text += &screen::table(ink, &header, &[1, 2, 3], &rows);
    }
    for Move { from, to, buckets } in &group.moves {
        let name = |node: &Option<String>| node.clone().unwrap_or_else(|| "nobody".into());
        let count = screen::count(buckets.len(), "bucket", "buckets");
        // A string takes whatever is written.
        let _ = writeln!(text, "  {count}: {} -> {}", name(from), name(to));
    }
    text
}

fn sentence(group: &GroupForecast) -> String {
    let count = screen::count(group.moved, "bucket moves", "buckets move");
    match group.moved - group.least {
        _ if group.moved == 0 => "nothing moves".into(),
        0 => format!("{count}, no more than it takes"),
        surplus => format!("{count}, {surplus} more than these loads take"),
    }
}

fn row(node: &NodeForecast) -> Row {
    let NodeForecast { node: name, before, after } = node;
    let style = match (before.alive, after.alive) {
        (_, false) => Style::new().red(),
        (false, true) => Style::new().green(),
        _ if before.load != after.load => Style::new().yellow(),
        _ => Style::new(),
    };
    let cell = |show: fn(&Share) -> String| {
        let (first, second) = (show(before), show(after));
        if first == second { second } else { format!("{first} -> {second}") }
    };
    let power = |share: &Share| if share.alive { share.power.to_string() } else { "down".into() };
    let load = |share: &Share| share.load.to_string();
    let percent = |share: &Share| format!("{:.1} %", share.percent);
    Row::new(style, [name.clone(), cell(power), cell(load), cell(percent)])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Verb},
        commands::{check::tests::farm, fixture},
    };

    fn args(line: &str) -> PlanArgs {
        let line = format!("vipfarm plan -c farm.yaml {line}");
        match Cli::try_parse_from(line.split_whitespace()).expect("good usage").verb {
            Verb::Plan(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn outlook(line: &str) -> Outlook {
        let farm = farm();
        let (before, after) = views(&farm, &args(line)).expect("good names");
        let groups = forecast(&farm, &before, &after);
        Outlook { farm: farm.name, groups }
    }

    fn refused(line: &str) -> String {
        views(&farm(), &args(line)).expect_err(line).to_string()
    }

    #[test]
    fn loads_and_moves_are_shown_by_group() {
        let text = render(&outlook("--down node2"), Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn powers_and_returning_nodes_are_shown_beside_what_they_were() {
        let line = "--up node2 --power FarmProto node1=0 --power Idle node2=3";
        let text = render(&outlook(line), Ink::Colour);
        insta::assert_snapshot!(fixture::visible(&text));
    }

    #[test]
    fn buckets_that_nobody_serves_stand_out() {
        let text = render(&outlook("--drain node1,node2"), Ink::Plain);
        assert!(text.contains("! 256 of 256 buckets are served by nobody"), "{text}");
        assert!(text.contains("node1 -> nobody"), "{text}");
    }

    fn floating(lines: &str) -> Farm {
        let text = format!(
            "farm: web\nkey_file: k\nnodes:\n\
             - {{ name: node1, addresses: [10.0.0.11] }}\n\
             - {{ name: node2, addresses: [10.0.0.12] }}\nvips:\n\
             - addresses: [10.0.0.100/24]\n  mode: failover\n  priorities: {{ node1: 2, node2: 1 }}\n{lines}"
        );
        config::parse("farm.yaml", &text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn who_has_a_failover_vip_keeps_it_as_the_file_says_and_what_is_unknown_is_said() {
        for (lines, moves, says) in [
            ("", true, false),
            ("  preempt: false\n", false, true),
            ("  preempt_delay: 10s\n", true, true),
        ] {
            let farm = floating(lines);
            let (before, after) = views(&farm, &args("--up node1")).expect("good names");
            let groups = forecast(&farm, &before, &after);
            assert_eq!(groups[0].moved > 0, moves, "{lines}");
            let text = render(&Outlook { farm: farm.name, groups }, Ink::Plain);
            fixture::assert_fits(&text);
            assert_eq!(text.contains("by the file alone"), says, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (line, words) in [
            ("", "nothing changes"),
            ("--absent node1", "nothing changes: say what does"),
            ("--down node9", "has no node `node9`"),
            ("--down node1 --up node1", "node1 is in two of"),
            ("--power Nothing node1=1", "has no group `Nothing`; its groups are FarmProto, Idle"),
            ("--power FarmProto node9=1", "has no node `node9`"),
            ("--power FarmProto node1", "is not NODE=N"),
            ("--power FarmProto node1=3 --drain node1", "node1 is in --drain and in --power"),
            ("--power FarmProto node1=3 --power FarmProto node1=2", "node1 has two powers"),
        ] {
            let message = refused(line);
            assert!(message.contains(words), "{line}: {message}");
        }
    }
}
