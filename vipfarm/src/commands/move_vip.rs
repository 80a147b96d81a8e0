//! `vipfarm move`

use super::{Client, Failure, screen, settle, status::failover};
use crate::{cli::MoveArgs, status::MoveRequest};

pub(super) async fn run(args: MoveArgs) -> anyhow::Result<()> {
    let client = Client::find(&args.hold.wait.talk.agent)?;
    let (vip, node, persist) = (args.vip, args.node, args.hold.persist);
    let lasts = persist || args.back;
    let request = MoveRequest { vip: vip.clone(), node: node.clone(), persist };
    let timeout = args.hold.wait.timeout;
    let status = settle::agree_on(&client, "/v1/move", &[request], lasts, timeout).await?;
    let moved = status.vips.iter().find_map(|block| {
        let failover = block.failover.as_ref()?;
        let mut addresses = block.addresses.iter().filter_map(|it| it.split('/').next());
        (failover.name == vip || addresses.any(|it| it == vip)).then_some(failover)
    });
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
