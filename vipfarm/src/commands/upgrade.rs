//! `vipfarm upgrade`

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{Client, Failure, PATIENCE, screen, settle};
use crate::{
    agent::upgrade::PREFLIGHT,
    cli::UpgradeArgs,
    status::{EventRecord, NodeState, Status, UpgradeReply, UpgradeRequest},
};

/// What is printed with `--json`: when was what, in seconds since the request.
#[derive(Debug, Serialize)]
struct Outcome {
    /// What the new program says of itself.
    version: String,
    /// The new program was found to be able to serve the file.
    checked_s: f64,
    /// The former agent had left the farm.
    held_s: f64,
    /// The new one answered; absent with `--exit`.
    answered_s: Option<f64>,
    /// It served its share; absent with `--exit`.
    served_s: Option<f64>,
}

pub(super) async fn run(args: UpgradeArgs) -> anyhow::Result<()> {
    let client = Client::find(&args.wait.talk.agent)?;
    let hold_ms = u64::try_from(args.hold.as_millis()).unwrap_or(u64::MAX);
    let request = UpgradeRequest { hold_ms, exit: args.exit, all_at_once: args.all_at_once };
    let begin = Instant::now();
    let UpgradeReply { version } =
        client.post("/v1/upgrade", &request, PATIENCE + 2 * PREFLIGHT).await?;
    let checked = begin.elapsed();
    let deadline = begin + args.wait.timeout;
    let (mut held, mut answered) = (None, None);
    let served = loop {
        match client.get::<Status>("/v1/status", PATIENCE).await {
            Ok(status) if is_new(&status, begin.elapsed()) => {
                let now = begin.elapsed();
                held.get_or_insert(now);
                answered.get_or_insert(now);
                if serves(&status) {
                    break Some(now);
                }
            }
            Ok(_former) => {}
            Err(Failure::NoAgent(_)) => {
                held.get_or_insert(begin.elapsed());
                if args.exit {
                    break None;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= deadline {
            return Err(Failure::Refused(held_up(held, answered)).into());
        }
        sleep(settle::ROUND).await;
    };
    if served.is_some() {
        refuse_if_it_is_the_former_one(&client).await?;
    }
    let outcome = Outcome {
        version,
        checked_s: checked.as_secs_f64(),
        held_s: held.unwrap_or_default().as_secs_f64(),
        answered_s: answered.map(|at| at.as_secs_f64()),
        served_s: served.map(|at| at.as_secs_f64()),
    };
    if args.wait.talk.json {
        return screen::print_json(&outcome);
    }
    Ok(screen::print(&render(&outcome, args.hold))?)
}

/// Whether that agent was started after the request. The former one is older.
fn is_new(status: &Status, since: Duration) -> bool {
    status.uptime_s < since.as_secs_f64()
}

/// Whether the agent has what its powers entitle it to.
fn serves(status: &Status) -> bool {
    let name = &status.node;
    let is_entitled = status.groups.iter().any(|group| group.powers.get(name) > Some(&0));
    let owns = status.groups.iter().any(|group| group.load.get(name) > Some(&0));
    status.state == NodeState::Up && status.converged && (owns || !is_entitled)
}

/// The former agent has come back if the new program could not be executed; it says so.
async fn refuse_if_it_is_the_former_one(client: &Client) -> Result<(), Failure> {
    let events: Vec<EventRecord> = client.get("/v1/events?since=0", PATIENCE).await?;
    let failed = events.into_iter().rev().find(|event| event.kind == "upgrade_failed");
    failed.map_or(Ok(()), |event| Err(Failure::Refused(event.message)))
}

fn held_up(held: Option<Duration>, answered: Option<Duration>) -> String {
    let what = match (held, answered) {
        (None, _) => "the agent has not left the farm yet",
        (_, None) => "the agent has left the farm, and no other answers",
        _ => "the new agent does not serve its share yet",
    };
    format!("not done in time ({what}): see `vipfarm events` and the agent's log")
}

fn render(outcome: &Outcome, hold: Duration) -> String {
    let Outcome { version, checked_s, held_s, answered_s, served_s } = outcome;
    let mut lines = vec![
        format!("{checked_s:6.2} s  the file has been checked by {version}"),
        format!("{held_s:6.2} s  the other nodes have taken over; old connections go on"),
    ];
    if let (Some(answered), Some(served)) = (answered_s, served_s) {
        lines.push(format!("{answered:6.2} s  the new agent answers"));
        lines.push(format!("{served:6.2} s  it serves its share"));
    } else {
        let next = format!("start the next one within {hold:?}");
        lines.push(format!("          the agent has ended: {next}"));
    }
    screen::lines(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixture;

    #[test]
    fn an_agent_serves_when_it_has_what_it_is_entitled_to() {
        let mut status = fixture::healthy();
        status.converged = true;
        assert!(serves(&status));
        let own = status.node.clone();
        for group in &mut status.groups {
            group.load.insert(own.clone(), 0);
        }
        assert!(!serves(&status), "the others have all of it");
        for group in &mut status.groups {
            group.powers.insert(own.clone(), 0);
        }
        assert!(serves(&status), "it is drained");
        status.converged = false;
        assert!(!serves(&status));
    }

    #[test]
    fn each_step_is_shown_with_its_time() {
        let version = "vipfarm 0.1.0".to_owned();
        let (answered_s, served_s) = (Some(0.512), Some(1.3));
        let outcome = Outcome { version, checked_s: 0.03, held_s: 0.204, answered_s, served_s };
        let hold = Duration::from_secs(30);
        let text = render(&outcome, hold);
        fixture::assert_fits(&text);
        insta::assert_snapshot!(text);
        let ended = render(&Outcome { answered_s: None, served_s: None, ..outcome }, hold);
        fixture::assert_fits(&ended);
        assert!(ended.contains("within 30s"), "{ended}");
    }
}
