//! Tells the operator's own programs what happens to this node: of a new view or another share, that the
//! node serves, and that it serves nothing any more.
//!
//! One runs at a time, beside everything else, so that none can hold the agent up. Each is told how
//! things are when it starts: what has changed back while another one ran is not told of, and of
//! several views the last one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle, time};

use super::{
    alone::Alone,
    bring_up::Up,
    configurations::{Configuration, Configurations},
    engine::{Latest, Snapshot},
    history::{History, Level},
    program, readiness,
};
use crate::{
    model::{Hooks as Programs, NodeId, Run},
    status::NodeState,
};

/// How often to look, besides when a view was installed.
const LOOK: Duration = Duration::from_millis(50);

/// Runs hooks.
pub(super) struct Hooks {
    own: NodeId,
    latest: Latest,
    configurations: Configurations,
    history: Arc<History>,
    told: Told,
    alone: Alone,
}

/// How things are, as far as programs are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    epoch: u64,
    serves: bool,
    /// What the node serves: groups, and the VIPs that they are about.
    groups: Vec<String>,
    vips: Vec<String>,
}

/// What the programs were told last.
#[derive(Debug, Default)]
struct Told {
    state: State,
    /// Whether the last one was told of a view.
    view_last: bool,
}

/// An occasion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    View,
    Ready,
    Closed,
}

impl Occasion {
    /// The key of the file.
    fn key(self) -> &'static str {
        match self {
            Self::View => "on_view",
            Self::Ready => "on_ready",
            Self::Closed => "on_closed",
        }
    }

    fn program(self, hooks: &Programs) -> Option<&Vec<String>> {
        match self {
            Self::View => hooks.on_view.as_ref(),
            Self::Ready => hooks.on_ready.as_ref(),
            Self::Closed => hooks.on_closed.as_ref(),
        }
    }
}

impl Told {
    /// The next thing to tell, if there is one; the view first, but not again and again.
    fn next(&mut self, now: &State) -> Option<Occasion> {
        let serves = now.serves != self.state.serves;
        let mut view = self.state.clone();
        view.serves = now.serves;
        let view = view != *now;
        self.view_last = view && !(serves && self.view_last);
        if self.view_last {
            self.state = State { serves: self.state.serves, ..now.clone() };
            return Some(Occasion::View);
        }
        self.state.serves = now.serves;
        serves.then_some(if now.serves { Occasion::Ready } else { Occasion::Closed })
    }
}

impl Hooks {
    /// Of an agent that serves nothing yet.
    pub(super) fn new(up: &Up, latest: &Latest, history: &Arc<History>) -> Self {
        Self {
            own: up.own,
            latest: latest.clone(),
            configurations: up.configurations.clone(),
            history: Arc::clone(history),
            told: Told::default(),
            alone: Alone::new(),
        }
    }

    /// Tells until the agent has ended, and of that too: how to say so, and the work itself.
    pub(super) fn start(self) -> (oneshot::Sender<()>, JoinHandle<()>) {
        let (ended, ends) = oneshot::channel();
        (ended, tokio::spawn(self.follow(ends)))
    }

    async fn follow(mut self, mut ended: oneshot::Receiver<()>) {
        let mut looks = time::interval(LOOK);
        loop {
            tokio::select! {
                _ = looks.tick() => while self.tell(false).await {},
                _ = &mut ended => break,
            }
        }
        while self.tell(true).await {}
    }

    /// Tells one thing, by how it is now; `ended`: the node serves nothing any more. Whether there was any.
    async fn tell(&mut self, ended: bool) -> bool {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let now = self.state(&config, &snapshot, ended);
        let Some(occasion) = self.told.next(&now) else { return false };
        let hooks = &config.farm.hooks;
        let Some(argv) = occasion.program(hooks) else { return true };
        let run = Run { argv: argv.clone(), user: hooks.user.clone() };
        let environment = self.environment(&config, &snapshot, occasion, &now);
        let environment: Vec<_> = environment.iter().map(|(key, value)| (*key, &**value)).collect();
        if let Err(error) = program::run(&run, &environment, hooks.timeout, &self.alone).await {
            let message = format!("{} {run}: {error}", occasion.key());
            self.history.push(Level::Warn, "hook_failed", message);
        }
        true
    }

