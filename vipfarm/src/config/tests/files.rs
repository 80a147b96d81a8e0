//! Files on disk: the examples, unreadable ones, and the key beside the configuration.

use std::{fs, path::PathBuf};

use super::*;

#[test]
fn every_example_is_a_valid_farm() {
    let examples = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"));
    let entries = fs::read_dir(examples).expect("the examples lie beside the crate");
    let files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        load(&file).unwrap_or_else(|problems| panic!("{problems}"));
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let problems = load(Path::new("/nonexistent/farm.yaml")).expect_err("missing");
    assert_eq!(
        problems.to_string(),
        "/nonexistent/farm.yaml: error: cannot be read: No such file or directory (os error 2)\n  \
         = help: check the path and its permissions"
    );
}

#[test]
fn a_byte_that_is_no_text_is_found() {
    let file = Scratch::new("utf8", b"farm: web\nkey_file: \xc3\xa9\xff\n");
    let problems = load(&file.0).expect_err("no text");
    let problem = problems.iter().next().expect("one");
    assert_eq!((problem.line, problem.column), (2, 12));
    assert_eq!(problem.message, "this byte is not UTF-8");
}

#[test]
fn an_endless_file_is_not_read_to_its_end() {
    let problems = load(Path::new("/dev/zero")).expect_err("endless");
    assert!(problems.to_string().contains("larger than 1 MiB"), "{problems}");
}

#[test]
fn a_key_file_problem_is_one_among_the_others() {
    let text =
        edited("/etc/vipfarm/farm.key", "/nonexistent/farm.key").replace("port: 80", "port: 0");
    let file = Scratch::new("key", text.as_bytes());
    let problems = load_with_key(&file.0).map(|_| ()).expect_err("two problems");
    let found: Vec<_> = problems.iter().map(|p| (p.line, p.message.as_str())).collect();
    assert_eq!(found, [(2, "the key file does not exist"), (14, "`0` is not a port")]);
    let help = &problems.iter().next().expect("two").help;
    assert!(help.contains("`vipfarm keygen /nonexistent/farm.key`"), "{help}");
}

#[test]
fn the_key_comes_with_the_farm() {
    let key_file = std::env::temp_dir().join(format!("vipfarm-config-{}.key", std::process::id()));
    let secret = Secret::generate(&key_file, true).expect("written");
    let file = Scratch::new(
        "farm",
        edited("/etc/vipfarm/farm.key", key_file.to_str().expect("text")).as_bytes(),
    );
    let loaded = load_with_key(&file.0);
    fs::remove_file(&key_file).expect("there");
    let (farm, loaded) = loaded.expect("valid");
    assert_eq!(loaded.id(), secret.id());
    assert_eq!(farm, load(&file.0).expect("the key is not needed"));
}

/// A file that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &[u8]) -> Self {
        let name = format!("vipfarm-config-{}-{name}.yaml", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).expect("written");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}
