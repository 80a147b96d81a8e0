//! The agent is replaced by another one, of the same version or of the next, and its clients notice
//! nothing.
//!
//! The agent first leaves the farm as one does that stops: its peers take over its buckets without a
//! gap, and old connections linger. But it also says that it holds, and leaves everything in its place:
//! VIPs, filter, tables. The kernel goes on serving what lingers for as long as it said, by a lease that
//! can be that long because it allows nothing else (see `handover`). Then the process executes the new
//! program; or it ends, and somebody else starts the next one in time. That one finds the connections
//! among the kernel's sockets, puts its filter in the place of the other, and joins.

use std::{
    env, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::sync::mpsc;

use super::{
    configurations::Configurations, engine::Latest, handover::LONGEST_HOLD, rights,
    signals::Signals,
};
use crate::{
    config,
    model::NodeId,
    status::{UpgradeReply, UpgradeRequest},
};

/// How long the new program may take to look at the file.
pub const PREFLIGHT: Duration = Duration::from_secs(10);

/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// What this agent is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Upgrade {
    /// For how long old connections are to be served by the kernel alone.
    pub(super) hold: Duration,
    /// Whether to end, instead of executing the new program.
    pub(super) exit: bool,
}

/// The program that this process was started from, as it was called.
#[derive(Debug, Clone)]
pub(super) struct Program(PathBuf);

