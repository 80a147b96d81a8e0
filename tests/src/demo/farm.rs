//! The three agents: started, asked and stopped through the `vipfarm` program alone.

use std::{
    fs,
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use vipfarm::status::{Explanation, NodeState, Status};

use super::interrupt::Interrupt;
use crate::{
    host::{Host, INTERFACE},
    iproute::checked,
    lab::{Lab, PREFIX, VIP},
    process::{Process, Signal},
};

/// Powers of the nodes, in order.
const POWERS: [u16; 3] = [2, 1, 1];

/// How long a farm may take to agree, or an agent to stop.
const PATIENCE: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(50);

/// The farm's agents.
#[derive(Debug)]
pub(super) struct Farm<'a> {
    lab: &'a Lab,
    vipfarm: PathBuf,
    config: PathBuf,
    agents: Vec<Process>,
}

impl<'a> Farm<'a> {
    /// Writes the key and the configuration; no agent runs yet.
    pub(super) fn new(lab: &'a Lab, vipfarm: &Path) -> Result<Self> {
        let directory = lab.directory();
        let farm = Self {
            lab,
            vipfarm: vipfarm.to_owned(),
            config: directory.join("farm.yaml"),
            agents: Vec::new(),
        };
        let key = directory.join("farm.key");
        farm.ask(&["keygen".as_ref(), key.as_path()])?;
        fs::write(&farm.config, configuration(lab, &key)).context("write the configuration")?;
        Ok(farm)
    }

    /// Starts all agents.
    pub(super) fn start(&mut self) -> Result<()> {
        for node in self.lab.nodes() {
            fs::create_dir_all(self.run_directory(node)).context("make a run directory")?;
            self.agents.push(self.spawn(node)?);
        }
        Ok(())
    }

    /// Starts the agent of one node again.
    pub(super) fn restart(&mut self, node: usize) -> Result<()> {
        let started = self.spawn(self.lab.node(node))?;
        *self.agent(node)? = started;
        Ok(())
    }

