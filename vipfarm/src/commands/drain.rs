//! `vipfarm drain` and `vipfarm undrain`

use super::{Client, PATIENCE, settle};
use crate::{
    cli::DrainArgs,
    status::{PowerRequest, Status},
};

pub(super) async fn drain(args: DrainArgs) -> anyhow::Result<()> {
    change(args, Some(0)).await
}

pub(super) async fn undrain(args: DrainArgs) -> anyhow::Result<()> {
    change(args, None).await
}

async fn change(args: DrainArgs, power: Option<u16>) -> anyhow::Result<()> {
    let client = Client::find(&args.wait.talk.agent)?;
    let node = match args.node {
        Some(node) => node,
        None => client.get::<Status>("/v1/status", PATIENCE).await?.node,
    };
    let request = PowerRequest { group: None, node, power };
    settle::change(&client, [request].into_iter(), &args.wait).await
}
