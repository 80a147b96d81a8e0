//! `vipfarm status`

use std::{collections::BTreeMap, time::Duration};

use owo_colors::Style;

use super::{
    Client, PATIENCE, nodes,
    screen::{self, Ink, Row},
};
use crate::{
    cli::TalkArgs,
    model::{BUCKETS, Effect},
    status::{
        ChangedPower, CheckState, CheckStatus, FailoverStatus, GroupStatus, HandoverStatus,
        Lateness, NodeState, ProofStatus, Status, Verdict, VipStatus, Why,
    },
};

pub(super) async fn run(args: TalkArgs) -> anyhow::Result<()> {
    let status: Status = Client::find(&args.agent)?.get("/v1/status", PATIENCE).await?;
    if args.json {
        return screen::print_json(&status);
    }
    Ok(screen::print(&render(&status, Ink::of_stdout()))?)
}

/// The whole page: what needs attention, then the farm, the nodes, the VIPs and the counters.
pub(super) fn render(status: &Status, ink: Ink) -> String {
    let mut page = String::new();
    for (warning, style) in warnings(status) {
        page += &ink.paint(&format!("! {warning}"), style);
        page.push('\n');
    }
    if !page.is_empty() {
        page.push('\n');
    }
    page += &summary(status, ink);
    page.push('\n');
    page += &nodes::table(&status.nodes, ink);
    page += &changed_powers(status, ink);
    page += &checks(&status.checks, ink);
    page.push('\n');
    page.extend(status.vips.iter().map(vip));
    page += &old_connections(status, ink);
    page += &counters("packets", &status.packets, ink);
    page += &counters("egress guard", &status.guard, ink);
    page += &counters("announcements", &status.announcements, ink);
    page += &counters("heartbeats", &status.heartbeats, ink);
    page += &lateness(status.lateness);
    page
}

fn warnings(status: &Status) -> Vec<(String, Style)> {
    let grave = Style::new().red().bold();
    let notable = Style::new().yellow();
    let mut warnings = Vec::new();
    let own = match status.state {
        NodeState::Fenced => Some((
            "fenced: the lease has lapsed, this node accepts no traffic until it is renewed",
            grave,
        )),
        NodeState::Joining => Some(("joining: this node serves nothing yet", notable)),
        NodeState::Up | NodeState::Down => None,
    };
    warnings.extend(own.map(|(text, style)| (text.to_owned(), style)));
    if !status.converged {
        warnings.push(("not converged: buckets are changing hands".into(), notable));
    }
    for node in status.nodes.iter().filter(|node| !node.config_differs.is_empty()) {
        let (name, parts) = (&node.name, node.config_differs.join(", "));
        warnings.push((
            format!(
                "{name} has another configuration ({parts}): it stays out until all files are the same"
            ),
            grave,
        ));
    }
    warnings.extend(status.proof.faults.iter().map(|fault| (fault.message.clone(), grave)));
    for group in &status.groups {
        let is_closed = group.powers.get(&status.node) == Some(&0);
        let closed = group.changed.get(&status.node).filter(|_| is_closed);
        warnings.extend(closed.map(|closed| {
            let or = if closed.persist { "" } else { ", or a restart" };
            let name = &group.name;
            let text = format!("closed here: group {name}, until `vipfarm open` or `undrain`{or}");
            (text, notable)
        }));
    }
    for vip in status.vips.iter().filter(|vip| !vip.open) {
        let vips = vip.addresses.join(", ");
        let text = format!("closed here: {vips}, until `vipfarm open`");
        warnings.push((text, notable));
    }
    warnings.extend(status.checks.iter().filter_map(failing).map(|text| (text, grave)));
    warnings
}

