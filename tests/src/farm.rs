//! A farm in the lab: the agents, started, asked and stopped through the `vipfarm` program alone.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use vipfarm::{
    model::{BUCKETS, Bitmap},
    status::{Explanation, NodeState, Status},
};

pub use crate::footprint::Footprint;
use crate::{
    iproute::checked,
    lab::Lab,
    process::{Process, Signal},
};

/// How long a farm may take to agree, or an agent to stop.
pub const PATIENCE: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(20);

/// Lines of each agent's log that a failed test shows.
const LAST_LINES: usize = 25;

/// The agents of a lab's nodes. Dropped by a panic, it prints what they said last.
#[derive(Debug)]
pub struct Farm<'a> {
    lab: &'a Lab,
    /// The numbers of its nodes.
    nodes: Vec<usize>,
    program: PathBuf,
    config: PathBuf,
    /// Of the nodes that have a configuration of their own.
    own_configs: BTreeMap<usize, PathBuf>,
    agents: BTreeMap<usize, Process>,
}

impl<'a> Farm<'a> {
    /// Writes the key and the configuration: all nodes of the lab, and `vips`, the YAML below the
    /// key of that name. `program` is the `vipfarm` program. No agent runs yet.
    pub fn new(lab: &'a Lab, program: &Path, name: &str, vips: &str) -> Result<Self> {
        let nodes = (1..=lab.nodes().len()).collect();
        Self::in_directory(&lab.directory(), lab, nodes, program, name, vips)
    }

    /// As [`Farm::new`], but of some of the lab's nodes, with key and configuration in a directory
    /// called as the farm.
    pub fn of_nodes(
        lab: &'a Lab,
        nodes: &[usize],
        program: &Path,
        name: &str,
        vips: &str,
    ) -> Result<Self> {
        let directory = lab.directory().join(name);
        fs::create_dir(&directory).context("make the farm's directory")?;
        Self::in_directory(&directory, lab, nodes.to_vec(), program, name, vips)
    }

    fn in_directory(
        directory: &Path,
        lab: &'a Lab,
        nodes: Vec<usize>,
        program: &Path,
        name: &str,
        vips: &str,
    ) -> Result<Self> {
        let farm = Self {
            lab,
            nodes,
            program: program.to_owned(),
            config: directory.join("farm.yaml"),
            own_configs: BTreeMap::new(),
            agents: BTreeMap::new(),
        };
        let key = farm.key();
        output(farm.command("keygen").arg(&key))?;
        let node = |&node: &usize| {
            let node = lab.node(node);
            format!("  - {{ name: {}, addresses: [{}] }}\n", node.name(), node.address())
        };
        let nodes = farm.nodes.iter().map(node).collect::<Vec<_>>().concat();
        let text = format!("farm: {name}\nkey_file: {}\nnodes:\n{nodes}{vips}", key.display());
        fs::write(&farm.config, text).context("write the configuration")?;
        Ok(farm)
    }

