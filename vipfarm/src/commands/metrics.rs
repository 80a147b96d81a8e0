//! `vipfarm metrics`

use super::{Client, PATIENCE, screen};
use crate::cli::AgentAddress;

pub(super) async fn run(address: AgentAddress) -> anyhow::Result<()> {
    let text = Client::find(&address)?.get_text("/v1/metrics", PATIENCE).await?;
    Ok(screen::print(&text)?)
}
