//! Tells systemd that the agent serves, that its heartbeat thread goes on, and that it stops; see
//! `sd_notify(3)`. Where the environment names nobody to tell, nothing happens.

use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    future::{self, Future},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use tokio::time;

/// How often to look for the thread's first turn.
const FIRST_LOOK: Duration = Duration::from_millis(20);

/// How often to look at the node's state, at least.
const LOOK: Duration = Duration::from_secs(1);

/// How long leaving the farm and taking everything down may take, by far.
const LEAVING: Duration = Duration::from_secs(30);

/// The way to systemd.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
    /// Without a sign of life for that long systemd ends the agent.
    watchdog: Option<Duration>,
}

/// What was told last.
#[derive(Debug, Default)]
struct Told {
    turns: u64,
    status: String,
}

impl Notifier {
    /// To whom the environment says.
    pub(super) fn from_environment() -> Self {
        Self::new(|variable| std::env::var_os(variable)).unwrap_or_else(|error| {
            tracing::warn!("systemd will not be told that the agent serves: {error}");
            Self::default()
        })
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>) -> io::Result<Self> {
        let socket = variable("NOTIFY_SOCKET").map(|address| connect(&address)).transpose()?;
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        // A process that was started by the one that is watched inherits its variables.
        let is_meant = variable("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(process::id().into());
        let watchdog = number("WATCHDOG_USEC").filter(|&micros| is_meant && micros > 0);
        Ok(Self { socket, watchdog: watchdog.map(Duration::from_micros) })
    }

    /// Tells of the thread's first turn and then, at least twice in the time that systemd allows,
    /// that there were more since; and of each new `status`, a line for people.
    pub(super) async fn follow(
        &self,
        turns: &AtomicU64,
        status: impl Fn() -> String,
    ) -> Infallible {
        if self.socket.is_none() {
            return future::pending().await;
        }
        let mut told = Told::default();
        while turns.load(Ordering::Relaxed) == 0 || !self.tell("READY=1") {
            time::sleep(FIRST_LOOK).await;
        }
        let mut looks = time::interval(self.pace());
        loop {
            looks.tick().await;
            let news = told.news(turns.load(Ordering::Relaxed), status());
            if !news.is_empty() {
                self.tell(&news);
            }
        }
    }

    /// Gives signs of life for as long as that takes, while there is no thread whose turns would be some.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut signs = time::interval(self.pace());
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = signs.tick() => self.tell("WATCHDOG=1"),
            };
        }
    }

    /// At least twice in the time that systemd allows.
    fn pace(&self) -> Duration {
        self.watchdog.map_or(LOOK, |limit| LOOK.min(limit / 2))
    }

    /// Tells that the agent is being replaced in its process, whose next [`Notifier::follow`] tells that
    /// it is there again.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
        let micros = now.unwrap_or_default().as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nWATCHDOG=1"));
    }

    /// Tells that the agent will end, after at most that time and what it needs to leave, which the
    /// unit's `TimeoutStopSec` need not cover.
    pub(super) fn stopping(&self, within: Duration) {
        let micros = (within + LEAVING).as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}"));
    }

    /// Says whether it was taken; never waits for that.
    fn tell(&self, news: &str) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.send(news.as_bytes()).is_ok())
    }
}

impl Told {
    /// What there is to tell; nothing of the watchdog if the thread stands still.
    fn news(&mut self, turns: u64, status: String) -> String {
        let moved = (turns != self.turns).then(|| "WATCHDOG=1\n".to_owned());
        let changed = (status != self.status).then(|| format!("STATUS={status}\n"));
        *self = Self { turns, status };
        moved.into_iter().chain(changed).collect()
    }
}

