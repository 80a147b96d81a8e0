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
    status::{ExplainQuery, Explanation},
};

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let query = args.query();
    query.check().map_err(Failure::Usage)?;
    let explanation = match &args.config {
        Some(file) => offline(file, &args, &query)?,
        None => {
            let path = format!("/v1/explain?{}", query.to_url_query());
            Client::find(&args.talk.agent)?.get(&path, PATIENCE).await?
        }
    };
    if args.talk.json {
        return screen::print_json(&explanation);
    }
    Ok(screen::print(&render(&explanation, Ink::of_stdout()))?)
}

fn offline(file: &Path, args: &ExplainArgs, query: &ExplainQuery) -> anyhow::Result<Explanation> {
    let (farm, secret) = config::load_with_key(file)?;
    let (alive, node) = imagined(&farm, &args.down, args.node.as_deref())?;
    let explanation =
        agent::explain::offline(&farm, &secret, alive, node, query).map_err(Failure::Refused)?;
    Ok(explanation)
}

/// The nodes to imagine alive, and the one whose verdict to give.
fn imagined(
    farm: &Farm,
    down: &[String],
    node: Option<&str>,
) -> Result<(NodeSet, NodeId), Failure> {
    let down: NodeSet = down.iter().map(|name| named(farm, name)).collect::<Result<_, _>>()?;
    let alive: NodeSet = farm.node_ids().filter(|&node| !down.contains(node)).collect();
    match node {
        None => match alive.iter().next() {
            Some(first) => Ok((alive, first)),
            None => Err(Failure::Usage(
                "with all nodes down nobody serves: leave one out of --down".into(),
            )),
        },
        Some(name) => {
            let node = named(farm, name)?;
            if down.contains(node) {
                return Err(Failure::Usage(format!(
                    "{name} cannot give a verdict: --down says it is down"
                )));
            }
            Ok((alive, node))
        }
    }
}

fn named(farm: &Farm, name: &str) -> Result<NodeId, Failure> {
    farm.node_named(name).ok_or_else(|| {
        let names: Vec<&str> = farm.nodes.iter().map(|node| &*node.name).collect();
        let (farm, names) = (&farm.name, names.join(", "));
        Failure::Usage(format!("farm {farm} has no node `{name}`; its nodes are {names}"))
    })
}

/// The sentence, then the fields it comes from.
pub(super) fn render(explanation: &Explanation, ink: Ink) -> String {
    let Explanation { group, rule, bucket, owner, node, verdict, reason, text, .. } = explanation;
    let style = match verdict.as_str() {
        "accept" => Style::new().green(),
        "drop" => Style::new().red(),
        _ => Style::new(),
    };
    let none = || "-".to_owned();
    let fields = [
        ("packet", packet(explanation)),
        ("group", group.clone().unwrap_or_else(none)),
        ("rule", rule.clone().unwrap_or_else(none)),
        ("bucket", bucket.map_or_else(none, |bucket| format!("{bucket} (0x{bucket:02x})"))),
        ("owner", owner.clone().unwrap_or_else(none)),
        ("verdict", format!("{} at {node}", ink.paint(verdict, style.bold()))),
        ("reason", reason.clone()),
    ];
    let fields: String =
        fields.iter().map(|(name, value)| format!("  {name:<7}  {value}\n")).collect();
    format!("{text}\n\n{fields}")
}

fn packet(explanation: &Explanation) -> String {
    let Explanation { client, client_port, vip, vip_port, proto, .. } = explanation;
    let from = end(client, *client_port);
    let to = end(vip, *vip_port);
    format!("{proto} from {from} to {to}")
}

fn end(addr: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if addr.contains(':') => format!("[{addr}]:{port}"),
        Some(port) => format!("{addr}:{port}"),
        None => addr.to_owned(),
    }
}
