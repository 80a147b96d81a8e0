//! Files that are whole, or not there at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Replaces the file's text: after a crash, or a power cut, it is the former one or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    // On the disk before it has the name, and the name before anybody is told.
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
