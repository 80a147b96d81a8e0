//! Which groups with `open: manual` are open, for the agent that takes the place of this one: they stay
//! open through an upgrade. Any other start closes them, for nobody knows then what became of the
//! services behind them.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{agent::realtime, file};

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    /// Until when it counts, by the boot clock: a machine that was started anew has another one.
    until_ns: u64,
    groups: BTreeSet<String>,
}

/// Leaves word for the next agent, if it starts in that time.
pub(super) fn keep(path: &Path, groups: &BTreeSet<String>, hold: Duration) {
    if groups.is_empty() {
        return;
    }
    let until_ns = (realtime::now() + hold).as_nanos();
    let opened = Opened { until_ns, groups: groups.clone() };
    let text = serde_json::to_string(&opened).map_err(io::Error::other);
    if let Err(error) = text.and_then(|text| file::replace(path, &text)) {
        tracing::warn!("VIPs with `open: manual` will have to be opened again: {error}");
    }
}

/// Takes the word of a former agent, which counts once.
pub(super) fn take(path: &Path) -> BTreeSet<String> {
    let Ok(text) = fs::read_to_string(path) else { return BTreeSet::new() };
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
    let opened = serde_json::from_str::<Opened>(&text).ok();
    let opened = opened.filter(|opened| realtime::now().as_nanos() <= opened.until_ns);
    opened.map(|opened| opened.groups).unwrap_or_default()
}

/// Where it is.
pub(super) fn place(run_dir: &Path, farm: &str) -> PathBuf {
    run_dir.join(format!("{farm}.opened.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_once_and_not_for_long() {
        let path = place(&std::env::temp_dir(), &format!("opened-{}", std::process::id()));
        let groups = BTreeSet::from(["http".to_owned()]);
        let keep = |hold| keep(&path, &groups, hold);
        let take = || take(&path);
        keep(Duration::from_mins(1));
        assert_eq!((take(), take()), (groups.clone(), BTreeSet::new()));
        keep(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(take(), BTreeSet::new());
        assert!(!path.exists());
    }
}
