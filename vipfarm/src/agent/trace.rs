//! `vipfarm trace`: one client's frames as the kernels' programs tell of them, with names.
//!
//! A trace lives as long as somebody asks for what is new: it ends when he goes away, and a few seconds
//! after the last answer. Meanwhile all that is for a VIP takes the slow path.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use vipfarm_common::{
    Reason,
    trace::{Traced, Wanted},
};

use super::{
    command::{Command, Commander},
    configurations::Configuration,
    engine::Snapshot,
    explain,
    history::{History, Level, rfc3339},
    judge::{Judge, Judged},
    realtime,
};
use crate::{
    datapath::{Datapath, Error, Follower},
    host::HostTables,
    model::{Farm, Mac, Proto, Rule},
    status::{HostPort, TraceQuery, TracedFrame},
    summary::Summary,
};

/// How long a question waits for something new.
pub const TRACE_WAIT: Duration = Duration::from_secs(2);

/// How often the kernel's buffers are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// How long a trace outlives the last answer.
const IDLE: Duration = Duration::from_secs(3);

/// The MACs in the frames judged here, which the kernel may have rewritten.
const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const CLIENT: Mac = Mac([3, 0xff, 0, 0, 0, 1]);

/// Runs one trace at a time.
#[derive(Clone)]
pub(super) struct Tracer(Arc<Mutex<State>>);

struct State {
    /// By interface.
    followers: Vec<Follower>,
    commander: Commander,
    history: Arc<History>,
    session: Option<Session>,
}

struct Session {
    query: TraceQuery,
    answered: Instant,
    asked: bool,
    /// What the kernels had lost when it was last looked at.
    lost: u64,
}

impl Tracer {
    pub(super) fn new(
        datapaths: &mut [Datapath],
        commander: &Commander,
        history: &Arc<History>,
    ) -> Result<Self, Error> {
        let followers = datapaths.iter_mut().map(Datapath::take_follower);
        Ok(Self(Arc::new(Mutex::new(State {
            followers: followers.collect::<Result<_, _>>()?,
            commander: commander.clone(),
            history: Arc::clone(history),
            session: None,
        }))))
    }

    /// Begins a trace, or goes on with it.
    pub(super) fn ask(&self, query: TraceQuery) -> Result<Asking, String> {
        self.state().begin(query)?;
        Ok(Asking { tracer: self.clone(), answered: false })
    }

