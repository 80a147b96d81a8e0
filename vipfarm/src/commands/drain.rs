//! `vipfarm drain`, `undrain`, `close` and `open`: no power at a node, and its powers of the file
//! again.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use super::{Client, Failure, PATIENCE, screen, settle};
use crate::{
    cli::{CloseArgs, DrainArgs, UndrainArgs},
    status::{GroupStatus, OpenRequest, PowerRequest, ResetReply, Status},
};

/// How often to look what is left: agents count once a second.
const ROUND: Duration = Duration::from_millis(200);

/// How long to wait until it is known what is left, where nobody waits for it to end.
const KNOWN: Duration = Duration::from_secs(2);

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    node: &'a str,
    #[serde(flatten)]
    left: Left,
    /// Connections that were reset, because their time was over.
    reset: usize,
    groups: &'a [GroupStatus],
}

/// What a drained node still serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Left {
    /// Open connections; absent if it is not known (yet). Only a node's own agent counts them.
    connections: Option<u64>,
    /// Buckets that may have some; absent if it is not known yet.
    buckets: Option<usize>,
}

pub(super) async fn drain(args: DrainArgs) -> anyhow::Result<()> {
    let client = Client::find(&args.talk.agent)?;
    let node = node_or_own(&client, args.node).await?;
    let request =
        PowerRequest { group: None, node: node.clone(), power: Some(0), persist: args.persist };
    settle::agree(&client, &[request], settle::AGREEMENT).await?;
    let (status, reset) = match args.timeout {
        None => (known(&client, &node).await?, 0),
        Some(timeout) => wait(&client, &node, timeout, args.talk.json).await?,
    };
    let left = Left::at(&status, &node);
    if args.talk.json {
        let groups = &status.groups;
        screen::print_json(&Outcome { node: &node, left, reset, groups })?;
    } else {
        let loads = settle::render(&status, screen::Ink::of_stdout());
        let was_reset = if reset > 0 { format!("; {reset} were reset") } else { String::new() };
        let left = left.words(&status, &node);
        screen::print(&format!("{loads}{node} is drained: {left}{was_reset}\n"))?;
    }
    if left.is_nothing() {
        return Ok(());
    }
    if args.timeout.is_some() {
        let left = left.words(&status, &node);
        let why = if node == status.node {
            format!(
                "{node} serves them until they end, for their VIPs have `tcp_reset: false` or its kernel could not reset them"
            )
        } else {
            format!("`vipfarm drain --timeout 0s` on {node} resets what is left")
        };
        return Err(Failure::Refused(format!("the time is over, and {left}: {why}")).into());
    }
    if !args.talk.json {
        screen::hint(&format!(
            "`vipfarm status` on {node} counts what is left, `vipfarm drain {node} --timeout TIME` waits for it"
        ));
    }
    Ok(())
}

pub(super) async fn undrain(args: UndrainArgs) -> anyhow::Result<()> {
    let client = Client::find(&args.hold.wait.talk.agent)?;
    let node = node_or_own(&client, args.node).await?;
    let request = PowerRequest { group: None, node, power: None, persist: args.hold.persist };
    settle::change(&client, &[request], &args.hold.wait).await
}

pub(super) async fn close(args: CloseArgs) -> anyhow::Result<()> {
    set_open(args, false).await
}

pub(super) async fn open(args: CloseArgs) -> anyhow::Result<()> {
    set_open(args, true).await
}

async fn set_open(args: CloseArgs, open: bool) -> anyhow::Result<()> {
    let client = Client::find(&args.hold.wait.talk.agent)?;
    let request = OpenRequest { what: args.what, open, persist: args.hold.persist };
    let (wait, lasts) = (&args.hold.wait, request.persist || open);
    let agreed = settle::agree_on(&client, "/v1/open", &[request], lasts, wait.timeout).await?;
    settle::show(&agreed, wait)
}

/// The node: `None` = the one whose agent is asked.
async fn node_or_own(client: &Client, node: Option<String>) -> anyhow::Result<String> {
    match node {
        Some(node) => Ok(node),
        None => Ok(client.get::<Status>("/v1/status", PATIENCE).await?.node),
    }
}

/// The status once it says what is left, or not in time.
async fn known(client: &Client, node: &str) -> anyhow::Result<Status> {
    let deadline = Instant::now() + KNOWN;
    loop {
        let status: Status = client.get("/v1/status", PATIENCE).await?;
        if Left::at(&status, node).is_known(node == status.node) || Instant::now() >= deadline {
            return Ok(status);
        }
        sleep(settle::ROUND).await;
    }
}