fn summary(status: &Status, ink: Ink) -> String {
    let Status { farm, node, version, epoch, .. } = status;
    let state = ink.paint(status.state.as_str(), nodes::state_style(status.state).bold());
    let members: Vec<&str> =
        status.nodes.iter().filter(|node| node.alive).map(|node| &*node.name).collect();
    let view = if *epoch == 0 {
        "(no view yet)".to_owned()
    } else {
        format!("({} of {} nodes, view {epoch})", members.len(), status.nodes.len())
    };
    let loads = status
        .groups
        .iter()
        .map(|group| format!("farm load: {} (group {})", own_load(group, node), group.name));
    let lease = screen::human_ms(status.lease_ms);
    let uptime = screen::human_ms(status.uptime_s * 1000.0);
    [
        format!("farm {farm} on {node}: {state}\n"),
        screen::wrapped("farm membership:", members.into_iter().chain([&*view])),
        screen::lines(loads),
        proof(&status.proof),
        format!("lease: {lease}; agent {version}, up for {uptime}\n"),
    ]
    .concat()
}

/// `SafeKit`'s measure, and what the kernel does meanwhile where that differs.
fn own_load(group: &GroupStatus, node: &str) -> String {
    let owned = group.load.get(node).copied().unwrap_or(0);
    let in_force = group.bitmap.len();
    if in_force == owned {
        format!("{owned}/256")
    } else {
        format!("{owned}/256, in force here: {in_force}/256")
    }
}

/// How many buckets are accepted by exactly one node.
fn proof(proof: &ProofStatus) -> String {
    let found = match proof.verdict {
        Verdict::OwnedOnce => {
            let groups = match proof.groups.len().saturating_sub(1) {
                1 => "1 group".to_owned(),
                groups => format!("all {groups} groups"),
            };
            format!("{BUCKETS}/{BUCKETS} owned once in {groups}, and for ARP and echo")
        }
        Verdict::Changing => format!("waiting for {}", proof.waiting_for.join(", ")),
        Verdict::Wrong => {
            let fewer = proof.groups.iter().filter(|group| group.once < BUCKETS);
            let fewer = fewer.map(|group| format!("{}/{BUCKETS} in {}", group.once, group.name));
            format!("owned once: {}", fewer.collect::<Vec<_>>().join(", "))
        }
        Verdict::Unknown => "this node cannot tell: it has no view or no lease".to_owned(),
    };
    let view = format!("(view {})", proof.epoch);
    let view = (proof.epoch > 0).then_some(view.as_str());
    screen::wrapped("proof:", found.split(' ').chain(view))
}

/// What must be right for this node to serve; nothing when nothing has to.
fn checks(checks: &[CheckStatus], ink: Ink) -> String {
    let row = |check: &CheckStatus| {
        let style = match check.state {
            CheckState::Passing => Style::new(),
            CheckState::Starting => Style::new().yellow(),
            CheckState::Failing => Style::new().red(),
        };
        let since = Duration::from_secs(check.since_s).as_secs_f64() * 1e3;
        let since = screen::human_ms(since);
        let what = format!("{} ({})", check.check, check.about);
        Row::new(style, [what, check.state.to_string(), since])
    };
    if checks.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = checks.iter().map(row).collect();
    format!("\n{}", screen::table(ink, &["checks", "state", "for"], &[2], &rows))
}

/// What fails, and what follows from it.
fn failing(check: &CheckStatus) -> Option<String> {
    let CheckStatus { about, check: what, state, effect, last_error, .. } = check;
    let follows = match effect {
        Some(Effect::Drain) => "no new clients are served here",
        Some(Effect::Leave) => "nothing is served here",
        None => "nothing follows from it",
    };
    let error = last_error.as_deref().unwrap_or("no reason was given");
    (*state == CheckState::Failing).then(|| format!("{what} ({about}) fails: {error}; {follows}"))
}

/// The powers that are others than the file's; nothing when there are none.
fn changed_powers(status: &Status, ink: Ink) -> String {
    let of_group = |group: &GroupStatus| {
        let line = |(node, changed): (&String, &ChangedPower)| {
            let (name, power) = (&group.name, group.powers.get(node).copied().unwrap_or(0));
            format!("  {node}: power {power} in {name}{}", screen::mark(Some(changed)))
        };
        group.changed.iter().map(line).collect::<Vec<_>>()
    };
    let changed: Vec<_> = status.groups.iter().flat_map(of_group).collect();
    if changed.is_empty() {
        return String::new();
    }
    let title = ink.paint("powers changed at run time", Style::new().dimmed());
    format!("\n{}", screen::lines(std::iter::once(title).chain(changed)))
}