    /// The numbers of its nodes.
    pub fn nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// The lab that it lives in.
    pub fn lab(&self) -> &'a Lab {
        self.lab
    }

    /// The common configuration.
    pub fn text(&self) -> Result<String> {
        fs::read_to_string(&self.config).context("read the configuration")
    }

    /// Changes the common configuration; agents that run have to be told.
    pub fn edit(&self, edit: impl Fn(&str) -> String) -> Result<()> {
        fs::write(&self.config, edit(&self.text()?)).context("write the configuration")
    }

    /// Gives a node a configuration of its own, made from the common one.
    pub fn give_own_config(&mut self, node: usize, edit: impl Fn(&str) -> String) -> Result<()> {
        let common = self.text()?;
        let own = self.config.with_file_name(format!("farm-{node}.yaml"));
        fs::write(&own, edit(&common)).context("write a node's configuration")?;
        self.own_configs.insert(node, own);
        Ok(())
    }

    /// The configuration file of a node.
    pub fn config(&self, node: usize) -> &Path {
        self.own_configs.get(&node).unwrap_or(&self.config)
    }

    /// The key file of all nodes.
    pub fn key(&self) -> PathBuf {
        self.config.with_file_name("farm.key")
    }

    /// Starts all agents.
    pub fn start(&mut self) -> Result<()> {
        self.nodes.clone().into_iter().try_for_each(|node| self.start_node(node, &[]))
    }

    /// Starts the agent of one node, or starts it again, with further `arguments`.
    pub fn start_node(&mut self, node: usize, arguments: &[&str]) -> Result<()> {
        let mut command = self.agent_command(node);
        command.args(arguments);
        let agent = self.lab.node(node).spawn("agent", command)?;
        self.agents.insert(node, agent);
        Ok(())
    }

    /// The command that runs a node's agent there; options can be added.
    pub fn agent_command(&self, node: usize) -> Command {
        let mut command = self.local_command("agent", node);
        command.arg("--state-dir").arg(self.state_directory(node));
        command
    }

    /// The command `vipfarm down` for a node.
    pub fn down_command(&self, node: usize) -> Command {
        self.local_command("down", node)
    }

    /// A command of the program that needs no agent.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb);
        command
    }

    /// A command that asks a node's agent; `arguments` begin with the verb.
    pub fn ask_command(&self, node: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--run-dir").arg(self.run_directory(node));
        command
    }

    /// The running agent of a node; an error if none was started.
    pub fn agent(&mut self, node: usize) -> Result<&mut Process> {
        self.agents.get_mut(&node).with_context(|| format!("node{node} has no agent"))
    }

    /// Waits until these nodes agree that they, and no others, are the farm: how long it took.
    pub fn wait_converged(&mut self, nodes: &[usize]) -> Result<Duration> {
        self.wait_converged_or(nodes, |pause| {
            thread::sleep(pause);
            Ok(())
        })
    }

    /// As [`Farm::wait_converged`]; `sleep` sleeps between two looks, and its error ends the wait.
    pub fn wait_converged_or(
        &mut self,
        nodes: &[usize],
        sleep: impl Fn(Duration) -> Result<()>,
    ) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let Err(missing) = self.check_agreement(nodes) else { return Ok(begin.elapsed()) };
            for &node in nodes {
                if let Some(status) = self.agent(node)?.try_wait()? {
                    bail!("the agent of node{node} ended: {status}");
                }
            }
            if begin.elapsed() > PATIENCE {
                return Err(missing.context(format!("the farm does not agree after {PATIENCE:?}")));
            }
            sleep(POLL)?;
        }
    }

    /// Whether these nodes agree now that they, and no others, are the farm, in one view, by which
    /// every bucket has one owner; the error says what is missing.
    pub fn check_agreement(&self, nodes: &[usize]) -> Result<()> {
        let statuses = nodes.iter().map(|&node| self.ready(node, nodes));
        check_one_view(&statuses.collect::<Result<Vec<_>>>()?)
    }

    /// What the agent of a node says.
    pub fn status(&self, node: usize) -> Result<Status> {
        self.ask_json(node, &["status", "--json"])
    }

    /// The answer of a node's agent, read from its JSON.
    pub fn ask_json<T: DeserializeOwned>(&self, node: usize, arguments: &[&str]) -> Result<T> {
        json(&mut self.ask_command(node, arguments))
    }

    /// The answer of a node's agent as text.
    pub fn ask(&self, node: usize, arguments: &[&str]) -> Result<String> {
        output(&mut self.ask_command(node, arguments))
    }

    /// Who serves a client while all nodes are alive, from the configuration alone; `arguments`
    /// are those of `explain`.
    pub fn explain_offline(&self, arguments: &[&str]) -> Result<Explanation> {
        let mut command = self.command("explain");
        json(command.args(arguments).args(["--json", "-c"]).arg(&self.config))
    }

    /// The node that owns a TCP client's bucket while all nodes are alive.
    pub fn owner(&self, client: SocketAddr, vip: impl Into<SocketAddr>) -> Result<String> {
        let explanation = self.explain_offline(&[&client.to_string(), &vip.into().to_string()])?;
        explanation.owner.with_context(|| format!("nobody owns {client}: {}", explanation.text))
    }

    /// Kills a node's agent at once.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        self.agent(node)?.kill()
    }

    /// Freezes a node's agent, or lets it go on.
    pub fn freeze(&mut self, node: usize, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.agent(node)?.signal(signal)
    }

    /// Stops all agents with SIGTERM; an error unless each exits 0.
    pub fn stop(&mut self) -> Result<()> {
        for agent in self.agents.values_mut() {
            agent.signal(Signal::SIGTERM)?;
        }
        for agent in self.agents.values_mut() {
            let status = agent.wait_timeout(PATIENCE)?;
            let said = || agent.last_lines(20).join("\n");
            ensure!(status.success(), "an agent ended with {status} on SIGTERM:\n{}", said());
        }
        self.agents.clear();
        Ok(())
    }

    /// Stops one node's agent as an operator does, and forgets it.
    pub fn stop_node(&mut self, node: usize) -> Result<()> {
        self.agent(node)?.stop(PATIENCE)?;
        self.agents.remove(&node);
        Ok(())
    }

    /// Everything that an agent changes on a node, as it is now.
    pub fn footprint(&self, node: usize) -> Result<Footprint> {
        let directories = [self.run_directory(node), self.bpf_directory(node)];
        Footprint::of(self.lab.node(node), &directories)
    }

    /// The last lines of each agent's log, by node.
    pub fn last_lines(&self, count: usize) -> Vec<(String, Vec<String>)> {
        let lines = |(&node, agent): (&usize, &Process)| {
            (self.lab.node(node).name().to_owned(), agent.last_lines(count))
        };
        self.agents.iter().map(lines).collect()
    }

    /// Where a node's agent has its control socket and its record.
    pub fn run_directory(&self, node: usize) -> PathBuf {
        self.lab.directory().join("run").join(self.lab.node(node).name())
    }

    /// Where a node's agent keeps the powers that are to outlast restarts.
    pub fn state_directory(&self, node: usize) -> PathBuf {
        self.lab.directory().join("state").join(self.lab.node(node).name())
    }

    /// Where a node's agent pins its programs.
    pub fn bpf_directory(&self, node: usize) -> PathBuf {
        self.lab.bpf_directory().join(self.lab.node(node).name())
    }

    fn local_command(&self, verb: &str, node: usize) -> Command {
        let host = self.lab.node(node);
        let mut command = host.command(&self.program);
        command.args([verb, "--node", host.name(), "-c"]).arg(self.config(node));
        command.arg("--run-dir").arg(self.run_directory(node));
        command.arg("--bpf-dir").arg(self.bpf_directory(node));
        command
    }

    /// The status of a node that has agreed.
    fn ready(&self, node: usize, farm: &[usize]) -> Result<Status> {
        let status = self.status(node).with_context(|| format!("node{node}"))?;
        let alive: Vec<_> = status.nodes.iter().filter(|node| node.alive).collect();
        let expected = |name: &str| farm.iter().any(|&node| self.lab.node(node).name() == name);
        let names: Vec<_> = alive.iter().map(|node| node.name.as_str()).collect();
        ensure!(
            status.state == NodeState::Up
                && status.converged
                && names.len() == farm.len()
                && names.iter().all(|name| expected(name)),
            "node{node} is {:?}, {}, and sees {names:?} alive",
            status.state,
            if status.converged { "converged" } else { "not converged" },
        );
        Ok(status)
    }
}

