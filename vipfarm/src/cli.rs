//! The command line's grammar and its help; [`crate::commands`] gives the verbs their meaning.

mod change;
mod doctor;
mod events;
mod import;
mod judge;
mod packaged;
mod plan;
mod time;
mod trace;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::time::humantime;
pub use self::{
    change::{
        CloseArgs, DrainArgs, HoldArgs, MoveArgs, NodePower, PowerArgs, ReloadArgs, UndrainArgs,
        UpgradeArgs, WaitArgs,
    },
    doctor::DoctorArgs,
    events::{EventsArgs, Since},
    import::{ImportArgs, ImportFrom, ImportInto},
    judge::{ExplainArgs, NodeMac, ReplayArgs},
    packaged::{CompletionsArgs, ManArgs},
    plan::PlanArgs,
    trace::TraceArgs,
};
use crate::agent::options::{AgentOptions, DEFAULT_RUN_DIR, DownOptions};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the farm says no: the request was understood and refused, or failed
  2  bad usage or configuration
  3  no agent answers on this node";

/// Several servers hold the same virtual IP at once, with no load balancer in front
///
/// Every node of a farm holds the virtual IP (VIP) and receives all of its traffic. A filter in
/// each node's kernel hashes every packet's client into one of 256 buckets and accepts it only
/// where the bucket is this node's. The agents agree on who is alive and who owns which buckets, so
/// that each client is served by exactly one node and a dead node's clients move to the others.
///
/// To begin: `vipfarm keygen` one key and copy it to all nodes, write one file for the farm,
/// `vipfarm check` it, then run `vipfarm agent` on every node.
#[derive(Debug, Parser)]
#[command(name = "vipfarm", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run this node's agent in the foreground
    ///
    /// Adds the VIPs to this node, loads the filter, joins the farm and serves this node's buckets
    /// until SIGINT or SIGTERM, then hands them over and removes everything it added. Needs root,
    /// or the capabilities `BPF`, `NET_ADMIN`, `NET_RAW`, `PERFMON`, `SYS_NICE` and `IPC_LOCK`. The
    /// environment variable `VIPFARM_LOG` sets the log level, such as `debug`.
    #[command(after_help = "Example:\n  vipfarm agent -c /etc/vipfarm/farm.yaml --node node1")]
    Agent(AgentOptions),

    /// Check a farm's file without touching the network
    ///
    /// Reports every error of the file at once, each with its place and how to fix it; else the
    /// farm as the file describes it and the share of traffic each node gets while all are alive.
    /// Relative paths in a file from standard input start in the current directory.
    #[command(after_help = "Example:\n  vipfarm check /etc/vipfarm/farm.yaml")]
    Check(CheckArgs),

    /// Show what this node's agent does
    ///
    /// The agent's state, who is in the farm, this node's load per group, whether every bucket is
    /// accepted by exactly one node (each agent reads back what its kernel accepts and tells the
    /// others), and the counters: packets by reason, heartbeats by outcome. What needs attention
    /// comes first.
    #[command(after_help = "Example:\n  vipfarm status --json | jq .state")]
    Status(TalkArgs),

    /// Print what this node's agent counts, for Prometheus
    ///
    /// The text is that of `GET /v1/metrics` on the agent's control socket. Worth an alert:
    /// `vipfarm_buckets_owned_once < 256` for some seconds (clients are served twice or by nobody),
    /// `vipfarm_ownership_fault` (the node to blame), `vipfarm_up == 0`, and a rise of
    /// `vipfarm_packets_total` with reason `fenced`. For `node_exporter`'s textfile collector, write a
    /// new file and rename it; or let curl ask the socket.
    #[command(after_help = "Examples:
  vipfarm metrics > /var/lib/node_exporter/vipfarm.new \\
    && mv /var/lib/node_exporter/vipfarm.new /var/lib/node_exporter/vipfarm.prom
  curl --unix-socket /run/vipfarm/web.sock http://vipfarm/v1/metrics")]
    Metrics(AgentAddress),

    /// List the nodes as this node's agent sees them
    #[command(after_help = "Example:\n  vipfarm nodes")]
    Nodes(TalkArgs),

    /// Show who owns each of the 256 buckets of a group
    ///
    /// One picture of 16 x 16 buckets a group, coloured by owner: bucket 0x00 is at the top left,
    /// 0x0f ends the first row. With --hex, each node's 256 bits as eight words of 32 bits: the
    /// first word holds buckets 0 to 31, and the lowest bit of a word is its lowest bucket. With
    /// --connections, how many open TCP connections this node has in each bucket.
    #[command(
        after_help = "Examples:\n  vipfarm bitmap\n  vipfarm bitmap FarmProto --hex\n  vipfarm bitmap FarmProto --connections"
    )]
    Bitmap(BitmapArgs),

    /// Say which node serves a client, and why
    ///
    /// Runs the very decision the kernel takes for such a packet: the rule that matches, the
    /// bucket, its owner, and what becomes of the packet at this node. The packet has the VLAN tags
    /// that the file gives the VIP; where nodes answer with their own MACs (`vmac_directed`), it
    /// comes to this node.
    ///
    /// With -c it asks no agent but the file: who would serve the client if all nodes were alive
    /// but those of --down, all VIPs were opened (`open: manual`), and no check failed. Who has a
    /// failover VIP now, only an agent knows.
    ///
    /// ARP, echo requests and what has no ports go by the built-in group `(resolve)`, in which all nodes
    /// have equal shares. What a node sends to a VIP that it has itself never leaves it: the verdict is
    /// `local`.
    #[command(after_help = "Examples:
  vipfarm explain 203.0.113.7:51000 192.168.1.222:80
  vipfarm explain [2001:db8::7]:51000 [2001:db8::222]:80
  vipfarm explain 203.0.113.7 192.168.1.222 --proto icmp
  vipfarm explain 203.0.113.7:4000 192.168.1.222:53 --proto udp --fragment
  vipfarm explain 203.0.113.7:51000 192.168.1.222:80 --vlan 10
  vipfarm explain 203.0.113.7:51000 192.168.1.222:80 -c farm.yaml --down node2")]
    Explain(ExplainArgs),

    /// Say of each packet of a capture which node takes it, and why
    ///
    /// Judges every packet of a pcap file by the very decision the kernel takes, and counts by
    /// reason and by owner. Asks no agent but the file, as `explain -c` does: all its nodes are
    /// alive but those of --down, all its VIPs are open and on the captured network.
    ///
    /// The verdict is that of the farm as a whole: `accept` is the owner's, and a bucket that nobody
    /// owns is `not_mine`. With --node it is exactly that node's: `not_mine`, or `forwarded`, for
    /// what is another's.
    ///
    /// The nodes' MACs are not in the file. Unless --mac tells them, a frame to any station but a
    /// VIP's virtual MAC counts as one to the node that judges it (so do frames that `tcpdump` shows
    /// on a node, whose filter has accepted them already), and what nodes send themselves counts as
    /// a stranger's: ARP from them for a VIP is `arp_conflict` instead of `arp_peer`.
    ///
    /// The capture must be of Ethernet frames, in classic pcap format. Packets that it cuts short
    /// are judged by the bytes that are there; `tcpdump -s 320` keeps all that decides.
    #[command(after_help = "Examples:
  tcpdump -i eth0 -s 320 -w clients.pcap host 192.168.1.222
  vipfarm replay clients.pcap -c farm.yaml
  vipfarm replay clients.pcap -c farm.yaml --down node2        # who would take node2's clients
  vipfarm replay clients.pcap -c farm.yaml --node node1 --mac node1=02:00:00:00:00:0b
  tcpdump -i eth0 -U -w - tcp | vipfarm replay - -c farm.yaml --json | jq .owner")]
    Replay(ReplayArgs),

    /// Show one client's packets as this node's filter judges them
    ///
    /// A line for each packet from that address to a VIP: when, verdict, reason, bucket, whose that is,
    /// and the rule. The other nodes have verdicts of their own: ask them too. Ends after --for, or
    /// when interrupted.
    ///
    /// Meanwhile all traffic of the VIPs takes the filter's slow path, which is a few times slower and
    /// judges the same. A thousand packets a second and processor are shown, one client at a time.
    /// --json prints one object a line.
    #[command(after_help = "Examples:
  vipfarm trace 203.0.113.7
  vipfarm trace 203.0.113.7:51000 --for 5m --json
  vipfarm trace 2001:db8::7")]
    Trace(TraceArgs),

    /// Say what a change would do to the nodes' loads, before it happens
    ///
    /// Asks no agent but the file: the loads of each group while all nodes are alive (but those of
    /// --up and --absent), the loads afterwards, and which buckets move between whom. These are the
    /// tables that the agents would agree on, with all VIPs open and all checks passing. Failover VIPs
    /// are before the change where the file has them.
    #[command(after_help = "Examples:
  vipfarm plan -c farm.yaml --down node2
  vipfarm plan -c farm.yaml --down node1,node2 --json | jq '.groups[].moves'
  vipfarm plan -c farm.yaml --absent node3 --drain node1      # while node3 is being rebuilt
  vipfarm plan -c farm.yaml --power FarmProto node1=3 --power FarmProto node2=0")]
    Plan(PlanArgs),

    /// Show what happened to the farm
    ///
    /// The last 1000 events of this node's agent, oldest first; with -f also those to come, until
    /// interrupted, also those of the agent that comes after this one. --json prints one list, with -f
    /// one object a line.
    #[command(after_help = "Examples:
  vipfarm events --since 10m
  vipfarm events -f --since 2026-11-20T08:14
  vipfarm events -f --json | jq -r 'select(.level == \"warn\").message'")]
    Events(EventsArgs),

    /// Change a node's share of a group while the farm runs
    ///
    /// The buckets move through one agreement of all nodes: the old owner stops first, the new one
    /// starts when it has. Returns when the farm has agreed, or says who holds it up. A change
    /// lasts until the next one, `--file`, or the next start of that node's agent; with --persist it
    /// outlasts that too. `vipfarm status` shows what differs from the file.
    #[command(after_help = "Examples:
  vipfarm power FarmProto node1=3
  vipfarm power FarmProto node1=1 node2=0
  vipfarm power FarmProto node1=3 --persist
  vipfarm power FarmProto --file node1")]
    Power(PowerArgs),

    /// Let a node serve no new client, with all groups at power 0
    ///
    /// The other nodes take its buckets over; the agent stays in the farm, and open TCP connections
    /// stay at the node until they end. The node is drained until `undrain` or the next start of its
    /// agent; with --persist until `undrain`, whatever is started anew meanwhile.
    ///
    /// Returns when the farm has agreed, and says how many connections are left. With --timeout it
    /// waits until none is; when the time is over, what is left is reset, so that the clients connect
    /// anew elsewhere at once, unless the VIP has `tcp_reset: false`. Only the node itself counts and
    /// resets: about another node it knows which buckets may have connections, and resets none. It
    /// ends with 0 if nothing is left. Ctrl-C ends the waiting, and the node stays drained; `undrain`
    /// meanwhile ends it too.
    #[command(after_help = "Examples:
  vipfarm drain
  vipfarm drain --timeout 60s && systemctl restart nginx && vipfarm undrain
  vipfarm drain node2 --persist        # before its machine is rebuilt")]
    Drain(DrainArgs),

    /// Give a node all its powers of the file back
    ///
    /// Takes back what `drain`, `close` and `power` changed for it, also with --persist.
    #[command(after_help = "Example:\n  vipfarm undrain node2")]
    Undrain(UndrainArgs),

    /// Have this node serve nothing, or nothing of one group or VIP, until `open`
    ///
    /// The other nodes take over without a gap; the agent stays in the farm. Returns when the farm
    /// has agreed. It is `drain` for scripts on the node itself, such as a service's before it stops:
    /// it is always about the node whose agent is asked, and can name a group, where `drain` can name
    /// any node. The start of this node's agent opens it again, unless it was closed with --persist or has
    /// `open: manual` in the file.
    #[command(after_help = "Examples:
  vipfarm close && systemctl restart nginx && vipfarm open
  vipfarm close FarmProto --persist")]
    Close(CloseArgs),

    /// Have this node serve its share again, with the powers that it had before `close`
    ///
    /// Takes back what `close` did, of one group, those of a VIP, or all. A drain it does not end: that is
    /// refused, and `undrain` does. A group with power 0 by `power`, or by `close --persist` before this
    /// agent's start, has to be named. A VIP with `open: manual` in the file is served only from then on.
    /// Returns when that is in force. What a check keeps from being served stays so.
    #[command(
        after_help = "Examples:\n  vipfarm open\n  vipfarm open FarmProto\n  vipfarm open 192.168.1.222"
    )]
    Open(CloseArgs),

    /// Move a failover VIP to a node, or back
    ///
    /// The node that has it stops first, the new one starts when it has, and tells the network. The VIP
    /// stays there while that node lives, until another `move`, `--back`, or the next start of its
    /// agent; with --persist also after that. --back gives it to the node that has it by the file: the
    /// one with the highest priority, or one with fewest VIPs. Returns when the farm has agreed.
    #[command(after_help = "Examples:
  vipfarm move 192.168.1.222 node2
  vipfarm move 192.168.1.222 --back")]
    Move(MoveArgs),

    /// Read the farm's file anew and go over to it without a packet lost
    ///
    /// Run it on every node, after the new file is there: when all have read the same one, all go
    /// over to it together. Until then the farm serves as before. Returns when the file is in force,
    /// or names the nodes that are waited for; what it has read stays ready. A file with errors
    /// changes nothing. SIGHUP to the agent does the same.
    ///
    /// VIPs, groups, rules and powers can change, and nodes be added at the end of the list. Powers
    /// set for single groups at run time go back to those of the file, also those set with --persist.
    #[command(after_help = "\