fn vip(vip: &VipStatus) -> String {
    let VipStatus { interface, vlan, mode, vmac, addresses, connections, .. } = vip;
    let VipStatus { xdp, jumbo, open, failover: holder, .. } = vip;
    let open = if *open { "open" } else { "closed" };
    let jumbo = if *jumbo { "" } else { " without jumbo frames" };
    let vlan: Vec<_> = vlan.iter().map(|id| format!(" VLAN {id}")).collect();
    let vlan = vlan.concat();
    let mode = screen::word(mode);
    let other = if holder.is_some() { "its holder's MAC" } else { "each node's own MAC" };
    let vmac = vmac.as_deref().unwrap_or(other);
    let holder = holder.as_ref().map(|it| screen::wrapped("    ", failover(it).split(' ')));
    let addresses = addresses.iter().map(String::as_str);
    let counted: Vec<_> =
        connections.iter().map(|(address, count)| format!("{count} to {address}")).collect();
    let counted = if counted.is_empty() {
        String::new()
    } else {
        screen::wrapped("     open connections here:", [counted.join(", ").as_str()])
    };
    screen::wrapped("vip:", addresses)
        + &holder.unwrap_or_default()
        + &format!("     {mode} on {interface}{vlan}, {vmac}, XDP {xdp}{jumbo}, {open}\n")
        + &counted
}

/// Who has a failover VIP, since when and why.
pub(super) fn failover(status: &FailoverStatus) -> String {
    let FailoverStatus { holder, why, favourite, .. } = status;
    let (Some(holder), Some(why)) = (holder, why) else {
        return "no node can have it".into();
    };
    let since = status.since_s.map_or_else(String::new, |since| {
        format!(" for {}", screen::human_ms(Duration::from_secs(since).as_secs_f64() * 1e3))
    });
    let other = favourite.as_ref().filter(|favourite| *favourite != holder);
    let delay =
        screen::human_ms(Duration::from_millis(status.preempt_delay_ms).as_secs_f64() * 1e3);
    let why = match (why, other) {
        (Why::Pinned, _) if status.persist => "moved there, until `vipfarm move --back`".to_owned(),
        (Why::Pinned, _) => {
            "moved there, until `vipfarm move --back` or its agent's next start".to_owned()
        }
        (Why::Incumbent, Some(other)) if status.preempt => {
            format!("it stays there until {other} has been in the farm for {delay}")
        }
        (Why::Incumbent, Some(other)) => {
            format!("it stays there: {other}, whose it would be, does not preempt")
        }
        (Why::Spread, _) => "the VIPs are spread over the nodes".to_owned(),
        _ => "by its priority".to_owned(),
    };
    format!("{holder} has it{since}: {why}")
}

