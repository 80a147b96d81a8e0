//! What became of every probe, and what that says about an outage.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::lock;

/// A probe's tag: flow and number, four bytes each, big-endian.
pub(super) const TAG_BYTES: usize = 8;

/// One datagram and its answers.
#[derive(Debug, Clone)]
pub struct Probe {
    /// When it was sent.
    pub sent: Instant,
    /// The first answer.
    pub answer: Option<Answer>,
    /// Answers after the first: there must be none.
    pub duplicates: Vec<Answer>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The node that gave it.
    pub node: Arc<str>,
    /// When it arrived.
    pub at: Instant,
}

/// What an event did to flows, as seen by their probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outage {
    /// Flows concerned.
    pub flows: usize,
    /// Longest time for which one of them got no answers. Time in which nothing was sent is not
    /// counted: a gap holds at least one unanswered probe.
    pub longest: Duration,
    /// Unanswered probes of the flows concerned.
    pub lost: usize,
    /// All other flows.
    pub survivor_flows: usize,
    /// Unanswered probes of those.
    pub survivor_failures: usize,
}

/// All probes of all flows, filled while they run.
#[derive(Debug)]
pub struct ProbeLog {
    interval: Duration,
    flows: Vec<Mutex<Flow>>,
}

#[derive(Debug)]
struct Flow {
    client: SocketAddr,
    probes: Vec<Probe>,
}

impl ProbeLog {
    pub(super) fn new(interval: Duration, clients: Vec<SocketAddr>) -> Self {
        let flow = |client| Mutex::new(Flow { client, probes: Vec::new() });
        Self { interval, flows: clients.into_iter().map(flow).collect() }
    }

    /// Records that a probe is about to be sent, and gives its tag.
    pub(super) fn sending(&self, flow: usize, now: Instant) -> [u8; TAG_BYTES] {
        let mut probes = lock(&self.flows[flow]);
        let number = probes.probes.len();
        probes.probes.push(Probe { sent: now, answer: None, duplicates: Vec::new() });
        tag(flow, number)
    }

    /// Records an answer that arrived on the socket of `flow`; what is not one is ignored.
    pub(super) fn answered(&self, flow: usize, datagram: &[u8], now: Instant) {
        let Some((tag_bytes, node)) = datagram.split_first_chunk() else { return };
        let (of_flow, number) = untag(*tag_bytes);
        let mut own = lock(&self.flows[flow]);
        let Some(probe) = own.probes.get_mut(number).filter(|_| of_flow == flow) else { return };
        let answer = Answer { node: String::from_utf8_lossy(node).into(), at: now };
        match probe.answer {
            None => probe.answer = Some(answer),
            Some(_) => probe.duplicates.push(answer),
        }
    }

    /// How many probes were sent and how many were answered.
    pub fn counts(&self) -> (usize, usize) {
        self.flows.iter().fold((0, 0), |(sent, answered), flow| {
            let probes = &lock(flow).probes;
            let answers = probes.iter().filter(|probe| probe.answer.is_some()).count();
            (sent + probes.len(), answered + answers)
        })
    }

    /// Probes with more than one answer.
    pub fn duplicates(&self) -> Vec<Probe> {
        let twice = |flow: &Mutex<Flow>| {
            let probes = &lock(flow).probes;
            let twice = probes.iter().filter(|probe| !probe.duplicates.is_empty());
            twice.cloned().collect::<Vec<_>>()
        };
        self.flows.iter().flat_map(twice).collect()
    }

    /// Unanswered probes of all flows that were sent between two instants.
    pub fn lost(&self, from: Instant, until: Instant) -> usize {
        self.flows.iter().map(|flow| lock(flow).unanswered(from, until)).sum()
    }

    /// Who served each flow just before `at`: the node of its last answered probe until then.
    pub fn owners(&self, at: Instant) -> BTreeMap<SocketAddr, Arc<str>> {
        let owner = |flow: &Mutex<Flow>| {
            let flow = lock(flow);
            Some((flow.client, flow.owner(at)?))
        };
        self.flows.iter().filter_map(owner).collect()
    }

    /// The nodes that answered each flow's probes sent between two instants.
    pub fn servers(
        &self,
        from: Instant,
        until: Instant,
    ) -> BTreeMap<SocketAddr, BTreeSet<Arc<str>>> {
        let servers = |flow: &Mutex<Flow>| {
            let flow = lock(flow);
            let sent = flow.probes.iter().filter(|probe| (from..until).contains(&probe.sent));
            let nodes = sent.filter_map(|probe| Some(Arc::clone(&probe.answer.as_ref()?.node)));
            (flow.client, nodes.collect())
        };
        self.flows.iter().map(servers).collect()
    }

