//! `vipfarm replay`

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{self, BufReader, Read, Write},
    net::IpAddr,
};

use owo_colors::Style;
use serde::Serialize;
use vipfarm_common::Reason;

use super::{
    Failure, explain,
    screen::{self, Ink, Row},
};
use crate::{
    agent::judge::{self, Judge, Judged},
    cli::ReplayArgs,
    config,
    host::HostTables,
    model::{Farm, Mac, NodeId, NodeSet, Open, View},
    pcap::{Capture, Packet, PcapError},
    summary::Summary,
};

pub(super) fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let (farm, keys) = config::load_with_keys(&args.config)?;
    let alive = explain::imagined(&farm, &args.down)?;
    let node = match &args.node {
        Some(name) => Some(explain::judging(&farm, alive, name)?),
        None => None,
    };
    let mut macs = Vec::new();
    for given in &args.mac {
        macs.push((explain::named(&farm, &given.node)?, given.mac));
    }
    let replay = Replay { farm: &farm, hash_key: keys.bucket_key(), alive, node, macs: &macs };
    let form = if args.json { Form::Json } else { Form::Table(Ink::of_stdout()) };
    let capture: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&args.file).map_err(|error| {
            Failure::Usage(format!("cannot open {}: {error}", args.file.display()))
        })?;
        Box::new(BufReader::new(file))
    };
    replay.write(capture, form, &mut anstream::stdout().lock())
}

/// What the packets of a capture are judged by: the file alone, all its VIPs on the captured network.
#[derive(Debug, Clone, Copy)]
pub struct Replay<'a> {
    /// The configuration.
    pub farm: &'a Farm,
    /// The farm's hash key.
    pub hash_key: [u8; 16],
    /// The nodes that serve.
    pub alive: NodeSet,
    /// The node whose verdicts to give; `None` = those of the farm as a whole, which accepts what any
    /// node does.
    pub node: Option<NodeId>,
    /// The nodes' MACs, as far as they are known.
    pub macs: &'a [(NodeId, Mac)],
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line for each packet, then the totals.
    Table(Ink),
    /// A JSON object for each packet, then one of the totals, each on a line.
    Json,
}

/// One packet's line.
#[derive(Serialize)]
struct Line<'a> {
    /// Counted from 1.
    number: u64,
    /// Seconds since 1970 (UTC), with nine digits behind the point.
    time: String,
    /// Bytes on the wire.
    length: u32,
    /// Whether the capture has fewer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    #[serde(flatten)]
    summary: Summary,
    verdict: &'static str,
    reason: &'static str,
    bucket: Option<u8>,
    group: Option<&'a str>,
    owner: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Totals<'a> {
    packets: u64,
    /// VIPs that are closed until `vipfarm open` (`open: manual`), and were judged as open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    assumed_open: Vec<IpAddr>,
    /// Packets of which the capture has not all bytes.
    cut: u64,
    #[serde(serialize_with = "by_word")]
    reasons: BTreeMap<Reason, u64>,
    /// Packets that came to a bucket, by its owner's name.
    owners: BTreeMap<&'a str, u64>,
    /// The same of buckets that nobody owns.
    nobody: u64,
}

