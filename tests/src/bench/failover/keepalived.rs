//! keepalived, on two nodes of the same lab and seen by the same probes: one address that moves,
//! instead of one that everybody holds.

use std::{collections::BTreeSet, fmt, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use vipfarm::model::Mac;

use super::{
    Bench,
    events::Event,
    figures::KeepalivedFigures,
    millis, phase,
    watch::{ECHO, Owners, Watch},
};
use crate::{
    Frame,
    bench::statistics::Summary,
    capture::{Captured, Direction},
    farm::PATIENCE,
    host::{Host, INTERFACE},
    iproute,
    lab::{Lab, PREFIX, Topology, VIP},
    process::{Process, Signal},
    sweep::signal_processes_in,
    traffic::UdpEcho,
};

/// Its default, and the cadence of the profile `balanced`.
const ADVERTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(50)];

/// What is done to the node with the address.
pub(super) const EVENTS: [Event; 3] = [Event::SilentDeath, Event::GracefulStop, Event::Freeze];

pub(super) const CLIENT_ADDRESSES: u8 = 60;

/// How long all holders of an address have to answer an ARP request.
const ARP_TIME: Duration = Duration::from_millis(50);

/// Why it cannot be measured here.
pub(super) fn missing() -> Option<String> {
    let missing = iproute::run("keepalived", &["--version"]).is_err();
    missing.then(|| "the program is not installed (Debian: apt-get install keepalived)".to_owned())
}

/// Measures all events at all cadences.
pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<KeepalivedFigures>> {
    let mut figures = Vec::new();
    for advert in ADVERTS {
        let mut samples = EVENTS.map(|event| (event, Vec::new()));
        for run in 0..bench.runs {
            for (event, samples) in &mut samples {
                let what = format!(
                    "keepalived {:4} s {}/{} {:13}",
                    advert.as_secs_f64(),
                    run + 1,
                    bench.runs,
                    event.name()
                );
                let Some(sample) = bench.sample(&what, once(bench, advert, run, *event))? else {
                    continue;
                };
                eprintln!("{what}: {sample}");
                samples.push(sample);
            }
        }
        let of = |(event, samples): &(Event, Vec<Sample>)| summary(bench, advert, *event, samples);
        figures.extend(samples.iter().map(of));
    }
    Ok(figures)
}

/// One event, once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) outage_ms: f64,
    pub(super) double_answers: usize,
    pub(super) holders: usize,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outage_ms, double_answers, holders } = self;
        write!(f, "outage {outage_ms:6.1} ms, {double_answers} answered twice, {holders} holding")
    }
}

fn summary(
    bench: &Bench<'_>,
    advert: Duration,
    event: Event,
    samples: &[Sample],
) -> KeepalivedFigures {
    let Summary { median, max } = Summary::of(samples.iter().map(|sample| sample.outage_ms));
    KeepalivedFigures {
        advert_s: advert.as_secs_f64(),
        event: event.name(),
        median_ms: median,
        max_ms: max,
        double_answers: samples.iter().map(|sample| sample.double_answers).sum(),
        holders: samples.iter().map(|sample| sample.holders).max().unwrap_or(0),
        runs: samples.len(),
        wanted: bench.runs.into(),
    }
}

/// One event, in a lab of its own: the first node is the master.
fn once(bench: &Bench<'_>, advert: Duration, run: u16, event: Event) -> Result<Sample> {
    let topology = Topology { client_addresses: CLIENT_ADDRESSES, ..Topology::new(2, 2) };
    let lab = Lab::new("keepalived", &topology)?;
    let echoes = lab.nodes().iter().map(|node| UdpEcho::start(node, ECHO));
    let _echoes = echoes.collect::<Result<Vec<_>>>()?;
    let mut master = Daemon::start(&lab, 1, advert)?;
    let _backup = Daemon::start(&lab, 2, advert)?;

    let (first, second) = (lab.node(1), lab.node(2));
    // The second client asks who holds the address; only the first one's packets are watched.
    let (clients, asker) = (&lab.clients()[..1], lab.client(2));
    let watch = Watch::start(bench, clients, phase(run, advert), all_at(first))?;
    let holders = match event {
        Event::SilentDeath => {
            first.cut()?;
            master.kill();
            watch.until_served(all_at(second))?;
            holders(bench, asker)?
        }
        Event::GracefulStop => {
            master.process.stop(PATIENCE)?;
            watch.until_served(all_at(second))?;
            holders(bench, asker)?
        }
        _ => {
            master.signal(Signal::SIGSTOP);
            bench.interrupt.sleep(freeze_time(advert))?;
            let holders = holders(bench, asker)?;
            master.signal(Signal::SIGCONT);
            bench.interrupt.sleep(advert)?;
            holders
        }
    };
    let seen = watch.finish()?;
    Ok(Sample {
        outage_ms: millis(seen.log.longest_gap(seen.from, seen.until)),
        double_answers: seen.log.duplicates().len(),
        holders,
    })
}