    /// When the last probe was sent that `node` answered.
    pub fn last_served(&self, node: &str) -> Option<Instant> {
        let last = |flow: &Mutex<Flow>| {
            let flow = lock(flow);
            let mut latest = flow.probes.iter().rev();
            let by_node =
                |probe: &&Probe| probe.answer.as_ref().is_some_and(|answer| *answer.node == *node);
            latest.find(by_node).map(|probe| probe.sent)
        };
        self.flows.iter().filter_map(last).max()
    }

    /// Whether every flow's last `count` probes, those of the last `grace` aside, were answered.
    pub fn all_answered(&self, count: usize, grace: Duration) -> bool {
        let Some(due) = Instant::now().checked_sub(grace) else { return false };
        self.flows.iter().all(|flow| {
            let flow = lock(flow);
            let due = flow.probes.iter().rev().skip_while(|probe| probe.sent > due);
            let last: Vec<_> = due.take(count).collect();
            last.len() == count && last.iter().all(|probe| probe.answer.is_some())
        })
    }

    /// What happened between two instants to the flows that `node` served at the first or at the
    /// second, and to the others.
    pub fn outage(&self, from: Instant, until: Instant, node: &str) -> Outage {
        self.outage_where(from, until, |owners| {
            owners.iter().flatten().any(|owner| **owner == *node)
        })
    }

    /// What happened between two instants to the flows that had changed hands by the second, and
    /// to the others.
    pub fn outage_of_moved(&self, from: Instant, until: Instant) -> Outage {
        self.outage_where(from, until, |[before, after]| before != after)
    }

    /// `concerned` is asked with who served a flow before and after.
    fn outage_where(
        &self,
        from: Instant,
        until: Instant,
        concerned: impl Fn(&[Option<Arc<str>>; 2]) -> bool,
    ) -> Outage {
        let mut outage = Outage::default();
        for flow in &self.flows {
            let flow = lock(flow);
            if concerned(&[flow.owner(from), flow.owner(until)]) {
                outage.flows += 1;
                outage.lost += flow.unanswered(from, until);
                let gap = flow.longest_gap(from, until, self.interval);
                outage.longest = outage.longest.max(gap);
            } else {
                outage.survivor_flows += 1;
                outage.survivor_failures += flow.unanswered(from, until);
            }
        }
        outage
    }

    /// Longest time for which any flow got no answers between two instants.
    pub fn longest_gap(&self, from: Instant, until: Instant) -> Duration {
        let gaps = self.flows.iter().map(|flow| lock(flow).longest_gap(from, until, self.interval));
        gaps.max().unwrap_or_default()
    }
}

impl Flow {
    fn owner(&self, at: Instant) -> Option<Arc<str>> {
        let mut before = self.probes.iter().rev().skip_while(|probe| probe.sent >= at);
        before.find_map(|probe| probe.answer.as_ref()).map(|answer| Arc::clone(&answer.node))
    }

    fn unanswered(&self, from: Instant, until: Instant) -> usize {
        let sent = self.probes.iter().filter(|probe| (from..until).contains(&probe.sent));
        sent.filter(|probe| probe.answer.is_none()).count()
    }

    /// Between two answered probes with unanswered ones between them, less the time that passes
    /// between any two; an outage that lasts until the end counts until its last probe.
    fn longest_gap(&self, from: Instant, until: Instant, interval: Duration) -> Duration {
        let (mut longest, mut last_answered, mut lost) = (Duration::ZERO, None, false);
        for probe in self.probes.iter().take_while(|probe| probe.sent < until) {
            lost |= probe.answer.is_none() && probe.sent >= from;
            if lost {
                let since = last_answered.unwrap_or(probe.sent);
                longest = longest.max((probe.sent - since).saturating_sub(interval));
            }
            if probe.answer.is_some() {
                (last_answered, lost) = (Some(probe.sent), false);
            }
        }
        longest
    }
}

fn tag(flow: usize, number: usize) -> [u8; TAG_BYTES] {
    ((flow as u64) << 32 | number as u64).to_be_bytes()
}

