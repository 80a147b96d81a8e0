//! The farm's shared secret: 32 random bytes in a file of mode 0600, and the keys made from it.

use std::{
    fmt,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a secret.
const LEN: usize = 32;
/// Two hex digits a byte and a newline.
const FILE_LEN: usize = 2 * LEN + 1;

/// The farm's secret. Erased from memory when dropped; never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; LEN]>);

impl Secret {
    /// Reads a key file: a regular file of mode 0600 or stricter, owned by the running user or
    /// root, that holds 64 hex digits and at most a newline.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        read(path).map_err(|problem| KeyError { path: path.into(), problem })
    }

    /// Makes a new random secret and writes its file with mode 0600. An existing file is replaced
    /// only with `force`, and then at once: a reader sees the old key or the new one. A file with
    /// something else in it is never replaced. After an error the old file is unchanged.
    pub fn generate(path: &Path, force: bool) -> Result<Self, KeyError> {
        create(path, force).map_err(|problem| KeyError { path: path.into(), problem })
    }

    /// The key that authenticates heartbeats (PROTOCOL: "vipfarm 1 membership").
    pub fn membership_key(&self) -> [u8; 32] {
        blake3::derive_key("vipfarm 1 membership", &self.0[..])
    }

    /// The key of the bucket hash, little-endian halves as `SipHash` reads them.
    pub fn bucket_key(&self) -> [u8; 16] {
        first(blake3::derive_key("vipfarm 1 bucket", &self.0[..]))
    }

    /// Tells two secrets apart without telling anything else about them.
    pub fn id(&self) -> [u8; 8] {
        first(blake3::derive_key("vipfarm 1 key id", &self.0[..]))
    }

    /// The secret with these bytes, for tests of what is derived from it.
    #[cfg(test)]
    pub(super) fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl ZeroizeOnDrop for Secret {}

/// Why a key file cannot be used or written.
#[derive(Debug, Error)]
#[error("{}: {problem}; {}", path.display(), problem.help(path))]
pub struct KeyError {
    /// The key file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: KeyProblem,
}

impl KeyError {
    /// What to do about it.
    pub fn help(&self) -> String {
        self.problem.help(&self.path)
    }
}

/// What is wrong with a key file.
#[derive(Debug, Error)]
pub enum KeyProblem {
    /// There is none.
    #[error("the key file does not exist")]
    Missing,
    /// The system does not let us read it.
    #[error("the key file cannot be read: {0}")]
    Unreadable(io::Error),
    /// A directory, a device or a pipe.
    #[error("the key file is not a regular file")]
    NotRegular,
    /// Group or others have rights on it, or it is executable.
    #[error(
        "the key file has mode {0:04o}, but nobody except its owner may read the farm's secret"
    )]
    OpenToOthers(u32),
    /// Somebody else could change it.
    #[error("the key file belongs to user {0}, who could change the farm's secret")]
    ForeignOwner(u32),
    /// Not 64 hex digits.
    #[error("this is not a vipfarm key, which is exactly 64 hex digits")]
    NoKey,
    /// All bytes are equal.
    #[error("the key is weak: all of its bytes are equal")]
    Weak,
    /// `generate` without `force` found a file.
    #[error("the file exists, and the farm may be using its key")]
    Exists,
    /// `generate` found a file with something else in it.
    #[error("the file is no vipfarm key")]
    Foreign,
    /// The new file could not be written.
    #[error("the key file cannot be written: {0}")]
    Unwritable(io::Error),
    /// The system has no random bytes.
    #[error("no random bytes: {0}")]
    NoRandomness(io::Error),
}

