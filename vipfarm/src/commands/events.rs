//! `vipfarm events`

use std::time::Duration;

use owo_colors::Style;
use tokio::time::sleep;

use super::{
    Client, Failure, PATIENCE,
    screen::{self, Ink},
};
use crate::{agent::control::EVENT_WAIT, cli::EventsArgs, status::EventRecord};

/// How often an agent that is gone is looked for.
const RETRY: Duration = Duration::from_millis(300);

pub(super) async fn run(args: EventsArgs) -> anyhow::Result<()> {
    let EventsArgs { follow, since, talk } = args;
    let client = Client::find(&talk.agent)?;
    let path = format!("/v1/events?since={}", since.number());
    let mut events: Vec<EventRecord> = client.get(&path, PATIENCE).await?;
    let last = events.last().cloned();
    events.retain(|event| since.includes(event));
    if !follow {
        if talk.json {
            return screen::print_json(&events);
        }
        return Ok(screen::print(&render(&events, Ink::of_stdout()))?);
    }
    let mut follower = Follower { client, last, is_gone: false };
    loop {
        if talk.json {
            events.iter().try_for_each(screen::print_json)?;
        } else {
            screen::print(&render(&events, Ink::of_stdout()))?;
        }
        events = follower.next().await?;
    }
}

/// Reads one agent's events after another's.
struct Follower {
    client: Client,
    /// What was read last.
    last: Option<EventRecord>,
    is_gone: bool,
}

impl Follower {
    /// The next events; none if it is time to look again.
    async fn next(&mut self) -> Result<Vec<EventRecord>, Failure> {
        let seq = self.last.as_ref().map_or(0, |last| last.seq);
        let path = format!("/v1/events?since={seq}&wait=true");
        let answer = match self.client.get::<Vec<EventRecord>>(&path, EVENT_WAIT + PATIENCE).await {
            // Nothing new, or another agent whose numbers are behind; likewise after a pause.
            Ok(events) if events.is_empty() || self.is_gone => self.unseen().await,
            answer => answer,
        };
        match answer {
            Ok(events) => {
                self.is_gone = false;
                self.last = events.last().cloned().or(self.last.take());
                Ok(events)
            }
            Err(Failure::NoAgent(reason)) => {
                if !std::mem::replace(&mut self.is_gone, true) {
                    screen::hint(&format!("{reason}; waiting for the next agent"));
                }
                sleep(RETRY).await;
                Ok(Vec::new())
            }
            Err(refused) => Err(refused),
        }
    }

    /// What the agent that answers now has told and was not read: all, if it is another one.
    async fn unseen(&self) -> Result<Vec<EventRecord>, Failure> {
        let mut events: Vec<EventRecord> = self.client.get("/v1/events", PATIENCE).await?;
        let is_last = |event: &EventRecord| Some(event) == self.last.as_ref();
        if let Some(place) = events.iter().position(is_last) {
            events.drain(..=place);
        }
        Ok(events)
    }
}

/// One line an event.
pub(super) fn render(events: &[EventRecord], ink: Ink) -> String {
    screen::lines(events.iter().map(|event| line(event, ink)))
}

fn line(event: &EventRecord, ink: Ink) -> String {
    let EventRecord { seq, time, level, kind, message } = event;
    let style = if level == "warn" { Style::new().yellow().bold() } else { Style::new() };
    let time = ink.paint(time, Style::new().dimmed());
    let level = ink.paint(&format!("{level:<4}"), style);
    format!("{seq:>4}  {time}  {level}  {kind:<16}  {message}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixture;

    #[test]
    fn events_are_one_line_each() {
        let text = render(&fixture::events(), Ink::Plain);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn warnings_stand_out() {
        insta::assert_snapshot!(fixture::visible(&render(&fixture::events(), Ink::Colour)));
    }
}
