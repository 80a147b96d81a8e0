//! Until when the kernel serves the old connections of an agent that is being replaced, for the next one:
//! it serves them no longer before the farm has taken it in, because the other nodes, who were told,
//! answer the rest by resets.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{handover::LONGEST_HOLD, realtime};
use crate::{datapath::Datapath, file, membership::BootTime};

/// Leaves word of their leases for the next agent.
pub(super) fn keep(run_dir: &Path, farm: &str, datapaths: &[Datapath]) {
    let until = datapaths.iter().map(Datapath::lease).max().unwrap_or(0);
    if let Err(error) = file::replace(&place(run_dir, farm), &until.to_string()) {
        tracing::warn!("old connections may be served for too long: {error}");
    }
}

/// Takes the word of a former agent, which counts once: until when. `None` = it left none.
pub(super) fn take(run_dir: &Path, farm: &str) -> Option<BootTime> {
    let path = place(run_dir, farm);
    let text = fs::read_to_string(&path).ok()?;
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
    // The boot clock of a machine that was started anew is another one.
    let until = BootTime::from_nanos(text.trim().parse().ok()?);
    let longest = realtime::now() + LONGEST_HOLD;
    Some(until).filter(|until| *until <= longest)
}

fn place(run_dir: &Path, farm: &str) -> PathBuf {
    run_dir.join(format!("{farm}.held-until"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_counts_once_and_not_after_the_machine_was_started_anew() {
        let (dir, farm) = (std::env::temp_dir(), format!("hold-{}", std::process::id()));
        let take = || take(&dir, &farm);
        assert_eq!(take(), None);
        let keep = |word: &str| fs::write(place(&dir, &farm), word).expect("written");
        let soon = realtime::now() + Duration::from_secs(30);
        keep(&soon.as_nanos().to_string());
        assert_eq!((take(), take()), (Some(soon), None));
        let late = realtime::now() + Duration::from_hours(1);
        keep(&late.as_nanos().to_string());
        assert_eq!(take(), None, "another boot clock");
        keep("soon");
        assert_eq!(take(), None);
        assert!(!place(&dir, &farm).exists());
    }
}
