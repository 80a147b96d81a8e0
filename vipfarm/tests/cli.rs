//! The binary's messages and exit codes.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
};

/// A directory of one test, removed with the value.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("vipfarm-cli-{}-{count}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory in the temporary one");
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn vipfarm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vipfarm")).args(args).output().expect("the binary runs")
}

/// Runs it, asserts the exit code, and returns standard error.
fn fails_with(code: i32, args: &[&str]) -> String {
    let output = vipfarm(args);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

const TALKING: [&[&str]; 5] = [
    &["status"],
    &["nodes"],
    &["bitmap"],
    &["events"],
    &["explain", "192.0.2.1:9", "192.168.1.222:80"],
];

#[test]
fn without_an_agent_every_talking_verb_exits_3_and_says_how_to_start_one() {
    let dir = Dir::new();
    for verb in TALKING {
        for place in [&dir.path(""), &dir.path("missing")] {
            let stderr = fails_with(3, &[verb, &["--run-dir", place]].concat());
            assert!(stderr.contains("no agent runs here"), "{stderr}");
            assert!(stderr.contains("vipfarm agent -c FILE"), "{stderr}");
        }
    }
}

#[test]
fn the_socket_of_a_dead_agent_counts_as_no_agent() {
    let dir = Dir::new();
    drop(UnixListener::bind(dir.path("web.sock")).expect("a fresh directory"));
    let stderr = fails_with(3, &["status", "--run-dir", &dir.path("")]);
    assert!(stderr.contains("nobody listens at"), "{stderr}");
    let stderr = fails_with(3, &["status", "--socket", &dir.path("dns.sock")]);
    assert!(stderr.contains("dns.sock does not exist"), "{stderr}");
}

#[test]
fn an_agent_that_does_not_answer_is_given_up() {
    let dir = Dir::new();
    let _frozen = UnixListener::bind(dir.path("web.sock")).expect("a fresh directory");
    let stderr = fails_with(3, &["status", "--run-dir", &dir.path("")]);
    assert!(stderr.contains("does not answer within 5s"), "{stderr}");
}

#[test]
fn of_several_farms_one_must_be_named() {
    let dir = Dir::new();
    for farm in ["web.sock", "dns.sock"] {
        drop(UnixListener::bind(dir.path(farm)).expect("a fresh directory"));
    }
    let stderr = fails_with(2, &["nodes", "--run-dir", &dir.path("")]);
    assert!(stderr.contains("several farms run here: dns, web"), "{stderr}");
    let stderr = fails_with(3, &["nodes", "--run-dir", &dir.path(""), "--farm", "mail"]);
    assert!(stderr.contains("no agent of farm `mail`"), "{stderr}");
}

#[test]
fn bad_usage_exits_2() {
    for args in [
        &[][..],
        &["serve"],
        &["status", "--verbose"],
        &["agent"],
        &["bitmap", "--hex", "--json"],
        &["explain", "web", "192.168.1.222:80"],
        &["explain", "192.0.2.1", "192.168.1.222"],
        &["explain", "192.0.2.1:9", "[fd00::1]:80"],
        &["explain", "192.0.2.1:9", "192.168.1.222:80", "--down", "node2"],
        &["explain", "192.0.2.1:9", "192.168.1.222:80", "--proto", "icmp"],
    ] {
        fails_with(2, args);
    }
}

#[test]
fn a_configuration_with_errors_exits_2_and_names_the_file() {
    let dir = Dir::new();
    let file = dir.path("farm.yaml");
    fs::write(&file, "farm: 7\nnodes: none\n").expect("a fresh directory");
    let stderr = fails_with(2, &["check", &file]);
    assert!(stderr.contains("farm.yaml:"), "{stderr}");
    let missing = dir.path("missing.yaml");
    let stderr = fails_with(2, &["check", &missing]);
    assert!(stderr.contains("missing.yaml"), "{stderr}");
    fails_with(2, &["explain", "192.0.2.1:9", "192.168.1.222:80", "-c", &missing]);

    let output = vipfarm(&["check", "--json", &file]);
    assert_eq!(output.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["ok"], false);
    assert!(json["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{json}");
}

#[test]
fn a_key_is_made_once_and_replaced_only_by_force() {
    let dir = Dir::new();
    let key = dir.path("farm.key");
    assert!(vipfarm(&["keygen", &key]).status.success());
    let first = fs::read(&key).expect("a key");
    let stderr = fails_with(1, &["keygen", &key]);
    assert!(stderr.contains("--force"), "{stderr}");
    assert_eq!(fs::read(&key).expect("still there"), first);
    assert!(vipfarm(&["keygen", &key, "--force"]).status.success());
    assert_ne!(fs::read(&key).expect("another"), first);
}

#[test]
fn help_ends_with_the_exit_codes_and_is_no_error() {
    let output = vipfarm(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.trim_end().ends_with("3  no agent answers on this node"), "{text}");
    assert!(!text.contains('\x1b'), "no colour into a pipe");
}

#[test]
fn errors_are_painted_only_where_colour_is_welcome() {
    let run = |variable: &str| {
        Command::new(env!("CARGO_BIN_EXE_vipfarm"))
            .args(["status", "--socket", "/nonexistent"])
            .env(variable, "1")
            .output()
            .expect("the binary runs")
            .stderr
    };
    assert!(run("CLICOLOR_FORCE").contains(&0x1b));
    assert!(!run("NO_COLOR").contains(&0x1b));
}
