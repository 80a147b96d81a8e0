//! `vipfarm down`

use super::screen;
use crate::agent::{self, options::DownOptions};

pub(super) fn run(options: DownOptions) -> anyhow::Result<()> {
    let removed = agent::down(options)?;
    let lines = match removed.is_empty() {
        true => "nothing was left\n".to_owned(),
        false => screen::lines(removed.into_iter().map(|what| format!("removed {what}"))),
    };
    Ok(screen::print(&lines)?)
}
