//! `vipfarm agent`

mod journal;

use std::io;

use anstream::{AutoStream, ColorChoice};
use tracing_subscriber::EnvFilter;

use self::journal::Journal;
use super::Failure;
use crate::agent::{
    self,
    options::{AgentOptions, LogFormat},
};

/// The environment variable that sets the log level.
const LOG_VARIABLE: &str = "VIPFARM_LOG";

pub(super) fn run(options: &AgentOptions) -> anyhow::Result<()> {
    start_log(options.log_format)?;
    agent::run(options)
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
        LogFormat::Json => log.with_writer(io::stderr).json().flatten_event(true).init(),
    }
    Ok(())
}
