//! `vipfarm agent`

use std::io;

use anstream::{AutoStream, ColorChoice};
use tracing_subscriber::EnvFilter;

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
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(colour);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