impl Program {
    /// By the path that was given, so that a link to another version is followed anew.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let called = env::args_os().next().map(PathBuf::from);
        let path = called.filter(|path| path.parent().is_some_and(|dir| dir != Path::new("")));
        path.map_or_else(env::current_exe, std::path::absolute).map(Self)
    }

    /// Executes it in place of this process, with the same arguments. Returns only if that fails.
    pub(super) fn execute(&self) -> anyhow::Error {
        let error = Command::new(&self.0).args(env::args_os().skip(1)).exec();
        anyhow::Error::new(error).context(format!("cannot execute {}", self.0.display()))
    }

    /// What it says of itself, if it can serve that file.
    fn check(&self, file: &Path) -> anyhow::Result<String> {
        self.run(Command::new(&self.0).arg("check").arg(file))?;
        let version = self.run(Command::new(&self.0).arg("--version"))?;
        Ok(version.trim().to_owned())
    }

    /// What a command of it prints; its complaint is the error.
    fn run(&self, command: &mut Command) -> anyhow::Result<String> {
        let refused = || format!("{}: nothing was changed", self.0.display());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: it calls nothing but a system call.
        unsafe { command.pre_exec(Signals::let_through) };
        let mut child = command.spawn().with_context(refused)?;
        let ended = wait(&mut child).with_context(refused)?;
        if !ended {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        if !ended || !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let how = if ended { output.status.to_string() } else { "too slow".to_owned() };
            bail!("{} ({how}): {}", refused(), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Whether it ends in time. It says less than a pipe holds.
fn wait(child: &mut Child) -> io::Result<bool> {
    let deadline = Instant::now() + PREFLIGHT;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(LOOK);
    }
    Ok(true)
}

/// Takes requests.
#[derive(Debug, Clone)]
pub(super) struct Upgrader {
    program: Program,
    file: PathBuf,
    /// The farm's name.
    farm: String,
    asked: mpsc::Sender<Upgrade>,
}

impl Upgrader {
    /// For that program and file, which is of that farm; what is asked for comes out of the channel.
    pub(super) fn new(
        program: Program,
        file: PathBuf,
        farm: String,
    ) -> (Self, mpsc::Receiver<Upgrade>) {
        let (asked, asks) = mpsc::channel(1);
        (Self { program, file, farm, asked }, asks)
    }

    /// Has the agent replaced, if the new one can be; `others` are nodes that serve one of those
    /// configurations and go on with it.
    pub(super) async fn begin(
        &self,
        request: UpgradeRequest,
        others: Option<Others>,
    ) -> Result<UpgradeReply, String> {
        let hold = Duration::from_millis(request.hold_ms);
        if hold.is_zero() || hold > LONGEST_HOLD {
            return Err(format!("a hold is at most {LONGEST_HOLD:?}, not {hold:?}"));
        }
        let Self { program, file, farm: own, .. } = self.clone();
        let checked = tokio::task::spawn_blocking(move || {
            let version = program.check(&file)?;
            // A file that only the next version understands is that one's to judge.
            if let Ok((farm, keys)) = config::load_with_keys(&file) {
                if !request.exit {
                    // What this process has given up, a program that it executes has not either.
                    rights::refuse_users(&farm)?;
                }
                refuse_other_farm(&file, &own, &farm.name)?;
                let digest = config::digest(&farm, &keys);
                let others = others.filter(|_| !request.all_at_once);
                others.map_or(Ok(()), |others| others.refuse_another(&file, digest))?;
            }
            anyhow::Ok(version)
        });
        let checked = checked.await.map_err(|error| error.to_string())?;
        let version = checked.map_err(|error| format!("{error:#}"))?;
        let upgrade = Upgrade { hold, exit: request.exit };
        let refused = |_| "the agent is being replaced, or stops, already".to_owned();
        self.asked.try_send(upgrade).map_err(refused)?;
        Ok(UpgradeReply { version })
    }
}

/// An agent takes over what one of its own farm has left, and nothing else.
pub(super) fn refuse_other_farm(file: &Path, own: &str, other: &str) -> anyhow::Result<()> {
    if own != other {
        bail!(
            "{}: another farm name, {other}: an agent of it takes nothing over from one of farm {own}. Stop this agent, which takes the VIPs of farm {own} off, and start it again",
            file.display()
        );
    }
    Ok(())
}

/// The nodes that serve beside one that is to be replaced.
#[derive(Debug)]
pub(super) struct Others {
    /// Their names.
    pub(super) names: Vec<String>,
    /// The configuration in force, and the one that is to be next if they have all read it.
    pub(super) digests: Vec<[u8; 16]>,
}

impl Others {
    /// Those of the view in force, if there are any.
    pub(super) fn of(own: NodeId, latest: &Latest, known: &Configurations) -> Option<Self> {
        let snapshot = latest.get();
        let farm = &known.get(snapshot.digest).farm;
        let others = snapshot.view.alive.without(own);
        let named = farm.node_ids().zip(&farm.nodes).filter(|(id, _)| others.contains(*id));
        let names: Vec<_> = named.map(|(_, node)| node.name.clone()).collect();
        let peers = || snapshot.peers.iter().filter(|peer| others.contains(peer.node));
        let is_read =
            |digest| peers().all(|peer| [peer.staged, peer.digest].contains(&Some(digest)));
        let next = snapshot.staged.filter(|&next| is_read(next));
        let digests = [snapshot.digest].into_iter().chain(next).collect();
        (!names.is_empty()).then_some(Self { names, digests })
    }

    /// Refuses a file by which the next agent would be none of their farm.
    fn refuse_another(&self, file: &Path, digest: [u8; 16]) -> anyhow::Result<()> {
        if self.digests.contains(&digest) {
            return Ok(());
        }
        bail!(
            "{} is not the file by which {} serve: the next agent would not be of their farm, and connections would be lost. `vipfarm reload` on all nodes first; if that refuses the file, `vipfarm upgrade --all-at-once` on all of them at the same time",
            file.display(),
            self.names.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Program {
        Program("/bin/sh".into())
    }

    #[test]
    fn a_program_that_complains_is_refused_in_its_words() {
        let run = |script: &str| shell().run(Command::new("/bin/sh").args(["-c", script]));
        assert_eq!(run("echo fine").expect("it ends well"), "fine\n");
        let words = run("echo bad >&2; exit 2").expect_err("it failed").to_string();
        assert!(words.contains("exit status: 2") && words.ends_with(": bad"), "{words}");
        let none = Program("/nowhere/vipfarm".into());
        let words = format!("{:#}", none.check(Path::new("farm.yaml")).expect_err("no program"));
        assert!(words.contains("/nowhere/vipfarm") && words.contains("No such file"), "{words}");
    }

    #[test]
    fn a_file_that_others_neither_serve_nor_have_ready_is_refused_by_name() {
        let others = Others { names: vec!["node2".into()], digests: vec![[1; 16], [2; 16]] };
        let file = Path::new("farm.yaml");
        for known in &others.digests {
            others.refuse_another(file, *known).expect("in force, or next");
        }
        let words = others.refuse_another(file, [3; 16]).expect_err("another").to_string();
        let all = ["farm.yaml is not", "node2", "`vipfarm reload`", "--all-at-once"];
        assert!(all.iter().all(|word| words.contains(word)), "{words}");
    }

    #[test]
    fn a_file_of_another_farm_is_refused_with_what_to_do() {
        let file = Path::new("farm.yaml");
        refuse_other_farm(file, "web", "web").expect("the same");
        let words = refuse_other_farm(file, "web", "shop").expect_err("another").to_string();
        assert!(words.contains("farm.yaml: another farm name, shop"), "{words}");
        assert!(words.contains("Stop this agent"), "{words}");
    }

    #[test]
    fn a_request_that_asks_for_nothing_new_is_one_that_former_agents_understand() {
        let request = UpgradeRequest { hold_ms: 1, exit: true, all_at_once: false };
        let text = serde_json::to_string(&request).expect("written");
        assert_eq!(text, r#"{"hold_ms":1,"exit":true}"#);
    }

    #[tokio::test]
    async fn a_hold_has_bounds() {
        let (upgrader, _asks) = Upgrader::new(shell(), "farm.yaml".into(), "web".into());
        for hold_ms in [0, 60_001] {
            let request = UpgradeRequest { hold_ms, exit: false, all_at_once: false };
            let refused = upgrader.begin(request, None).await;
            assert!(refused.expect_err("out of bounds").contains("at most 60s"), "{hold_ms}");
        }
    }
}
