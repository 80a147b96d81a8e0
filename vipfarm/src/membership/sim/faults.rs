//! What goes wrong, and what operators do meanwhile.

use super::{
    super::{NodeId, Timers},
    farm::{Farm, Grief, MILLI},
    node::{Count, Kernel},
    rng::Rng,
};
use crate::model::{Abstention, VipId};

/// What the network does to datagrams.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    /// In percent.
    pub(super) loss: u64,
    /// At most, in nanoseconds.
    pub(super) delay: u64,
}

impl Weather {
    pub(super) const FAIR: Self = Self { loss: 0, delay: 300_000 };

    pub(super) fn random(rng: &mut Rng, timers: Timers) -> Self {
        let period = u64::try_from(timers.period.as_nanos()).expect("a short time");
        let loss = if rng.once_in(3) { rng.below(30) } else { rng.below(3) };
        let delay = if rng.once_in(3) { period / 4 } else { 300_000 };
        Self { loss, delay }
    }
}

impl Farm {
    /// A random history, and what comes of it.
    pub(super) fn survive(&mut self) -> Result<(), Grief> {
        self.suffer()?;
        self.settle()
    }

    /// A random history.
    pub(super) fn suffer(&mut self) -> Result<(), Grief> {
        let fail = self.fail_millis();
        // A large farm takes long, and what shows after many faults shows in small ones.
        let faults = if self.nodes.len() > 16 { 2 } else { 8 };
        for _ in 0..faults {
            let calm = 1 + self.rng.below(2 * fail);
            self.run_for(calm)?;
            let node = self.rng.index(self.nodes.len());
            let pause = 1 + self.rng.below(3 * fail);
            match self.rng.below(18) {
                0..=3 => self.freeze(node, pause),
                4..=5 => self.crash(node, pause),
                6 => self.power_off(node, pause),
                // In the whole building.
                16 => (0..self.nodes.len()).for_each(|node| self.power_off(node, pause)),
                7 => self.leave(node),
                // A joint freeze, as on one busy host.
                8 => (0..self.nodes.len()).for_each(|node| self.freeze(node, pause)),
                9..=10 => self.cut(node, pause),
                11 => self.deafen(node, pause),
                12 => self.partition(),
                13 => self.set_power(node),
                14 => self.stage(),
                15 => self.set_fit(node),
                // Flaws that few histories show need all of theirs.
                17 if self.is_sound() && self.rng.once_in(2) => self.abstain(node),
                17 => self.move_vip(node),
                _ => {}
            }
        }
        Ok(())
    }

    /// The agent is not run, its kernel is, and its socket goes on queueing.
    pub(super) fn freeze(&mut self, index: usize, pause: u64) {
        self.record(index, || format!("is frozen for {pause} ms"));
        self.nodes[index].frozen_until = self.now + pause * MILLI;
    }

    /// The agent dies; its kernel goes on for as long as the lease lets it.
    pub(super) fn crash(&mut self, index: usize, pause: u64) {
        self.record(index, || format!("has no agent for {pause} ms"));
        let restart = self.now + pause * MILLI;
        let node = &mut self.nodes[index];
        node.agent = None;
        node.socket.clear();
        node.unfinished.clear();
        node.installed = false;
        node.count = Count::None;
        node.turn_at = u64::MAX;
        node.restart_at.get_or_insert(restart);
    }

    fn power_off(&mut self, index: usize, pause: u64) {
        self.crash(index, pause);
        self.nodes[index].kernel = Kernel::FENCED;
        self.lose_sockets(index);
    }

    fn leave(&mut self, index: usize) {
        self.record(index, || "leaves".into());
        let (now, node) = (self.now, &mut self.nodes[index]);
        let clock = node.clock(now);
        if let Some(agent) = node.listening(now) {
            agent.leave(clock);
        }
        self.schedule(index);
    }

    /// One direction between two nodes.
    fn cut(&mut self, from: usize, pause: u64) {
        let to = self.rng.index(self.nodes.len());
        self.record(from, || format!("is not heard by {to} for {pause} ms"));
        self.path(from, to).cut_until = self.now + pause * MILLI;
        if self.rng.once_in(2) {
            self.path(to, from).cut_until = self.now + pause * MILLI;
        }
    }

    /// A node that hears nobody, or whom nobody hears.
    fn deafen(&mut self, index: usize, pause: u64) {
        let deaf = self.rng.once_in(2);
        self.record(index, || format!("is {} for {pause} ms", if deaf { "deaf" } else { "mute" }));
        let until = self.now + pause * MILLI;
        for other in 0..self.nodes.len() {
            let (from, to) = if deaf { (other, index) } else { (index, other) };
            self.path(from, to).cut_until = until;
        }
    }

