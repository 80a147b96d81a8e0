//! Reads captures in the classic pcap format, as `tcpdump -w` writes it: 24 bytes of header, then 16
//! bytes before each packet (draft-ietf-opsawg-pcap), in the byte order of the machine that wrote it.

use std::io::{self, Read};

use thiserror::Error;

/// Ethernet frames (`LINKTYPE_ETHERNET`).
const ETHERNET: u16 = 1;
/// The largest packet that libpcap takes a file's word for (`MAXIMUM_SNAPLEN`).
const LARGEST: u32 = 262_144;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// First block of a pcapng file; the same in both byte orders.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// A capture that is being read.
#[derive(Debug)]
pub struct Capture<R> {
    input: R,
    is_big_endian: bool,
    /// Length of a unit of a time's second part, in nanoseconds.
    unit_ns: u64,
    /// Bytes read so far.
    offset: u64,
    /// The packet or header that was read last.
    bytes: Vec<u8>,
}

/// One captured packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// When it was captured, in nanoseconds since 1970 (UTC).
    pub time_ns: u64,
    /// Bytes it had on the wire.
    pub length: u32,
    /// The bytes that were kept, from the Ethernet header on.
    pub frame: &'a mut [u8],
}

impl Packet<'_> {
    /// Whether its end was not kept (`tcpdump -s`).
    pub fn is_cut(&self) -> bool {
        u64::from(self.length) > self.frame.len() as u64
    }
}

/// Why a file is no capture that can be read, or not to its end.
#[derive(Debug, Error)]
pub enum PcapError {
    /// The other format of that name.
    #[error(
        "this is a pcapng file: convert it with `editcap -F pcap IN OUT` or `tcpdump -r IN -w OUT`"
    )]
    Pcapng,
    /// Something else.
    #[error("this is no capture in pcap format: it does not begin like one")]
    Foreign,
    /// Packets of another kind than Ethernet frames.
    #[error(
        "the capture has no Ethernet frames (its link type is {0}, Ethernet is 1): capture on one Ethernet interface, as in `tcpdump -i eth0 -w FILE`"
    )]
    LinkType(u16),
    /// It ends too early.
    #[error("the capture is cut off at byte {end}, within the {what} that begins at byte {begin}")]
    CutOff {
        /// Where it ends.
        end: u64,
        /// What is not whole.
        what: &'static str,
        /// Where that begins.
        begin: u64,
    },
    /// A length that no packet has.
    #[error(
        "the capture is damaged at byte {at}: a packet of {length} bytes, more than the {LARGEST} that a capture can hold"
    )]
    Damaged {
        /// Where the packet's header begins.
        at: u64,
        /// The length that it tells.
        length: u32,
    },
    /// The system refuses to read on.
    #[error("cannot read the capture at byte {at}: {error}")]
    Io {
        /// Where.
        at: u64,
        /// Why.
        error: io::Error,
    },
}

