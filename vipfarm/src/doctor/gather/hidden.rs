//! What the agent's unit of systemd hides from the checks and hooks that it runs.

use std::process::{Command, Stdio};

/// The folders; none where there is no systemd or no such unit.
pub(super) fn by_unit() -> Vec<&'static str> {
    let mut show = Command::new("systemctl");
    show.args(["show", "vipfarm.service", "--property=ProtectHome,PrivateTmp"]);
    let shown = show.stdin(Stdio::null()).stderr(Stdio::null()).output();
    shown.map_or_else(|_none| Vec::new(), |it| folders(&String::from_utf8_lossy(&it.stdout)))
}

fn folders(shown: &str) -> Vec<&'static str> {
    let is = |line: &str| shown.lines().any(|shown| shown == line);
    let home = is("ProtectHome=yes") || is("ProtectHome=tmpfs");
    let tmp = is("PrivateTmp=yes") || is("PrivateTmp=disconnected");
    let home: &[&str] = if home { &["/home", "/root", "/run/user"] } else { &[] };
    let tmp: &[&str] = if tmp { &["/tmp", "/var/tmp"] } else { &[] };
    [home, tmp].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_hides_what_its_settings_say() {
        assert_eq!(folders("ProtectHome=no\nPrivateTmp=no\n"), [""; 0]);
        assert_eq!(folders("ProtectHome=read-only\nPrivateTmp=yes\n"), ["/tmp", "/var/tmp"]);
        assert_eq!(folders("ProtectHome=yes\nPrivateTmp=no\n"), ["/home", "/root", "/run/user"]);
        assert_eq!(folders(""), [""; 0], "there is no such unit");
    }
}
