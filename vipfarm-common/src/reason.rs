//! Every outcome of the decision, by name: the words of `explain`, `status`, metrics and tests.

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not the farm's: goes to the stack as it came.
    Pass,
    /// Served here: goes to the stack, addressed to this node.
    Accept,
    /// Not served here.
    Drop,
    /// Handed over to the owner, by its MAC.
    Forward,
}

impl Verdict {
    /// The word used everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Forward => "forward",
        }
    }
}

/// Slots in the counter array; a [`Reason`]'s code is its index.
pub const COUNTERS: usize = 128;

const DROP: u8 = 1;
const PASS: u8 = 2;
const TX: u8 = 3;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $verdict:ident, $action:ident, $word:literal;)+) => {
        /// Why a frame met its fate: a closed set, one per-CPU counter each.
        ///
        /// The two low bits of the code are the XDP action, and [`Reason::NotMine`] and
        /// [`Reason::Mine`] are neighbours: see [`Outcome::by_bit`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $number << 2 | $action,)+
        }

        impl Reason {
            /// All reasons, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word used everywhere.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// What becomes of the frame.
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict,)+ }
            }

            /// One sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Not for a virtual address.
    NotVip = 0, Pass, PASS, "not_vip";
    /// The bucket belongs to another node.
    NotMine = 1, Drop, DROP, "not_mine";
    /// The bucket belongs to this node.
    Mine = 1, Accept, PASS, "mine";
    /// Neither IP nor ARP.
    NotIp = 2, Pass, PASS, "not_ip";
    /// An ARP reply to a virtual address: every node may have asked.
    ArpReply = 3, Accept, PASS, "arp_reply";
    /// Addressed to another station's MAC: flooded, or on its way through this node.
    OtherMac = 16, Pass, PASS, "other_mac";
    /// No rule covers this protocol and port.
    NoRule = 4, Drop, DROP, "no_rule";
    /// The virtual address is closed on this node.
    Closed = 5, Drop, DROP, "closed";
    /// The agent has not renewed the lease in time.
    Fenced = 6, Drop, DROP, "fenced";
    /// A header is cut short or contradicts itself.
    Malformed = 7, Drop, DROP, "malformed";
    /// An ICMP error that quotes a fragment without ports.
    Fragment = 8, Drop, DROP, "fragment";
    /// Echo requests are switched off (`icmp_echo: drop`).
    EchoDenied = 9, Drop, DROP, "echo_denied";
    /// An ICMP type that the farm does not serve.
    IcmpType = 10, Drop, DROP, "icmp_type";
    /// An ICMP error about a packet that this virtual address cannot have sent.
    IcmpForeign = 11, Drop, DROP, "icmp_foreign";
    /// A protocol that the farm does not serve (`other: drop`).
    OtherProto = 12, Drop, DROP, "other_proto";
    /// A farm node asks for the virtual address: members never answer members.
    ArpPeer = 13, Drop, DROP, "arp_peer";
    /// A stranger, or another farm, claims the virtual address or its MAC as its own.
    ArpConflict = 14, Drop, DROP, "arp_conflict";
    /// The program could not reach its tables or its slow half.
    Broken = 15, Drop, DROP, "broken";
    /// A neighbour advertisement to a virtual address: every node may have asked.
    NdReply = 17, Accept, PASS, "nd_reply";
    /// A farm node solicits the virtual address: members never answer members.
    NdPeer = 17, Drop, DROP, "nd_peer";
    /// A stranger advertises the virtual address as its own.
    NdConflict = 18, Drop, DROP, "nd_conflict";
    /// A fragment that came before the one with the ports: every node keeps it, and only the owner
    /// gets the whole packet.
    EarlyFragment = 18, Accept, PASS, "early_fragment";
    /// An ICMP error about an answer that any node may have sent (`on_ipid`): every node is told.
    IcmpShared = 19, Accept, PASS, "icmp_shared";
    /// The same where nodes hand over: accepted, and copied to the other nodes.
    CopiedIcmp = 20, Accept, PASS, "copied_icmp";
    /// More early fragments than nodes keep in a moment.
    FragmentFlood = 19, Drop, DROP, "fragment_flood";
    /// The bucket belongs to another node, which gets the frame.
    Forwarded = 20, Forward, TX, "forwarded";
    /// The bucket belongs to another node, but a farm node sent the frame here: never handed over
    /// twice.
    HandedOver = 20, Drop, DROP, "handed_over";
    /// A fragment that came before the one with the ports, where nodes hand over: kept, and copied to
    /// the other nodes.
    CopiedFragment = 21, Accept, PASS, "copied_fragment";
    /// The bucket was given away, but the connection is one of before.
    Lingering = 22, Accept, PASS, "lingering";
    /// The bucket was taken over, and the connection is none of this node's: whoever served it before
    /// has it still.
    Inherited = 22, Drop, DROP, "inherited";
    /// The same where nodes hand over: the frame goes to who served the bucket before.
    HandedBack = 22, Forward, TX, "handed_back";
    /// The same of a bucket that several nodes have served: the frame goes to all nodes.
    CopiedBack = 23, Forward, PASS, "copied_back";
    /// A stranger asks by ARP whether the virtual address is free, and is told that it is not.
    ArpProbe = 24, Accept, PASS, "arp_probe";
    /// The same by neighbour discovery.
    NdProbe = 25, Accept, PASS, "nd_probe";
    /// The bucket's owner, or its MAC, is not known here.
    NoNextHop = 21, Drop, DROP, "no_next_hop";
}

