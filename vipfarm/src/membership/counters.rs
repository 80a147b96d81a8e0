//! What became of the heartbeats, in numbers.

/// Why a datagram was dropped. Ordered as the checks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Not as long as a heartbeat.
    Size,
    /// Not a heartbeat.
    Magic,
    /// A heartbeat of another protocol version.
    Version,
    /// A heartbeat of another farm.
    Farm,
    /// From an address that is not the sender's, or no node's.
    Source,
    /// Without this farm's key.
    Tag,
    /// Authentic, but written for another of the farm's networks.
    Link,
    /// Authentic, but not something this version writes.
    Malformed,
    /// This node's own, sent back by the network.
    Own,
    /// From a second agent that claims to be this node, or a peer that is heard all the while.
    Duplicate,
    /// Repeated, or overtaken by a later one.
    Stale,
    /// From another agent of that node than the one that is heard: an old datagram, or a restart
    /// that is too fresh.
    Incarnation,
    /// From a peer that has not been heard for a while and has not yet proved that it hears this
    /// agent: the first of a new agent, or recorded.
    Unproven,
    /// Names a view far beyond all others, which no healthy node would propose.
    Epoch,
}

impl Dropped {
    /// All reasons, in the order of declaration.
    pub const ALL: [Self; 14] = [
        Self::Size,
        Self::Magic,
        Self::Version,
        Self::Farm,
        Self::Source,
        Self::Tag,
        Self::Link,
        Self::Malformed,
        Self::Own,
        Self::Duplicate,
        Self::Stale,
        Self::Incarnation,
        Self::Unproven,
        Self::Epoch,
    ];

    /// One word for status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Farm => "farm",
            Self::Source => "source",
            Self::Tag => "tag",
            Self::Link => "link",
            Self::Malformed => "malformed",
            Self::Own => "own",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Incarnation => "incarnation",
            Self::Unproven => "unproven",
            Self::Epoch => "epoch",
        }
    }
}

/// Heartbeats by outcome, since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Heartbeats written; each goes to all peers.
    pub sent: u64,
    /// Heartbeats taken from peers.
    pub accepted: u64,
    dropped: [u64; Dropped::ALL.len()],
}

impl Counters {
    /// How many datagrams were dropped for that reason.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize]
    }

    /// All outcomes by word: `sent`, `accepted`, and `dropped_` with each reason.
    pub fn by_word(&self) -> impl Iterator<Item = (String, u64)> {
        let reasons = Dropped::ALL.into_iter();
        [("sent".into(), self.sent), ("accepted".into(), self.accepted)].into_iter().chain(
            reasons.map(|reason| (format!("dropped_{}", reason.as_str()), self.dropped(reason))),
        )
    }

    pub(super) fn drop_for(&mut self, reason: Dropped) {
        self.dropped[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place() {
        for (index, reason) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