    /// Two sides that do not hear each other.
    pub(super) fn partition(&mut self) {
        let side = self.rng.next();
        let pause = 1 + self.rng.below(3 * self.fail_millis());
        self.record(0, || format!("partition {side:b} for {pause} ms"));
        let until = self.now + pause * MILLI;
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if side >> from & 1 != side >> to & 1 {
                    self.path(from, to).cut_until = until;
                }
            }
        }
    }

    fn set_power(&mut self, by: usize) {
        let of = self.rng.index(self.nodes.len());
        let group = if self.rng.once_in(2) { None } else { Some(0) };
        let power = [None, Some(0), Some(7)][self.rng.index(3)];
        let persist = self.rng.once_in(2);
        self.record(by, || {
            format!("sets the power of {of} in {group:?} to {power:?}, persist {persist}")
        });
        self.give_power(by, group, of, power, persist);
    }

    /// An operator moves a failover VIP or takes that back, or its holder is to stay it.
    fn move_vip(&mut self, by: usize) {
        const VIP: VipId = VipId(7);
        let (of, persist) = (self.rng.index(self.nodes.len()), self.rng.once_in(2));
        let to = NodeId::new(of).filter(|_| !self.rng.once_in(4));
        let stays = self.rng.once_in(3);
        self.record(by, || format!("moves a VIP to {to:?}, persist {persist}, or stays: {stays}"));
        let (now, node) = (self.now, &mut self.nodes[by]);
        let clock = node.clock(now);
        if let Some(agent) = node.listening(now) {
            if stays {
                agent.stay(clock, &[VIP][..usize::from(persist)]);
            } else {
                let refused = agent.move_vip(clock, VIP, to, persist).err();
                let why = refused.map(|refused| refused.to_string()).unwrap_or_default();
                assert!(why.is_empty() || (!persist && why.contains("add --persist")), "{why}");
            }
        }
        self.schedule(by);
    }

    pub(super) fn give_power(
        &mut self,
        by: usize,
        group: Option<u8>,
        of: usize,
        power: Option<u16>,
        persist: bool,
    ) {
        let (now, node) = (self.now, &mut self.nodes[by]);
        let clock = node.clock(now);
        let of = NodeId::new(of).expect("a small farm");
        if let Some(agent) = node.listening(now) {
            let refused = agent.set_power(clock, group, of, power, persist).err();
            let why = refused.map(|refused| refused.to_string()).unwrap_or_default();
            assert!(why.is_empty() || (!persist && why.contains("add --persist")), "{why}");
        }
        self.schedule(by);
    }

    /// Another file on all nodes, on most or on one, whether or not the last one is in force yet;
    /// at times none, which takes back what was staged.
    fn stage(&mut self) {
        let file = [0, 1, 2, 3][self.rng.index(4)];
        let (force, skipped) = (self.rng.once_in(4), 1 + self.rng.below(8));
        for index in 0..self.nodes.len() {
            if self.rng.once_in(skipped) {
                continue;
            }
            self.give_file(index, file, force);
        }
    }

    /// Nodes that have not started yet are given one file or another.
    pub(super) fn mix_files(&mut self) {
        for index in 0..self.nodes.len() {
            self.nodes[index].file = [0, 1][self.rng.index(2)];
        }
    }

    fn give_file(&mut self, index: usize, file: u8, force: bool) {
        self.record(index, || format!("stages {file}, force {force}"));
        let (now, node) = (self.now, &mut self.nodes[index]);
        node.file = file;
        let clock = node.clock(now);
        if let Some(agent) = node.listening(now) {
            agent.stage(clock, [file; 16], force);
        }
        self.schedule(index);
    }

    /// The operator goes through with it: the file that comes next in all places.
    pub(super) fn stage_everywhere(&mut self) {
        let file = self.nodes.iter().map(|node| node.file).max().unwrap_or(0);
        (0..self.nodes.len()).for_each(|index| self.give_file(index, file, false));
    }

    /// From the only group, from all, or from nothing any more; with one file, or with all.
    fn abstain(&mut self, index: usize) {
        let from = [Abstention::NONE, Abstention::NONE.and_from(0), Abstention::ALL];
        let from = from[self.rng.index(3)];
        let files = if self.rng.once_in(2) { 0..4 } else { 0..1 };
        self.record(index, || format!("abstains from {from:?} with the files {files:?}"));
        let (now, node) = (self.now, &mut self.nodes[index]);
        let clock = node.clock(now);
        if let Some(agent) = node.listening(now) {
            agent.abstain(clock, files.map(|file| ([file; 16], from)).collect());
        }
        self.schedule(index);
    }

    fn set_fit(&mut self, index: usize) {
        let (now, node) = (self.now, &mut self.nodes[index]);
        let clock = node.clock(now);
        let Some(agent) = node.listening(now) else { return };
        let fit = !agent.fit;
        agent.set_fit(clock, fit);
        self.record(index, || format!("is fit: {fit}"));
        self.schedule(index);
    }
}
