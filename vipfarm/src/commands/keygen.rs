//! `vipfarm keygen`

use super::{Failure, screen};
use crate::{cli::KeygenArgs, config::key::Secret};

pub(super) fn run(args: &KeygenArgs) -> anyhow::Result<()> {
    let KeygenArgs { file, force } = args;
    Secret::generate(file, *force).map_err(|error| Failure::Refused(error.to_string()))?;
    screen::print(&format!(
        "wrote a new key to {}: copy it to every node of the farm and keep it secret\n",
        file.display()
    ))?;
    Ok(())
}