impl KeyProblem {
    fn help(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Missing => {
                format!(
                    "copy it from another node, or make the farm's first: `vipfarm keygen {path}`"
                )
            }
            Self::Unreadable(_) => format!("run as its owner or root, and check `ls -l {path}`"),
            Self::NotRegular => "name a regular file".into(),
            Self::OpenToOthers(_) => {
                format!(
                    "run `chmod 600 {path}`; if others may have read it, `vipfarm keygen --force {path}`"
                )
            }
            Self::ForeignOwner(_) => format!("run `chown root {path}`"),
            // The path may be a slip: no advice that would change whatever lies there.
            Self::NoKey => "name the file that `vipfarm keygen` made".into(),
            Self::Weak => {
                format!(
                    "copy it from another node, or replace it on all: `vipfarm keygen --force {path}`"
                )
            }
            Self::Exists => {
                format!("keep it, or replace it on all nodes: `vipfarm keygen --force {path}`")
            }
            Self::Foreign => "remove it yourself if it is to be replaced".into(),
            Self::Unwritable(_) => {
                "check that the directory exists and that you may write in it".into()
            }
            Self::NoRandomness(_) => "check /dev/urandom".into(),
        }
    }
}

fn read(path: &Path) -> Result<Secret, KeyProblem> {
    let (metadata, text) = open(path)?;
    // What is no key at all needs no other rights and no other owner.
    let secret = parse_line(&text).ok_or(KeyProblem::NoKey)?;
    check_permissions(&metadata)?;
    if secret.0.iter().all(|&byte| byte == secret.0[0]) {
        return Err(KeyProblem::Weak);
    }
    Ok(secret)
}

/// A regular file's rights, and its text as far as a key could go and a byte more. The rights are
/// those of the file that is read, not of its name: nobody can swap it in between.
fn open(path: &Path) -> Result<(Metadata, Zeroizing<Vec<u8>>), KeyProblem> {
    // A pipe without a writer would block an open that waits.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KeyProblem::Missing,
        _ => KeyProblem::Unreadable(error),
    })?;
    let metadata = file.metadata().map_err(KeyProblem::Unreadable)?;
    if !metadata.is_file() {
        return Err(KeyProblem::NotRegular);
    }
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_LEN + 1));
    // The limit keeps the buffer from moving, which would leave a copy behind.
    file.take(FILE_LEN as u64 + 1).read_to_end(&mut text).map_err(KeyProblem::Unreadable)?;
    Ok((metadata, text))
}

fn check_permissions(metadata: &Metadata) -> Result<(), KeyProblem> {
    let mode = metadata.mode() & 0o7777;
    match () {
        () if ![0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid()) => {
            Err(KeyProblem::ForeignOwner(metadata.uid()))
        }
        () if mode & !0o600 != 0 => Err(KeyProblem::OpenToOthers(mode)),
        () => Ok(()),
    }
}

/// 64 hex digits and at most a newline.
fn parse_line(text: &[u8]) -> Option<Secret> {
    parse_hex(text.strip_suffix(b"\n").unwrap_or(text))
}

fn parse_hex(text: &[u8]) -> Option<Secret> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    if pairs.len() != LEN {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Zeroizing::new([0; LEN]);
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(Secret(bytes))
}

fn create(path: &Path, force: bool) -> Result<Secret, KeyProblem> {
    let secret = random().map_err(KeyProblem::NoRandomness)?;
    if force {
        check_replaceable(path)?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = Path::new(&temporary);
        write_new(temporary, &secret)?;
        fs::rename(temporary, path).map_err(|error| {
            remove(temporary);
            KeyProblem::Unwritable(error)
        })?;
    } else {
        write_new(path, &secret).map_err(|problem| match problem {
            // Of a key, `force` is told.
            KeyProblem::Exists => check_replaceable(path).err().unwrap_or(KeyProblem::Exists),
            problem => problem,
        })?;
    }
    Ok(secret)
}

/// Whether nothing but a key is lost with the file.
fn check_replaceable(path: &Path) -> Result<(), KeyProblem> {
    match open(path) {
        Ok((_, text)) if !text.is_empty() && parse_line(&text).is_none() => {
            Err(KeyProblem::Foreign)
        }
        Ok(_) | Err(KeyProblem::Missing) => Ok(()),
        Err(problem) => Err(problem),
    }
}

