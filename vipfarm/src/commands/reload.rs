//! `vipfarm reload`

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{Client, Failure, PATIENCE, screen, settle};
use crate::{
    cli::ReloadArgs,
    status::{NodeState, ReloadReply, ReloadRequest, Status},
};

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Outcome {
    /// Digest of the file, which is in force.
    configuration: String,
    /// What it has changed, in words.
    changes: Vec<String>,
}

pub(super) async fn run(args: ReloadArgs) -> anyhow::Result<()> {
    let client = Client::find(&args.wait.talk.agent)?;
    let request = ReloadRequest { force: args.force };
    let ReloadReply { configuration, changes } =
        client.post("/v1/reload", &request, PATIENCE).await?;
    in_force(&client, &configuration, args.wait.timeout).await?;
    if args.wait.talk.json {
        return screen::print_json(&Outcome { configuration, changes });
    }
    let text = if changes.is_empty() {
        "the file is in force: nothing in it has changed\n".to_owned()
    } else {
        screen::lines(
            std::iter::once("the file is in force".to_owned())
                .chain(changes.iter().map(|change| format!("  {change}"))),
        )
    };
    Ok(screen::print(&text)?)
}

/// Returns when that configuration is in force here and all nodes have said so.
async fn in_force(client: &Client, digest: &str, timeout: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + timeout;
    let mut told = String::new();
    loop {
        let status: Status = client.get("/v1/status", PATIENCE).await?;
        if status.configuration == digest && status.staged.is_none() && status.converged {
            return Ok(());
        }
        let waits = waits_for(&status, digest);
        if Instant::now() >= deadline {
            let waits = if waits.is_empty() { "see `vipfarm events`".to_owned() } else { waits };
            let message = format!(
                "the file has been read and waits ({waits}); it stays ready, and the farm serves as before"
            );
            return Err(Failure::Refused(message).into());
        }
        if !waits.is_empty() && waits != told {
            screen::hint(&format!("waiting: {waits}"));
            told = waits;
        }
        sleep(settle::ROUND).await;
    }
}

/// Who has not read the file, in words.
fn waits_for(status: &Status, digest: &str) -> String {
    let has = |known: &Option<String>| known.as_deref() == Some(digest);
    let missing = status.nodes.iter().filter(|node| node.state != NodeState::Down || node.alive);
    let missing: Vec<&str> = missing
        .filter(|node| !has(&node.configuration) && !has(&node.staged))
        .map(|node| node.name.as_str())
        .collect();
    if missing.is_empty() {
        return String::new();
    }
    let verb = if missing.len() == 1 { "has" } else { "have" };
    format!("{} {verb} not read the same file: run `vipfarm reload` there", missing.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixture;

    #[test]
    fn who_has_not_read_the_file_is_named() {
        let mut status = fixture::healthy();
        let digest = "0f".repeat(16);
        for node in &mut status.nodes {
            node.configuration = Some("a0".repeat(16));
        }
        status.nodes[0].staged = Some(digest.clone());
        let waits = waits_for(&status, &digest);
        assert_eq!(
            waits,
            "node2 and node3-in-the-second-machine-room have not read the same file: run `vipfarm reload` there"
        );
        status.nodes[1].staged = Some(digest.clone());
        status.nodes[2].configuration = Some(digest.clone());
        assert_eq!(waits_for(&status, &digest), "");
    }
}
