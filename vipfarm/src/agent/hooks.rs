//! Tells the operator's own programs what happens to this node: of a new view, that the node serves,
//! and that it serves nothing any more.
//!
//! One runs at a time, beside everything else, so that none can hold the agent up. Each is told how
//! things are when it starts: what has changed back while another one ran is not told of, and of
//! several views the last one.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle, time};

use super::{
    alone::Alone,
    bring_up::Up,
    configurations::Configurations,
    engine::{Latest, Snapshot},
    history::{History, Level},
    program, readiness,
};
use crate::model::{Farm, Hooks as Programs, NodeId, Run};

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

/// What the programs were told last.
#[derive(Debug, Default)]
struct Told {
    epoch: u64,
    serves: bool,
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
    /// What there is to tell.
    fn news(&mut self, epoch: u64, serves: bool) -> Vec<Occasion> {
        let mut news = Vec::new();
        if epoch != self.epoch {
            news.push(Occasion::View);
        }
        if serves != self.serves {
            news.push(if serves { Occasion::Ready } else { Occasion::Closed });
        }
        *self = Self { epoch, serves };
        news
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
                _ = looks.tick() => {}
                _ = &mut ended => break,
            }
            let snapshot = self.latest.get();
            let config = self.configurations.get(snapshot.digest);
            let serves = readiness::is_ready(&config, &snapshot, None) == Some(true);
            self.tell(&config.farm, &snapshot, serves).await;
        }
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        self.tell(&config.farm, &snapshot, false).await;
    }

    async fn tell(&mut self, farm: &Farm, snapshot: &Snapshot, serves: bool) {
        for occasion in self.told.news(snapshot.view.epoch, serves) {
            let hooks = &farm.hooks;
            let Some(argv) = occasion.program(hooks) else { continue };
            let run = Run { argv: argv.clone(), user: hooks.user.clone() };
            let environment = environment(farm, self.own, snapshot, occasion, serves);
            let environment: Vec<_> =
                environment.iter().map(|(key, value)| (*key, &**value)).collect();
            if let Err(error) = program::run(&run, &environment, hooks.timeout, &self.alone).await {
                let message = format!("{} {run}: {error}", occasion.key());
                self.history.push(Level::Warn, "hook_failed", message);
            }
        }
    }
}

fn environment(
    farm: &Farm,
    own: NodeId,
    snapshot: &Snapshot,
    occasion: Occasion,
    serves: bool,
) -> [(&'static str, String); 7] {
    let alive = snapshot.view.alive.iter().filter_map(|node| farm.node(node));
    let alive: Vec<_> = alive.map(|node| node.name.as_str()).collect();
    [
        ("VIPFARM_HOOK", occasion.key().into()),
        ("VIPFARM_FARM", farm.name.clone()),
        ("VIPFARM_NODE", farm.nodes[own.index()].name.clone()),
        ("VIPFARM_STATE", snapshot.state.as_str().into()),
        ("VIPFARM_READY", if serves { "yes" } else { "no" }.into()),
        ("VIPFARM_EPOCH", snapshot.view.epoch.to_string()),
        ("VIPFARM_ALIVE", alive.join(" ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once_and_the_view_first() {
        let mut told = Told::default();
        assert_eq!(told.news(0, false), []);
        assert_eq!(told.news(3, true), [Occasion::View, Occasion::Ready]);
        assert_eq!(told.news(3, true), []);
        assert_eq!(told.news(5, true), [Occasion::View]);
        assert_eq!(told.news(5, false), [Occasion::Closed]);
        assert_eq!(told.news(6, false), [Occasion::View]);
    }
}
