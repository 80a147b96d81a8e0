//! The protocol's rules by name, so that tests can show what each is for: without it the model
//! checker finds a history in which two nodes serve one bucket, or none does for ever.

/// Which rules hold. Outside tests all do, and the compiler knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(super) struct Rules {
    /// A view is installed when all its members have released what they lose by it.
    pub(super) barrier: bool,
    /// A lease follows from what peers have acknowledged, not from what was sent.
    pub(super) lease_by_acks: bool,
    /// Nobody promises a view without a node that it hears.
    pub(super) vouch: bool,
    /// A lease that has ended is not renewed: the node is fenced until it installs another view.
    pub(super) lapse: bool,
    /// The first lease of a view comes from nodes that have installed the same one.
    pub(super) first_lease_by_same_view: bool,
    /// Nor while a node that is linked with this one may serve by another view.
    pub(super) first_lease_by_stand_back: bool,
    /// Who was not run for long starts its silence clocks anew.
    pub(super) stall: bool,
    /// A peer that does not acknowledge since long counts for the lease only while it is heard.
    pub(super) lease_by_heard: bool,
    /// Heartbeats say that their sender is fenced, and the coordinator proposes another view then.
    pub(super) fenced_is_told: bool,
    /// What was said of old connections before a view was promised is not said again after it.
    pub(super) said_anew: bool,
    /// A new agent listens before it serves alone.
    pub(super) listen: bool,
    /// Periods that a joiner must have been heard for.
    pub(super) damping: u32,
}

impl Rules {
    /// The protocol.
    pub(super) const ALL: Self = Self {
        barrier: true,
        lease_by_acks: true,
        vouch: true,
        lapse: true,
        first_lease_by_same_view: true,
        first_lease_by_stand_back: true,
        stall: true,
        lease_by_heard: true,
        fenced_is_told: true,
        said_anew: true,
        listen: true,
        damping: 10,
    };
}