fn random() -> io::Result<Secret> {
    let mut bytes = Zeroizing::new([0; LEN]);
    File::open("/dev/urandom")?.read_exact(&mut bytes[..])?;
    Ok(Secret(bytes))
}

fn write_new(path: &Path, secret: &Secret) -> Result<(), KeyProblem> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeyProblem::Exists,
        _ => KeyProblem::Unwritable(error),
    })?;
    let mut text = Zeroizing::new([b'\n'; FILE_LEN]);
    for (byte, pair) in secret.0.iter().zip(text.as_chunks_mut::<2>().0) {
        *pair = [byte >> 4, byte & 0xf].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    }
    file.write_all(&text[..]).and_then(|()| file.sync_all()).map_err(|error| {
        remove(path);
        KeyProblem::Unwritable(error)
    })
}

/// Cleans up after another error, which is the one to report.
fn remove(path: &Path) {
    drop(fs::remove_file(path));
}

/// The first bytes of a derived key; the rest is erased.
fn first<const N: usize>(mut key: [u8; 32]) -> [u8; N] {
    let first = std::array::from_fn(|i| key[i]);
    key.zeroize();
    first
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1F";
    const COUNTING: [u8; LEN] = {
        let mut bytes = [0; LEN];
        let mut i = 1;
        while i < LEN {
            bytes[i] = bytes[i - 1] + 1;
            i += 1;
        }
        bytes
    };

    #[test]
    fn a_generated_key_is_read_back_and_private() {
        let dir = Scratch::new("generate");
        let path = dir.0.join("farm.key");
        let secret = Secret::generate(&path, false).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        let loaded = Secret::load(&path).expect("readable");
        assert_eq!(loaded.membership_key(), secret.membership_key());
        let other = Secret::generate(&dir.0.join("other.key"), false).expect("written");
        assert_ne!(other.id(), secret.id());
    }

    #[test]
    fn an_existing_key_is_replaced_only_by_force() {
        let dir = Scratch::new("force");
        let path = dir.0.join("farm.key");
        let old = Secret::generate(&path, false).expect("written");
        let error = Secret::generate(&path, false).expect_err("exists");
        assert!(matches!(error.problem, KeyProblem::Exists), "{error}");
        assert_eq!(Secret::load(&path).expect("unchanged").id(), old.id());
        let new = Secret::generate(&path, true).expect("replaced");
        assert_ne!(new.id(), old.id());
        assert_eq!(Secret::load(&path).expect("replaced").id(), new.id());
        assert_eq!(fs::read_dir(&dir.0).expect("there").count(), 1, "nothing left behind");
    }

    #[test]
    fn a_key_without_newline_and_with_stricter_mode_is_read() {
        let dir = Scratch::new("strict");
        let path = dir.file(HEX, 0o400);
        let loaded = Secret::load(&path).expect("readable");
        assert_eq!(*loaded.0, COUNTING);
        symlink(&path, dir.0.join("link")).expect("a link");
        Secret::load(&dir.0.join("link")).expect("what a link leads to counts");
    }

    #[test]
    fn every_unusable_key_file_is_refused_with_its_fix() {
        let dir = Scratch::new("refused");
        let cases = [
            (HEX.into(), 0o640, "mode 0640", "chmod 600"),
            (HEX.into(), 0o604, "mode 0604", "chmod 600"),
            (HEX.into(), 0o700, "mode 0700", "chmod 600"),
            (String::new(), 0o600, "exactly 64 hex digits", "name the file"),
            (HEX[1..].into(), 0o600, "exactly 64 hex digits", "name the file"),
            (format!("{HEX}0"), 0o600, "exactly 64 hex digits", "name the file"),
            (format!("{HEX}00"), 0o600, "exactly 64 hex digits", "name the file"),
            (format!("{HEX}\n\n"), 0o600, "exactly 64 hex digits", "name the file"),
            (HEX.replace("1F", "1g"), 0o600, "exactly 64 hex digits", "name the file"),
            (HEX.replace("1F", "+f"), 0o600, "exactly 64 hex digits", "name the file"),
            ("root:x:0:0".into(), 0o644, "not a vipfarm key", "name the file"),
            ("ab".repeat(32), 0o600, "weak", "vipfarm keygen"),
        ];
        for (text, mode, problem, fix) in cases {
            let path = dir.file(&text, mode);
            let error = Secret::load(&path).expect_err(problem).to_string();
            assert!(error.contains(problem) && error.contains(fix), "{error}");
            assert!(error.starts_with(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_slip_leads_to_no_advice_that_would_destroy_a_file() {
        let dir = Scratch::new("slip");
        let path = dir.file("root:x:0:0:root:/root:/bin/bash\n", 0o644);
        let name = path.display();
        let error = Secret::load(&path).expect_err("no key");
        assert_eq!(
            error.to_string(),
            format!(
                "{name}: this is not a vipfarm key, which is exactly 64 hex digits; name the file \
                 that `vipfarm keygen` made"
            )
        );
        for force in [false, true] {
            let error = Secret::generate(&path, force).expect_err("no key");
            let said = format!(
                "{name}: the file is no vipfarm key; remove it yourself if it is to be replaced"
            );
            assert_eq!(error.to_string(), said);
        }
        assert_eq!(fs::read(&path).expect("there"), b"root:x:0:0:root:/root:/bin/bash\n");
        let error = Secret::generate(Path::new("/dev/null"), true).expect_err("a device");
        assert!(matches!(error.problem, KeyProblem::NotRegular), "{error}");

        for (text, mode) in [("", 0o644), (HEX, 0o644), (&*"ab".repeat(32), 0o600)] {
            let path = dir.file(text, mode);
            Secret::generate(&path, true).expect("nothing but a key is lost");
            Secret::load(&path).expect("replaced");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let dir = Scratch::new("irregular");
        let pipe = dir.0.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        for path in [&pipe, &dir.0, Path::new("/dev/zero")] {
            let error = Secret::load(path).expect_err("irregular");
            assert!(matches!(error.problem, KeyProblem::NotRegular), "{error}");
        }
    }

    #[test]
    fn a_missing_key_says_how_to_make_one() {
        let error = Secret::load(Path::new("/nonexistent/farm.key")).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "/nonexistent/farm.key: the key file does not exist; copy it from another node, or \
             make the farm's first: `vipfarm keygen /nonexistent/farm.key`"
        );
        let error =
            Secret::generate(Path::new("/nonexistent/farm.key"), false).expect_err("no directory");
        assert!(matches!(error.problem, KeyProblem::Unwritable(_)), "{error}");
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::from_bytes([0xab; LEN]);
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
    }

    #[test]
    fn derived_keys_never_change() {
        let secret = Secret::from_bytes(COUNTING);
        let hex = |bytes: &[u8]| format!("{bytes:02x?}").replace([',', ' ', '[', ']'], "");
        assert_eq!(
            [hex(&secret.membership_key()), hex(&secret.bucket_key()), hex(&secret.id())],
            [
                "fb09367428fcde53c0dc1592291415d4448e4dec64b709da21484817bde42989",
                "36b7c6264e34eb111628a5fefc2108ec",
                "804d3cf7b6ffb6ed"
            ]
        );
    }

    /// A directory of its own for each test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = format!("vipfarm-key-{}-{name}", std::process::id());
            let dir = std::env::temp_dir().join(dir);
            fs::create_dir(&dir).expect("a new directory");
            Self(dir)
        }

        fn file(&self, text: &str, mode: u32) -> PathBuf {
            let path = self.0.join("farm.key");
            drop(fs::remove_file(&path));
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("own file");
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }
}
