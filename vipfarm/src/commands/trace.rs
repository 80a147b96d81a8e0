//! `vipfarm trace`

use std::time::Instant;

use owo_colors::Style;
use tokio::time;

use super::{
    Client, PATIENCE, explain,
    screen::{self, Ink},
};
use crate::{
    agent::trace::TRACE_WAIT,
    cli::TraceArgs,
    status::{TraceReply, TracedFrame},
};

pub(super) async fn run(args: TraceArgs) -> anyhow::Result<()> {
    let client = Client::find(&args.talk.agent)?;
    let path = format!("/v1/trace?{}", args.query().to_url_query());
    let end = Instant::now() + args.duration;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let asked = client.get::<TraceReply>(&path, TRACE_WAIT + PATIENCE);
        // To go away is to end the trace.
        let Ok(reply) = time::timeout(left, asked).await else { return Ok(()) };
        let reply = reply?;
        if args.talk.json {
            reply.frames.iter().try_for_each(screen::print_json)?;
        } else {
            screen::print(&render(&reply.frames, Ink::of_stdout()))?;
        }
        if reply.lost > 0 {
            screen::hint(&format!("{} packets more: too many in a moment", reply.lost));
        }
    }
}

/// One line a frame.
fn render(frames: &[TracedFrame], ink: Ink) -> String {
    screen::lines(frames.iter().map(|frame| line(frame, ink)))
}

fn line(frame: &TracedFrame, ink: Ink) -> String {
    let TracedFrame { time, verdict, reason, bucket, group, owner, rule, packet, .. } = frame;
    let time = ink.paint(time, Style::new().dimmed());
    let verdict = ink.paint(&format!("{verdict:<7}"), explain::colour_of(verdict));
    let bucket = bucket.map_or_else(|| "-".to_owned(), |bucket| bucket.to_string());
    let (owner, group) = (owner.as_deref().unwrap_or("-"), group.as_deref().unwrap_or("-"));
    let rule = rule.as_ref().map_or_else(String::new, |rule| format!("  ({rule})"));
    format!("{time}  {verdict}  {reason:<12}  {bucket:>3}  {owner}  {group}  {packet}{rule}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Summary;

    #[test]
    fn a_frame_is_one_line_with_all_that_is_known_of_it() {
        let syn = [
            &[2; 12][..],
            &[0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0],
            &[203, 0, 113, 7, 192, 168, 1, 222],
            &[0x10, 0x00, 0, 80],
        ];
        let frame = TracedFrame {
            time: "2026-11-20T08:14:00.123Z".into(),
            interface: "eth0".into(),
            verdict: "drop".into(),
            reason: "not_mine".into(),
            bucket: Some(137),
            group: Some("http".into()),
            owner: Some("node2".into()),
            rule: Some("virtual_addr: *, port: 80, proto: tcp, filter: on_port".into()),
            packet: Summary::of(&syn.concat()),
        };
        let bare = TracedFrame {
            bucket: None,
            group: None,
            owner: None,
            rule: None,
            reason: "no_rule".into(),
            ..frame.clone()
        };
        insta::assert_snapshot!(render(&[frame, bare], Ink::Plain));
    }
}
