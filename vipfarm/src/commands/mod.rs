//! The verbs of the command line, one file each.
//!
//! Most ask the agent over its control socket, turn the answer into text with a pure function, and
//! print it. Errors carry their exit code: see [`Failure`].

mod agent;
mod bitmap;
mod check;
mod client;
mod completions;
mod doctor;
mod down;
mod drain;
mod events;
mod explain;
mod failure;
#[cfg(test)]
pub(crate) mod fixture;
mod import;
mod keygen;
mod man;
mod metrics;
mod move_vip;
mod nodes;
mod plan;
mod power;
mod reload;
pub mod replay;
mod screen;
mod settle;
mod status;
mod trace;
mod upgrade;

use std::{future::Future, process::ExitCode};

use anyhow::Context;

pub use self::{
    client::{Client, PATIENCE},
    failure::{Failure, exit_code},
    screen::Ink,
};
use crate::cli::Verb;

/// Does what the command line says; errors are told on standard error.
pub fn main(verb: Verb) -> ExitCode {
    match run(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = exit_code(&error);
            if code != 0 && !failure::is_told(&error) {
                screen::complain(&error);
            }
            ExitCode::from(code)
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Agent(options) => agent::run(&options),
        Verb::Check(args) => check::run(&args),
        Verb::Status(args) => wait_for(status::run(args)),
        Verb::Metrics(address) => wait_for(metrics::run(address)),
        Verb::Nodes(args) => wait_for(nodes::run(args)),
        Verb::Bitmap(args) => wait_for(bitmap::run(args)),
        Verb::Explain(args) => wait_for(explain::run(args)),
        Verb::Replay(args) => replay::run(&args),
        Verb::Trace(args) => wait_for(trace::run(args)),
        Verb::Plan(args) => plan::run(&args),
        Verb::Events(args) => wait_for(events::run(args)),
        Verb::Power(args) => wait_for(power::run(args)),
        Verb::Drain(args) => wait_for(drain::drain(args)),
        Verb::Undrain(args) => wait_for(drain::undrain(args)),
        Verb::Close(args) => wait_for(drain::close(args)),
        Verb::Open(args) => wait_for(drain::open(args)),
        Verb::Move(args) => wait_for(move_vip::run(args)),
        Verb::Reload(args) => wait_for(reload::run(args)),
        Verb::Upgrade(args) => wait_for(upgrade::run(args)),
        Verb::Doctor(args) => wait_for(doctor::run(args)),
        Verb::Down(options) => down::run(options),
        Verb::Keygen(args) => keygen::run(&args),
        Verb::Import(args) => import::run(&args),
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
    }
}

/// Runs a conversation with an agent to its end.
fn wait_for(conversation: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(conversation)
}