/// Old connections of buckets that have moved; nothing when there are none.
fn old_connections(status: &Status, ink: Ink) -> String {
    let mut lines = Vec::new();
    for GroupStatus { name, handover, .. } in &status.groups {
        let HandoverStatus { lingering, connections, flows, since_s, inherited } = *handover;
        let buckets = |count: usize| screen::count(count, "bucket", "buckets");
        if lingering > 0 {
            let count = connections.map_or_else(
                || "connections, not yet counted,".to_owned(),
                |count| screen::count(count, "connection", "connections"),
            );
            let flows = flows.filter(|&count| count > 0).map_or_else(String::new, |count| {
                format!(" and {}", screen::count(count, "UDP flow", "UDP flows"))
            });
            let since = since_s.map_or_else(String::new, |since| {
                format!(
                    ", for {}",
                    screen::human_ms(Duration::from_secs(since).as_secs_f64() * 1e3)
                )
            });
            let from = buckets(lingering);
            lines.push(format!("  {name}: lingering: {count}{flows} in {from} given away{since}"));
        }
        if inherited > 0 {
            let taken = buckets(inherited);
            lines.push(format!("  {name}: inherited: {taken} taken over, not all connections"));
        }
    }
    for node in status.nodes.iter().filter(|node| !node.own && node.alive) {
        if let Some(count @ 1..) = node.lingering {
            let count = screen::count(count, "bucket", "buckets");
            lines.push(format!("  {}: still serves connections in {count}", node.name));
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    let title = ink.paint("old connections of buckets that have moved", Style::new().dimmed());
    format!("\n{}", screen::lines(std::iter::once(title).chain(lines)))
}

/// The counters that are not zero; nothing when all are.
fn counters(title: &str, counters: &BTreeMap<String, u64>, ink: Ink) -> String {
    let rows: Vec<Row> = counters
        .iter()
        .filter(|&(_, &count)| count > 0)
        .map(|(word, count)| Row::new(Style::new(), [word.clone(), count.to_string()]))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", screen::table(ink, &[title, "count"], &[1], &rows))
}

fn lateness(lateness: Lateness) -> String {
    let Lateness { real_time, mean_ms, max_ms, wait_mean_ms, wait_max_ms } = lateness;
    let class = if real_time { "real-time" } else { "NOT real-time (needs CAP_SYS_NICE)" };
    format!(
        "\nheartbeat thread: {class}\n  \
         woke up {mean_ms:.2} ms late on average, {max_ms:.2} ms at worst\n  \
         heartbeats waited for it {wait_mean_ms:.2} ms on average, {wait_max_ms:.2} ms at worst\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixture;

    #[test]
    fn a_healthy_farm_has_no_warnings() {
        let text = render(&fixture::healthy(), Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn who_keeps_buckets_from_being_owned_once_is_named_first() {
        let text = render(&fixture::wrong(), Ink::Plain);
        assert!(text.starts_with("! node2 serves nothing"), "{text}");
        let line = "proof: owned once: 171/256 in (resolve), 192/256 in FarmProto (view 7)";
        assert!(text.lines().any(|it| it == line), "{text}");
    }

    #[test]
    fn a_farm_that_changes_says_for_whom_it_waits() {
        let mut status = fixture::healthy();
        status.proof.verdict = Verdict::Changing;
        status.proof.waiting_for = vec!["node2".into()];
        let text = render(&status, Ink::Plain);
        assert!(text.contains("\nproof: waiting for node2 (view 7)\n"), "{text}");
    }

    #[test]
    fn trouble_comes_first() {
        let text = render(&fixture::troubled(), Ink::Plain);
        assert!(text.starts_with("! fenced"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_check_that_fails_says_what_follows_and_comes_first() {
        let text = render(&fixture::unwell(), Ink::Plain);
        assert!(text.starts_with("! closed here: 192.168.1.222/24"), "{text}");
        let to = text.find("\nvip:").expect("VIPs are shown");
        insta::assert_snapshot!(&text[..to]);
    }

    #[test]
    fn changed_powers_are_marked_and_a_closed_group_comes_first() {
        let text = render(&fixture::operated(), Ink::Plain);
        fixture::assert_fits(&text);
        assert!(text.starts_with("! closed"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn colours_mark_what_needs_attention() {
        insta::assert_snapshot!(fixture::visible(&render(&fixture::troubled(), Ink::Colour)));
    }

    #[test]
    fn old_connections_are_told_by_group_and_of_other_nodes_by_bucket() {
        let text = render(&fixture::moved(), Ink::Plain);
        fixture::assert_fits(&text);
        let from = text.find("\nvip:").expect("VIPs are shown");
        let to = text.find("\npackets").expect("packets are counted");
        insta::assert_snapshot!(&text[from..to]);
    }

    #[test]
    fn a_joining_agent_without_a_view_says_so() {
        let mut status = fixture::healthy();
        (status.state, status.epoch) = (NodeState::Joining, 0);
        status.nodes.iter_mut().for_each(|node| node.alive = false);
        let text = render(&status, Ink::Plain);
        assert!(text.contains("! joining"), "{text}");
        assert!(text.contains("farm membership: (no view yet)"), "{text}");
    }
}
