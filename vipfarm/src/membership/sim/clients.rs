//! Clients and their connections: opened with the owner of a bucket, which may give that away, die
//! or be fenced before they end.
//!
//! A client sends a packet at every step. A node that accepts it without having its socket resets the
//! connection, which is wrong while the node that has it serves and the two could know of each other.

use super::{
    super::Membership,
    farm::{Farm, Grief},
    node::{self, Count, SimNode},
};

/// What a client has with a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connection {
    bucket: u32,
    server: usize,
    /// The server is still the machine that knows of it.
    has_socket: bool,
    /// The server has another agent since, which has not looked what lingers; or others were in a view
    /// without it, or have heard that it cannot serve.
    forsaken: bool,
}

/// What becomes of a packet at a node.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Served,
    /// Without a word.
    Dropped,
    Reset,
}

impl Farm {
    /// The kernel's decision on a packet that is no SYN.
    fn fate(&self, node: usize, connection: &Connection) -> Fate {
        let kernel = &self.nodes[node].kernel;
        let has = |bitmap: u64| bitmap >> connection.bucket & 1 == 1;
        let own = connection.server == node && connection.has_socket;
        if !self.nodes[node].is_leased(self.now) {
            return Fate::Dropped;
        }
        match (has(kernel.accept), own, has(kernel.moving)) {
            (true, true, _) | (false, true, true) => Fate::Served,
            (true, false, false) => Fate::Reset,
            (true, false, true) | (false, ..) => Fate::Dropped,
        }
    }

    /// Whether the node resets no connection of another one that serves; those that it may are gone.
    pub(super) fn check_connections(&mut self, node: usize) -> Result<(), Grief> {
        let mut connections = std::mem::take(&mut self.connections);
        let resets = |it: &Connection| self.fate(node, it) == Fate::Reset;
        let wrong = connections.iter().find(|it| resets(it) && !self.is_lost(it, node)).copied();
        connections.retain(|it| !resets(it) && !self.is_served_beside(it, node));
        self.connections = connections;
        wrong.map_or(Ok(()), |connection| Err(Grief::Reset(node, connection)))
    }

    /// Whether that node owns the bucket as well, on another side of a split: it will not ask who else
    /// has connections of it.
    fn is_served_beside(&self, connection: &Connection, node: usize) -> bool {
        let owns = self.nodes[node].accepting(self.now, false) >> connection.bucket & 1 == 1;
        connection.server != node && owns && self.are_split(connection.server, node)
    }

    /// Whether the connection cannot go on, or that node cannot know of it.
    fn is_lost(&self, connection: &Connection, node: usize) -> bool {
        let server = &self.nodes[connection.server];
        let files = |node: &SimNode| node.agent.as_ref().map(|agent| agent.digest);
        let view = self.nodes[node].agent.as_ref().and_then(Membership::view);
        let is_member =
            view.is_some_and(|it| it.alive.iter().any(|it| it.index() == connection.server));
        let leaves = server.agent.as_ref().is_some_and(|agent| agent.leave_by.is_some());
        // Who is only late is waited for.
        let is_waited_for = is_member && !server.is_barred();
        !connection.has_socket
            || connection.forsaken
            || leaves
            // Left behind by force, or held back.
            || (!is_member && files(server) != files(&self.nodes[node]))
            || !(server.is_leased(self.now) || is_waited_for)
            || self.are_split(connection.server, node)
    }

    /// Whether each connection reaches its server; where that has forgotten it, others may keep the
    /// owner from resetting it as long as they last.
    pub(super) fn are_answered(&self) -> bool {
        let served = |it: &Connection| self.fate(it.server, it) == Fate::Served;
        let others = |bucket| self.connections.iter().any(|it| it.bucket == bucket && served(it));
        self.connections.iter().all(|it| served(it) || (!it.has_socket && others(it.bucket)))
    }

    /// The machine forgets its connections.
    pub(super) fn lose_sockets(&mut self, server: usize) {
        let lost = self.connections.iter_mut().filter(|it| it.server == server);
        lost.for_each(|it| it.has_socket = false);
    }

    /// Nobody knows any more what lingers with such servers.
    pub(super) fn forsake(&mut self, which: impl Fn(usize) -> bool) {
        let lost = self.connections.iter_mut().filter(|it| which(it.server));
        lost.for_each(|it| it.forsaken = true);
    }

    /// All connections end, and there will be no others.
    pub(super) fn close_for_good(&mut self) {
        self.connections.clear();
        self.most_connections = 0;
    }

    /// Some connections come, some end, and now and then a node counts its own.
    pub(super) fn clients_act(&mut self) {
        let node = self.clients.index(self.nodes.len());
        match self.clients.below(40) {
            0..=1 => self.connect(),
            2 if !self.connections.is_empty() => {
                let ended = self.clients.index(self.connections.len());
                self.connections.swap_remove(ended);
            }
            3..=8 => self.count(node),
            _ => {}
        }
    }

    fn connect(&mut self) {
        let bucket = u32::try_from(self.clients.below(64)).expect("a bucket");
        let accepts =
            |&node: &usize| self.nodes[node].accepting(self.now, false) >> bucket & 1 == 1;
        if let Some(server) = (0..self.nodes.len()).find(accepts)
            && self.connections.len() < self.most_connections
        {
            self.connections.push(Connection { bucket, server, has_socket: true, forsaken: false });
        }
    }

    /// What the runtime does each second: it looks what lingers, then for sockets, then it tells.
    fn count(&mut self, index: usize) {
        let here = |it: &&Connection| it.server == index && it.has_socket;
        let used = self.connections.iter().filter(here).fold(0, |used, it| used | 1 << it.bucket);
        let node = &mut self.nodes[index];
        if node.listening(self.now).is_none() {
            return;
        }
        let lingering = node::word(node.share.lingering());
        node.count = match node.count {
            Count::None if lingering != 0 => Count::Begun(node.share.steps(), lingering),
            Count::Begun(step, lingering) => Count::Done(step, used | !lingering),
            other => other,
        };
    }

    /// The agent takes what was counted.
    pub(super) fn obey(&mut self, index: usize) -> Result<(), Grief> {
        let (now, node) = (self.now, &mut self.nodes[index]);
        if let Count::Done(step, kept) = node.count {
            node.count = Count::None;
            node.share.keep(step, &[node::bitmap(kept)]);
            node.apply();
            node.tell(now);
        }
        self.check_connections(index)
    }

    /// The agent takes what the others say.
    pub(super) fn hear(&mut self, index: usize) -> Result<(), Grief> {
        let node = &mut self.nodes[index];
        let clock = node.clock(self.now);
        if let Some(agent) = &node.agent {
            node.share.hear(agent, clock);
            node.apply();
        }
        self.check_connections(index)
    }
}
