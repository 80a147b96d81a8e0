//! What the agent tells, in the text format of Prometheus (version 0.0.4).
//!
//! Every sample has the label `farm`, so that what several farms on one node tell can be gathered
//! in one place. Metric and label names are part of the interface: alerts read them.

use std::fmt::Write as _;

use crate::status::{CheckState, CheckStatus, GroupStatus, NodeState, Status};

/// The `Content-Type` of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

/// All metrics.
pub fn render(status: &Status) -> String {
    let mut page = Page { farm: &status.farm, text: String::new() };
    page.state(status);
    page.proof(status);
    page.buckets(status);
    page.checks(status);
    page.connections(status);
    page.counters(status);
    page.text
}

struct Page<'a> {
    farm: &'a str,
    text: String,
}

impl Page<'_> {
    fn state(&mut self, status: &Status) {
        self.family("vipfarm_info", GAUGE, "This node's name and its agent's version; always 1.");
        let labels = [("node", status.node.as_str()), ("version", status.version.as_str())];
        self.sample("vipfarm_info", &labels, 1);
        let up = flag(status.state == NodeState::Up);
        self.gauge("vipfarm_up", "Whether this node serves its buckets.", up);
        let converged = flag(status.converged);
        self.gauge("vipfarm_converged", "Whether no bucket is changing hands.", converged);
        let help = "Number of the installed view; 0 before the first.";
        self.gauge("vipfarm_view_epoch", help, status.epoch);
        let help =
            "How long the kernel would go on accepting if the agent stopped now; 0 = fenced.";
        self.gauge("vipfarm_lease_seconds", help, status.lease_ms / 1e3);
        self.gauge("vipfarm_uptime_seconds", "Since the agent started.", status.uptime_s);
        self.family("vipfarm_node_alive", GAUGE, "Whether the node is in the installed view.");
        for node in &status.nodes {
            self.sample("vipfarm_node_alive", &[("node", &node.name)], flag(node.alive));
        }
    }

    fn proof(&mut self, status: &Status) {
        let name = "vipfarm_buckets_owned_once";
        self.family(
            name,
            GAUGE,
            "Buckets accepted by exactly one node's kernel, of 256; absent while this node cannot tell.",
        );
        for group in &status.proof.groups {
            self.sample(name, &[("group", &group.name)], group.once);
        }
        let name = "vipfarm_ownership_fault";
        self.family(
            name,
            GAUGE,
            "1 for each reason why not every bucket is accepted exactly once, with the node that does wrong or the group that has no owner.",
        );
        for fault in &status.proof.faults {
            let (node, group) = (fault.node.as_deref(), fault.group.as_deref());
            let kind = [("kind", fault.kind.as_str())];
            let labels = node.map(|node| ("node", node)).into_iter();
            let labels = labels.chain(group.map(|group| ("group", group))).chain(kind);
            self.sample(name, &labels.collect::<Vec<_>>(), 1);
        }
    }

    fn buckets(&mut self, status: &Status) {
        let name = "vipfarm_buckets";
        self.family(name, GAUGE, "Buckets that the installed view gives to the node, of 256.");
        for group in &status.groups {
            for (node, load) in &group.load {
                self.sample(name, &[("group", &group.name), ("node", node)], load);
            }
        }
        let name = "vipfarm_failover_holder";
        self.family(name, GAUGE, "1 for the node that has the failover VIP by the installed view.");
        for vip in &status.vips {
            let Some(failover) = &vip.failover else { continue };
            let (Some(holder), Some(why)) = (&failover.holder, failover.why) else { continue };
            for address in &vip.addresses {
                let address = address.split('/').next().unwrap_or_default();
                let labels = [("vip", address), ("node", holder), ("why", why.as_str())];
                self.sample(name, &labels, 1);
            }
        }
        let name = "vipfarm_buckets_in_kernel";
        self.family(name, GAUGE, "Buckets in this node's kernel, as read back, of 256.");
        for group in &status.groups {
            self.sample(name, &[("group", &group.name)], group.bitmap.len());
        }
    }

    fn checks(&mut self, status: &Status) {
        let name = "vipfarm_check_passing";
        self.family(name, GAUGE, "Whether a check of the file passes at this node.");
        for CheckStatus { about, check, state, .. } in &status.checks {
            let passes = flag(*state == CheckState::Passing);
            self.sample(name, &[("about", about), ("check", check)], passes);
        }
        let name = "vipfarm_abstaining";
        self.family(
            name,
            GAUGE,
            "1 for each node that serves nothing of the group by its own word: a check fails there, or the VIP has not been opened.",
        );
        for group in &status.groups {
            for node in &group.abstaining {
                self.sample(name, &[("group", &group.name), ("node", node)], 1);
            }
        }
    }

    fn connections(&mut self, status: &Status) {
        let name = "vipfarm_handover_buckets";
        self.family(
            name,
            GAUGE,
            "Buckets in a move: lingering = given away, and old connections are served here; inherited = taken over, and old ones may be elsewhere.",
        );
        for GroupStatus { name: group, handover, .. } in &status.groups {
            let states = [("lingering", handover.lingering), ("inherited", handover.inherited)];
            for (state, buckets) in states {
                self.sample(name, &[("group", group), ("state", state)], buckets);
            }
        }
        let name = "vipfarm_lingering_connections";
        let help =
            "Open TCP connections of lingering buckets; absent until they have been counted.";
        self.family(name, GAUGE, help);
        for group in &status.groups {
            if let Some(count) = group.handover.connections {
                self.sample(name, &[("group", &group.name)], count);
            }
        }
        let name = "vipfarm_connections";
        self.family(name, GAUGE, "Open TCP connections here, where the file has them counted.");
        for group in &status.groups {
            if let Some(counts) = &group.connections {
                let total: u64 = counts.iter().copied().map(u64::from).sum();
                self.sample(name, &[("group", &group.name)], total);
            }
        }
        let name = "vipfarm_vip_connections";
        self.family(name, GAUGE, "The same by VIP.");
        for (vip, count) in status.vips.iter().flat_map(|vip| &vip.connections) {
            self.sample(name, &[("vip", vip)], count);
        }
    }

    fn counters(&mut self, status: &Status) {
        let name = "vipfarm_packets_total";
        self.family(name, COUNTER, "Packets by what became of them; `explain` has the words.");
        for (reason, count) in &status.packets {
            self.sample(name, &[("reason", reason)], count);
        }
        let name = "vipfarm_guard_total";
        self.family(name, COUNTER, "Outgoing frames that speak for a VIP, by what was done.");
        for (action, count) in &status.guard {
            self.sample(name, &[("action", action)], count);
        }
        let name = "vipfarm_announcements_total";
        self.family(name, COUNTER, "Announcements to clients of directed VIPs, by occasion.");
        for (occasion, count) in &status.announcements {
            self.sample(name, &[("occasion", occasion)], count);
        }
        let name = "vipfarm_heartbeats_total";
        self.family(name, COUNTER, "Heartbeat datagrams by outcome.");
        for (outcome, count) in &status.heartbeats {
            self.sample(name, &[("outcome", outcome)], count);
        }
        let lateness = status.lateness;
        let help = "Whether the heartbeat thread is a real-time one.";
        self.gauge("vipfarm_real_time", help, flag(lateness.real_time));
        let name = "vipfarm_lateness_seconds";
        self.family(name, GAUGE, "How late the heartbeat thread woke, since the agent started.");
        self.sample(name, &[("of", "mean")], lateness.mean_ms / 1e3);
        self.sample(name, &[("of", "max")], lateness.max_ms / 1e3);
    }

    /// A metric of this node, with one sample.
    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, GAUGE, help);
        self.sample(name, &[], value);
    }

    /// Begins a metric, whose samples must follow without others in between.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let farm = escaped(self.farm);
        self.push(format_args!("{name}{{farm=\"{farm}\""));
        for (label, of) in labels {
            self.push(format_args!(",{label}=\"{}\"", escaped(of)));
        }
        self.push(format_args!("}} {value}\n"));
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a String takes every write");
    }
}

