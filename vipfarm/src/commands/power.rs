//! `vipfarm power`

use super::{Client, settle};
use crate::{cli::PowerArgs, status::PowerRequest};

pub(super) async fn run(args: PowerArgs) -> anyhow::Result<()> {
    let client = Client::find(&args.wait.talk.agent)?;
    let request = |node, power| PowerRequest { group: Some(args.group.clone()), node, power };
    let changed = args.powers.into_iter().map(|given| request(given.node, Some(given.power)));
    let restored = args.file.into_iter().map(|node| request(node, None));
    settle::change(&client, changed.chain(restored), &args.wait).await
}
