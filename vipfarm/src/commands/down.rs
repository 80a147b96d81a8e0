//! `vipfarm down`

use super::screen;
use crate::agent::{self, options::DownOptions};

pub(super) fn run(options: DownOptions) -> anyhow::Result<()> {
    let removed = agent::down(options)?;
    let lines = if removed.is_empty() {
        "nothing was left\n".to_owned()
    } else {
        screen::lines(removed.into_iter().map(|what| format!("removed {what}")))
    };
    Ok(screen::print(&lines)?)
}
