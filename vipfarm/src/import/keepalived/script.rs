//! `vrrp_script` and what tracks it: a check that runs a program.

use std::time::Duration;

use super::{
    super::{
        account::Notes,
        draft::{Check, Probe},
    },
    number, shown,
    tree::{Statement, Word},
    unread,
};
use crate::config::Pos;

/// The limits of `checks`.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_hours(1);
const MOST_LOOKS: u16 = 100;

/// A script as it is defined.
pub(super) struct Script {
    at: Pos,
    name: String,
    /// As the account names it.
    shown: String,
    /// `None`: it could not be translated, and that has been said.
    check: Option<Check>,
    weight: Weight,
    /// Where the check is not quite what the script is.
    differs: Vec<&'static str>,
    tracked: bool,
}

/// `weight NUMBER [reverse]`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weight {
    pub(super) number: i16,
    pub(super) reverse: bool,
}

impl Weight {
    /// Reads the words from the number on.
    pub(super) fn read(words: &[Word], notes: &mut Notes) -> Option<Self> {
        let word = words.first()?;
        let number = number(word, -254..=254, "a weight", notes)?;
        Some(Self { number, reverse: words.get(1).is_some_and(|word| word.text == "reverse") })
    }

    /// What is lost of a weight.
    pub(super) fn differs(self) -> Option<&'static str> {
        (self.number != 0).then_some(
            "a node where it fails gives the VIP away whatever its priority, where keepalived adds the weight to the priority; if it fails on all nodes, none has the VIP",
        )
    }
}

/// The scripts of a file.
#[derive(Default)]
pub(super) struct Scripts(Vec<Script>);

impl Scripts {
    /// Reads the scripts; their account comes when it is known who tracks them.
    pub(super) fn read(statements: &[Statement], notes: &mut Notes) -> Self {
        let parameters = unread::defined(statements);
        // Statements of several `global_defs` count alike.
        let user = statements
            .iter()
            .filter(|it| it.name() == "global_defs")
            .flat_map(Statement::inner)
            .find(|it| it.name() == "script_user")
            .and_then(Statement::argument);
        let scripts = statements.iter().filter(|it| it.name() == "vrrp_script");
        Self(scripts.map(|script| read(script, user, &parameters, notes)).collect())
    }

    /// The checks of a `track_script`.
    pub(super) fn tracked(&mut self, statement: &Statement, notes: &mut Notes) -> Vec<Check> {
        let entries = statement.inner().iter();
        entries.filter_map(|entry| self.entry(entry, notes)).collect()
    }

    fn entry(&mut self, entry: &Statement, notes: &mut Notes) -> Option<Check> {
        if unread::account_for(entry, false, notes) {
            return None;
        }
        let (at, element) = (entry.at(), format!("track_script {}", shown(entry)));
        let Some(script) = self.0.iter_mut().find(|script| script.name == entry.name()) else {
            notes.dropped(at, &element, "there is no `vrrp_script` of this name in this file");
            return None;
        };
        script.tracked = true;
        let mut weight = script.weight;
        if let [_, keyword, rest @ ..] = &entry.words[..]
            && keyword.text == "weight"
        {
            weight = Weight::read(rest, notes)?;
        }
        let Some(check) = script.check.clone() else {
            let why = format!("line {} says why its script is not translated", script.at.line);
            notes.dropped(at, &element, why);
            return None;
        };
        if weight.reverse {
            let why = "a check passes when its program succeeds: have the script say the opposite, and write a check with it";
            notes.dropped(at, &element, why);
            return None;
        }
        match weight.differs() {
            Some(why) => notes.approximated(at, &element, "checks of its block", why),
            None => notes.translated(at, &element, "checks of its block"),
        }
        Some(check)
    }

    /// Accounts for the scripts.
    pub(super) fn finish(self, notes: &mut Notes) {
        for Script { at, shown, check, differs, tracked, .. } in self.0 {
            let Some(check) = check else { continue };
            let into = super::super::yaml::check_text(&check);
            if !tracked {
                notes.dropped(at, &shown, "nothing tracks it");
            } else if differs.is_empty() {
                notes.translated(at, &shown, into);
            } else {
                notes.approximated(at, &shown, into, differs.join("; "));
            }
        }
    }
}