/// Long enough for a takeover, which takes less than four advertisements.
fn freeze_time(advert: Duration) -> Duration {
    (5 * advert).max(Duration::from_secs(2))
}

pub(super) fn all_at(node: &Host) -> impl Fn(&Owners) -> bool {
    |owners| owners.values().all(|owner| **owner == *node.name())
}

/// How many machines answer one ARP request for the address.
pub(super) fn holders(bench: &Bench<'_>, asker: &Host) -> Result<usize> {
    let capture = asker.capture_if(|frame| claims_vip(frame).is_some())?;
    asker.inject(&Frame::arp_request(asker.mac(), asker.address(), VIP).bytes())?;
    bench.interrupt.sleep(ARP_TIME)?;
    let macs: BTreeSet<_> = capture.stop().iter().filter_map(claims_vip).map(|mac| mac.0).collect();
    ensure!(!macs.is_empty(), "nobody answers an ARP request for {VIP}");
    Ok(macs.len())
}

/// The MAC of an ARP reply that came in and says who has the VIP.
fn claims_vip(frame: &Captured) -> Option<Mac> {
    const ARP_REPLY: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 2];
    let body = frame.bytes.get(12..)?.strip_prefix(&ARP_REPLY)?;
    let (mac, rest) = body.split_first_chunk()?;
    let incoming = frame.direction == Direction::Incoming;
    (incoming && rest.starts_with(&VIP.octets())).then_some(Mac(*mac))
}

/// keepalived on one node: the process that was started, and the one that it starts itself, which
/// does the work.
struct Daemon<'a> {
    host: &'a Host,
    process: Process,
}

impl<'a> Daemon<'a> {
    fn start(lab: &'a Lab, node: usize, advert: Duration) -> Result<Self> {
        let host = lab.node(node);
        let file = |suffix: &str| lab.directory().join(format!("{}-{suffix}", host.name()));
        let conf = file("keepalived.conf");
        fs::write(&conf, configuration(host.name(), node == 1, advert))
            .with_context(|| format!("write {}", conf.display()))?;
        let mut command = host.command("keepalived");
        command.args(["--dont-fork", "--vrrp", "--log-console", "--no-syslog"]);
        command.arg("--use-file").arg(conf);
        command.arg("--pid").arg(file("keepalived.pid"));
        command.arg("--vrrp_pid").arg(file("vrrp.pid"));
        Ok(Self { host, process: host.spawn("keepalived", command)? })
    }

    /// To both processes: nothing else runs on that node.
    fn signal(&self, signal: Signal) {
        signal_processes_in(self.host.namespace().name(), signal);
    }

    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A file as one would write it for two machines.
fn configuration(name: &str, is_master: bool, advert: Duration) -> String {
    let (state, priority) = if is_master { ("MASTER", 150) } else { ("BACKUP", 100) };
    format!(
        "global_defs {{
    router_id {name}
    vrrp_version 3
}}

vrrp_instance bench {{
    state {state}
    interface {INTERFACE}
    virtual_router_id 51
    priority {priority}
    advert_int {advert}
    virtual_ipaddress {{
        {VIP}/{PREFIX} dev {INTERFACE}
    }}
}}
",
        advert = advert.as_secs_f64(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_master_has_the_higher_priority_and_both_the_same_cadence() {
        let [master, backup] = [true, false]
            .map(|is_master| configuration("node1", is_master, Duration::from_millis(50)));
        assert!(master.contains("state MASTER") && master.contains("priority 150"), "{master}");
        assert!(backup.contains("state BACKUP") && backup.contains("priority 100"), "{backup}");
        for text in [master, backup] {
            assert!(text.contains("advert_int 0.05\n"), "{text}");
            assert!(text.contains("10.77.0.100/16 dev eth0"), "{text}");
        }
    }

    #[test]
    fn a_freeze_outlasts_the_takeover() {
        assert_eq!(freeze_time(Duration::from_secs(1)), Duration::from_secs(5));
        assert_eq!(freeze_time(Duration::from_millis(50)), Duration::from_secs(2));
    }

    #[test]
    fn only_an_answer_about_the_vip_names_a_holder() {
        let (node, asker) = (Mac([2; 6]), Mac([3; 6]));
        let client = [10, 77, 2, 1].into();
        let incoming = |frame: Frame| Captured {
            at: SystemTime::now(),
            direction: Direction::Incoming,
            bytes: frame.bytes(),
        };
        let reply = incoming(Frame::arp_reply((node, VIP), (asker, client)));
        assert_eq!(claims_vip(&reply), Some(node));
        let own = Captured { direction: Direction::Outgoing, ..reply };
        assert_eq!(claims_vip(&own), None);
        assert_eq!(claims_vip(&incoming(Frame::arp_request(node, VIP, client))), None);
        let other = incoming(Frame::arp_reply((node, client), (asker, VIP)));
        assert_eq!(claims_vip(&other), None);
    }
}
