//! The log as systemd's journal takes it from standard error: each line begins with its priority, and
//! the journal adds the time (sd-daemon(3), systemd.exec(5) on `JOURNAL_STREAM`).

use std::{
    io::{self, Write},
    os::fd::AsFd,
};

use nix::sys::stat::fstat;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::{
    MakeWriter, SubscriberBuilder,
    format::{DefaultFields, Format, Full},
};

/// Whether what is written there goes to the journal.
pub(super) fn is_at(stream: &impl AsFd) -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|journal| is_stream(stream, &journal))
}

/// Whether the stream has that device and inode, written `DEVICE:INODE`.
fn is_stream(stream: &impl AsFd, journal: &str) -> bool {
    fstat(stream).is_ok_and(|stat| format!("{}:{}", stat.st_dev, stat.st_ino) == journal)
}

/// Lines without what the journal knows.
pub(super) fn lines<F>(
    log: SubscriberBuilder<DefaultFields, Format<Full>, F>,
) -> SubscriberBuilder<DefaultFields, Format<Full, ()>, F> {
    log.without_time().with_level(false).with_ansi(false)
}

/// Writes the priority before each event.
pub(super) struct Journal<M>(pub(super) M);

impl<'w, M: MakeWriter<'w>> MakeWriter<'w> for Journal<M> {
    type Writer = Prioritised<M::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        Prioritised { priority: priority(Level::INFO), writer: self.0.make_writer() }
    }

    fn make_writer_for(&'w self, meta: &Metadata<'_>) -> Self::Writer {
        Prioritised { priority: priority(*meta.level()), writer: self.0.make_writer_for(meta) }
    }
}

/// As syslog(3) numbers them.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// A writer of one event, which comes whole.
pub(super) struct Prioritised<W> {
    priority: &'static str,
    writer: W,
}

impl<W: Write> Write for Prioritised<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // In one piece: others write there, too.
        self.writer.write_all(&[self.priority.as_bytes(), event].concat())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        fs,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    pub(in crate::commands::agent) struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        pub(in crate::commands::agent) fn text(&self) -> String {
            let written = self.0.lock().expect("nobody panicked").clone();
            String::from_utf8(written).expect("UTF-8")
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_line_begins_with_its_priority_and_has_no_time() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = lines(tracing_subscriber::fmt().with_target(false));
        let log = log.with_writer(Journal(move || writer.clone())).finish();
        tracing::subscriber::with_default(log, || {
            tracing::info!("node1 serves");
            tracing::warn!(kind = "node_lost", "node2 is lost");
        });
        assert_eq!(kept.text(), "<6>node1 serves\n<4>node2 is lost kind=\"node_lost\"\n");
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let stream = fs::File::open("/dev/null").expect("it is there");
        let stat = fstat(&stream).expect("it is open");
        assert!(is_stream(&stream, &format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is_stream(&stream, &format!("{}:{}", stat.st_dev, stat.st_ino + 1)));
    }
}
