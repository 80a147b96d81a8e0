//! What becomes of one client's packet, and why: the kernel's own decision on a packet made up from
//! the question.

use std::net::{IpAddr, Ipv4Addr};

use super::ports::{Port, RESOLVE_GROUP};
use crate::{
    config::keys::Keys,
    host::HostTables,
    model::{Bitmap, Farm, Filter, Mac, NodeId, NodeSet, Proto, Rule, View, Vip},
    plan::OwnAddresses,
    status::{ExplainProto, ExplainQuery, Explanation},
};
use vipfarm_common::Reason;

/// A node's point of view.
pub struct Viewpoint<'a> {
    /// The configuration.
    pub farm: &'a Farm,
    /// The node whose verdict it is.
    pub node: NodeId,
    /// The view in force; nobody is alive in it before the first.
    pub view: &'a View,
    /// The farm's hash key.
    pub hash_key: [u8; 16],
    /// The tables' structure; its interface has the VIP.
    pub port: &'a Port,
    /// What the node accepts, by kernel group.
    pub accept: &'a [Bitmap],
    /// Whether its lease has ended.
    pub fenced: bool,
}

/// The explanation from the file alone: with `alive` up and agreed, at `node`.
pub fn offline(
    farm: &Farm,
    keys: &Keys,
    alive: NodeSet,
    node: NodeId,
    query: &ExplainQuery,
) -> Result<Explanation, String> {
    let mut port =
        Port::new(farm, |_| true, OwnAddresses::default()).map_err(|error| error.to_string())?;
    let view = View::of(alive);
    port.acquire(node, &view);
    let viewpoint = Viewpoint {
        farm,
        node,
        view: &view,
        hash_key: keys.bucket_key(),
        port: &port,
        accept: port.accept(),
        fenced: false,
    };
    viewpoint.explain(query)
}

impl Viewpoint<'_> {
    /// The verdict on such a packet, and how it comes about.
    pub fn explain(&self, query: &ExplainQuery) -> Result<Explanation, String> {
        let (IpAddr::V4(client), IpAddr::V4(vip)) = (query.client, query.vip) else {
            return Err("this version serves IPv4 only".into());
        };
        let block = self.block_of(query.vip)?;
        let rule = rule(block, query);
        check_fields(rule.map(|(_, rule)| rule), query)?;
        let mut plan = self.port.plan();
        plan.bitmaps = self.accept.to_vec();
        let tables = HostTables::new(&plan, self.hash_key, Mac([2, 0, 0, 0, 0, 1]));
        // Bucket and owner do not depend on the lease.
        let served = tables.decide(&mut frame(block.vmac, client, vip, query));
        let observed = tables.observed();
        let reason = if self.fenced {
            tables.fenced().decide(&mut frame(block.vmac, client, vip, query))
        } else {
            served
        };
        let owner = observed
            .and_then(|(group, bucket)| self.port.table(group as usize, self.view).owner(bucket));
        let group = observed.map(|(group, _)| match group {
            0 => RESOLVE_GROUP.to_owned(),
            _ => rule.map_or_else(String::new, |(group, _)| block.groups[group].name.clone()),
        });
        let owner = owner.map(|owner| self.name(owner));
        Ok(Explanation {
            client: client.to_string(),
            client_port: query.client_port,
            vip: vip.to_string(),
            vip_port: query.vip_port,
            proto: query.proto.as_str().into(),
            text: self.text(
                reason,
                observed.map(|(_, bucket)| bucket),
                group.as_deref(),
                owner.as_deref(),
            ),
            group,
            rule: rule.map(|(_, rule)| describe(rule)),
            bucket: observed.map(|(_, bucket)| bucket),
            owner,
            node: self.name(self.node),
            verdict: reason.verdict().as_str().into(),
            reason: reason.as_str().into(),
        })
    }

    fn block_of(&self, vip: IpAddr) -> Result<&Vip, String> {
        let has = |block: &&Vip| block.addresses.iter().any(|address| address.addr == vip);
        self.farm.vips.iter().find(has).ok_or_else(|| {
            let addresses = self.farm.vips.iter().flat_map(|block| &block.addresses);
            let addresses: Vec<_> = addresses.map(|address| address.addr.to_string()).collect();
            format!(
                "{vip} is no VIP of farm {}: its packets pass untouched; the VIPs are {}",
                self.farm.name,
                addresses.join(", ")
            )
        })
    }

    fn name(&self, node: NodeId) -> String {
        self.farm.node(node).map_or_else(String::new, |node| node.name.clone())
    }

    fn text(
        &self,
        reason: Reason,
        bucket: Option<u8>,
        group: Option<&str>,
        owner: Option<&str>,
    ) -> String {
        let node = self.name(self.node);
        let (Some(bucket), Some(group)) = (bucket, group) else {
            return format!("{node} drops it: {}", lower_first(reason.text()));
        };
        match (reason, owner) {
            (Reason::NotMine | Reason::Fenced, _) if self.view.alive.is_empty() => format!(
                "{node} drops it: it serves nothing, because it has not agreed with the farm yet; bucket {bucket} of group {group}."
            ),
            (Reason::Fenced, Some(owner)) => format!(
                "{node} drops it, because its lease has ended and it serves nothing; bucket {bucket} of group {group} belongs to {owner}."
            ),
            (Reason::Mine, Some(owner)) if *owner == node => {
                format!("{node} accepts it: bucket {bucket} of group {group} is its own.")
            }
            (Reason::NotMine, Some(owner)) if *owner == node => format!(
                "{node} drops it for the moment: bucket {bucket} of group {group} is its own, but the farm has not yet agreed that it may serve it."
            ),
            (Reason::NotMine, Some(owner)) => format!(
                "{node} drops it: bucket {bucket} of group {group} belongs to {owner}, which serves this client."
            ),
            (Reason::NotMine, None) => format!(
                "{node} drops it, and so does every node: no node with power in group {group} is alive."
            ),
            _ => format!("{node}: {}", lower_first(reason.text())),
        }
    }
}

