//! `vipfarm import` as operators run it, and what docs/migration.md says of it.

#[path = "support/run_dir.rs"]
mod run_dir;

use std::{
    fs,
    process::{Command, Output},
};

use run_dir::RunDir;

const MIGRATION: &str = include_str!("../../docs/migration.md");

/// Runs the binary in the directory.
fn vipfarm(dir: &RunDir, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vipfarm"))
        .args(args)
        .current_dir(&dir.0)
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The fenced blocks of that language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let behind = MIGRATION.split(&fence).skip(1);
    behind.map(|text| text.split("```").next().expect("split gives one")).collect()
}

/// A directory with the files of docs/migration.md.
fn sources() -> RunDir {
    let dir = RunDir::new();
    let [module, cluster] = blocks("xml")[..] else { panic!("two files of SafeKit") };
    let [conf] = blocks("conf")[..] else { panic!("one file of keepalived") };
    for (name, text) in
        [("userconfig.xml", module), ("cluster.xml", cluster), ("keepalived.conf", conf)]
    {
        fs::write(dir.path(name), text).expect("a fresh directory");
    }
    dir
}

#[test]
fn the_document_shows_what_the_commands_write() {
    let dir = sources();
    let commands: Vec<_> = blocks("sh")
        .into_iter()
        .flat_map(str::lines)
        .filter(|line| line.contains("import"))
        .collect();
    let [safekit, keepalived] = commands[..] else { panic!("two commands: {commands:?}") };
    for (command, shown) in [safekit, keepalived].into_iter().zip(blocks("yaml")) {
        let args: Vec<_> = command.split_whitespace().skip(1).collect();
        let output = vipfarm(&dir, &args);
        assert_eq!(output.status.code(), Some(0), "{command}: {}", text(&output.stderr));
        let file = fs::read_to_string(dir.path("farm.yaml")).expect("written");
        fs::remove_file(dir.path("farm.yaml")).expect("written");
        assert_eq!(file, shown, "{command}");
        fs::write(dir.path("checked.yaml"), file).expect("writable");
        let check = vipfarm(&dir, &["check", "checked.yaml"]);
        assert!(check.status.success(), "{}", text(&check.stderr));
    }
}

#[test]
fn every_file_is_written_whole_and_never_over_another_one() {
    let dir = sources();
    let args =
        ["import", "safekit", "userconfig.xml", "--cluster", "cluster.xml", "--prefix", "24"];
    let to = [&args[..], &["-o", "farm.yaml"]].concat();
    assert_eq!(vipfarm(&dir, &to).status.code(), Some(0));
    let first = fs::read_to_string(dir.path("farm.yaml")).expect("written");
    assert_eq!(text(&vipfarm(&dir, &args).stdout), first, "standard output has the same");

    fs::write(dir.path("farm.yaml"), "mine").expect("writable");
    let refused = vipfarm(&dir, &to);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("farm.yaml is there already"), "{refused:?}");
    assert_eq!(fs::read_to_string(dir.path("farm.yaml")).expect("there"), "mine");
    assert_eq!(vipfarm(&dir, &[&to[..], &["--force"]].concat()).status.code(), Some(0));
    assert_eq!(fs::read_to_string(dir.path("farm.yaml")).expect("there"), first);
    let nowhere = vipfarm(&dir, &[&args[..], &["-o", "missing/farm.yaml"]].concat());
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).contains("cannot write missing/farm.yaml"), "{nowhere:?}");
}

#[test]
fn an_incomplete_file_is_written_and_exits_1() {
    let dir = sources();
    let output = vipfarm(&dir, &["import", "safekit", "userconfig.xml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("192.168.1.222/FILL-IN"), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.contains(": missing: `FILL-IN` is not a netmask"), "{stderr}");
    assert!(stderr.contains("error: the file is not complete"), "{stderr}");

    let conf = fs::read_to_string(dir.path("keepalived.conf")).expect("written");
    let peers = "    unicast_peer {\n        192.168.1.12\n    }\n";
    assert!(conf.contains(peers), "{conf}");
    let multicast = conf.replace("unicast_src_ip", "mcast_src_ip").replace(peers, "");
    fs::write(dir.path("multicast.conf"), multicast).expect("writable");
    let output = vipfarm(&dir, &["import", "keepalived", "multicast.conf", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON alone");
    assert_eq!(json["complete"], false);
    assert!(json["elements"].as_array().is_some_and(|elements| elements.len() > 3), "{json}");
    assert!(json["missing"][0]["message"].as_str().is_some_and(|it| it.contains("FILL-IN")));
}

#[test]
fn a_source_with_errors_exits_2_and_writes_nothing() {
    let dir = sources();
    fs::write(dir.path("broken.xml"), "<vip>\n</safe>").expect("writable");
    let conf = fs::read_to_string(dir.path("keepalived.conf")).expect("written");
    fs::write(dir.path("broken.conf"), conf.replace("priority 150", "priority 300"))
        .expect("there");
    for args in [
        &["import", "safekit", "broken.xml", "-o", "farm.yaml"][..],
        &["import", "safekit", "userconfig.xml", "--cluster", "broken.xml", "-o", "farm.yaml"],
        &["import", "keepalived", "missing.conf", "-o", "farm.yaml"],
        &["import", "keepalived", "broken.conf", "-o", "farm.yaml"],
    ] {
        let output = vipfarm(&dir, args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!dir.path("farm.yaml").exists(), "{args:?}");
    }
    let output = vipfarm(&dir, &["import", "safekit", "broken.xml", "--json"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let json: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON alone");
    assert_eq!((&json["errors"][0]["line"], &json["complete"]), (&2.into(), &false.into()));
    for args in [
        &["import"][..],
        &["import", "pacemaker", "cib.xml"],
        &["import", "safekit", "userconfig.xml", "--prefix", "33"],
        &["import", "safekit", "userconfig.xml", "--force"],
    ] {
        assert_eq!(vipfarm(&dir, args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_farms_name_that_cannot_be_is_refused_before_anything_is_read() {
    let dir = sources();
    for name in ["Bad Name", "", "a_b"] {
        let refused = vipfarm(&dir, &["import", "keepalived", "missing.conf", "--farm", name]);
        assert_eq!(refused.status.code(), Some(2), "{name}");
        let stderr = text(&refused.stderr);
        assert!(stderr.contains("a-z, 0-9, -") && !stderr.contains("missing.conf"), "{stderr}");
    }
}