fn untag(tag: [u8; TAG_BYTES]) -> (usize, usize) {
    let [flow, number] = [0, 4].map(|at| {
        let bytes: [u8; 4] = std::array::from_fn(|i| tag[at + i]);
        u32::from_be_bytes(bytes) as usize
    });
    (flow, number)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(5);

    /// One flow a text, one probe a character: its node, `.` for no answer.
    fn log(flows: &[&str]) -> (ProbeLog, Instant) {
        let clients =
            (1000..).take(flows.len()).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let log = ProbeLog::new(INTERVAL, clients.collect());
        let start = Instant::now();
        for (flow, text) in flows.iter().enumerate() {
            for (number, node) in (0_u32..).zip(text.chars()) {
                let now = start + INTERVAL * number;
                let tag = log.sending(flow, now);
                if node != '.' {
                    let answer = [&tag[..], node.to_string().as_bytes()].concat();
                    log.answered(flow, &answer, now);
                }
            }
        }
        (log, start)
    }

    #[test]
    fn the_outage_is_the_longest_gap_of_the_nodes_flows_less_the_interval() {
        let (log, start) = log(&["aa....bb", "aa..cccc", "cccccccc"]);
        let outage = log.outage(start + INTERVAL * 2, start + INTERVAL * 8, "a");
        let expected = Outage {
            flows: 2,
            longest: INTERVAL * 4,
            lost: 6,
            survivor_flows: 1,
            survivor_failures: 0,
        };
        assert_eq!(outage, expected);
    }

    #[test]
    fn a_survivors_lost_probes_are_counted() {
        let (log, start) = log(&["aaabbb", "cc..cc"]);
        let outage = log.outage(start + INTERVAL, start + INTERVAL * 6, "a");
        assert_eq!((outage.longest, outage.survivor_failures), (Duration::ZERO, 2));
    }

    #[test]
    fn lost_is_what_no_flow_got_an_answer_to() {
        let (log, start) = log(&["aa..a.", "a.aaa."]);
        assert_eq!(log.lost(start, start + INTERVAL * 5), 3);
        assert_eq!(log.lost(start + INTERVAL * 2, start + INTERVAL * 6), 4);
    }

    #[test]
    fn an_outage_without_end_counts_until_the_last_probe() {
        let (log, start) = log(&["aa......"]);
        let outage = log.outage(start + INTERVAL * 2, start + INTERVAL * 8, "a");
        assert_eq!(outage.longest, INTERVAL * 5);
    }

    #[test]
    fn a_node_that_comes_back_owns_the_gap_of_what_moves_to_it() {
        let (log, start) = log(&["bb..aa", "bbbbbb"]);
        let outage = log.outage(start + INTERVAL, start + INTERVAL * 6, "a");
        let expected = Outage {
            flows: 1,
            longest: INTERVAL * 2,
            lost: 2,
            survivor_flows: 1,
            survivor_failures: 0,
        };
        assert_eq!(outage, expected);
    }

    #[test]
    fn a_flow_that_stays_is_a_survivor_when_only_what_moved_counts() {
        let (log, start) = log(&["aa.bbb", "aa.aaa", "bbbbbb"]);
        let outage = log.outage_of_moved(start + INTERVAL, start + INTERVAL * 6);
        let expected = Outage {
            flows: 1,
            longest: INTERVAL,
            lost: 1,
            survivor_flows: 2,
            survivor_failures: 1,
        };
        assert_eq!(outage, expected);
    }

    #[test]
    fn a_pause_of_the_sender_is_no_outage() {
        let (log, start) = log(&["aa"]);
        let late = start + Duration::from_secs(1);
        let tag = log.sending(0, late);
        log.answered(0, &[&tag[..], b"a"].concat(), late);
        assert_eq!(log.longest_gap(start, late + INTERVAL), Duration::ZERO);
    }

    #[test]
    fn a_second_answer_is_a_duplicate_and_a_strangers_is_none() {
        let (log, start) = log(&["a", "b"]);
        log.answered(0, &[&tag(0, 0)[..], b"b"].concat(), start);
        log.answered(0, &[&tag(1, 0)[..], b"b"].concat(), start);
        log.answered(0, &[&tag(0, 7)[..], b"b"].concat(), start);
        log.answered(0, b"short", start);
        let duplicates = log.duplicates();
        assert_eq!(duplicates.len(), 1);
        assert_eq!(&*duplicates[0].duplicates[0].node, "b");
    }

    #[test]
    fn a_node_served_last_when_the_last_probe_it_answered_was_sent() {
        let (log, start) = log(&["aab.", "a..a", "bbbb"]);
        assert_eq!(log.last_served("a"), Some(start + INTERVAL * 3));
        assert_eq!(log.last_served("c"), None);
    }

    #[test]
    fn an_owner_is_who_answered_last() {
        let (log, start) = log(&["aa..b"]);
        let owner = |number| log.owners(start + INTERVAL * number).into_values().next();
        assert_eq!(owner(0), None);
        assert_eq!(owner(4).as_deref(), Some("a"));
        assert_eq!(owner(5).as_deref(), Some("b"));
    }
}