impl Replay<'_> {
    /// Judges all packets of a capture. One that cannot be read to its end is judged to there; what
    /// is wrong with it is the error.
    pub fn write(
        &self,
        capture: impl Read,
        form: Form,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let mut capture = Capture::new(capture).map_err(|error| match error {
            error @ (PcapError::Pcapng | PcapError::Foreign | PcapError::LinkType(_)) => {
                Failure::Usage(error.to_string())
            }
            error => Failure::Refused(error.to_string()),
        })?;
        let (mut port, accept) = judge::imagined_port(self.farm, self.alive, self.node)?;
        for &(node, mac) in self.macs {
            port.learn(node, mac);
        }
        let mut plan = port.plan();
        plan.bitmaps = accept;
        let stations = Stations::of(self);
        let tables = HostTables::new(&plan, self.hash_key, NO_STATION);
        let mut judge = Judge::new(self.farm, &View::of(self.alive), &port, tables);

        let columns = Columns::of(self.farm);
        if let Form::Table(ink) = form {
            out.write_all(columns.header(ink).as_bytes())?;
        }
        let mut totals = Totals { assumed_open: closed_at_first(self.farm), ..Totals::default() };
        let mut first_ns = None;
        let end = loop {
            let mut packet = match capture.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let time_ns = packet.time_ns;
            let line = totals.judge(&mut packet, &mut judge, &stations);
            match form {
                Form::Json => writeln!(out, "{}", serde_json::to_string(&line)?)?,
                Form::Table(ink) => {
                    let since =
                        Since { now_ns: time_ns, first_ns: *first_ns.get_or_insert(time_ns) };
                    out.write_all(columns.row(&line, since, ink).as_bytes())?;
                }
            }
        };
        match form {
            Form::Json => {
                let totals = serde_json::json!({ "totals": totals });
                writeln!(out, "{totals}")?;
            }
            Form::Table(ink) => out.write_all(totals.render(ink).as_bytes())?,
        }
        out.flush()?;
        Ok(end.map_err(|error| Failure::Refused(error.to_string()))?)
    }
}

impl<'a> Totals<'a> {
    /// Judges a packet and counts it.
    fn judge<'f: 'a>(
        &mut self,
        packet: &mut Packet<'_>,
        judge: &mut Judge<'f>,
        stations: &Stations,
    ) -> Line<'a> {
        // Before the MACs are rewritten.
        let summary = Summary::of(packet.frame);
        let target = packet.frame.first_chunk().map_or(NO_STATION, |&target| Mac(target));
        judge.set_own_mac(stations.judging(target));
        let cut = packet.is_cut();
        let Judged { reason, bucket, group, owner } = judge.judge(packet.frame);
        self.packets += 1;
        self.cut += u64::from(cut);
        *self.reasons.entry(reason).or_default() += 1;
        match owner {
            Some(owner) => *self.owners.entry(owner).or_default() += 1,
            None => self.nobody += u64::from(bucket.is_some()),
        }
        Line {
            number: self.packets,
            time: format!(
                "{}.{:09}",
                packet.time_ns / 1_000_000_000,
                packet.time_ns % 1_000_000_000
            ),
            length: packet.length,
            cut,
            summary,
            verdict: reason.verdict().as_str(),
            reason: reason.as_str(),
            bucket,
            group,
            owner,
        }
    }

    fn render(&self, ink: Ink) -> String {
        let mut text = format!("\npackets: {}", self.packets);
        if self.cut > 0 {
            let cut = format!(", {} of them cut short (judged by the bytes kept)", self.cut);
            text.push_str(&cut);
        }
        text.push('\n');
        if !self.assumed_open.is_empty() {
            let vips: Vec<_> = self.assumed_open.iter().map(IpAddr::to_string).collect();
            // A string takes whatever is written.
            let _ = writeln!(
                text,
                "judged as if opened, for they are closed until `vipfarm open` (`open: manual`): {}",
                vips.join(", ")
            );
        }
        let reasons = self.reasons.iter().map(|(reason, count)| {
            let verdict = reason.verdict().as_str();
            let cells = [count.to_string(), verdict.into(), reason.as_str().into()];
            Row::new(explain::colour_of(verdict), cells)
        });
        let nobody = (self.nobody > 0).then_some(("(nobody)", self.nobody));
        let owners = self.owners.iter().map(|(&owner, &count)| (owner, count)).chain(nobody);
        let owners =
            owners.map(|(owner, count)| Row::new(Style::new(), [count.to_string(), owner.into()]));
        let (reasons, owners): (Vec<_>, Vec<_>) = (reasons.collect(), owners.collect());
        for (header, rows) in
            [(&["PACKETS", "VERDICT", "REASON"][..], reasons), (&["PACKETS", "OWNER"], owners)]
        {
            if !rows.is_empty() {
                text.push('\n');
                text.push_str(&screen::table(ink, header, &[0], &rows));
            }
        }
        text
    }
}

/// The VIPs that nobody serves before somebody opens them.
fn closed_at_first(farm: &Farm) -> Vec<IpAddr> {
    let closed = farm.vips.iter().filter(|block| block.open == Open::Manual);
    closed.flat_map(|block| &block.addresses).map(|vip| vip.addr).collect()
}

