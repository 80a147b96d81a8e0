//! One client's frames, by name.

use super::{Reporter, trace};
use crate::status::{TraceQuery, TraceReply};

impl Reporter {
    /// What came of the client since the last question, as [`super::Source::trace`] has it.
    pub(super) async fn traced(&self, query: TraceQuery) -> Result<TraceReply, String> {
        let (traced, lost) = self.tracer.ask(query)?.answer().await;
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let frames = self.watched.iter().enumerate().flat_map(|(place, watched)| {
            let here = traced.iter().filter(|(at, _)| *at == place).map(|(_, frame)| frame);
            let here: Vec<_> = here.collect();
            let at = (place, watched.interface.as_str());
            trace::named(&config, &snapshot, self.hash_key, at, &here)
        });
        Ok(TraceReply { frames: frames.collect(), lost })
    }
}