/// A socket to a path, or to an abstract name, which begins with `@`.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(address),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("NOTIFY_SOCKET={} is no path and no @name", address.display()),
        )),
    }?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A notifier in such an environment.
    fn notifier(variables: &[(&str, &str)]) -> io::Result<Notifier> {
        Notifier::new(|wanted| {
            let variable = variables.iter().find(|(name, _)| *name == wanted);
            variable.map(|(_, value)| value.into())
        })
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid time-out");
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Runs a notifier for as long as `work` takes.
    fn following(notifier: &Notifier, turns: &AtomicU64, work: impl FnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                runtime.expect("a runtime").block_on(async {
                    tokio::select! {
                        never = notifier.follow(turns, || "up".into()) => match never {},
                        _ended = ended => {}
                    }
                });
            });
            work();
            drop(end);
        });
    }

    #[test]
    fn systemd_hears_of_the_first_turn_and_of_those_that_follow() {
        let path = std::env::temp_dir().join(format!("vipfarm-notify-{}", process::id()));
        let _ = fs::remove_file(&path);
        let systemd = UnixDatagram::bind(&path).expect("unused");
        let path_text = path.to_str().expect("a temporary directory in UTF-8");
        let variables = [("NOTIFY_SOCKET", path_text), ("WATCHDOG_USEC", "20000")];
        let notifier = notifier(&variables).expect("a socket");
        let turns = AtomicU64::new(0);
        following(&notifier, &turns, || {
            systemd.set_nonblocking(true).expect("a valid mode");
            std::thread::sleep(3 * FIRST_LOOK);
            systemd.recv(&mut [0; 8]).expect_err("no turn yet");
            systemd.set_nonblocking(false).expect("a valid mode");
            turns.store(1, Ordering::Relaxed);
            assert_eq!(heard(&systemd), "READY=1");
            assert_eq!(heard(&systemd), "WATCHDOG=1\nSTATUS=up\n");
            for turn in 2..5 {
                turns.store(turn, Ordering::Relaxed);
                assert_eq!(heard(&systemd), "WATCHDOG=1\n");
            }
            systemd.set_nonblocking(true).expect("a valid mode");
            std::thread::sleep(Duration::from_millis(60));
            systemd.recv(&mut [0; 8]).expect_err("the thread stands still");
            systemd.set_nonblocking(false).expect("a valid mode");
            notifier.reloading();
            assert!(heard(&systemd).starts_with("RELOADING=1\nMONOTONIC_USEC="));
            notifier.stopping(Duration::from_secs(10));
            assert_eq!(heard(&systemd), "STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000");
        });
        fs::remove_file(&path).expect("it was there");
    }

    #[test]
    fn there_are_signs_of_life_while_something_else_is_at_work() {
        let name = format!("vipfarm-notify-during-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let systemd = UnixDatagram::bind_addr(&address).expect("unused");
        let name = format!("@{name}");
        let variables = [("NOTIFY_SOCKET", &*name), ("WATCHDOG_USEC", "20000")];
        let notifier = notifier(&variables).expect("a socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let work = async {
            notifier.during(time::sleep(Duration::from_millis(50))).await;
        };
        runtime.expect("a runtime").block_on(work);
        for _ in 0..3 {
            assert_eq!(heard(&systemd), "WATCHDOG=1");
        }
    }

    #[test]
    fn a_thread_that_stands_still_is_no_sign_of_life() {
        let mut told = Told::default();
        assert_eq!(told.news(1, "up".into()), "WATCHDOG=1\nSTATUS=up\n");
        assert_eq!(told.news(1, "up".into()), "");
        assert_eq!(told.news(1, "fenced".into()), "STATUS=fenced\n");
        assert_eq!(told.news(2, "fenced".into()), "WATCHDOG=1\n");
    }

    #[test]
    fn an_abstract_name_is_reached() {
        let name = format!("vipfarm-notify-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let systemd = UnixDatagram::bind_addr(&address).expect("unused");
        let notifier = notifier(&[("NOTIFY_SOCKET", &format!("@{name}"))]).expect("a socket");
        notifier.stopping(Duration::from_secs(10));
        assert_eq!(heard(&systemd), "STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000");
    }

    #[test]
    fn without_a_socket_nothing_happens() {
        let notifier = notifier(&[]).expect("nothing to connect to");
        assert!(notifier.socket.is_none() && notifier.watchdog.is_none());
        notifier.stopping(Duration::from_secs(10));
        following(&notifier, &AtomicU64::new(1), || {});
    }

    #[test]
    fn an_address_that_cannot_be_used_is_an_error() {
        for address in ["", "relative", "vsock:2:1234", "/nowhere/notify"] {
            notifier(&[("NOTIFY_SOCKET", address)]).expect_err(address);
        }
    }

    #[test]
    fn only_a_watchdog_that_is_meant_for_this_process_is_fed() {
        let own = process::id().to_string();
        for (micros, pid, watchdog) in [
            ("2000000", None, Some(Duration::from_secs(2))),
            ("2000000", Some(own.as_str()), Some(Duration::from_secs(2))),
            ("2000000", Some("1"), None),
            ("2000000", Some(""), None),
            ("0", None, None),
            ("soon", None, None),
        ] {
            let mut variables = vec![("WATCHDOG_USEC", micros)];
            variables.extend(pid.map(|pid| ("WATCHDOG_PID", pid)));
            let notifier = notifier(&variables).expect("nothing to connect to");
            assert_eq!(notifier.watchdog, watchdog, "{variables:?}");
        }
    }
}
