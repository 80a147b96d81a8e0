//! `vipfarm drain`, `undrain`, `close` and `open`: no power at a node, and its powers of the file
//! again.

use super::{Client, PATIENCE, settle};
use crate::{
    cli::{CloseArgs, DrainArgs, HoldArgs},
    status::{PowerRequest, Status},
};

pub(super) async fn drain(args: DrainArgs) -> anyhow::Result<()> {
    change(args.node, None, Some(0), args.hold).await
}

pub(super) async fn undrain(args: DrainArgs) -> anyhow::Result<()> {
    change(args.node, None, None, args.hold).await
}

pub(super) async fn close(args: CloseArgs) -> anyhow::Result<()> {
    change(None, args.group, Some(0), args.hold).await
}

pub(super) async fn open(args: CloseArgs) -> anyhow::Result<()> {
    change(None, args.group, None, args.hold).await
}

/// The node: `None` = the one whose agent is asked.
async fn change(
    node: Option<String>,
    group: Option<String>,
    power: Option<u16>,
    hold: HoldArgs,
) -> anyhow::Result<()> {
    let client = Client::find(&hold.wait.talk.agent)?;
    let node = match node {
        Some(node) => node,
        None => client.get::<Status>("/v1/status", PATIENCE).await?.node,
    };
    let request = PowerRequest { group, node, power, persist: hold.persist };
    settle::change(&client, &[request], &hold.wait).await
}