fn flag(holds: bool) -> u8 {
    u8::from(holds)
}

/// A label's value as it stands between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::commands::fixture;

    #[test]
    fn a_healthy_farm_in_prometheus_words() {
        insta::assert_snapshot!(render(&fixture::healthy()));
    }

    #[test]
    fn an_offender_is_named() {
        let text = render(&fixture::wrong());
        let fault = r#"vipfarm_ownership_fault{farm="web",node="node2",kind="not_serving"} 1"#;
        assert!(text.lines().any(|line| line == fault), "{text}");
        let owned = r#"vipfarm_buckets_owned_once{farm="web",group="FarmProto"} 192"#;
        assert!(text.lines().any(|line| line == owned), "{text}");
    }

    #[test]
    fn old_connections_are_told_by_group_and_all_where_they_are_counted() {
        let text = render(&fixture::moved());
        for sample in [
            r#"vipfarm_handover_buckets{farm="web",group="FarmProto",state="inherited"} 5"#,
            r#"vipfarm_lingering_connections{farm="web",group="FarmProto"} 120"#,
            r#"vipfarm_connections{farm="web",group="FarmProto"} 255"#,
            r#"vipfarm_vip_connections{farm="web",vip="192.168.1.222"} 250"#,
        ] {
            assert!(text.lines().any(|line| line == sample), "{sample}: {text}");
        }
    }

    #[test]
    fn a_check_that_fails_is_told_with_what_it_is_about() {
        let text = render(&fixture::unwell());
        for sample in [
            r#"vipfarm_check_passing{farm="web",about="all",check="no file /run/maintenance"} 1"#,
            r#"vipfarm_check_passing{farm="web",about="group FarmProto",check="tcp 127.0.0.1:80"} 0"#,
            r#"vipfarm_abstaining{farm="web",group="FarmProto",node="node1"} 1"#,
        ] {
            assert!(text.lines().any(|line| line == sample), "{sample}: {text}");
        }
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escaped("a\\b\"c\nd"), r#"a\\b\"c\nd"#);
        assert_eq!(escaped(r"\n"), r"\\n");
        let mut status = fixture::healthy();
        status.farm = "we\"b".into();
        status.packets = BTreeMap::from([("re\\ason\n".into(), 7)]);
        let text = render(&status);
        let sample = r#"vipfarm_packets_total{farm="we\"b",reason="re\\ason\n"} 7"#;
        assert!(text.lines().any(|line| line == sample), "{text}");
    }

    /// As strict as a scraper: one `HELP` and `TYPE` a metric, its samples right after, no sample
    /// twice, every value a number.
    #[test]
    fn the_format_is_what_scrapers_ask_for() {
        let farms = [fixture::healthy(), fixture::troubled(), fixture::wrong(), fixture::moved()];
        for status in farms.into_iter().chain([fixture::unwell()]) {
            let (mut families, mut samples) = (BTreeSet::new(), BTreeSet::new());
            let mut family = String::new();
            for line in render(&status).lines() {
                if let Some(rest) = line.strip_prefix("# HELP ") {
                    let (name, help) = rest.split_once(' ').expect("a name and a text");
                    assert!(families.insert(name.to_owned()) && !help.is_empty(), "{line}");
                    family = name.to_owned();
                } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                    let (name, kind) = rest.split_once(' ').expect("a name and a kind");
                    assert_eq!(name, family);
                    assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                } else {
                    let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                    assert!(series.starts_with(&format!("{family}{{")), "{line} in {family}");
                    assert!(samples.insert(series.to_owned()), "twice: {line}");
                    assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
                }
            }
            assert!(samples.len() > families.len());
        }
    }
}
