//! `vipfarm events`

use owo_colors::Style;

use super::{
    Client, PATIENCE,
    screen::{self, Ink},
};
use crate::{agent::control::EVENT_WAIT, cli::EventsArgs, status::EventRecord};

pub(super) async fn run(args: EventsArgs) -> anyhow::Result<()> {
    let EventsArgs { follow, mut since, talk } = args;
    let client = Client::find(&talk.agent)?;
    if !follow {
        let events: Vec<EventRecord> =
            client.get(&format!("/v1/events?since={since}"), PATIENCE).await?;
        if talk.json {
            return screen::print_json(&events);
        }
        return Ok(screen::print(&render(&events, Ink::of_stdout()))?);
    }
    loop {
        let path = format!("/v1/events?since={since}&wait=true");
        let events: Vec<EventRecord> = client.get(&path, EVENT_WAIT + PATIENCE).await?;
        if talk.json {
            events.iter().try_for_each(screen::print_json)?;
        } else {
            screen::print(&render(&events, Ink::of_stdout()))?;
        }
        since = events.last().map_or(since, |last| last.seq);
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