Examples:
  vipfarm check /etc/vipfarm/farm.yaml && vipfarm reload
  vipfarm reload --timeout 0s          # do not wait for the other nodes
  vipfarm reload --force               # leave out the nodes that have not read the file")]
    Reload(ReloadArgs),

    /// Replace this node's agent by the program that is in its place now
    ///
    /// The agent has the new program check the farm's file first; if that fails, nothing happens. Then
    /// it leaves the farm, whose other nodes take its buckets over, but its kernel goes on serving the
    /// open connections, and the others are told. The process executes the new program, with the same
    /// arguments; the new agent takes everything over, joins, and has its buckets back. No connection
    /// is lost. Returns when it serves its share. A changed file is taken over by the way, if the other
    /// nodes have read it too (`reload`); with --all-at-once also one that `reload` refuses. As with any
    /// start of an agent, a drain, close or power without --persist ends.
    ///
    /// With --exit the process ends instead: whoever starts the next agent must do so within --hold.
    /// Connections that nobody has taken over by then are reset by the nodes that own their buckets. A
    /// node that is alone in the farm serves no new connection meanwhile.
    #[command(after_help = "Examples:
  install vipfarm /usr/sbin/vipfarm && vipfarm upgrade
  vipfarm upgrade --exit && systemctl restart vipfarm")]
    Upgrade(UpgradeArgs),

    /// Say what on this machine keeps an agent from serving, or may
    ///
    /// Looks at the kernel and its BPF, at the rights of whoever asks, at the farm's files, and at the
    /// interfaces of its VIPs (or the one of --interface): driver and XDP, other XDP programs, MTU,
    /// LRO, VLAN tags, ARP settings, reverse path filter, routes; and for programs, users, interfaces
    /// and folders that checks and hooks of the file need. Changes nothing. Each finding that is not as it
    /// should be says what to do. An agent that starts has those about the machine in its history.
    ///
    /// Ends with 0 if there is no error, whatever the warnings are; else with 1. Run it as the agent is
    /// run: rights and limits are those of the asker.
    #[command(after_help = "Examples:
  vipfarm doctor -c /etc/vipfarm/farm.yaml
  vipfarm doctor --interface eth0            # before there is a file
  vipfarm doctor -c /etc/vipfarm/farm.yaml --json | jq '.findings[] | select(.fix)'")]
    Doctor(DoctorArgs),

    /// Remove what an agent that crashed left on this node
    ///
    /// Takes the farm's VIPs, filters, pinned maps and changed settings off this node. Harmless
    /// when there is nothing left; refused while the agent still runs. Powers set with --persist
    /// (`FARM.powers.json` in the agent's --state-dir) stay: they are the farm's, not the agent's.
    #[command(after_help = "Example:\n  vipfarm down -c /etc/vipfarm/farm.yaml")]
    Down(DownOptions),

    /// Make the farm's secret key
    ///
    /// Writes a new random key to FILE, readable by its owner only. All nodes of a farm need the
    /// same key: make it once and copy it.
    ///
    /// To change the key of a running farm, make a new one in another file and copy it to all nodes.
    /// Then go three times through all nodes, change the file and run `vipfarm reload`: with the new
    /// key as `accept_key_file`; with the new one as `key_file` and the old one as `accept_key_file` and
    /// `hash_key_file`; without `accept_key_file`. No client is moved.
    #[command(after_help = "Example:\n  vipfarm keygen /etc/vipfarm/farm.key")]
    Keygen(KeygenArgs),

    /// Make a farm's file of another product's configuration
    ///
    /// Writes the file to standard output, or to the file of -o, and on standard error what became of
    /// each element of the source: translated, approximated, dropped or not supported yet, and why.
    /// What the source does not say is not guessed: the file says FILL-IN there, and what `vipfarm
    /// check` would refuse is listed as missing, with exit code 1. A source with errors changes
    /// nothing.
    #[command(after_help = "Examples:
  vipfarm import safekit userconfig.xml --cluster cluster.xml --prefix 24 -o farm.yaml
  vipfarm import keepalived /etc/keepalived/keepalived.conf > farm.yaml")]
    Import(ImportArgs),

    /// Print what makes a shell complete this program's verbs and options
    #[command(after_help = "Examples:
  vipfarm completions bash > /usr/share/bash-completion/completions/vipfarm
  vipfarm completions zsh > /usr/share/zsh/site-functions/_vipfarm
  vipfarm completions fish > /usr/share/fish/vendor_completions.d/vipfarm.fish")]
    Completions(CompletionsArgs),

    /// Write the manual pages
    ///
    /// Writes vipfarm.1 and a page for each verb, such as vipfarm-agent.1, to the directory; without
    /// one prints vipfarm.1. They say what `--help` says.
    #[command(after_help = "Examples:
  vipfarm man /usr/local/share/man/man1
  vipfarm man | man -l -")]
    Man(ManArgs),
}

