//! A served control socket with a made-up agent behind, for the tests of both of its ends.

mod run_dir;

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use tokio::{runtime::Runtime, sync::watch};
use vipfarm::{
    agent::{
        control::{ControlSocket, Source},
        history::History,
    },
    model::{Bitmap, Filter, Mode, Proto, VlanTags},
    status::{
        EventRecord, ExplainQuery, Explanation, GroupStatus, HandoverStatus, Lateness, MoveRequest,
        NodeState, NodeStatus, OpenRequest, PowerReply, PowerRequest, ProofStatus, ReloadReply,
        ReloadRequest, ResetReply, RuleStatus, Status, TraceQuery, TraceReply, UpgradeReply,
        UpgradeRequest, VipStatus,
    },
};

pub(crate) use self::run_dir::RunDir;

/// An agent that knows one VIP.
struct FakeAgent {
    history: Arc<History>,
}

impl Source for FakeAgent {
    fn status(&self) -> Status {
        status()
    }

    fn events_since(&self, seq: u64) -> Vec<EventRecord> {
        self.history.since(seq)
    }

    fn newest_event(&self) -> watch::Receiver<u64> {
        self.history.newest()
    }

    fn explain(&self, query: &ExplainQuery) -> Result<Explanation, String> {
        if query.vip.to_string() != "192.168.1.222" {
            return Err(format!("{} is no VIP of farm web", query.vip));
        }
        Ok(Explanation {
            client: query.client.to_string(),
            client_port: query.client_port,
            vip: query.vip.to_string(),
            vip_port: query.vip_port,
            proto: query.proto.to_string(),
            fragment: query.fragment,
            icmp_error: query.icmp_error,
            vlan: query.vlan.map(VlanTags::ids).unwrap_or_default(),
            assumes_open: false,
            group: Some("FarmProto".into()),
            rule: None,
            bucket: Some(137),
            owner: Some("node1".into()),
            why: None,
            node: "node1".into(),
            verdict: "accept".into(),
            reason: "accept".into(),
            text: "node1 serves it.".into(),
        })
    }

    fn trace(&self, query: TraceQuery) -> BoxFuture<'_, Result<TraceReply, String>> {
        let lost = query.client_port.unwrap_or_default().into();
        Box::pin(async move { Ok(TraceReply { frames: Vec::new(), lost }) })
    }

    fn move_vip<'a>(
        &'a self,
        request: &'a MoveRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>> {
        Box::pin(std::future::ready(Err(format!("{} is on all nodes at once", request.vip))))
    }

    fn set_power<'a>(
        &'a self,
        request: &'a PowerRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>> {
        let answer = if *request == power_request() {
            Ok(PowerReply { version: 1 })
        } else {
            Err(format!("farm web has no node `{}`", request.node))
        };
        Box::pin(std::future::ready(answer))
    }

    fn set_open<'a>(
        &'a self,
        request: &'a OpenRequest,
    ) -> BoxFuture<'a, Result<PowerReply, String>> {
        Box::pin(std::future::ready(Err(format!("farm web has no group {:?}", request.what))))
    }

    fn upgrade(&self, _: UpgradeRequest) -> BoxFuture<'_, Result<UpgradeReply, String>> {
        Box::pin(async { Err("not this one".to_owned()) })
    }

    fn reload(&self, request: ReloadRequest) -> BoxFuture<'_, Result<ReloadReply, String>> {
        let answer = if request.force {
            Err("farm.yaml:3: another farm name".into())
        } else {
            Ok(ReloadReply { configuration: status().configuration, changes: Vec::new() })
        };
        Box::pin(std::future::ready(answer))
    }

    fn reset_given_away(&self) -> BoxFuture<'_, Result<ResetReply, String>> {
        Box::pin(std::future::ready(Err("this node is not drained".into())))
    }
}

/// A change that the made-up agent takes; every other is refused.
pub(crate) fn power_request() -> PowerRequest {
    PowerRequest {
        group: Some("FarmProto".into()),
        node: "node1".into(),
        power: Some(3),
        persist: false,
    }
}

/// What the made-up agent says of itself.
pub(crate) fn status() -> Status {
    Status {
        farm: "web".into(),
        node: "node1".into(),
        version: "0.1.0".into(),
        state: NodeState::Up,
        epoch: 3,
        converged: true,
        powers_version: 0,
        powers_saved: 0,
        configuration: "a0".repeat(16),
        staged: None,
        lease_ms: 143.25,
        detour: false,
        uptime_s: 12.5,
        nodes: vec![NodeStatus {
            name: "node1".into(),
            addresses: vec!["192.168.1.11".into()],
            own: true,
            state: NodeState::Up,
            alive: true,
            heard_ms: None,
            mac: None,
            load: 255,
            lingering: Some(0),
            changed_powers: None,
            configuration: None,
            staged: None,
            config_differs: Vec::new(),
        }],
        vips: vec![VipStatus {
            interface: "eth0".into(),
            mode: Mode::VmacInvisible,
            vmac: Some("5a:fe:c0:a8:01:de".into()),
            addresses: vec!["192.168.1.222/24".into()],
            connections: BTreeMap::new(),
            xdp: "native".into(),
            jumbo: true,
            vlan: vec![],
            open: true,
            failover: None,
        }],
        groups: vec![GroupStatus {
            name: "FarmProto".into(),
            vip: 0,
            rules: vec![RuleStatus {
                virtual_addr: "*".into(),
                port: "80".into(),
                proto: Proto::Tcp,
                filter: Filter::OnPort,
            }],
            powers: BTreeMap::from([("node1".into(), 1)]),
            changed: BTreeMap::new(),
            abstaining: Vec::new(),
            handover: HandoverStatus::default(),
            connections: None,
            load: BTreeMap::from([("node1".into(), 255)]),
            owners: (0..256).map(|bucket| (bucket != 9).then_some(0)).collect(),
            // The highest bits: JSON must not round them.
            bitmap: Bitmap([!(1 << 9), u64::MAX, u64::MAX, u64::MAX]),
        }],
        abstention_agreed: true,
        checks: Vec::new(),
        packets: BTreeMap::from([("accept".into(), u64::MAX)]),
        guard: BTreeMap::new(),
        announcements: BTreeMap::new(),
        heartbeats: BTreeMap::new(),
        lateness: Lateness::default(),
        proof: ProofStatus::default(),
        last_view_change: None,
    }
}

/// A served control socket of farm `web`, and the history behind it.
pub(crate) struct Served {
    pub(crate) runtime: Runtime,
    pub(crate) dir: RunDir,
    pub(crate) history: Arc<History>,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::start_in(RunDir::new())
    }

    /// In the place of one that has ended.
    pub(crate) fn start_in(dir: RunDir) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let history = Arc::new(History::new());
        let socket = ControlSocket::open(&dir.0, "web").expect("a fresh directory");
        let agent = Arc::new(FakeAgent { history: Arc::clone(&history) });
        runtime.spawn(async move { socket.serve(agent).await });
        Self { runtime, dir, history }
    }
}
