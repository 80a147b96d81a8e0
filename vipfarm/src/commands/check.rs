//! `vipfarm check`

mod checks;

use std::{io, path::Path, time::Duration};

use owo_colors::Style;
use serde::Serialize;

use super::screen::{self, Ink, Row};
use crate::{
    cli::CheckArgs,
    config::{
        self, Diagnostics,
        key::{KeyError, KeyProblem, Secret},
    },
    model::{BUCKETS, Farm, Filter, Group, Mode, Node, Proto, Rule, Table, View},
    placement::Placement,
};

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    match read(&args.file) {
        Ok(summary) if args.json => screen::print_json(&summary),
        Ok(summary) => Ok(screen::print(&render(&summary, Ink::of_stdout()))?),
        Err(diagnostics) => {
            if args.json {
                let file = name(&args.file);
                screen::print_json(&Problems { file, ok: false, errors: &diagnostics })?;
            }
            Err(diagnostics.into())
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What the file is called in problems; relative paths in it start at this name's directory.
fn name(path: &Path) -> String {
    if is_stdin(path) { "<stdin>".into() } else { path.display().to_string() }
}

fn read(path: &Path) -> Result<Summary, Diagnostics> {
    let file = name(path);
    // Once: a pipe has nothing to say again.
    let text = if is_stdin(path) {
        config::read_from(&file, || Ok(io::stdin().lock()))
    } else {
        config::read_text(path)
    }?;
    let farm = config::parse(&file, &text)?;
    let problems: Vec<_> = farm.key_files().filter_map(|path| Secret::load(path).err()).collect();
    // A file may be checked where its keys are not, or by somebody who may not read them.
    let is_elsewhere =
        |error: &KeyError| matches!(error.problem, KeyProblem::Missing | KeyProblem::Unreadable(_));
    if problems.is_empty() || !problems.iter().all(is_elsewhere) {
        // The same problems again, with their places in the file.
        config::parse_with_keys(&file, &text)?;
    }
    Ok(Summary::of(file, &farm, problems.iter().map(ToString::to_string).collect()))
}

/// What `--json` prints of a file with errors.
#[derive(Serialize)]
struct Problems<'a> {
    file: String,
    ok: bool,
    errors: &'a Diagnostics,
}

/// The farm as the file describes it.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    file: String,
    ok: bool,
    farm: String,
    key_file: String,
    accept_key_file: Option<String>,
    hash_key_file: Option<String>,
    /// Why an agent could not use the keys here and now.
    key_problems: Vec<String>,
    /// What is allowed and seldom meant.
    warnings: Vec<String>,
    heartbeat: Heartbeat,
    nodes: Vec<NodeSummary>,
    vips: Vec<VipSummary>,
    groups: Vec<GroupSummary>,
    checks: Vec<checks::Summary>,
}

#[derive(Debug, Serialize)]
struct Heartbeat {
    port: u16,
    period_ms: u64,
    lease_ms: u64,
    fail_ms: u64,
}

#[derive(Debug, Serialize)]
struct NodeSummary {
    name: String,
    addresses: Vec<String>,
}

#[derive(Debug, Serialize)]
struct VipSummary {
    addresses: Vec<String>,
    /// `None`: the interface whose subnet holds the addresses.
    interface: Option<String>,
    mode: Mode,
    /// `None`: each node's own.
    vmac: Option<String>,
}

#[derive(Debug, Serialize)]
struct GroupSummary {
    name: String,
    /// Index of its VIP block.
    vip: usize,
    rules: Vec<RuleSummary>,
    shares: Vec<Share>,
}

#[derive(Debug, Serialize)]
struct RuleSummary {
    virtual_addr: String,
    port: String,
    proto: Proto,
    filter: Filter,
    /// UDP flows linger for so long; absent if they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    linger_s: Option<u64>,
}

/// What one node gets of a group's traffic while all nodes are alive.
#[derive(Debug, Serialize)]
struct Share {
    node: String,
    power: u16,
    /// Buckets, of 256.
    load: usize,
    percent: f64,
}

