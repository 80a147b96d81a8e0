//! Files on disk: the examples, unreadable ones, and the key beside the configuration.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use super::{key::Secret, *};

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
fn a_programs_name_may_have_a_blank_where_such_a_file_is() {
    let program = Scratch::new("a program", b"");
    let text = format!("checks: [{{ exec: {} }}]\n{BASE}", program.0.display());
    parse_text(&text).expect("there is such a file");
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
    let problems = load_with_keys(&file.0).map(|_| ()).expect_err("two problems");
    let found: Vec<_> = problems.iter().map(|p| (p.line, p.message.as_str())).collect();
    assert_eq!(found, [(2, "the key file does not exist"), (14, "`0` is not a port")]);
    let help = &problems.iter().next().expect("two").help;
    assert!(help.contains("`vipfarm keygen /nonexistent/farm.key`"), "{help}");
}

#[test]
fn without_further_files_one_key_is_for_everything() {
    let dir = KeyDir::new("single", &["farm.key"]);
    let (farm, keys) = dir.load("key_file: farm.key").expect("valid");
    let secret = dir.secret("farm.key");
    assert_eq!(keys.heartbeat_keys(), [secret.membership_key()]);
    assert_eq!((keys.bucket_key(), keys.hash_id()), (secret.bucket_key(), secret.id()));
    let config = dir.0.join("farm.yaml");
    assert_eq!(farm, load(&config).expect("the key is not needed"));
    assert_eq!(farm.key_files().collect::<Vec<_>>(), [dir.0.join("farm.key")]);
}

#[test]
fn each_step_of_a_rotation_accepts_what_the_next_one_seals_and_moves_no_bucket() {
    let dir = KeyDir::new("rotation", &["old.key", "new.key"]);
    let steps = [
        "key_file: old.key",
        "key_file: old.key\naccept_key_file: new.key",
        "key_file: new.key\naccept_key_file: old.key\nhash_key_file: old.key",
        "key_file: new.key\nhash_key_file: old.key",
    ];
    let loaded = steps.map(|step| dir.load(step).unwrap_or_else(|error| panic!("{step}: {error}")));
    for neighbours in loaded.windows(2) {
        let [before, after] = [&neighbours[0].1, &neighbours[1].1].map(Keys::heartbeat_keys);
        assert!(before.contains(&after[0]) && after.contains(&before[0]));
    }
    let last = loaded[3].1.heartbeat_keys();
    assert_eq!(last, [dir.secret("new.key").membership_key()], "the old key is worth nothing");
    for (farm, keys) in &loaded {
        assert_eq!(keys.bucket_key(), dir.secret("old.key").bucket_key());
        assert_eq!(digest(farm, keys), digest(&loaded[0].0, &loaded[0].1));
    }
}

#[test]
fn another_hash_key_is_another_configuration() {
    let dir = KeyDir::new("hash", &["old.key", "new.key"]);
    let (farm, old) = dir.load("key_file: old.key").expect("valid");
    let (_, other) = dir.load("key_file: old.key\nhash_key_file: new.key").expect("valid");
    assert_ne!(digest(&farm, &old), digest(&farm, &other));
}

#[test]
fn every_key_file_is_refused_as_the_first_is() {
    let dir = KeyDir::new("refused", &["farm.key", "copy.key", "open.key"]);
    fs::copy(dir.0.join("farm.key"), dir.0.join("copy.key")).expect("copied");
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(dir.0.join("open.key"), open).expect("own file");
    let cases = [
        ("accept_key_file: farm.key", 1, "`accept_key_file` holds the same key as `key_file`"),
        ("accept_key_file: copy.key", 1, "`accept_key_file` holds the same key as `key_file`"),
        ("accept_key_file: none.key", 1, "the key file does not exist"),
        ("hash_key_file: none.key", 1, "the key file does not exist"),
        ("accept_key_file: open.key", 1, "the key file has mode 0644"),
        ("hash_key_file: open.key", 1, "the key file has mode 0644"),
        ("accept_key_file: .", 1, "the key file is not a regular file"),
        ("accept_key_file:", 1, "`accept_key_file` has no value"),
        ("hash_key_file: [a]", 1, "`hash_key_file` is one value, not a list"),
        ("hash_key_file: none.key\naccept_key_file: open.key", 2, "the key file has mode 0644"),
    ];
    for (lines, count, message) in cases {
        let problems = dir.load(&format!("key_file: farm.key\n{lines}")).expect_err(lines);
        let found: Vec<_> = problems.iter().collect();
        assert_eq!(found.len(), count, "{problems}");
        let last = found[count - 1];
        assert_eq!(last.line as usize, 2 + count, "{problems}");
        assert!(last.message.contains(message) && !last.help.is_empty(), "{problems}");
    }
    // Without opening a key this much is seen.
    let text = BASE.replace("key_file: ", "accept_key_file: /etc/vipfarm/farm.key\nkey_file: ");
    assert!(
        problems(&text).contains("farm.yaml:2:18: error: `accept_key_file` holds the same key")
    );
}

/// A directory with keys that goes away with the test.
struct KeyDir(PathBuf);

impl KeyDir {
    fn new(name: &str, keys: &[&str]) -> Self {
        let dir = format!("vipfarm-keys-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        fs::create_dir(&dir).expect("a new directory");
        for key in keys {
            Secret::generate(&dir.join(key), false).expect("written");
        }
        Self(dir)
    }

    fn secret(&self, key: &str) -> Secret {
        Secret::load(&self.0.join(key)).expect("written before")
    }

    /// Loads a farm with these lines for its keys.
    fn load(&self, keys: &str) -> Result<(Farm, Keys), Diagnostics> {
        let config = self.0.join("farm.yaml");
        fs::write(&config, edited("key_file: /etc/vipfarm/farm.key", keys)).expect("written");
        load_with_keys(&config)
    }
}

impl Drop for KeyDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
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
