//! `vipfarm agent`

mod journal;

use std::io;

use anstream::{AutoStream, ColorChoice};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        SubscriberBuilder,
        format::{DefaultFields, Format, Full, Json, JsonFields},
    },
};

use self::journal::Journal;
use super::{Failure, exit_code};
use crate::agent::{
    self,
    options::{AgentOptions, LogFormat},
};

/// The environment variable that sets the log level.
const LOG_VARIABLE: &str = "VIPFARM_LOG";

pub(super) fn run(options: &AgentOptions) -> anyhow::Result<()> {
    start_log(options.log_format)?;
    let ended = agent::run(options);
    match options.log_format {
        LogFormat::Text => ended,
        // Whoever reads objects would not understand the last words otherwise.
        LogFormat::Json => ended.map_err(|error| {
            tracing::error!("{error:#}");
            Failure::Told(exit_code(&error)).into()
        }),
    }
}

fn start_log(format: LogFormat) -> Result<(), Failure> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(directives) => EnvFilter::try_new(&directives)
            .map_err(|error| Failure::Usage(format!("{LOG_VARIABLE}=`{directives}`: {error}")))?,
        // That crate warns of every connection that is closed, which is no news for operators.
        Err(_unset) => EnvFilter::new("info,netlink_proto=error"),
    };
    let colour = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match format {
        LogFormat::Text if journal::is_at(&io::stderr()) => {
            journal::lines(log).with_writer(Journal(io::stderr)).init();
        }
        LogFormat::Text => log.with_writer(io::stderr).with_ansi(colour).init(),
        LogFormat::Json => json(log).with_writer(io::stderr).init(),
    }
    Ok(())
}

/// An object a line, in which what an event has stands beside its time, level and message.
fn json<F>(
    log: SubscriberBuilder<DefaultFields, Format<Full>, F>,
) -> SubscriberBuilder<JsonFields, Format<Json>, F> {
    log.json().flatten_event(true)
}

#[cfg(test)]
mod tests {
    use super::{journal::tests::Kept, *};

    #[test]
    fn each_event_is_an_object_on_a_line_of_its_own() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = json(tracing_subscriber::fmt().with_target(false));
        let log = log.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::info!("node1 serves");
            tracing::warn!(kind = "hook_failed", node = 2, "it said:\n\"no\"");
        });
        let text = kept.text();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        let [serves, failed] = &lines[..] else { panic!("{text}") };
        assert_eq!(
            (&serves["level"], &serves["message"]),
            (&"INFO".into(), &"node1 serves".into())
        );
        assert!(serves["timestamp"].as_str().is_some_and(|it| it.ends_with('Z')), "{text}");
        assert_eq!(failed["message"], "it said:\n\"no\"");
        assert_eq!((&failed["level"], &failed["kind"]), (&"WARN".into(), &"hook_failed".into()));
        assert_eq!(failed["node"], 2);
    }
}
