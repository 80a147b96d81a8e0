//! What a node looks at now and then to know whether it can serve, and whom it tells.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Farm, Vip};

/// Something that must be right for a node to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is looked at.
    pub probe: Probe,
    /// From the beginning of one look to that of the next.
    pub interval: Duration,
    /// How long a look may take: at most `interval`.
    pub timeout: Duration,
    /// How many looks in a row must be good for a check that fails to pass again.
    pub rise: u16,
    /// How many looks in a row must be bad for a check that passes to fail.
    pub fall: u16,
    /// What follows when it fails.
    pub effect: Effect,
}

impl Check {
    /// [`Check::interval`] of a file that says nothing, of most kinds: [`Probe::interval`].
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// [`Check::timeout`] of a file that says nothing, unless `interval` is shorter.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// [`Check::rise`] of a file that says nothing.
    pub const RISE: u16 = 2;
    /// [`Check::fall`] of a file that says nothing.
    pub const FALL: u16 = 3;
}

/// What a check looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection can be opened.
    Tcp(SocketAddr),
    /// A GET request is answered by one of those status codes.
    Http(HttpProbe),
    /// A program ends with 0.
    Exec(Run),
    /// A file is there, or is not.
    File {
        /// Its absolute path.
        path: PathBuf,
        /// Whether it is to be there.
        present: bool,
    },
    /// A network interface is up and has a carrier.
    Interface(String),
    /// No other machine and no other farm has claimed a VIP that the check is about since the look before.
    Unclaimed,
}

impl Probe {
    /// The least [`Check::interval`] of [`Probe::Unclaimed`]: nodes ask for such VIPs every 2 s, read
    /// within a second what was answered, and may be late by another one. Whoever looked sooner would take
    /// silence for an answer.
    pub const SHORTEST_UNCLAIMED: Duration = Duration::from_secs(4);

    /// [`Check::interval`] of a file that says nothing.
    pub fn interval(&self) -> Duration {
        if *self == Self::Unclaimed { Duration::from_secs(5) } else { Check::INTERVAL }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Http(probe) => write!(f, "http {probe}"),
            Self::Exec(run) => write!(f, "exec {run}"),
            Self::File { path, present: true } => write!(f, "file {}", path.display()),
            Self::File { path, present: false } => write!(f, "no file {}", path.display()),
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::Unclaimed => f.write_str("unclaimed"),
        }
    }
}

/// A request to a web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Whether it is wrapped in TLS.
    pub tls: bool,
    /// The server's name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path and query, from the `/` on.
    pub path: String,
    /// The status codes that are right, at least one.
    pub status: Vec<u16>,
    /// Whether the server's certificate must be one for that name, by an authority that this machine
    /// trusts.
    pub verify: bool,
}

impl fmt::Display for HttpProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl HttpProbe {
    /// Host and port as a URL and the `Host` header have them.
    pub fn authority(&self) -> String {
        let Self { host, port, tls, .. } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == Self::default_port(*tls) { host } else { format!("{host}:{port}") }
    }

    /// Of a URL that names none.
    pub fn default_port(tls: bool) -> u16 {
        if tls { 443 } else { 80 }
    }
}

/// A program and as whom to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its absolute path, then its arguments.
    pub argv: Vec<String>,
    /// The user, by name or number; `None` = the agent's.
    pub user: Option<String>,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.argv.join(" "))
    }
}

/// What a check is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// All that the farm has.
    All,
    /// A VIP block, by its first address.
    Vip(IpAddr),
    /// A group, by its name.
    Group(String),
}

impl About {
    /// That block.
    pub fn vip(block: &Vip) -> Self {
        Self::Vip(block.addresses[0].addr)
    }

    /// Whether that block, or a part of it, is what it is about.
    fn covers(&self, block: &Vip) -> bool {
        match self {
            Self::All => true,
            Self::Vip(_) => *self == Self::vip(block),
            Self::Group(name) => block.groups.iter().any(|group| group.name == *name),
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Vip(vip) => write!(f, "vip {vip}"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

impl Farm {
    /// All checks, with what each is about, in the order of the file.
    pub fn all_checks(&self) -> impl Iterator<Item = (About, &Check)> {
        let of_all = self.checks.iter().map(|check| (About::All, check));
        let blocks = self.vips.iter().flat_map(|block| {
            let own = block.checks.iter().map(move |check| (About::vip(block), check));
            let groups = block.groups.iter().flat_map(|group| {
                let about = move |check| (About::Group(group.name.clone()), check);
                group.checks.iter().map(about)
            });
            own.chain(groups)
        });
        of_all.chain(blocks)
    }

    /// The VIP blocks that something is about.
    pub fn blocks(&self, about: &About) -> impl Iterator<Item = &Vip> {
        self.vips.iter().filter(|block| about.covers(block))
    }

    /// Whether a check wants to know who else claims a VIP of that block.
    pub fn must_be_unclaimed(&self, block: &Vip) -> bool {
        let mut checks = self.all_checks();
        checks.any(|(about, check)| check.probe == Probe::Unclaimed && about.covers(block))
    }

    /// Whether checks or hooks run as the agent's own user.
    pub fn runs_as_agent(&self) -> bool {
        let mut checks = self.all_checks();
        let is_own = |check: &Check| matches!(&check.probe, Probe::Exec(run) if run.user.is_none());
        let hooks = self.hooks.user.is_none() && self.hooks.programs().next().is_some();
        hooks || checks.any(|(_, check)| is_own(check))
    }

    /// Whether checks or hooks run as other users than the agent.
    pub fn runs_as_others(&self) -> bool {
        let mut checks = self.all_checks();
        let is_other =
            |check: &Check| matches!(&check.probe, Probe::Exec(run) if run.user.is_some());
        self.hooks.user.is_some() || checks.any(|(_, check)| is_other(check))
    }
}

/// What follows when a check fails. In both cases the node serves nothing of what the check is about
/// until it passes again, and the powers that operators set stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// New clients go to other nodes; open connections stay until they end.
    Drain,
    /// Open connections are reset as well, so that their clients connect anew elsewhere.
    Leave,
}

/// Programs that are told of what happens to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Another view is in force.
    pub on_view: Option<Vec<String>>,
    /// The node serves from now on.
    pub on_ready: Option<Vec<String>>,
    /// The node serves nothing any more.
    pub on_closed: Option<Vec<String>>,
    /// How long each may run.
    pub timeout: Duration,
    /// As whom they run, by name or number; `None` = the agent's user.
    pub user: Option<String>,
}

impl Hooks {
    /// The programs, with the key of each.
    pub fn programs(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        let all = [
            ("on_view", &self.on_view),
            ("on_ready", &self.on_ready),
            ("on_closed", &self.on_closed),
        ];
        all.into_iter().filter_map(|(key, program)| Some((key, program.as_deref()?)))
    }

    /// [`Hooks::timeout`] of a file that says nothing.
    pub const TIMEOUT: Duration = Duration::from_secs(10);
}

impl Default for Hooks {
    fn default() -> Self {
        let timeout = Self::TIMEOUT;
        Self { on_view: None, on_ready: None, on_closed: None, timeout, user: None }
    }
}

/// Where the agent answers read-only HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// The addresses of all nodes: each node listens on those that are its own. None = nowhere.
    pub listen: Vec<SocketAddr>,
    /// The `SafeKit` module in whose place the farm is: `/var/modules/NAME/ready.txt` is answered too.
    pub safekit_module: Option<String>,
}
