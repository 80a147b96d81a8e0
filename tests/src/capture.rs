//! Recording the frames of one interface.
//!
//! On a node's `eth0` a recording shows what came through its XDP program; on the node's switch
//! port, as [`Direction::Outgoing`], what was sent to it before any program saw it.

use std::{
    fmt,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};

use crate::{ns::Namespace, packet_socket::PacketSocket};

const POLL: Duration = Duration::from_millis(10);

/// Which way a frame passed the interface it was recorded on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received by the interface.
    Incoming,
    /// Sent by the interface.
    Outgoing,
}

/// One recorded frame.
///
/// With checksum or segmentation offload (veth has both) an outgoing frame may be a super-frame
/// whose checksum is not yet filled in.
#[derive(Clone, PartialEq, Eq)]
pub struct Captured {
    /// When the kernel handled it.
    pub at: SystemTime,
    /// Which way.
    pub direction: Direction,
    /// The frame from the destination address on, with its VLAN tags, without the FCS.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} bytes:", self.direction, self.bytes.len())?;
        self.bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

/// A running recording; it ends with [`Capture::stop`] or when dropped.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Captured>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Records the frames of `interface` in `namespace` for which `keep` says yes.
    ///
    /// Frames that pass after this call has returned are in the recording.
    pub(crate) fn start(
        namespace: &Namespace,
        interface: &str,
        keep: impl Fn(&Captured) -> bool + Send + 'static,
    ) -> Result<Self> {
        let socket = PacketSocket::open(namespace, interface)?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (sink, end) = (Arc::clone(&frames), Arc::clone(&stop));
        let record = move || {
            let mut buffer = PacketSocket::buffer();
            let mut deadline = None;
            loop {
                if deadline.is_none() && end.load(Ordering::Acquire) {
                    deadline = Some(SystemTime::now());
                }
                let patience = if deadline.is_some() { Duration::ZERO } else { POLL };
                match socket.receive(&mut buffer, patience) {
                    Ok(Some(frame)) if deadline.is_some_and(|deadline| frame.at > deadline) => {
                        break;
                    }
                    Ok(Some(frame)) => {
                        if keep(&frame) {
                            lock(&sink).push(frame);
                        }
                    }
                    // Nothing waits; or the link went down, which is said once and may be healed.
                    Ok(None) | Err(_) if deadline.is_some() => break,
                    Ok(None) | Err(_) => {}
                }
            }
        };
        let thread = thread::Builder::new().name("capture".into()).spawn(record)?;
        Ok(Self { frames, stop, thread: Some(thread) })
    }

    /// What has been recorded so far.
    pub fn frames(&self) -> Vec<Captured> {
        lock(&self.frames).clone()
    }

    /// Waits for a frame that `wanted` accepts, also among those already recorded.
    pub fn wait_for(
        &self,
        timeout: Duration,
        wanted: impl Fn(&Captured) -> bool,
    ) -> Option<Captured> {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        loop {
            let frames = lock(&self.frames);
            if let Some(frame) = frames[seen..].iter().find(|frame| wanted(frame)) {
                return Some(frame.clone());
            }
            seen = frames.len();
            drop(frames);
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(POLL / 5);
        }
    }

    /// Ends the recording and returns it, oldest frame first.
    pub fn stop(mut self) -> Vec<Captured> {
        self.end();
        std::mem::take(&mut *lock(&self.frames))
    }

    /// Writes what has been recorded so far as a pcap file, for Wireshark or tcpdump.
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        write_pcap(&lock(&self.frames), path).with_context(|| format!("write {}", path.display()))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic of the filter closure has been printed; the frames until then are kept.
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// A filter that panicked leaves a whole list behind, so poison says nothing here.
fn lock(frames: &Mutex<Vec<Captured>>) -> MutexGuard<'_, Vec<Captured>> {
    frames.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The classic pcap format, little-endian, nanoseconds, Ethernet.
fn write_pcap(frames: &[Captured], path: &Path) -> io::Result<()> {
    const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
    const VERSION_2_4: u32 = 2 | 4 << 16;
    const SNAPSHOT_LENGTH: u32 = 262_144;
    const LINKTYPE_ETHERNET: u32 = 1;
    let mut file = BufWriter::new(File::create(path)?);
    let mut words = |words: &[u32], bytes: &[u8]| -> io::Result<()> {
        words.iter().try_for_each(|word| file.write_all(&word.to_le_bytes()))?;
        file.write_all(bytes)
    };
    let header = [MAGIC_NANOSECONDS, VERSION_2_4, 0, 0, SNAPSHOT_LENGTH, LINKTYPE_ETHERNET];
    words(&header, &[])?;
    for frame in frames {
        let since = frame.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The format ends in 2106.
        let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
        words(&[seconds, since.subsec_nanos(), length, length], &frame.bytes)?;
    }
    file.flush()
}
