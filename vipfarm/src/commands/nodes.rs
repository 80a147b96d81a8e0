//! `vipfarm nodes`

use owo_colors::Style;

use super::{
    Client, PATIENCE,
    screen::{self, Ink, Row},
};
use crate::{
    cli::TalkArgs,
    status::{NodeState, NodeStatus, Status},
};

pub(super) async fn run(args: TalkArgs) -> anyhow::Result<()> {
    let status: Status = Client::find(&args.agent)?.get("/v1/status", PATIENCE).await?;
    if args.json {
        return screen::print_json(&status.nodes);
    }
    Ok(screen::print(&render(&status.nodes, Ink::of_stdout()))?)
}

/// The nodes with their addresses, one a line.
pub(super) fn render(nodes: &[NodeStatus], ink: Ink) -> String {
    let rows: Vec<Row> = nodes
        .iter()
        .map(|node| {
            let [name, state, view, heard, load] = cells(node);
            let mac = node.mac.clone();
            let addresses: Vec<String> = node.addresses.iter().cloned().chain(mac).collect();
            Row::new(row_style(node), [name, state, view, heard, load, addresses.join("\n")])
        })
        .collect();
    let header = [&HEADER[..], &["ADDRESSES, MAC"]].concat();
    screen::table(ink, &header, RIGHT, &rows)
}

/// The nodes without their addresses, for `status`.
pub(super) fn table(nodes: &[NodeStatus], ink: Ink) -> String {
    let rows: Vec<Row> = nodes.iter().map(|node| Row::new(row_style(node), cells(node))).collect();
    screen::table(ink, &HEADER, RIGHT, &rows)
}

const HEADER: [&str; 5] = ["NODE", "STATE", "VIEW", "HEARD", "LOAD"];
const RIGHT: &[usize] = &[3, 4];

fn cells(node: &NodeStatus) -> [String; 5] {
    let heard = match node.heard_ms {
        Some(ms) => screen::human_ms(ms),
        None if node.own => "self".into(),
        None => "never".into(),
    };
    let view = if node.alive { "in" } else { "out" };
    let changed = node.changed_powers.map(|changed| format!("\n  {changed}"));
    let name = format!("{}{}", node.name, changed.unwrap_or_default());
    [name, node.state.as_str().into(), view.into(), heard, node.load.to_string()]
}

fn row_style(node: &NodeStatus) -> Style {
    let style = match (node.state, node.alive) {
        (NodeState::Up, true) => Style::new(),
        // Heard, but not let in.
        (NodeState::Up, false) => Style::new().yellow(),
        (state, _) => state_style(state),
    };
    if node.own { style.bold() } else { style }
}

pub(super) fn state_style(state: NodeState) -> Style {
    match state {
        NodeState::Up => Style::new().green(),
        NodeState::Joining => Style::new().yellow(),
        NodeState::Fenced | NodeState::Down => Style::new().red(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixture;

    #[test]
    fn the_table_fits_a_terminal_with_the_longest_name() {
        let text = render(&fixture::healthy().nodes, Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_node_with_other_powers_than_the_files_is_marked() {
        let text = render(&fixture::operated().nodes, Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn dead_nodes_are_red_and_the_own_one_is_bold() {
        insta::assert_snapshot!(fixture::visible(&render(&fixture::troubled().nodes, Ink::Colour)));
    }
}