/// The rule that the kernel will find, with its group's index. None for ARP and echo, which go by
/// the built-in group.
fn rule<'b>(block: &'b Vip, query: &ExplainQuery) -> Option<(usize, &'b Rule)> {
    let proto = match query.proto {
        ExplainProto::Tcp => Proto::Tcp,
        ExplainProto::Udp => Proto::Udp,
        ExplainProto::Icmp | ExplainProto::Arp => return None,
    };
    block.rule_for(query.vip, proto, query.vip_port)
}

/// Whether the question has what the rule hashes: a made-up port would explain a made-up client.
fn check_fields(rule: Option<&Rule>, query: &ExplainQuery) -> Result<(), String> {
    match rule.map(|rule| rule.filter) {
        Some(Filter::OnPort) if query.client_port.is_none() => {
            Err(format!("the rule hashes the client's source port: ask for {}:PORT", query.client))
        }
        Some(Filter::OnIpid) if query.ip_id.is_none() => {
            Err("the rule hashes the IP identification: add --ip-id N".into())
        }
        _ => Ok(()),
    }
}

/// A frame as the client's would arrive.
fn frame(vmac: Mac, client: Ipv4Addr, vip: Ipv4Addr, query: &ExplainQuery) -> Vec<u8> {
    const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    let mut frame = Vec::with_capacity(64);
    frame.extend(vmac.0);
    frame.extend(CLIENT_MAC);
    if query.proto == ExplainProto::Arp {
        // Ethernet type ARP; Ethernet and IPv4, a request (RFC 826).
        frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(CLIENT_MAC);
        frame.extend(client.octets());
        frame.extend([0; 6]);
        frame.extend(vip.octets());
        return frame;
    }
    let proto = match query.proto {
        ExplainProto::Tcp => 6,
        ExplainProto::Udp => 17,
        ExplainProto::Icmp | ExplainProto::Arp => 1,
    };
    frame.extend([0x08, 0x00, 0x45, 0, 0, 40]);
    frame.extend(query.ip_id.unwrap_or(0).to_be_bytes());
    frame.extend([0x40, 0, 64, proto, 0, 0]);
    frame.extend(client.octets());
    frame.extend(vip.octets());
    match (query.client_port, query.vip_port) {
        // An echo request.
        _ if proto == 1 => frame.extend([8, 0, 0, 0]),
        (source, destination) => {
            frame.extend(source.unwrap_or(0).to_be_bytes());
            frame.extend(destination.unwrap_or(0).to_be_bytes());
        }
    }
    frame.resize(14 + 40, 0);
    frame
}