fn by_word<S: serde::Serializer>(
    reasons: &BTreeMap<Reason, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(reasons.iter().map(|(reason, count)| (reason.as_str(), count)))
}

/// Nobody's MAC.
const NO_STATION: Mac = Mac([0; 6]);

/// Whose MACs are known.
struct Stations {
    /// The judging node's.
    own: Option<Mac>,
    /// Of the VIPs, and of other nodes than the judging one.
    others: Vec<Mac>,
}

impl Stations {
    fn of(replay: &Replay<'_>) -> Self {
        let is_own = |&&(node, _): &&(NodeId, Mac)| Some(node) == replay.node;
        let own = replay.macs.iter().find(is_own).map(|&(_, mac)| mac);
        let vips = replay.farm.vips.iter().filter(|vip| vip.virtual_mac().is_some());
        let peers = replay.macs.iter().filter(|given| replay.node.is_some() && !is_own(given));
        let others = vips.map(|vip| vip.vmac).chain(peers.map(|&(_, mac)| mac)).collect();
        Self { own, others }
    }

    /// The judging node's MAC, as a frame to `target` shows it.
    fn judging(&self, target: Mac) -> Mac {
        self.own.unwrap_or_else(|| {
            let is_elsewhere = target.is_multicast() || self.others.contains(&target);
            if is_elsewhere { NO_STATION } else { target }
        })
    }
}

/// A packet's time after the first one's.
#[derive(Clone, Copy)]
struct Since {
    now_ns: u64,
    first_ns: u64,
}

impl Since {
    fn seconds(self) -> String {
        let sign = if self.now_ns < self.first_ns { "-" } else { "" };
        let micros = self.now_ns.abs_diff(self.first_ns) / 1000;
        format!("{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// Widths of the table's columns: known before the first packet is.
struct Columns {
    reason: usize,
    group: usize,
    owner: usize,
}

impl Columns {
    fn of(farm: &Farm) -> Self {
        let groups = farm.vips.iter().flat_map(|vip| &vip.groups).map(|group| group.name.as_str());
        let nodes = farm.nodes.iter().map(|node| node.name.as_str());
        let longest = |words: &mut dyn Iterator<Item = &str>, least: &str| {
            words.map(|word| word.chars().count()).max().unwrap_or(0).max(least.len())
        };
        Self {
            reason: longest(&mut Reason::ALL.iter().map(|reason| reason.as_str()), "REASON"),
            group: longest(&mut groups.chain([crate::placement::RESOLVE_GROUP]), "GROUP"),
            owner: longest(&mut nodes.into_iter(), "OWNER"),
        }
    }

    fn header(&self, ink: Ink) -> String {
        let words = ["NUMBER", "TIME", "VERDICT", "REASON", "BUCKET", "GROUP", "OWNER", "PACKET"];
        let line = self.line(words, Style::new(), Ink::Plain);
        format!("{}\n", ink.paint(&line, Style::new().dimmed()))
    }

    fn row(&self, line: &Line<'_>, since: Since, ink: Ink) -> String {
        let none = || "-".to_owned();
        let cells = [
            &line.number.to_string(),
            &since.seconds(),
            line.verdict,
            line.reason,
            &line.bucket.map_or_else(none, |bucket| bucket.to_string()),
            line.group.unwrap_or("-"),
            line.owner.unwrap_or("-"),
            &line.summary.to_string(),
        ];
        self.line(cells, explain::colour_of(line.verdict), ink) + "\n"
    }

    fn line(&self, cells: [&str; 8], style: Style, ink: Ink) -> String {
        let [number, time, verdict, reason, bucket, group, owner, packet] = cells;
        let verdict = ink.paint(&format!("{verdict:<7}"), style);
        let Self { reason: reasons, group: groups, owner: owners } = *self;
        format!(
            "{number:>6}  {time:>10}  {verdict}  {reason:<reasons$}  {bucket:>6}  {group:<groups$}  {owner:<owners$}  {packet}"
        )
    }
}

#[cfg(test)]
mod tests;