/// Which agent to talk to.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct AgentAddress {
    /// Directory of the control sockets
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// The farm to ask about, where several run on this node
    #[arg(long, value_name = "NAME")]
    pub farm: Option<String>,

    /// The agent's control socket, wherever it is
    #[arg(long, value_name = "PATH", conflicts_with_all = ["run_dir", "farm"])]
    pub socket: Option<PathBuf>,
}

/// Arguments of the verbs that only ask an agent.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TalkArgs {
    /// Which agent.
    #[command(flatten)]
    pub agent: AgentAddress,

    /// Print JSON for scripts; a failure is plain text on standard error, as without it, and its kind the
    /// exit code
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CheckArgs {
    /// The farm's file, `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Print JSON for scripts
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bitmap`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BitmapArgs {
    /// The group; all of them when absent
    #[arg(value_name = "GROUP")]
    pub group: Option<String>,

    /// Each node's bitmap as eight 32-bit words in hexadecimal
    #[arg(long, conflicts_with = "json")]
    pub hex: bool,

    /// This node's open TCP connections by bucket, to the addresses that have `connections: true` in
    /// the file; counted every few seconds
    #[arg(long, conflicts_with = "hex")]
    pub connections: bool,

    /// Which agent, in what form.
    #[command(flatten)]
    pub talk: TalkArgs,
}

/// Arguments of `keygen`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct KeygenArgs {
    /// Where to write the key
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Replace a key that is there
    #[arg(long)]
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        for verb in Cli::command().get_subcommands() {
            let name = verb.get_name();
            let after = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains(&format!("vipfarm {name}")), "{name}: {after}");
        }
    }

    #[test]
    fn an_offline_question_excludes_the_agents_options() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let ask = "vipfarm explain 192.0.2.1:9 192.168.1.222:80";
        parse(&format!("{ask} -c f.yaml --down node1,node2 --node node3")).expect("offline");
        parse(&format!("{ask} --run-dir /tmp --farm web")).expect("live");
        for wrong in ["--down node1", "--node node1", "-c f.yaml --farm web", "--proto sctp"] {
            parse(&format!("{ask} {wrong}")).expect_err(wrong);
        }
    }
}