/// A reason as its code: what the packet programs hand around, because the hot path *computes* it
/// and a match on an enum would be the branch that it avoids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome(u8);

impl Outcome {
    /// [`Reason::Mine`] or [`Reason::NotMine`] by the bucket's bit (0 or 1), without a branch.
    #[inline(always)]
    pub const fn by_bit(bit: u64) -> Self {
        Self((Reason::NotMine as u64 + (bit & 1)).to_le_bytes()[0])
    }

    /// Index into the counter array, below [`COUNTERS`].
    #[inline(always)]
    pub const fn code(self) -> usize {
        self.0 as usize
    }

    /// The XDP action: 1 = `XDP_DROP`, 2 = `XDP_PASS`, 3 = `XDP_TX`.
    #[inline(always)]
    pub const fn action(self) -> u32 {
        self.0 as u32 & 3
    }

    /// The reason by name.
    pub fn reason(self) -> Reason {
        Reason::from_code(self.code()).unwrap_or(Reason::Broken)
    }
}

impl From<Reason> for Outcome {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self(reason as u8)
    }
}

impl Reason {
    /// Index into the counter array, below [`COUNTERS`].
    #[inline(always)]
    pub const fn code(self) -> usize {
        self as u8 as usize
    }

    /// The XDP action: 1 = `XDP_DROP`, 2 = `XDP_PASS`, 3 = `XDP_TX`.
    #[inline(always)]
    pub const fn action(self) -> u32 {
        self as u32 & 3
    }

    /// The reason with that code.
    pub fn from_code(code: usize) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_action_in_the_code_is_the_verdicts() {
        for &reason in Reason::ALL {
            let expected = match reason.verdict() {
                Verdict::Drop => 1,
                Verdict::Pass | Verdict::Accept => 2,
                // TC sends the copies.
                Verdict::Forward if reason == Reason::CopiedBack => 2,
                Verdict::Forward => 3,
            };
            assert_eq!(reason.action(), expected, "{reason:?}");
            assert!(reason.code() < COUNTERS);
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
        }
    }

    #[test]
    fn not_mine_and_mine_are_told_by_a_bit() {
        assert_eq!(Outcome::by_bit(0).reason(), Reason::NotMine);
        assert_eq!(Outcome::by_bit(1).reason(), Reason::Mine);
    }

    #[test]
    fn an_outcome_is_its_reason() {
        for &reason in Reason::ALL {
            let outcome = Outcome::from(reason);
            assert_eq!((outcome.reason(), outcome.code()), (reason, reason.code()));
            assert_eq!(outcome.action(), reason.action());
        }
    }
}
