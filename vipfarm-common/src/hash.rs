//! Which bucket a client falls in: SipHash-1-3 of `address | field | protocol`.
//!
//! The input is the byte string as it stands in the packet (network order): 4 or 16 bytes of address,
//! 2 of field (source port, IP-ID, or 0), 1 of protocol. Seven bytes fit `SipHash`'s final block, so
//! the whole hash is four rounds, and six for IPv6. The key makes it impossible to choose clients offline that all
//! meet one node.

/// Version of the hash and its input, part of the configuration digest: nodes that hash differently
/// must never share a group.
pub const HASH_VERSION: u8 = 1;

/// The key as `SipHash` takes it: two little-endian words.
pub const fn key_words(key: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = key;
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest)]
}

/// What the hash begins with: `SipHash`'s state after all that depends on the key alone. That is a part
/// of the first round too, which packets need not wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start(pub [u64; 4]);

impl From<[u64; 2]> for Start {
    /// Of a key, as [`key_words`] makes it.
    #[inline(always)]
    fn from([k0, k1]: [u64; 2]) -> Self {
        Self(first_half([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ]))
    }
}

/// The 64-bit hash of an IPv4 client's fields. Each group takes its own byte: see [`bucket`].
///
/// `client` and `field` are bytes in packet order.
#[inline(always)]
pub fn hash_v4(start: impl Into<Start>, client: [u8; 4], field: [u8; 2], proto: u8) -> u64 {
    let client = u64::from(u32::from_le_bytes(client));
    let field = u64::from(u16::from_le_bytes(field));
    sip13_short(start, client | field << 32 | u64::from(proto) << 48 | 7 << 56)
}

/// The 64-bit hash of an IPv6 client's fields, as [`hash_v4`].
#[inline(always)]
pub fn hash_v6(start: impl Into<Start>, client: [u8; 16], field: [u8; 2], proto: u8) -> u64 {
    let [a, b, c, d, e, f, g, h, rest @ ..] = client;
    let v = absorb(start.into().0, u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    let v = absorb(first_half(v), u64::from_le_bytes(rest));
    let field = u64::from(u16::from_le_bytes(field));
    finish(first_half(v), field | u64::from(proto) << 16 | 19 << 56)
}

/// The hash of a client that has no address yet: an ARP probe's sender MAC (RFC 5227 section 2.1.1).
#[inline(always)]
pub fn hash_mac(start: impl Into<Start>, mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    sip13_short(start, u64::from_le_bytes([a, b, c, d, e, f, ARP, 7]))
}

/// The protocol byte of address resolution in the hash input. IP protocol 0 (hop-by-hop options)
/// never reaches a rule, so it is free.
pub const ARP: u8 = 0;

/// The group's bucket: another byte of the same hash for each of eight groups, which therefore spread
/// independently; the next eight take the same bytes under another mask, which moves their clients
/// to other buckets but keeps together who was together.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "one byte is wanted, and there are few groups")]
pub const fn bucket(hash: u64, group: u32) -> u8 {
    (hash >> ((group & 7) * 8)) as u8 ^ ((group >> 3) as u8).wrapping_mul(0x9d)
}

/// SipHash-1-3 of a message of at most seven bytes, given as its final block: the bytes from the
/// least significant on, the length in the top byte.
#[inline(always)]
fn sip13_short(start: impl Into<Start>, block: u64) -> u64 {
    finish(start.into().0, block)
}

/// Takes a block in. The state has the first half of the round behind it, in which no block is needed.
#[inline(always)]
const fn absorb([a, b, c, d]: [u64; 4], block: u64) -> [u64; 4] {
    let [a, b, c, d] = second_half([a, b, c, d ^ block]);
    [a ^ block, b, c, d]
}

/// Takes the final block in, and does the three rounds after it.
#[inline(always)]
const fn finish(v: [u64; 4], block: u64) -> u64 {
    let [a, b, c, d] = absorb(v, block);
    let [a, b, c, d] = round(round(round([a, b, c ^ 0xff, d])));
    a ^ b ^ c ^ d
}

#[inline(always)]
const fn round(v: [u64; 4]) -> [u64; 4] {
    second_half(first_half(v))
}

/// What a round does with the first two words before it mixes them with the others.
#[inline(always)]
const fn first_half([mut a, mut b, c, d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    [a, b, c, d]
}

/// The rest of it.
#[inline(always)]
const fn second_half([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of the reference vectors: bytes 00 01 .. 0f.
    const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    #[test]
    fn official_vectors_of_up_to_seven_bytes() {
        // vectors_sip64 of the reference implementation compiled for one compression and three
        // finalisation rounds; the message is 00 01 .. (length - 1).
        let vectors: [u64; 8] = [
            0xabac_0158_050f_c4dc,
            0xc9f4_9bf3_7d57_ca93,
            0x82cb_9b02_4dc7_d44d,
            0x8bf8_0ab8_e7dd_f7fb,
            0xcf75_5760_88d3_8328,
            0xdef9_d52f_4953_3b67,
            0xc50d_2b50_c59f_22a7,
            0xd392_7d98_9bb1_1140,
        ];
        for (length, expected) in vectors.into_iter().enumerate() {
            let mut block = [0; 8];
            for (i, byte) in block.iter_mut().take(length).enumerate() {
                *byte = u8::try_from(i).expect("it is below seven");
            }
            block[7] = u8::try_from(length).expect("it is below eight");
            assert_eq!(sip13_short(KEY, u64::from_le_bytes(block)), expected, "{length} bytes");
        }
    }

    #[test]
    fn the_input_is_address_field_protocol_in_packet_order() {
        assert_eq!(hash_v4(KEY, [0, 1, 2, 3], [4, 5], 6), 0xd392_7d98_9bb1_1140);
        assert_eq!(hash_mac(KEY, [0, 1, 2, 3, 4, 5]), hash_v4(KEY, [0, 1, 2, 3], [4, 5], ARP));
    }

    #[test]
    fn the_input_of_ipv6_is_nineteen_bytes() {
        // Of the same vectors, the one of the message 00 01 .. 12.
        let client = core::array::from_fn(|i| u8::try_from(i).expect("it is below 16"));
        assert_eq!(hash_v6(KEY, client, [16, 17], 18), 0xf21f_9de5_8d29_7d1c);
    }

    #[test]
    fn groups_take_different_bytes() {
        let hash = 0x0706_0504_0302_0100;
        for group in 0..8 {
            assert_eq!(u32::from(bucket(hash, group)), group);
        }
        assert_eq!(bucket(hash, 8), 0x9d);
        assert_eq!(bucket(hash, 9), 1 ^ 0x9d);
    }

    #[test]
    fn buckets_are_uniform_over_sequential_clients() {
        let mut count = [0u32; 256];
        for client in 0..65_536u32 {
            count[usize::from(bucket(hash_v4(KEY, client.to_be_bytes(), [0; 2], 6), 0))] += 1;
        }
        // 256 expected each, standard deviation 16: six sigma.
        assert!(count.iter().all(|&n| (160..352).contains(&n)), "{count:?}");
    }
}