impl<R: Read> Capture<R> {
    /// Reads the file's header.
    pub fn new(input: R) -> Result<Self, PcapError> {
        let bytes = Vec::new();
        let mut capture = Self { input, is_big_endian: false, unit_ns: 1, offset: 0, bytes };
        capture.fill(24)?;
        let Some(&magic) = capture.bytes.first_chunk() else { return Err(PcapError::Foreign) };
        if magic == PCAPNG {
            return Err(PcapError::Pcapng);
        }
        (capture.is_big_endian, capture.unit_ns) =
            match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
                (MICROSECONDS, _) => (false, 1000),
                (NANOSECONDS, _) => (false, 1),
                (_, MICROSECONDS) => (true, 1000),
                (_, NANOSECONDS) => (true, 1),
                _ => return Err(PcapError::Foreign),
            };
        capture.whole(24, "file header", 0)?;
        // The upper half tells how long a checksum is behind each frame.
        let [_, _, _, _, _, kind] = capture.words();
        match kind & 0xffff {
            kind if kind == u32::from(ETHERNET) => Ok(capture),
            kind => Err(PcapError::LinkType(u16::try_from(kind).unwrap_or(u16::MAX))),
        }
    }

    /// The next packet; `None` at the end. After an error nothing more can be read.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_>>, PcapError> {
        let begin = self.offset;
        self.fill(16)?;
        if self.bytes.is_empty() {
            return Ok(None);
        }
        self.whole(16, "packet header", begin)?;
        let [seconds, part, kept, length] = self.words();
        if kept > LARGEST {
            return Err(PcapError::Damaged { at: begin, length: kept });
        }
        self.fill(kept)?;
        self.whole(kept, "packet", begin)?;
        let time_ns = u64::from(seconds) * 1_000_000_000 + u64::from(part) * self.unit_ns;
        Ok(Some(Packet { time_ns, length, frame: &mut self.bytes }))
    }

    /// Reads so many bytes, or those that are left.
    fn fill(&mut self, count: u32) -> Result<(), PcapError> {
        self.bytes.clear();
        let read = self.input.by_ref().take(count.into()).read_to_end(&mut self.bytes);
        let read = read.map_err(|error| PcapError::Io { at: self.offset, error })?;
        self.offset += read as u64;
        Ok(())
    }

    fn whole(&self, count: u32, what: &'static str, begin: u64) -> Result<(), PcapError> {
        if self.bytes.len() as u64 == u64::from(count) {
            return Ok(());
        }
        Err(PcapError::CutOff { end: self.offset, what, begin })
    }

    /// The first words of what was read last, which is as long.
    fn words<const N: usize>(&self) -> [u32; N] {
        let word = if self.is_big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
        let (words, _) = self.bytes.as_chunks();
        std::array::from_fn(|index| words.get(index).copied().map_or(0, word))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A file of packets, each with its time in both parts, its length on the wire and its bytes.
    fn file(
        big_endian: bool,
        magic: u32,
        kind: u32,
        packets: &[(u32, u32, u32, &[u8])],
    ) -> Vec<u8> {
        let word = if big_endian { u32::to_be_bytes } else { u32::to_le_bytes };
        let mut bytes = [magic, 0x0002_0004, 0, 0, 65_535, kind].map(word).concat();
        for &(seconds, part, length, frame) in packets {
            let kept = u32::try_from(frame.len()).expect("a small frame");
            bytes.extend([seconds, part, kept, length].map(word).concat());
            bytes.extend(frame);
        }
        bytes
    }

    /// Time, length on the wire and bytes kept.
    type Kept = (u64, u32, Vec<u8>);

    /// All packets, and how it ends.
    fn read(bytes: &[u8]) -> (Vec<Kept>, Result<(), PcapError>) {
        let mut packets = Vec::new();
        let mut read = || {
            let mut capture = Capture::new(bytes)?;
            while let Some(packet) = capture.next_packet()? {
                packets.push((packet.time_ns, packet.length, packet.frame.to_vec()));
            }
            Ok(())
        };
        let end = read();
        (packets, end)
    }

    #[test]
    fn both_byte_orders_and_both_units_of_time_are_read() {
        for big_endian in [false, true] {
            for (magic, part) in [(MICROSECONDS, 250_000), (NANOSECONDS, 250_000_000)] {
                let bytes = file(big_endian, magic, 1, &[(7, part, 60, b"frame"), (8, 0, 0, b"")]);
                let (packets, end) = read(&bytes);
                end.expect("a whole file");
                let expected = [(7_250_000_000, 60, b"frame".to_vec()), (8_000_000_000, 0, vec![])];
                assert_eq!(packets, expected);
            }
        }
    }

    #[test]
    fn a_packet_that_was_not_kept_whole_is_cut() {
        let packet = |length| Packet { time_ns: 0, length, frame: &mut [0; 60] }.is_cut();
        assert!(packet(61) && !packet(60));
    }

    #[test]
    fn a_checksum_behind_each_frame_does_not_make_another_link_type() {
        let (_, end) = read(&file(false, MICROSECONDS, 0x2400_0001, &[]));
        end.expect("Ethernet");
    }

    #[test]
    fn what_is_no_such_capture_is_told_with_a_way_out() {
        let sll = file(true, NANOSECONDS, 113, &[]);
        for (bytes, says) in [
            (&b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a"[..], "editcap -F pcap"),
            (b"farm: web\nkey_file: k\n nodes:", "no capture in pcap format"),
            (b"", "no capture in pcap format"),
            (&sll, "its link type is 113"),
            (&sll[..20], "cut off at byte 20, within the file header that begins at byte 0"),
        ] {
            let (packets, end) = read(bytes);
            let error = end.expect_err(says).to_string();
            assert!(error.contains(says) && packets.is_empty(), "{error}");
        }
    }

    #[test]
    fn a_file_that_ends_too_early_is_read_to_there_and_the_place_told() {
        let bytes = file(false, MICROSECONDS, 1, &[(1, 0, 5, b"first"), (2, 0, 6, b"second")]);
        for (end, what) in [(50, "packet header"), (63, "packet")] {
            let (packets, error) = read(&bytes[..end]);
            assert_eq!(packets.len(), 1);
            assert_eq!(
                error.expect_err(what).to_string(),
                format!(
                    "the capture is cut off at byte {end}, within the {what} that begins at byte 45"
                )
            );
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_damage_and_not_memory() {
        let mut bytes = file(false, MICROSECONDS, 1, &[(1, 0, 5, b"first")]);
        bytes[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        let (_, end) = read(&bytes);
        assert!(matches!(end, Err(PcapError::Damaged { at: 24, length: u32::MAX })), "{end:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn any_packets_behind_a_right_header_take_no_more_than_there_is(
            big_endian: bool,
            bytes in vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..400),
        ) {
            let file = [file(big_endian, MICROSECONDS, 1, &[]), bytes.clone()].concat();
            let (packets, _) = read(&file);
            let taken: usize = packets.iter().map(|(_, _, frame)| 16 + frame.len()).sum();
            prop_assert!(taken <= bytes.len());
        }

        #[test]
        fn what_was_written_is_read(
            big_endian: bool,
            packets in vec((any::<u32>(), 0..1_000_000_u32, any::<u32>(), vec(any::<u8>(), 0..80)), 0..6),
        ) {
            let given: Vec<_> = packets.iter().map(|(s, n, l, f)| (*s, *n, *l, &f[..])).collect();
            let (read, end) = read(&file(big_endian, NANOSECONDS, 1, &given));
            prop_assert!(end.is_ok());
            let ns = |s: u32, n: u32| u64::from(s) * 1_000_000_000 + u64::from(n);
            let expected: Vec<_> =
                packets.iter().map(|(s, n, l, f)| (ns(*s, *n), *l, f.clone())).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
