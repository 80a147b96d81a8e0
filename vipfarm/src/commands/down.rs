//! `vipfarm down`

use crate::agent::{self, options::DownOptions};

pub(super) fn run(options: DownOptions) -> anyhow::Result<()> {
    agent::down(options)
}