fn read(
    statement: &Statement,
    user: Option<&Word>,
    parameters: &[String],
    notes: &mut Notes,
) -> Script {
    let name = statement.argument().map_or_else(String::new, |word| word.text.clone());
    let (at, shown) = (statement.at(), shown(statement));
    let mut script = Script {
        at,
        name,
        shown,
        check: None,
        weight: Weight::default(),
        differs: Vec::new(),
        tracked: false,
    };
    let mut line = String::new();
    let mut user = user.map(|word| word.text.clone());
    // keepalived's own defaults.
    let (mut interval, mut timeout) = (Duration::from_secs(1), None);
    let (mut rise, mut fall) = (1, 1);
    for inner in statement.inner() {
        if inner.name() == "script" {
            let words: Vec<_> = inner.words.iter().skip(1).map(|word| word.text.trim()).collect();
            line = words.join(" ");
            continue;
        }
        if unread::account_for(inner, false, notes) {
            continue;
        }
        let value = inner.argument();
        match inner.name() {
            "interval" => interval = value.and_then(|it| seconds(it, notes)).unwrap_or(interval),
            "timeout" => timeout = value.and_then(|it| seconds(it, notes)),
            "rise" => rise = looks(value, notes).unwrap_or(rise),
            "fall" => fall = looks(value, notes).unwrap_or(fall),
            "weight" => {
                let weight = inner.words.get(1..).and_then(|words| Weight::read(words, notes));
                script.weight = weight.unwrap_or_default();
            }
            "user" => {
                user = value.map(|word| word.text.clone());
                if inner.words.len() > 2 {
                    script.differs.push("the group is that of the user");
                }
            }
            "description" => {}
            "init_fail" => script.differs.push("the first look decides, and not `init_fail`"),
            _ => {
                let why = "it is not a statement of a script known here";
                notes.dropped(inner.at(), &super::shown(inner), why);
            }
        }
    }
    if line.is_empty() {
        notes.dropped(at, &script.shown, "it has no `script` in it");
        return script;
    }
    if unread::uses(&line, parameters) {
        notes.dropped(at, &script.shown, unread::NOT_EVALUATED);
        return script;
    }
    let timeout = timeout.unwrap_or(interval);
    let fits = |time: Duration| time.clamp(SHORTEST, LONGEST);
    if fits(interval) != interval || timeout > interval {
        script
            .differs
            .push("looks are 100 ms to an hour apart, and each ends before the next begins");
    }
    let interval = fits(interval);
    if rise > MOST_LOOKS || fall > MOST_LOOKS {
        script.differs.push("`rise` and `fall` are 100 at most");
    }
    script.check = Some(Check {
        probe: Probe::Exec { argv: argv(&line), user },
        interval,
        timeout: fits(timeout).min(interval),
        rise: rise.min(MOST_LOOKS),
        fall: fall.min(MOST_LOOKS),
    });
    script
}

/// The program with its arguments; by the shell where it has to be looked for, or the line has signs
/// that mean something to a shell.
fn argv(line: &str) -> Vec<String> {
    let plain = |c: char| c.is_alphanumeric() || " \t_-./:=,@%+".contains(c);
    if line.starts_with('/') && line.chars().all(plain) {
        return line.split_whitespace().map(str::to_owned).collect();
    }
    vec!["/bin/sh".into(), "-c".into(), line.into()]
}

/// Seconds, with a fraction perhaps; more than 0.
fn seconds(word: &Word, notes: &mut Notes) -> Option<Duration> {
    let found = word.text.parse().ok().and_then(|it| Duration::try_from_secs_f64(it).ok());
    let found = found.filter(|duration| !duration.is_zero());
    if found.is_none() {
        let message = format!("`{}` is not a number of seconds", word.text);
        notes.problem(word.at, message, "write a number above 0, such as 2");
    }
    // Whole milliseconds, as the farm's file has them.
    found.map(|it| Duration::from_millis(u64::try_from(it.as_millis()).unwrap_or(u64::MAX)))
}

fn looks(word: Option<&Word>, notes: &mut Notes) -> Option<u16> {
    number(word?, 1..=u16::MAX, "a number of looks", notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_a_shell_must_read() {
        for (line, expected) in [
            ("/usr/bin/pgrep -x nginx", vec!["/usr/bin/pgrep", "-x", "nginx"]),
            ("/bin/true", vec!["/bin/true"]),
            ("killall -0 nginx", vec!["/bin/sh", "-c", "killall -0 nginx"]),
            ("/bin/check 'a b'", vec!["/bin/sh", "-c", "/bin/check 'a b'"]),
            ("/bin/a && /bin/b", vec!["/bin/sh", "-c", "/bin/a && /bin/b"]),
        ] {
            assert_eq!(argv(line), expected, "{line}");
        }
    }
}
