//! `vipfarm explain`

use std::path::Path;

use owo_colors::Style;

use super::{
    Client, Failure, PATIENCE,
    screen::{self, Ink},
};
use crate::{
    agent,
    cli::ExplainArgs,
    config,
    model::{Farm, NodeId, NodeSet},
    placement::RESOLVE_GROUP,
    status::{ExplainQuery, Explanation},
};

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let query = args.query();
    query.check().map_err(Failure::Usage)?;
    let explanation = if let Some(file) = &args.config {
        offline(file, &args, &query)?
    } else {
        let path = format!("/v1/explain?{}", query.to_url_query());
        Client::find(&args.talk.agent)?.get(&path, PATIENCE).await?
    };
    if args.talk.json {
        return screen::print_json(&explanation);
    }
    Ok(screen::print(&render(&explanation, Ink::of_stdout()))?)
}

fn offline(file: &Path, args: &ExplainArgs, query: &ExplainQuery) -> anyhow::Result<Explanation> {
    let (farm, keys) = config::load_with_keys(file)?;
    let alive = imagined(&farm, &args.down)?;
    let node = match &args.node {
        Some(name) => Some(judging(&farm, alive, name)?),
        None => None,
    };
    let explanation = agent::explain::offline(&farm, keys.bucket_key(), alive, node, query)
        .map_err(Failure::Refused)?;
    Ok(explanation)
}

/// The nodes to imagine alive.
pub(super) fn imagined(farm: &Farm, down: &[String]) -> Result<NodeSet, Failure> {
    let down: NodeSet = down.iter().map(|name| named(farm, name)).collect::<Result<_, _>>()?;
    let alive: NodeSet = farm.node_ids().filter(|&node| !down.contains(node)).collect();
    if alive.is_empty() {
        return Err(Failure::Usage(
            "with all nodes down nobody serves: leave one out of --down".into(),
        ));
    }
    Ok(alive)
}

/// The node of that name, if it is alive.
pub(super) fn judging(farm: &Farm, alive: NodeSet, name: &str) -> Result<NodeId, Failure> {
    let node = named(farm, name)?;
    if !alive.contains(node) {
        return Err(Failure::Usage(format!(
            "{name} cannot give a verdict: --down says it is down"
        )));
    }
    Ok(node)
}

pub(super) fn named(farm: &Farm, name: &str) -> Result<NodeId, Failure> {
    farm.node_named(name).ok_or_else(|| {
        let names: Vec<&str> = farm.nodes.iter().map(|node| &*node.name).collect();
        let (farm, names) = (&farm.name, names.join(", "));
        Failure::Usage(format!("farm {farm} has no node `{name}`; its nodes are {names}"))
    })
}

/// The sentence, then the fields it comes from.
pub(super) fn render(explanation: &Explanation, ink: Ink) -> String {
    let Explanation { rule, owner, why, node, verdict, reason, text, .. } = explanation;
    let style = colour_of(verdict);
    let owner = owner.clone().unwrap_or_else(none);
    let mut fields = vec![("packet", packet(explanation))];
    fields.extend(why.is_none().then(|| ("group", group(explanation))));
    fields.push(("rule", rule.clone().unwrap_or_else(none)));
    match why {
        Some(why) => fields.push(("holder", format!("{owner} ({})", why.as_str()))),
        None => fields.extend([("bucket", bucket(explanation)), ("owner", owner)]),
    }
    fields.push(("verdict", format!("{} at {node}", ink.paint(verdict, style.bold()))));
    fields.push(("reason", reason.clone()));
    let fields = fields.iter().map(|(name, value)| format!("  {name:<7}  {value}"));
    format!("{text}\n\n{}", screen::lines(fields))
}

fn group(explanation: &Explanation) -> String {
    match explanation.group.as_deref() {
        Some(RESOLVE_GROUP) => {
            format!("{RESOLVE_GROUP}: built in, for ARP, echo and what has no ports")
        }
        Some(group) => group.to_owned(),
        None => none(),
    }
}

fn bucket(explanation: &Explanation) -> String {
    explanation.bucket.map_or_else(none, |bucket| format!("{bucket} (0x{bucket:02x})"))
}

fn none() -> String {
    "-".to_owned()
}

/// How a verdict is painted.
pub(super) fn colour_of(verdict: &str) -> Style {
    match verdict {
        "accept" => Style::new().green(),
        "drop" => Style::new().red(),
        "forward" => Style::new().cyan(),
        _ => Style::new(),
    }
}

fn packet(explanation: &Explanation) -> String {
    let Explanation { client, client_port, vip, vip_port, proto, vlan, .. } = explanation;
    let from = end(client, *client_port);
    let to = end(vip, *vip_port);
    let part = if explanation.fragment { " (a fragment without ports)" } else { "" };
    let about = if explanation.icmp_error { "ICMP error about the answer to " } else { "" };
    let ids: Vec<_> = vlan.iter().map(u16::to_string).collect();
    let vlan = if ids.is_empty() { String::new() } else { format!(" in VLAN {}", ids.join(".")) };
    let proto =
        if proto.parse::<u8>().is_ok() { format!("protocol {proto}") } else { proto.clone() };
    format!("{about}{proto} from {from} to {to}{vlan}{part}")
}

fn end(addr: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if addr.contains(':') => format!("[{addr}]:{port}"),
        Some(port) => format!("{addr}:{port}"),
        None => addr.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::fixture, status::Why};

    #[test]
    fn the_sentence_comes_before_the_fields() {
        let text = render(&fixture::explanation(), Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_verdict_is_coloured() {
        insta::assert_snapshot!(fixture::visible(&render(&fixture::explanation(), Ink::Colour)));
    }

    #[test]
    fn a_packet_without_rule_or_ports_leaves_no_holes() {
        let text = render(
            &Explanation {
                client: "2001:db8::7".into(),
                client_port: None,
                vip_port: None,
                group: None,
                rule: None,
                bucket: None,
                owner: None,
                vlan: vec![20, 10],
                ..fixture::explanation()
            },
            Ink::Plain,
        );
        insta::assert_snapshot!(text);
        assert_eq!(end("2001:db8::7", Some(80)), "[2001:db8::7]:80");
    }

    #[test]
    fn a_failover_vip_has_a_holder_and_the_built_in_group_is_explained() {
        let floating =
            Explanation { bucket: None, why: Some(Why::Incumbent), ..fixture::explanation() };
        let text = render(&floating, Ink::Plain);
        assert!(text.contains("holder   node2 (incumbent)"), "{text}");
        assert!(!text.contains("bucket  "), "{text}");
        let group = Some(RESOLVE_GROUP.to_owned());
        let text = render(&Explanation { group, ..fixture::explanation() }, Ink::Plain);
        assert!(text.contains("(resolve): built in, for ARP, echo"), "{text}");
        fixture::assert_fits(&text);
    }

    #[test]
    fn the_imagined_farm_is_the_file_without_the_nodes_that_are_down() {
        let farm = crate::commands::check::tests::farm();
        let ids: Vec<NodeId> = farm.node_ids().collect();
        let down = ["node1".to_owned()];
        let alive = imagined(&farm, &down).expect("two nodes are left");
        assert_eq!(alive.iter().collect::<Vec<_>>(), ids[1..]);
        for (node, reason) in [("node1", "--down says"), ("node9", "has no node `node9`")] {
            let error = judging(&farm, alive, node).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
        let everybody: Vec<String> = farm.nodes.iter().map(|node| node.name.clone()).collect();
        let error = imagined(&farm, &everybody).expect_err("nobody left").to_string();
        assert!(error.contains("nobody serves"), "{error}");
    }
}
