//! What an agent that is to stop has to know.

use std::time::Duration;

use super::Reporter;
use crate::model::View;

impl Reporter {
    /// Has the other nodes serve everything new: whether they do, or none of them can. Then this one goes
    /// on: silence would be no help to anybody.
    pub(in crate::agent) fn give_away(&self) -> bool {
        if !self.others_can_serve() {
            return true;
        }
        self.health.leave_all_to_others();
        self.has_given_away()
    }

    /// Whether other nodes would own anything if this one was not there.
    fn others_can_serve(&self) -> bool {
        let snapshot = self.latest.get();
        let config = self.configurations.get(snapshot.digest);
        let view = View::clone(&snapshot.view).without(self.own);
        config.kernel_groups().any(|(number, vip, _)| {
            let table = config.port_of(vip).table(number, &view);
            view.owners().iter().any(|node| table.load(node) > 0)
        })
    }

    /// Whether this node takes nothing new, and the farm has agreed that it is not to.
    fn has_given_away(&self) -> bool {
        let snapshot = self.latest.get();
        let view = &snapshot.view;
        let is_out = !view.alive.contains(self.own);
        let is_agreed = || self.health.is_agreed(view.digest, view.abstentions.of(self.own));
        let mut accept = snapshot.accept.iter().flatten();
        accept.all(|bitmap| bitmap.is_empty()) && (is_out || is_agreed())
    }

    /// How many connections are open that this node can go on with.
    pub(in crate::agent) async fn open_connections(&self) -> anyhow::Result<usize> {
        self.linger.open(self.own).await
    }

    /// How long the file would have open connections waited for when the agent is to stop.
    pub(in crate::agent) fn stop_timeout(&self) -> Duration {
        self.configurations.get(self.latest.get().digest).farm.stop_timeout
    }

    /// How long the programs may take that are told of the end.
    pub(in crate::agent) fn hooks_time(&self) -> Duration {
        let config = self.configurations.get(self.latest.get().digest);
        let hooks = &config.farm.hooks;
        // One of them may be at work.
        let programs = [&hooks.on_view, &hooks.on_ready, &hooks.on_closed].map(Option::is_some);
        hooks.timeout * u32::try_from(programs.iter().filter(|&&is| is).count()).unwrap_or(0)
    }
}
