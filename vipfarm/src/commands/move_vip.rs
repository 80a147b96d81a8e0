//! `vipfarm move`

use super::{Client, Failure, screen, settle, status::failover};
use crate::{
    cli::MoveArgs,
    status::{MoveRequest, VipStatus},
};

pub(super) async fn run(args: MoveArgs) -> anyhow::Result<()> {
    let client = Client::find(&args.hold.wait.talk.agent)?;
    let vip = args.vip.to_string();
    let (node, persist) = (args.node, args.hold.persist);
    let lasts = persist || args.back;
    let request = MoveRequest { vip: vip.clone(), node: node.clone(), persist };
    let timeout = args.hold.wait.timeout;
    let status = settle::agree_on(&client, "/v1/move", &[request], lasts, timeout).await?;
    let has = |block: &&VipStatus| {
        block.addresses.iter().any(|address| address.split('/').next() == Some(&vip))
    };
    let block = status.vips.iter().find(has);
    let moved = block.and_then(|block| block.failover.as_ref());
    let moved =
        moved.ok_or_else(|| Failure::Refused(format!("{vip} is no failover VIP any more")))?;
    if args.hold.wait.talk.json {
        screen::print_json(moved)?;
    } else {
        screen::print(&format!("{vip}: {}\n", failover(moved)))?;
    }
    if node.is_some() && moved.holder != node {
        let reason = "the node is not in the farm, or cannot serve: it has the VIP when it can";
        return Err(Failure::Refused(reason.into()).into());
    }
    Ok(())
}