/// Whether the members are in one view, and their kernels accept each bucket that has an owner once.
fn check_one_view(members: &[Status]) -> Result<()> {
    let (first, rest) = members.split_first().context("there are no members")?;
    let epochs: Vec<_> = members.iter().map(|status| status.epoch).collect();
    ensure!(rest.iter().all(|other| other.epoch == first.epoch), "they are in views {epochs:?}");
    for (number, group) in first.groups.iter().enumerate() {
        let same = rest.iter().all(|other| other.groups[number].owners == group.owners);
        ensure!(same, "they differ in who owns which bucket of group {}", group.name);
        let mut owned = Bitmap::default();
        for bucket in (0..BUCKETS).filter(|&bucket| group.owners[bucket].is_some()) {
            owned.0[bucket / 64] |= 1 << (bucket % 64);
        }
        let accepted = members.iter().map(|member| member.groups[number].bitmap);
        check_owned_once(owned, accepted)
            .with_context(|| format!("group {} in view {}", group.name, first.epoch))?;
    }
    Ok(())
}

fn check_owned_once(owned: Bitmap, accepted: impl Iterator<Item = Bitmap>) -> Result<()> {
    let mut all = Bitmap::default();
    for bitmap in accepted {
        ensure!(all.and(bitmap).is_empty(), "two nodes accept a bucket: {:?}", all.and(bitmap));
        all = Bitmap(std::array::from_fn(|word| all.0[word] | bitmap.0[word]));
    }
    ensure!(all == owned, "{all:?} are accepted, and {owned:?} have an owner");
    Ok(())
}

impl Drop for Farm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            for (node, lines) in self.last_lines(LAST_LINES) {
                println!("--- the agent of {node} said last:\n{}", lines.join("\n"));
            }
        }
    }
}

/// Runs a command to its end, however it ends; an error if it cannot be run or does not end
/// within [`PATIENCE`].
pub fn run_to_end(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {command:?}"))?;
    let deadline = Instant::now() + PATIENCE;
    // A pipe holds 64 KiB: more than anything that is run here says.
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{command:?} still runs after {PATIENCE:?}: {said}");
        }
        thread::sleep(POLL / 4);
    }
    child.wait_with_output().context("wait for a child")
}

/// Everything a command that ended said, and its exit code.
pub fn exit_code_and_words(command: &mut Command) -> Result<(Option<i32>, String)> {
    let Output { status, stdout, stderr } = run_to_end(command)?;
    let words = [stdout, stderr].concat();
    Ok((ExitStatus::code(&status), String::from_utf8_lossy(&words).into_owned()))
}

fn json<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    let text = output(command)?;
    serde_json::from_str(&text).with_context(|| format!("{command:?} printed {text}"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {command:?}"))?;
    checked(&output, || format!("{command:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_nobody_or_two_accept_is_found() {
        let owned = Bitmap([0b111, 0, 0, 1]);
        let check =
            |accepted: &[[u64; 4]]| check_owned_once(owned, accepted.iter().copied().map(Bitmap));
        check(&[[0b101, 0, 0, 0], [0b010, 0, 0, 1]]).expect("each is accepted once");
        check(&[[0b101, 0, 0, 0], [0b010, 0, 0, 0]]).expect_err("one is missing");
        check(&[[0b101, 0, 0, 1], [0b110, 0, 0, 0]]).expect_err("one is accepted twice");
        check(&[[0b101, 0, 0, 1], [0b010, 1, 0, 0]]).expect_err("one has no owner");
    }
}
