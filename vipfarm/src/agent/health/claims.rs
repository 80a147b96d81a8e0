//! Which VIPs others claim, as far as this node has heard: pure, time comes in as an argument.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::agent::{CONFLICT_ROUND, conflicts::PROBE_ROUND};

/// For how long a claim shows after it was heard: one that nobody asked for may never be repeated.
const SHOWS: Duration = Duration::from_secs(90);

/// How long it may take until an answer has been asked for, and read.
const ANSWERED: Duration = PROBE_ROUND.saturating_add(CONFLICT_ROUND);

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_vip: BTreeMap<IpAddr, Heard>,
    /// Since when this node has asked all the while.
    asking: Option<Instant>,
}

/// What was heard of one.
#[derive(Debug)]
struct Heard {
    /// What is told of the last claim.
    words: String,
    /// Since when there has been one all the while.
    first: Instant,
    last: Instant,
}

impl Claims {
    /// Takes note of whether this node asks.
    pub(super) fn note_asking(&mut self, asks: bool, now: Instant) {
        self.asking = asks.then(|| self.asking.unwrap_or(now));
    }

    /// Takes note of a claim.
    pub(super) fn note(&mut self, vip: IpAddr, words: String, now: Instant) {
        let lasting = self.by_vip.get(&vip).filter(|heard| heard.shows(now));
        let first = lasting.map_or(now, |heard| heard.first);
        self.by_vip.insert(vip, Heard { words, first, last: now });
    }

    /// What is told of a VIP that somebody claims, and since when.
    pub(super) fn of(&self, vip: IpAddr, now: Instant) -> Option<(&str, Instant)> {
        let heard = self.by_vip.get(&vip).filter(|heard| heard.shows(now))?;
        Some((&heard.words, heard.first))
    }

    /// One look: whether somebody has claimed one of these VIPs since then; `None` if nobody was heard because
    /// this node has not asked for long enough.
    pub(super) fn look(
        &self,
        since: Instant,
        now: Instant,
        mut vips: impl Iterator<Item = IpAddr>,
    ) -> Option<Result<(), String>> {
        let claimed =
            vips.find_map(|vip| self.by_vip.get(&vip).filter(|heard| heard.last >= since));
        if let Some(heard) = claimed {
            return Some(Err(heard.words.clone()));
        }
        let has_asked = |since| now.saturating_duration_since(since) >= ANSWERED;
        self.asking.is_some_and(has_asked).then_some(Ok(()))
    }
}

impl Heard {
    fn shows(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < SHOWS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 222));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 223));

    #[test]
    fn a_claim_makes_one_look_bad_at_what_it_is_about() {
        let (mut claims, start) = (Claims::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        claims.note_asking(true, start);
        claims.note(OTHER, "his".into(), at(7));
        let look = |since, vips: &[IpAddr]| claims.look(at(since), at(10), vips.iter().copied());
        assert_eq!(look(5, &[ONE, OTHER]), Some(Err("his".into())));
        assert_eq!(look(7, &[OTHER]), Some(Err("his".into())), "at the moment of the look before");
        assert_eq!(look(8, &[ONE, OTHER]), Some(Ok(())), "a look ago");
        assert_eq!(look(5, &[ONE]), Some(Ok(())), "another VIP");
    }

    #[test]
    fn silence_counts_when_the_node_has_asked_for_long_enough() {
        let (mut claims, start) = (Claims::default(), Instant::now());
        let look = |claims: &Claims, now| claims.look(start, now, [ONE].into_iter());
        assert_eq!(look(&claims, start + ANSWERED), None, "it is not in the farm yet");
        claims.note_asking(true, start);
        claims.note_asking(true, start + ANSWERED / 2);
        assert_eq!(look(&claims, start + ANSWERED / 2), None);
        assert_eq!(look(&claims, start + ANSWERED), Some(Ok(())));
        claims.note_asking(false, start + ANSWERED);
        claims.note_asking(true, start + ANSWERED * 2);
        assert_eq!(look(&claims, start + ANSWERED * 2), None, "without a cable meanwhile");
        claims.note(ONE, "his".into(), start + ANSWERED * 2);
        let heard = Some(Err("his".into()));
        assert_eq!(look(&claims, start + ANSWERED * 2), heard, "who was heard was heard");
    }

    #[test]
    fn a_claim_shows_since_it_began_and_for_a_while_after_its_end() {
        let (mut claims, start) = (Claims::default(), Instant::now());
        claims.note(ONE, "hers".into(), start);
        claims.note(ONE, "his".into(), start + SHOWS / 2);
        assert_eq!(claims.of(ONE, start + SHOWS), Some(("his", start)));
        let anew = start + SHOWS * 2;
        assert_eq!((claims.of(ONE, anew), claims.of(OTHER, start)), (None, None));
        claims.note(ONE, "his".into(), anew);
        assert_eq!(claims.of(ONE, anew), Some(("his", anew)));
    }
}
