//! The bytes of a configuration file.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::diagnostic::{Diagnostics, Pos, Report};

/// Far above any farm; a device named by mistake must not fill the memory.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the file's text.
pub(crate) fn read(path: &Path) -> Result<String, Diagnostics> {
    read_from(&path.display().to_string(), || File::open(path))
}

/// Reads the text of what is opened; `name` is its name in problems.
pub(crate) fn read_from<R: Read>(
    name: &str,
    open: impl FnOnce() -> io::Result<R>,
) -> Result<String, Diagnostics> {
    let mut report = Report::new(name);
    let mut bytes = Vec::new();
    let outcome = open().and_then(|source| source.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = outcome {
        report.error(
            Pos::FILE,
            format!("cannot be read: {error}"),
            "check the path and its permissions",
        );
        return report.finish(None);
    }
    if bytes.len() as u64 > MAX_BYTES {
        report.error(Pos::FILE, "larger than 1 MiB", "check that this is the configuration file");
        return report.finish(None);
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let at = position_after(&String::from_utf8_lossy(
                &error.as_bytes()[..error.utf8_error().valid_up_to()],
            ));
            report.error(at, "this byte is not UTF-8", "save the file with UTF-8 encoding");
            None
        }
    };
    report.finish(text)
}

/// Where the character behind `text` stands.
fn position_after(text: &str) -> Pos {
    let last_line = text.rsplit('\n').next().unwrap_or("");
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Pos {
        line: number(text.matches('\n').count() + 1),
        column: number(last_line.chars().count() + 1),
    }
}