impl Summary {
    pub(super) fn of(file: String, farm: &Farm, key_problems: Vec<String>) -> Self {
        let timers = farm.membership.timers;
        let text = |path: &Path| path.display().to_string();
        let placement = Placement::new(farm);
        let groups = farm.vips.iter().enumerate();
        let groups = groups.flat_map(|(vip, it)| it.groups.iter().map(move |group| (vip, group)));
        let groups = (1..).zip(groups).map(|(kernel_group, (vip, group))| {
            let everybody = View::of(farm.node_ids().collect());
            GroupSummary::of(farm, vip, group, &placement.table(kernel_group, &everybody))
        });
        Self {
            file,
            ok: true,
            farm: farm.name.clone(),
            key_file: text(&farm.key_file),
            accept_key_file: farm.accept_key_file.as_deref().map(text),
            hash_key_file: farm.hash_key_file.as_deref().map(text),
            key_problems,
            warnings: warnings(farm),
            heartbeat: Heartbeat {
                port: farm.membership.port,
                period_ms: millis(timers.period),
                lease_ms: millis(timers.lease),
                fail_ms: millis(timers.fail),
            },
            nodes: farm
                .nodes
                .iter()
                .map(|node| NodeSummary {
                    name: node.name.clone(),
                    addresses: node.addresses.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            vips: farm
                .vips
                .iter()
                .map(|vip| VipSummary {
                    addresses: vip
                        .addresses
                        .iter()
                        .map(|vip| format!("{}/{}", vip.addr, vip.prefix))
                        .collect(),
                    interface: vip.interface.clone(),
                    mode: vip.mode,
                    vmac: vip.virtual_mac().map(|vmac| vmac.to_string()),
                })
                .collect(),
            groups: groups.collect(),
            checks: checks::of(farm),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn warnings(farm: &Farm) -> Vec<String> {
    let most = farm.nodes.iter().map(|node| node.addresses.len()).max().unwrap_or_default();
    let fewer = farm.nodes.iter().filter(|node| node.addresses.len() < most);
    let warning = |node: &Node| {
        let own = screen::count(node.addresses.len(), "address", "addresses");
        format!(
            "{} has {own}, others have {most}: it has no heartbeats on the further networks",
            node.name
        )
    };
    fewer.map(warning).collect()
}

impl GroupSummary {
    fn of(farm: &Farm, vip: usize, group: &Group, table: &Table) -> Self {
        let shares = farm.node_ids().zip(&farm.nodes).zip(&group.powers);
        let shares = shares.filter_map(|((id, node), power)| {
            let load = table.load(id);
            let percent = 100.0 * load as f64 / BUCKETS as f64;
            Some(Share { node: node.name.clone(), power: (*power)?, load, percent })
        });
        Self {
            name: group.name.clone(),
            vip,
            rules: group.rules.iter().map(RuleSummary::of).collect(),
            shares: shares.collect(),
        }
    }
}

impl RuleSummary {
    fn of(rule: &Rule) -> Self {
        let any = || "*".to_owned();
        Self {
            virtual_addr: rule.virtual_addr.map_or_else(any, |addr| addr.to_string()),
            port: rule.port.map_or_else(any, |port| port.to_string()),
            proto: rule.proto,
            filter: rule.filter,
            linger_s: rule.linger.map(|linger| linger.as_secs()),
        }
    }
}

/// The farm as tables, one for the nodes, one for the VIPs, two a group, one for the checks.
pub(super) fn render(summary: &Summary, ink: Ink) -> String {
    let Summary { file, farm, key_file, heartbeat, nodes, vips, groups, .. } = summary;
    let Heartbeat { port, period_ms, lease_ms, fail_ms } = heartbeat;
    let ok = ink.paint("ok", Style::new().green().bold());
    let further = |what: &str, file: &Option<String>| {
        file.as_ref().map_or_else(String::new, |file| format!("{what}: {file}\n"))
    };
    let accepted = further("key accepted too", &summary.accept_key_file);
    let hash = further("key of the bucket hash", &summary.hash_key_file);
    let mut text = format!(
        "{file}: {ok}\n\nfarm {farm}\nkey: {key_file}\n{accepted}{hash}heartbeats: every {period_ms} ms to UDP port {port}, lease {lease_ms} ms, failure after {fail_ms} ms\n"
    );
    for problem in summary.key_problems.iter().chain(&summary.warnings) {
        text += &ink.paint(&format!("! {problem}"), Style::new().yellow());
        text.push('\n');
    }
    text.push('\n');
    text += &node_table(nodes, ink);
    text.push('\n');
    text += &vip_table(vips, ink);
    for group in groups {
        text.push('\n');
        text += &group_tables(group, &vips[group.vip], ink);
    }
    if !summary.checks.is_empty() {
        text.push('\n');
        text += &checks::table(&summary.checks, ink);
    }
    text
}

fn group_tables(group: &GroupSummary, vip: &VipSummary, ink: Ink) -> String {
    let title = ink.paint(&format!("group {}", group.name), Style::new().bold());
    let addresses = vip.addresses.join(", ");
    let rules = rule_table(&group.rules, ink);
    let shares = share_table(&group.shares, ink);
    format!("{title} of {addresses}\n{rules}\n{shares}")
}

fn node_table(nodes: &[NodeSummary], ink: Ink) -> String {
    let rows: Vec<Row> = nodes
        .iter()
        .map(|node| Row::new(Style::new(), [node.name.clone(), node.addresses.join("\n")]))
        .collect();
    screen::table(ink, &["NODE", "ADDRESSES"], &[], &rows)
}

fn vip_table(vips: &[VipSummary], ink: Ink) -> String {
    let rows: Vec<Row> = vips
        .iter()
        .map(|vip| {
            let interface = vip.interface.clone().unwrap_or_else(|| "(by subnet)".into());
            let mode = screen::word(&vip.mode);
            let vmac = vip.vmac.clone().unwrap_or_else(|| "(each node's own)".into());
            Row::new(Style::new(), [vip.addresses.join("\n"), interface, mode, vmac])
        })
        .collect();
    screen::table(ink, &["VIP", "INTERFACE", "MODE", "VMAC"], &[], &rows)
}

fn rule_table(rules: &[RuleSummary], ink: Ink) -> String {
    let rows: Vec<Row> = rules
        .iter()
        .map(|rule| {
            let (proto, filter) = (screen::word(&rule.proto), screen::word(&rule.filter));
            let linger = rule.linger_s.map(|seconds| format!(", linger {seconds}s"));
            let filter = filter + &linger.unwrap_or_default();
            let cells = [rule.virtual_addr.clone(), rule.port.clone(), proto, filter];
            Row::new(Style::new(), cells)
        })
        .collect();
    screen::table(ink, &["VIRTUAL ADDR", "PORT", "PROTO", "FILTER"], &[1], &rows)
}

fn share_table(shares: &[Share], ink: Ink) -> String {
    let rows: Vec<Row> = shares
        .iter()
        .map(|share| {
            let percent = format!("{:.1} %", share.percent);
            let load = format!("{}/{BUCKETS}", share.load);
            Row::new(Style::new(), [share.node.clone(), share.power.to_string(), load, percent])
        })
        .collect();
    screen::table(ink, &["NODE", "POWER", "LOAD", "SHARE"], &[1, 2, 3], &rows)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        commands::fixture,
        model::{
            Check, DEFAULT_PORT, Effect, Hooks, Http, IcmpEcho, Mac, Membership, Open,
            OtherProtocols, Probe, Timers, Vip, VipAddr, VlanTags,
        },
    };

    pub(in crate::commands) fn farm() -> Farm {
        let addr = [192, 168, 1, 222].into();
        let rule =
            |port, proto, filter| Rule { virtual_addr: None, port, proto, filter, linger: None };
        let nodes = ["node1", "node2", fixture::LONGEST].map(|name| Node {
            name: name.into(),
            addresses: vec![[192, 168, 1, 11].into(), [10, 0, 0, 11].into()],
        });
        Farm {
            name: "web".into(),
            key_file: "/etc/vipfarm/farm.key".into(),
            accept_key_file: None,
            hash_key_file: None,
            membership: Membership { timers: Timers::BALANCED, port: DEFAULT_PORT },
            stop_timeout: Farm::STOP_TIMEOUT,
            checks: Vec::new(),
            hooks: Hooks::default(),
            http: Http::default(),
            nodes: nodes.into(),
            vips: vec![Vip {
                interface: None,
                mode: Mode::VmacInvisible,
                vmac: Mac::of_vip(addr),
                addresses: vec![VipAddr {
                    addr: addr.into(),
                    prefix: 24,
                    check: true,
                    connections: false,
                }],
                check: true,
                tcp_reset: true,
                open: Open::Auto,
                icmp_echo: IcmpEcho::OnAddr,
                other: OtherProtocols::Drop,
                arp_refresh: None,
                checks: Vec::new(),
                vlan: VlanTags::default(),
                groups: vec![
                    Group {
                        name: "FarmProto".into(),
                        powers: vec![Some(2), Some(1), None],
                        rules: vec![
                            rule(Some(80), Proto::Tcp, Filter::OnPort),
                            rule(None, Proto::Udp, Filter::OnIpid),
                        ],
                        handover_timeout: Group::HANDOVER_TIMEOUT,
                        checks: Vec::new(),
                        failover: None,
                    },
                    Group {
                        name: "Idle".into(),
                        powers: vec![Some(0); 3],
                        rules: vec![rule(Some(53), Proto::Udp, Filter::OnAddr)],
                        handover_timeout: Group::HANDOVER_TIMEOUT,
                        checks: Vec::new(),
                        failover: None,
                    },
                ],
            }],
        }
    }

    fn summary(key_problem: Option<&str>) -> Summary {
        let problems = key_problem.into_iter().map(Into::into).collect();
        Summary::of("farm.yaml".into(), &farm(), problems)
    }

    #[test]
    fn a_good_file_is_shown_with_the_share_of_each_node() {
        let text = render(&summary(None), Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_key_that_is_not_here_is_only_a_warning() {
        let text = render(&summary(Some("farm.key: the key file does not exist")), Ink::Colour);
        insta::assert_snapshot!(fixture::visible(&text));
    }

    #[test]
    fn the_keys_of_a_rotation_are_shown() {
        let rotating = Farm {
            key_file: "/etc/vipfarm/2027.key".into(),
            accept_key_file: Some("/etc/vipfarm/farm.key".into()),
            hash_key_file: Some("/etc/vipfarm/farm.key".into()),
            ..farm()
        };
        let summary = Summary::of("farm.yaml".into(), &rotating, Vec::new());
        let text = render(&summary, Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text.lines().take(8).collect::<Vec<_>>().join("\n"));
    }

    fn checked() -> Summary {
        let check = |probe, interval, effect| Check {
            probe,
            interval,
            timeout: Duration::from_millis(500),
            rise: Check::RISE,
            fall: Check::FALL,
            effect,
        };
        let mut farm = farm();
        let file = Probe::File { path: "/run/maintenance".into(), present: false };
        farm.checks = vec![check(file, Duration::from_mins(1), Effect::Drain)];
        let interface = Probe::Interface("eth1".into());
        farm.vips[0].checks = vec![check(interface, Check::INTERVAL, Effect::Leave)];
        let tcp = Probe::Tcp(([127, 0, 0, 1], 80).into());
        farm.vips[0].groups[0].checks =
            vec![check(tcp, Duration::from_millis(1500), Effect::Drain)];
        Summary::of("farm.yaml".into(), &farm, Vec::new())
    }

    #[test]
    fn checks_are_shown_with_what_they_are_about() {
        let text = render(&checked(), Ink::Plain);
        fixture::assert_fits(&text);
        let (_, table) = text.split_once("CHECK").expect("a table of checks");
        insta::assert_snapshot!(format!("CHECK{table}"));
        let json = serde_json::to_value(checked()).expect("plain data");
        assert_eq!(json["checks"][1]["about"], "vip 192.168.1.222");
        assert_eq!(json["checks"][1]["effect"], "leave");
        assert_eq!(json["checks"][2]["interval_ms"], 1500);
    }

    #[test]
    fn a_node_that_is_on_fewer_networks_is_a_warning() {
        let mut farm = farm();
        farm.nodes[1].addresses.pop();
        let summary = Summary::of("farm.yaml".into(), &farm, Vec::new());
        let warning =
            "node2 has 1 address, others have 2: it has no heartbeats on the further networks";
        assert_eq!(summary.warnings, [warning]);
        let text = render(&summary, Ink::Plain);
        assert!(text.contains(&format!("\n! {warning}\n")), "{text}");
    }

    #[test]
    fn scripts_read_the_same_facts() {
        let json = serde_json::to_value(summary(None)).expect("plain data");
        assert_eq!(json["ok"], true);
        assert_eq!(json["groups"][0]["shares"][0]["node"], "node1");
        assert_eq!(json["groups"][1]["shares"][0]["percent"], 0.0);
        assert_eq!(json["vips"][0]["mode"], "vmac_invisible");
    }
}