/// The rule as in the file.
pub(super) fn describe(rule: &Rule) -> String {
    let any = || "*".to_owned();
    let word = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    format!(
        "virtual_addr: {}, port: {}, proto: {}, filter: {}",
        rule.virtual_addr.map_or_else(any, |addr| addr.to_string()),
        rule.port.map_or_else(any, |port| port.to_string()),
        word(serde_json::to_value(rule.proto)),
        word(serde_json::to_value(rule.filter)),
    )
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fixture;

    const GROUPS: &str = "[{ name: http, rules: [{ port: 80, proto: tcp, filter: on_port }, { port: 53, proto: udp, filter: on_ipid }] }, { name: idle, powers: { node2: 1 }, rules: [{ port: 22, proto: tcp, filter: on_addr }] }]";

    fn ask(proto: ExplainProto, client_port: Option<u16>, vip_port: Option<u16>) -> ExplainQuery {
        ExplainQuery {
            client: [10, 1, 0, 1].into(),
            client_port,
            vip: [10, 0, 0, 100].into(),
            vip_port,
            proto,
            ip_id: None,
        }
    }

    fn explain(node: usize, alive: u64, query: &ExplainQuery) -> Result<Explanation, String> {
        let farm = fixture::farm(GROUPS);
        let mut port = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        let node = NodeId::new(node).expect("in range");
        let view = View::of(NodeSet::from_bits(alive));
        port.acquire(node, &view);
        Viewpoint {
            farm: &farm,
            node,
            view: &view,
            hash_key: [7; 16],
            port: &port,
            accept: port.accept(),
            fenced: false,
        }
        .explain(query)
    }

    #[test]
    fn both_nodes_name_the_same_bucket_and_owner_and_only_the_owner_accepts() {
        for client_port in 1000..1100 {
            let query = ask(ExplainProto::Tcp, Some(client_port), Some(80));
            let told: Vec<_> =
                (0..2).map(|node| explain(node, 0b11, &query).expect("a VIP")).collect();
            assert_eq!((told[0].bucket, &told[0].owner), (told[1].bucket, &told[1].owner));
            let accepting: Vec<_> = told.iter().filter(|told| told.verdict == "accept").collect();
            assert_eq!(accepting.len(), 1);
            assert_eq!(Some(&accepting[0].node), accepting[0].owner.as_ref());
        }
    }

    #[test]
    fn the_sentence_says_who_serves_or_why_nobody_does() {
        let query = ask(ExplainProto::Tcp, None, Some(22));
        let told = explain(0, 0b11, &query).expect("a VIP");
        assert!(
            told.text.ends_with("of group idle belongs to node2, which serves this client."),
            "{}",
            told.text
        );
        let told = explain(0, 0b01, &query).expect("a VIP");
        assert_eq!(told.owner, None);
        assert!(told.text.contains("no node with power in group idle is alive"), "{}", told.text);
        let told = explain(0, 0b11, &ask(ExplainProto::Tcp, Some(1), Some(99))).expect("a VIP");
        assert_eq!((told.reason.as_str(), told.verdict.as_str()), ("no_rule", "drop"));
        assert_eq!(told.text, "node1 drops it: no rule covers this protocol and port.");
    }

    #[test]
    fn a_fenced_node_says_so_and_whose_the_bucket_is() {
        let farm = fixture::farm(GROUPS);
        let port = Port::new(&farm, |_| true, OwnAddresses::default()).expect("it fits");
        let told = |alive: u64| {
            let view = View::of(NodeSet::from_bits(alive));
            let viewpoint = Viewpoint {
                farm: &farm,
                node: NodeId::new(0).expect("in range"),
                view: &view,
                hash_key: [7; 16],
                port: &port,
                accept: port.accept(),
                fenced: true,
            };
            viewpoint.explain(&ask(ExplainProto::Tcp, None, Some(22))).expect("a VIP")
        };
        assert_eq!(told(0b11).owner.as_deref(), Some("node2"));
        assert!(told(0b11).text.contains("its lease has ended"), "{}", told(0b11).text);
        assert!(told(0).text.contains("has not agreed with the farm yet"), "{}", told(0).text);
        assert_eq!(told(0).reason, "fenced");
    }

    #[test]
    fn what_the_rule_hashes_must_be_in_the_question() {
        let error = explain(0, 0b11, &ask(ExplainProto::Tcp, None, Some(80))).expect_err("no port");
        assert!(error.contains("ask for 10.1.0.1:PORT"), "{error}");
        let error =
            explain(0, 0b11, &ask(ExplainProto::Udp, Some(1), Some(53))).expect_err("no id");
        assert!(error.contains("--ip-id"), "{error}");
    }

    #[test]
    fn arp_and_echo_go_by_the_built_in_group() {
        for proto in [ExplainProto::Arp, ExplainProto::Icmp] {
            let told = explain(0, 0b01, &ask(proto, None, None)).expect("a VIP");
            assert_eq!(told.group.as_deref(), Some(RESOLVE_GROUP));
            assert_eq!((told.verdict.as_str(), told.rule), ("accept", None));
        }
    }

    #[test]
    fn an_address_that_is_no_vip_is_said_to_be_none() {
        let query = ExplainQuery {
            vip: [10, 0, 0, 99].into(),
            ..ask(ExplainProto::Tcp, Some(1), Some(80))
        };
        let error = explain(0, 0b11, &query).expect_err("no VIP");
        assert!(error.contains("the VIPs are 10.0.0.100"), "{error}");
    }
}