    /// Waits until these nodes agree that they, and no others, are the farm: how long it took.
    pub(super) fn wait_converged(
        &mut self,
        nodes: &[usize],
        interrupt: &Interrupt,
    ) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let missing = nodes.iter().find_map(|&node| self.not_ready(node, nodes.len()).err());
            let Some(missing) = missing else { return Ok(begin.elapsed()) };
            for &node in nodes {
                if let Some(status) = self.agent(node)?.try_wait()? {
                    bail!("the agent of node{node} ended: {status}");
                }
            }
            if begin.elapsed() > PATIENCE {
                return Err(missing.context(format!("the farm does not agree after {PATIENCE:?}")));
            }
            interrupt.sleep(POLL)?;
        }
    }

    /// What the agent of a node says.
    pub(super) fn status(&self, node: usize) -> Result<Status> {
        let text = self.ask_agent(node, &["status", "--json"])?;
        serde_json::from_str(&text).context("read the status")
    }

    /// The picture of who owns which bucket, coloured if asked for.
    pub(super) fn bitmap(&self, node: usize, colour: bool) -> Result<String> {
        let mut command = self.agent_command(node, &["bitmap"]);
        if colour {
            command.env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1");
        }
        output(&mut command)
    }

    /// The node that owns a TCP client's bucket while all nodes are alive.
    pub(super) fn owner(&self, client: SocketAddrV4, vip: SocketAddrV4) -> Result<String> {
        let mut command = Command::new(&self.vipfarm);
        command.args(["explain", &client.to_string(), &vip.to_string(), "--json", "-c"]);
        let text = output(command.arg(&self.config))?;
        let explanation: Explanation = serde_json::from_str(&text).context("read `explain`")?;
        explanation.owner.with_context(|| format!("nobody owns {client}: {}", explanation.text))
    }

    /// Kills a node's agent at once.
    pub(super) fn kill(&mut self, node: usize) -> Result<()> {
        self.agent(node)?.kill()
    }

    /// Freezes a node's agent, or lets it go on.
    pub(super) fn freeze(&mut self, node: usize, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.agent(node)?.signal(signal)
    }

    /// Stops all agents with SIGTERM; an error unless each exits 0 and leaves nothing behind.
    pub(super) fn stop(&mut self) -> Result<()> {
        for agent in &mut self.agents {
            agent.signal(Signal::SIGTERM)?;
        }
        for agent in &mut self.agents {
            let status = agent.wait_timeout(PATIENCE)?;
            ensure!(status.success(), "an agent ended with {status} on SIGTERM");
        }
        self.lab.nodes().iter().try_for_each(|node| self.left_nothing(node))
    }

    /// The last lines of each agent's log, by node.
    pub(super) fn last_lines(&self, count: usize) -> Vec<(String, Vec<String>)> {
        let lines =
            |(node, agent): (&Host, &Process)| (node.name().to_owned(), agent.last_lines(count));
        self.lab.nodes().iter().zip(&self.agents).map(lines).collect()
    }

    fn spawn(&self, node: &Host) -> Result<Process> {
        let mut command = node.command(&self.vipfarm);
        command.args(["agent", "--node", node.name(), "-c"]).arg(&self.config);
        command.arg("--run-dir").arg(self.run_directory(node));
        command.arg("--bpf-dir").arg(self.bpf_directory(node));
        node.spawn("agent", command)
    }

    fn not_ready(&self, node: usize, farm_size: usize) -> Result<()> {
        let status = self.status(node).with_context(|| format!("node{node}"))?;
        let alive = status.nodes.iter().filter(|node| node.alive).count();
        ensure!(
            status.state == NodeState::Up && status.converged && alive == farm_size,
            "node{node} is {:?}, {}, and sees {alive} nodes alive instead of {farm_size}",
            status.state,
            if status.converged { "converged" } else { "not converged" },
        );
        Ok(())
    }

    fn left_nothing(&self, node: &Host) -> Result<()> {
        let name = node.name();
        ensure!(!node.has_address(VIP.into())?, "{name} still holds {VIP}");
        let pins = files_below(&self.bpf_directory(node));
        ensure!(pins.is_empty(), "{name} left pins: {pins:?}");
        let link = node.run(&format!("ip -details link show {INTERFACE}"))?;
        ensure!(!link.contains("xdp"), "{name} still has an XDP program: {link}");
        Ok(())
    }

    fn agent(&mut self, node: usize) -> Result<&mut Process> {
        let agent = node.checked_sub(1).and_then(|index| self.agents.get_mut(index));
        agent.with_context(|| format!("node{node} has no agent"))
    }

    fn ask(&self, arguments: &[&Path]) -> Result<String> {
        output(Command::new(&self.vipfarm).args(arguments))
    }

    fn ask_agent(&self, node: usize, arguments: &[&str]) -> Result<String> {
        output(&mut self.agent_command(node, arguments))
    }

    fn agent_command(&self, node: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.vipfarm);
        let run = self.run_directory(self.lab.node(node));
        command.args(arguments).arg("--run-dir").arg(run);
        command
    }

    fn run_directory(&self, node: &Host) -> PathBuf {
        self.lab.directory().join("run").join(node.name())
    }

    fn bpf_directory(&self, node: &Host) -> PathBuf {
        self.lab.bpf_directory().join(node.name())
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {command:?}"))?;
    checked(&output, || format!("{command:?}"))
}

fn configuration(lab: &Lab, key: &Path) -> String {
    let node =
        |node: &Host| format!("  - {{ name: {}, addresses: [{}] }}\n", node.name(), node.address());
    let nodes = lab.nodes().iter().map(node).collect::<Vec<_>>().concat();
    let powers: Vec<_> = lab
        .nodes()
        .iter()
        .zip(POWERS)
        .map(|(node, power)| format!("{}: {power}", node.name()))
        .collect();
    format!(
        "farm: demo
key_file: {key}
membership: {{ profile: balanced }}
nodes:
{nodes}vips:
  - interface: {INTERFACE}
    mode: vmac_invisible
    addresses: [{VIP}/{PREFIX}]
    groups:
      - name: web
        powers: {{ {powers} }}
        rules:
          - {{ port: 80, proto: tcp, filter: on_port }}
          - {{ port: 7000, proto: udp, filter: on_port }}
",
        key = key.display(),
        powers = powers.join(", "),
    )
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}