/// Waits until nothing is left, or resets what is when the time is over and this is the node itself:
/// the status then, and how many were reset.
async fn wait(
    client: &Client,
    node: &str,
    timeout: Duration,
    is_quiet: bool,
) -> anyhow::Result<(Status, usize)> {
    let deadline = Instant::now() + timeout;
    // Before the first look: what comes between two of them is not lost.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut progress = Progress::default();
    loop {
        let status: Status = client.get("/v1/status", PATIENCE).await?;
        if !status.is_drained(node) {
            progress.end();
            return Err(Failure::Refused(format!(
                "{node} is not drained any more: somebody took it back, or its agent was started anew; no connection was reset"
            ))
            .into());
        }
        let left = Left::at(&status, node);
        let remaining = deadline.saturating_duration_since(Instant::now());
        if left.is_nothing() || remaining.is_zero() {
            progress.end();
            if left.is_nothing() || node != status.node {
                return Ok((status, 0));
            }
            let reply: ResetReply = client.post("/v1/reset", &(), PATIENCE).await?;
            return Ok((known(client, node).await?, reply.reset));
        }
        if !is_quiet {
            progress.show(&left.words(&status, node), remaining);
        }
        tokio::select! {
            () = sleep(ROUND.min(remaining)) => {}
            _ = interrupt.recv() => {
                progress.end();
                let left = left.words(&status, node);
                return Err(Failure::Refused(format!(
                    "interrupted: {node} stays drained, {left}, and none is reset; `vipfarm undrain {node}` takes it back"
                ))
                .into());
            }
        }
    }
}

impl Left {
    fn at(status: &Status, node: &str) -> Self {
        let connections = || status.groups.iter().map(|group| group.handover.connections).sum();
        let found = status.nodes.iter().find(|found| found.name == node);
        match found {
            Some(found) if found.own => {
                Self { connections: connections(), buckets: found.lingering }
            }
            Some(found) if found.alive => Self { connections: None, buckets: found.lingering },
            // What it served went with it.
            _ => Self { connections: Some(0), buckets: Some(0) },
        }
    }

    fn is_nothing(self) -> bool {
        // Buckets without connections linger on for a second or so.
        self.connections == Some(0) || self.buckets == Some(0)
    }

    fn is_known(self, own: bool) -> bool {
        if own { self.connections.is_some() } else { self.buckets.is_some() }
    }

    fn words(self, status: &Status, node: &str) -> String {
        match self {
            _ if self.is_nothing() => "no connection is left".into(),
            Self { connections: Some(count), .. } => {
                let of = |group: &GroupStatus| {
                    let count = group.handover.connections.filter(|&count| count > 0)?;
                    Some(format!("{} {count}", group.name))
                };
                let groups: Vec<_> = status.groups.iter().filter_map(of).collect();
                let groups = groups.join(", ");
                format!(
                    "{} left ({groups})",
                    screen::count(count, "connection is", "connections are")
                )
            }
            Self { buckets: Some(count), .. } if node != status.node => {
                format!("connections may be left in {}", screen::count(count, "bucket", "buckets"))
            }
            _ => "it is not known yet how many connections are left".into(),
        }
    }
}

/// Tells how far it is on standard error: in one place on a terminal, else a line for each change.
#[derive(Debug, Default)]
struct Progress {
    told: String,
    in_place: bool,
}

impl Progress {
    fn show(&mut self, left: &str, remaining: Duration) {
        self.in_place = io::stderr().is_terminal();
        // Rounded up: at the last second there is still a second.
        let seconds = (remaining + Duration::from_millis(999)).as_secs();
        if self.in_place {
            screen::replace_line(&format!("{left}; {seconds} s to go"));
        } else if self.told != left {
            screen::hint(&format!("{left}; {seconds} s to go"));
        }
        left.clone_into(&mut self.told);
    }

    /// Clears the line.
    fn end(&self) {
        if self.in_place {
            screen::replace_line("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::fixture, status::HandoverStatus};

    #[test]
    fn what_is_left_is_counted_by_the_node_itself_and_guessed_by_others() {
        let mut status = fixture::healthy();
        let words = |status: &Status, node: &str| Left::at(status, node).words(status, node);
        assert_eq!(words(&status, "node1"), "no connection is left");
        let lingering = HandoverStatus { lingering: 7, ..HandoverStatus::default() };
        status.groups[0].handover = lingering;
        status.nodes[0].lingering = Some(7);
        assert_eq!(
            words(&status, "node1"),
            "it is not known yet how many connections are left",
            "what was not counted is not none"
        );
        status.groups[0].handover.connections = Some(12);
        assert_eq!(words(&status, "node1"), "12 connections are left (FarmProto 12)");
        status.groups[0].handover.connections = Some(1);
        assert_eq!(words(&status, "node1"), "1 connection is left (FarmProto 1)");
        status.groups[0].handover.connections = Some(0);
        assert_eq!(
            words(&status, "node1"),
            "no connection is left",
            "the bucket lingers on for a moment"
        );
        status.nodes[1].lingering = Some(1);
        assert_eq!(words(&status, "node2"), "connections may be left in 1 bucket");
        status.nodes[1].lingering = None;
        assert!(!Left::at(&status, "node2").is_nothing());
        status.nodes[1].alive = false;
        assert_eq!(words(&status, "node2"), "no connection is left", "they died with it");
    }
}
