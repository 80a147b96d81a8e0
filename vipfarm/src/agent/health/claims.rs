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

    /// Whether it has asked for so long that who has a VIP would have been heard.
    pub(super) fn have_asked(&self, now: Instant) -> bool {
        self.asking.is_some_and(|since| now.saturating_duration_since(since) >= ANSWERED)
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

    /// One look: nobody has claimed one of these VIPs since then.
    pub(super) fn none_since(
        &self,
        since: Instant,
        mut vips: impl Iterator<Item = IpAddr>,
    ) -> Result<(), String> {
        let claimed =
            vips.find_map(|vip| self.by_vip.get(&vip).filter(|heard| heard.last >= since));
        claimed.map_or(Ok(()), |heard| Err(heard.words.clone()))
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
        claims.note(OTHER, "his".into(), at(7));
        let look = |since, vips: &[IpAddr]| claims.none_since(at(since), vips.iter().copied());
        assert_eq!(look(5, &[ONE, OTHER]), Err("his".into()));
        assert_eq!(look(7, &[OTHER]), Err("his".into()), "at the moment of the look before");
        assert_eq!(look(8, &[ONE, OTHER]), Ok(()), "a look ago");
        assert_eq!(look(5, &[ONE]), Ok(()), "another VIP");
    }

    #[test]
    fn silence_counts_when_the_node_has_asked_for_long_enough() {
        let (mut claims, start) = (Claims::default(), Instant::now());
        assert!(!claims.have_asked(start + ANSWERED), "it is not in the farm yet");
        claims.note_asking(true, start);
        claims.note_asking(true, start + ANSWERED / 2);
        assert!(!claims.have_asked(start + ANSWERED / 2));
        assert!(claims.have_asked(start + ANSWERED));
        claims.note_asking(false, start + ANSWERED);
        claims.note_asking(true, start + ANSWERED * 2);
        assert!(!claims.have_asked(start + ANSWERED * 2), "it was without a cable meanwhile");
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
