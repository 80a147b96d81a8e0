//! `vipfarm power`

use super::{Client, settle};
use crate::{cli::PowerArgs, status::PowerRequest};

pub(super) async fn run(args: PowerArgs) -> anyhow::Result<()> {
    let client = Client::find(&args.hold.wait.talk.agent)?;
    let (group, persist) = (args.group, args.hold.persist);
    let request = |node, power| PowerRequest { group: Some(group.clone()), node, power, persist };
    let changed = args.powers.into_iter().map(|given| request(given.node, Some(given.power)));
    let restored = args.file.into_iter().map(|node| request(node, None));
    let requests: Vec<_> = changed.chain(restored).collect();
    settle::change(&client, &requests, &args.hold.wait).await
}