    fn state(&self, config: &Configuration, snapshot: &Snapshot, ended: bool) -> State {
        let epoch = snapshot.view.epoch;
        if ended {
            return State { epoch, ..State::default() };
        }
        let served: Vec<_> = readiness::served(config, snapshot).collect();
        let serves = !served.is_empty();
        if snapshot.state == NodeState::Up && !snapshot.converged {
            // What changes hands is told of when it has.
            return State { epoch, serves, ..self.told.state.clone() };
        }
        let groups = served.iter().map(|(_, group)| group.name.clone()).collect();
        let blocks: BTreeSet<usize> = served.iter().map(|&(block, _)| block).collect();
        let vips = blocks.iter().flat_map(|&block| &config.farm.vips[block].addresses);
        let vips = vips.map(|vip| vip.addr.to_string()).collect();
        State { epoch, serves, groups, vips }
    }

    fn environment(
        &self,
        config: &Configuration,
        snapshot: &Snapshot,
        occasion: Occasion,
        now: &State,
    ) -> [(&'static str, String); 9] {
        let farm = &config.farm;
        let alive = snapshot.view.alive.iter().filter_map(|node| farm.node(node));
        let alive: Vec<_> = alive.map(|node| node.name.as_str()).collect();
        [
            ("VIPFARM_HOOK", occasion.key().into()),
            ("VIPFARM_FARM", farm.name.clone()),
            ("VIPFARM_NODE", farm.nodes[self.own.index()].name.clone()),
            ("VIPFARM_STATE", snapshot.state.as_str().into()),
            ("VIPFARM_READY", if now.serves { "yes" } else { "no" }.into()),
            ("VIPFARM_EPOCH", now.epoch.to_string()),
            ("VIPFARM_ALIVE", alive.join(" ")),
            ("VIPFARM_GROUPS", now.groups.join(" ")),
            ("VIPFARM_VIPS", now.vips.join(" ")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(epoch: u64, vips: &[&str]) -> State {
        let vips: Vec<_> = vips.iter().map(|&vip| vip.to_owned()).collect();
        State { epoch, serves: !vips.is_empty(), groups: vips.clone(), vips }
    }

    #[test]
    fn each_change_is_told_once_and_the_view_first() {
        let mut told = Told::default();
        let mut all = |now: State| std::iter::from_fn(|| told.next(&now)).collect::<Vec<_>>();
        assert_eq!(all(state(0, &[])), []);
        assert_eq!(all(state(3, &["a"])), [Occasion::View, Occasion::Ready]);
        assert_eq!(all(state(3, &["a"])), []);
        assert_eq!(all(state(5, &["a"])), [Occasion::View]);
        assert_eq!(all(state(5, &["a", "b"])), [Occasion::View], "one VIP more");
        assert_eq!(all(state(5, &[])), [Occasion::View, Occasion::Closed]);
        assert_eq!(all(state(6, &[])), [Occasion::View]);
    }

    #[test]
    fn what_has_changed_back_is_not_told_and_views_do_not_keep_the_rest_from_being_told() {
        let mut told = Told::default();
        assert_eq!(told.next(&state(3, &["a"])), Some(Occasion::View));
        assert_eq!(told.next(&state(4, &["a"])), Some(Occasion::Ready));
        assert_eq!(told.next(&state(5, &["a"])), Some(Occasion::View));
        assert_eq!(told.next(&state(6, &[])), Some(Occasion::Closed), "views come and come");
        assert_eq!(told.next(&state(7, &["a"])), Some(Occasion::View));
        assert_eq!(told.next(&state(7, &[])), Some(Occasion::View), "it is closed again");
        assert_eq!(told.next(&state(7, &[])), None);
    }
}