    /// Ends a trace that nobody asks about any more. To be called every second.
    pub(super) fn end_idle(&self) {
        let mut state = self.state();
        let is_idle = |session: &Session| !session.asked && session.answered.elapsed() > IDLE;
        if state.session.as_ref().is_some_and(is_idle) {
            state.end();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, query: TraceQuery) -> Result<(), String> {
        match &mut self.session {
            Some(session) if session.query == query && !session.asked => session.asked = true,
            Some(Session { query: TraceQuery { client, .. }, .. }) => {
                return Err(format!("{client} is being traced: one client at a time"));
            }
            None => {
                // What an earlier trace has left.
                self.frames();
                let lost = self.lost();
                let begun = self.want(wanted(query)).map_err(|error| error.to_string());
                let detour = || self.commander.send(Command::Detour(true));
                let begun = begun.and_then(|()| detour().map_err(|error| error.to_string()));
                if begun.is_err() {
                    // Nobody would end what some of them have begun; that cannot be told better.
                    let _ = self.want(Wanted::default());
                }
                begun?;
                let message = format!(
                    "the packets of {} are traced: all for the VIPs take the slow path meanwhile",
                    HostPort { addr: query.client, port: query.client_port }
                );
                self.history.push(Level::Info, "trace", message);
                let answered = Instant::now();
                self.session = Some(Session { query, answered, asked: true, lost });
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        let Some(session) = self.session.take() else { return };
        let unwanted = self.want(Wanted::default());
        let client = session.query.client;
        match unwanted.map_err(|error| error.to_string()) {
            Ok(()) => self.history.push(Level::Info, "trace", format!("{client}: traced no more")),
            Err(error) => self.history.push(Level::Warn, "trace", format!("{client}: {error}")),
        }
        // The thread has ended: so has its lease.
        let _ = self.commander.send(Command::Detour(false));
    }

    /// Has all interfaces tell of those frames.
    fn want(&mut self, wanted: Wanted) -> Result<(), Error> {
        of_each(&mut self.followers, |follower| follower.want(wanted))
    }

    /// Those that wait, with the places of their interfaces.
    fn frames(&mut self) -> Vec<(usize, Traced)> {
        let followers = self.followers.iter_mut().enumerate();
        let of = |(place, follower): (usize, &mut Follower)| {
            std::iter::from_fn(|| follower.take()).map(|frame| (place, frame)).collect::<Vec<_>>()
        };
        followers.flat_map(of).collect()
    }

    fn lost(&self) -> u64 {
        self.followers.iter().filter_map(|follower| follower.lost().ok()).sum()
    }
}

/// Somebody asks for what is new. Dropped before the answer it ends the trace: he is gone.
pub(super) struct Asking {
    tracer: Tracer,
    answered: bool,
}

impl Asking {
    /// The frames since the last answer, with the places of their interfaces, and how many are missing;
    /// waits until there is one, or for [`TRACE_WAIT`].
    pub(super) async fn answer(mut self) -> (Vec<(usize, Traced)>, u64) {
        let begin = Instant::now();
        loop {
            {
                let mut state = self.tracer.state();
                let (frames, lost) = (state.frames(), state.lost());
                if !frames.is_empty() || begin.elapsed() >= TRACE_WAIT {
                    self.answered = true;
                    let Some(session) = &mut state.session else { return (frames, 0) };
                    session.asked = false;
                    session.answered = Instant::now();
                    // One that cannot tell has lost none.
                    let new = lost.saturating_sub(std::mem::replace(&mut session.lost, lost));
                    return (frames, new);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.answered {
            self.tracer.state().end();
        }
    }
}

/// Does it with each, whatever becomes of the others; the first error.
fn of_each<T, E>(all: &mut [T], each: impl FnMut(&mut T) -> Result<(), E>) -> Result<(), E> {
    all.iter_mut().map(each).fold(Ok(()), Result::and)
}

fn wanted(query: TraceQuery) -> Wanted {
    let (client, family) = match query.client {
        IpAddr::V4(client) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&client.octets());
            (bytes, 4)
        }
        IpAddr::V6(client) => (client.octets(), 6),
    };
    let port = query.client_port.unwrap_or(0).to_be_bytes();
    Wanted { client, port, family, padding: 0 }
}

/// Frames of one interface, with names: the verdict is the kernel's, its bucket and owner follow from
/// the state in force. Those that are nobody's VIP's are left out.
pub(super) fn named(
    config: &Configuration,
    snapshot: &Snapshot,
    hash_key: [u8; 16],
    (place, interface): (usize, &str),
    frames: &[&Traced],
) -> Vec<TracedFrame> {
    let port = &config.ports[place];
    let tables = HostTables::new(&port.plan(), hash_key, OWN);
    let judge = Judge::new(&config.farm, &snapshot.view, port, tables);
    let (wall, boot) = (SystemTime::now(), realtime::now().as_nanos());
    let name = |traced: &&Traced| {
        let reason = Reason::from_code(usize::try_from(traced.code).ok()?)?;
        let mut frame = traced.frame().to_vec();
        let packet = Summary::of(&frame);
        if frame.first().is_some_and(|first| first & 1 == 0) {
            frame[..6].copy_from_slice(&OWN.0);
        }
        frame.get_mut(6..12)?.copy_from_slice(&CLIENT.0);
        let Judged { bucket, group, owner, .. } = judge.judge(&mut frame);
        let ago = Duration::from_nanos(boot.saturating_sub(traced.boot_ns));
        Some(TracedFrame {
            time: rfc3339(wall.checked_sub(ago).unwrap_or(wall)),
            interface: interface.to_owned(),
            verdict: reason.verdict().as_str().into(),
            reason: reason.as_str().into(),
            bucket,
            group: group.map(str::to_owned),
            owner: owner.map(str::to_owned),
            rule: rule(&config.farm, &packet).map(explain::describe),
            packet,
        })
    };
    frames.iter().filter_map(name).collect()
}

/// The rule for a packet of TCP or UDP.
fn rule<'f>(farm: &'f Farm, packet: &Summary) -> Option<&'f Rule> {
    let proto = match packet.proto() {
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        _ => return None,
    };
    let HostPort { addr, port } = packet.target().parse().ok()?;
    let tags: Vec<u16> = packet.vlans().iter().copied().filter(|&id| id != 0).collect();
    let mut blocks = farm.vips.iter().filter(|block| block.vlan.ids() == tags);
    let block = blocks.find(|block| block.addresses.iter().any(|vip| vip.addr == addr))?;
    block.rule_for(addr, proto, Some(port?)).map(|(_, rule)| rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_refuses_is_done_with_the_others() {
        let mut all = [1, 2, 3];
        let double = |it: &mut i32| {
            *it *= 2;
            if *it == 6 { Ok(()) } else { Err(*it) }
        };
        assert_eq!(of_each(&mut all, double), Err(2), "the first error");
        assert_eq!(all, [2, 4, 6]);
    }
}
