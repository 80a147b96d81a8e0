//! When two agents are in the same state: all that decides what they do next is equal. Counters and
//! what is waiting to be told are not part of it.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::super::Membership;

#[derive(Debug, Clone)]
pub(in crate::membership) struct Agent(pub(in crate::membership) Arc<Membership>);

impl Agent {
    fn parts(&self) -> impl Hash + PartialEq + '_ {
        let agent = &*self.0;
        let node = (agent.incarnation, agent.state as u8, agent.fit, &agent.peers, &agent.sent);
        let heard = (agent.hears, agent.linked, agent.digest, agent.staged, agent.forced);
        let views = (&agent.promised.stamp, agent.ready, agent.installed.as_ref().map(|v| v.stamp));
        let known = (agent.barred, &agent.overrides, agent.max_epoch, &agent.lease);
        let due = (agent.listen_until, agent.next_proposal, agent.next_heartbeat, agent.announce);
        let turn = (
            agent.wake,
            agent.last_turn,
            agent.held_back_by,
            agent.leave_by,
            agent.left,
            agent.listening,
            (agent.sides, agent.cut_off_until),
        );
        let told = (agent.mute, agent.unbarred_since, &agent.lingering);
        (node, heard, views, known, due, turn, told)
    }
}

impl PartialEq for Agent {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Agent {}

impl Hash for Agent {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.parts().hash(hasher);
    }
}
