//! Frames in a file that `tcpdump`, Wireshark and `vipfarm replay` read.

use std::{fs, io, path::Path};

/// Classic pcap, in this machine's byte order: magic of microseconds, version 2.4, link type Ethernet.
const MAGIC: u32 = 0xa1b2_c3d4;
const SNAP_LENGTH: u32 = 65_535;
const ETHERNET: u32 = 1;

/// Writes frames, a microsecond apart.
pub fn write<'f>(path: &Path, frames: impl IntoIterator<Item = &'f [u8]>) -> io::Result<()> {
    let mut out = [&MAGIC.to_ne_bytes()[..], &2u16.to_ne_bytes(), &4u16.to_ne_bytes()].concat();
    for word in [0, 0, SNAP_LENGTH, ETHERNET] {
        out.extend(word.to_ne_bytes());
    }
    for (micros, frame) in (0u32..).zip(frames) {
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        for word in [0, micros, length, length] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(frame);
    }
    fs::write(path, out)
}

/// Keeps the frames of a failed test in a directory, and says where.
pub fn of_failure<'f>(
    directory: &str,
    test: &str,
    frames: impl IntoIterator<Item = &'f [u8]>,
) -> String {
    let path = Path::new(directory).join(format!("{test}.pcap"));
    match write(&path, frames) {
        Ok(()) => format!("kept in {}", path.display()),
        Err(error) => format!("could not be kept in {}: {error}", path.display()),
    }
}
