//! What an agent that is being replaced leaves for the next one: until when the kernel serves its old
//! connections, because the other nodes, who were told, answer the rest by resets; and where its frames go
//! that are others', which the next one would have to hear first.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{engine::Ended, handover::LONGEST_HOLD, ports::Route, realtime};
use crate::{datapath::Datapath, file, membership::BootTime};

/// The word of a former agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Word {
    /// Until when the kernel serves what it served, in nanoseconds of the boot clock.
    until_ns: u64,
    /// Of the configuration.
    digest: [u8; 16],
    /// By interface.
    routes: Vec<Route>,
}

impl Word {
    /// Until when the kernel serves what it served.
    pub(super) fn until(&self) -> BootTime {
        BootTime::from_nanos(self.until_ns)
    }

    /// Where its frames went, by interface; nowhere that is known with another configuration.
    pub(super) fn routes(self, digest: [u8; 16]) -> Vec<Route> {
        if self.digest == digest { self.routes } else { Vec::new() }
    }
}

/// Leaves word for the next agent.
pub(super) fn keep(run_dir: &Path, farm: &str, ended: &Ended) {
    let word = Word {
        until_ns: ended.datapaths.iter().map(Datapath::lease).max().unwrap_or(0),
        digest: ended.digest,
        routes: ended.routes.clone(),
    };
    let text = serde_json::to_string(&word).expect("numbers are valid JSON");
    if let Err(error) = file::replace(&place(run_dir, farm), &text) {
        tracing::warn!("old connections may be served for too long: {error}");
    }
}

/// Takes the word of a former agent, which counts once. `None` = it left none.
pub(super) fn take(run_dir: &Path, farm: &str) -> Option<Word> {
    let path = place(run_dir, farm);
    let text = fs::read_to_string(&path).ok()?;
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
    // The boot clock of a machine that was started anew is another one.
    let word: Word = serde_json::from_str(&text).ok()?;
    let longest = realtime::now() + LONGEST_HOLD;
    Some(word).filter(|word| word.until() <= longest)
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
        let write = |text: &str| fs::write(place(&dir, &farm), text).expect("written");
        let keep = |until: BootTime| {
            let word = Word { until_ns: until.as_nanos(), digest: [7; 16], routes: Vec::new() };
            write(&serde_json::to_string(&word).expect("it can be written"));
        };
        let soon = realtime::now() + Duration::from_secs(30);
        keep(soon);
        assert_eq!((take().map(|word| word.until()), take()), (Some(soon), None));
        keep(realtime::now() + Duration::from_hours(1));
        assert_eq!(take(), None, "another boot clock");
        write("soon");
        assert_eq!(take(), None);
        assert!(!place(&dir, &farm).exists());
    }
}
