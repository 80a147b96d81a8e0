//! Changing powers, and waiting until the whole farm has agreed.

use std::time::Duration;

use owo_colors::Style;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    Client, Failure, PATIENCE,
    screen::{self, Ink},
};
use crate::{
    cli::WaitArgs,
    model::BUCKETS,
    status::{NodeState, PowerReply, PowerRequest, Status},
};

/// How often to look. An agreement takes a few round trips.
pub(super) const ROUND: Duration = Duration::from_millis(20);

/// How long to wait for the farm where nothing else was said.
pub(super) const AGREEMENT: Duration = Duration::from_secs(10);

/// Asks for the changes and returns when the farm has agreed on them all, having shown the loads.
pub(super) async fn change(
    client: &Client,
    requests: &[PowerRequest],
    wait: &WaitArgs,
) -> anyhow::Result<()> {
    let status = agree(client, requests, wait.timeout).await?;
    show(&status, wait)
}

/// Prints the loads, as they are now.
pub(super) fn show(status: &Status, wait: &WaitArgs) -> anyhow::Result<()> {
    if wait.talk.json {
        return screen::print_json(&status.groups);
    }
    Ok(screen::print(&render(status, Ink::of_stdout()))?)
}

/// Asks for the changes: the status when the farm has agreed on them all.
pub(super) async fn agree(
    client: &Client,
    requests: &[PowerRequest],
    timeout: Duration,
) -> anyhow::Result<Status> {
    // What is taken back may have been persistent.
    let lasts = requests.iter().any(|request| request.persist || request.power.is_none());
    agree_on(client, "/v1/power", requests, lasts, timeout).await
}

/// The same of any requests that change the powers; `lasts`: they may be persistent.
pub(super) async fn agree_on<R: Serialize + Sync>(
    client: &Client,
    route: &str,
    requests: &[R],
    lasts: bool,
    timeout: Duration,
) -> anyhow::Result<Status> {
    let deadline = Instant::now() + timeout;
    let mut version = ask(client, route, requests).await?;
    loop {
        let status = agreed(client, version, lasts, deadline).await?;
        // A change made elsewhere at the same instant, or before this agent knew of the farm, may
        // have won over this one: then it is made once more.
        let again = ask(client, route, requests).await?;
        if again == version {
            return Ok(status);
        }
        version = again;
    }
}

async fn ask<R: Serialize + Sync>(
    client: &Client,
    route: &str,
    requests: &[R],
) -> anyhow::Result<u64> {
    let mut version = 0;
    for request in requests {
        let reply: PowerReply = client.post(route, request, PATIENCE).await?;
        version = version.max(reply.version);
    }
    Ok(version)
}

/// The status once powers of at least that version are in force everywhere, and, if they are to
/// last, on this node's disk.
async fn agreed(
    client: &Client,
    version: u64,
    lasts: bool,
    deadline: Instant,
) -> anyhow::Result<Status> {
    loop {
        let status: Status = client.get("/v1/status", PATIENCE).await?;
        let in_force =
            status.powers_version >= version && status.abstention_agreed && status.converged;
        if in_force && (!lasts || status.powers_saved >= version) {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            let reason = if in_force { NOT_SAVED.into() } else { held_up(&status) };
            return Err(Failure::Refused(reason).into());
        }
        sleep(ROUND).await;
    }
}

const NOT_SAVED: &str = "the farm has agreed, but this node has not written it to its disk: it may not outlast restarts; see `vipfarm events`";

fn held_up(status: &Status) -> String {
    let busy = status.nodes.iter().filter(|node| {
        !node.config_differs.is_empty() || (node.alive && node.state != NodeState::Up)
    });
    let busy: Vec<String> = busy
        .map(|node| {
            let why = if !node.config_differs.is_empty() {
                "has another configuration"
            } else if node.state == NodeState::Fenced {
                "is fenced"
            } else {
                "has not joined yet"
            };
            format!("{} {why}", node.name)
        })
        .collect();
    let who = if busy.is_empty() {
        "no node says why: see `vipfarm events`".to_owned()
    } else {
        busy.join(", ")
    };
    format!("the farm has not agreed in time ({who}); the change stays on its way")
}

/// The loads of the groups, as they are now.
pub(super) fn render(status: &Status, ink: Ink) -> String {
    let mut text = String::new();
    for group in &status.groups {
        text.push_str(&ink.paint(&format!("group {}\n", group.name), Style::new().bold()));
        for node in &status.nodes {
            let Some(power) = group.powers.get(&node.name) else { continue };
            let load = group.load.get(&node.name).copied().unwrap_or(0);
            let mark = screen::mark(group.changed.get(&node.name));
            let name = &node.name;
            let line = format!("  {name}  power {power}, farm load: {load}/{BUCKETS}{mark}\n");
            text.push_str(&line);
        }
        let unowned = group.owners.iter().filter(|owner| owner.is_none()).count();
        if unowned > 0 {
            text += &ink.paint(
                &format!("  nobody  farm load: {unowned}/{BUCKETS}\n"),
                Style::new().red().bold(),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixture;

    #[test]
    fn the_loads_are_shown_by_group() {
        let text = render(&fixture::healthy(), Ink::Plain);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn who_holds_the_farm_up_is_named() {
        let text = held_up(&fixture::troubled());
        insta::assert_snapshot!(text);
        let silent = held_up(&fixture::healthy());
        assert!(silent.contains("vipfarm events"), "{silent}");
    }
}
