//! Files that are whole, or not there at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Replaces the file's text: after a crash, or a power cut, it is the former one or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    // On the disk before it has the name, and the name before anybody is told.
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    // Of a mere name, the directory is the one we are in.
    File::open(Path::new(".").join(directory))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_named_without_directory_is_replaced() {
        let name = format!("vipfarm-file-{}", std::process::id());
        let path = Path::new(&name);
        let outcome = replace(path, "one").and_then(|()| replace(path, "two"));
        let text = fs::read_to_string(path);
        fs::remove_file(path).expect("it was written");
        outcome.expect("replaced");
        assert_eq!(text.expect("readable"), "two");
    }
}
