//! The frame's bytes by direct packet access: the only place that touches packet memory.

#[cfg(target_arch = "bpf")]
use core::{arch::asm, hint::assert_unchecked};

use aya_ebpf::programs::{TcContext, XdpContext};
use vipfarm_common::packet::{Head, MAX_OFFSET, Packet};

/// A frame in the kernel, between `data` and `data_end`.
///
/// The pointers are read once: the verifier ties a bounds check to the very pointer it was made on.
pub(crate) struct Frame {
    data: *mut u8,
    end: *mut u8,
    /// See [`Packet::tag_beside`].
    tag: u16,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn of_xdp(ctx: &XdpContext) -> Self {
        Self { data: ctx.data() as *mut u8, end: ctx.data_end() as *mut u8, tag: 0 }
    }

    #[inline(always)]
    pub(crate) fn of_tc(ctx: &TcContext) -> Self {
        // SAFETY: `skb` is the valid context of this run.
        let skb = unsafe { &*ctx.skb.skb };
        // Before Linux 6.1 an old tag stays in the field.
        let [low, high, ..] = skb.vlan_tci.to_le_bytes();
        let tag = if skb.vlan_present == 0 { 0 } else { u16::from_le_bytes([low, high]) };
        Self { data: ctx.data() as *mut u8, end: ctx.data_end() as *mut u8, tag }
    }
}

impl Frame {
    /// Where the `N` bytes at a computed offset are, if the frame has them all: for helpers.
    #[inline(always)]
    pub(crate) fn part<const N: usize>(&self, offset: usize) -> Option<*mut u8> {
        if offset > MAX_OFFSET {
            return None;
        }
        let (start, end) = span::<N>(self.data, offset);
        (end <= self.end).then_some(start)
    }
}

/// A header of `L` bytes that was checked against `data_end`.
pub(crate) struct FrameHead<const L: usize>(*mut u8);

impl Packet for Frame {
    type Head<const L: usize> = FrameHead<L>;

    #[inline(always)]
    fn head<const L: usize>(&self, offset: usize) -> Option<FrameHead<L>> {
        let start = self.data.wrapping_add(offset);
        (start.wrapping_add(L) <= self.end).then_some(FrameHead(start))
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.part::<N>(offset)?;
        // SAFETY: `start..start + N` lies within the frame, as just checked (and as the verifier
        // checks again).
        Some(unsafe { load::<0, N>(start) })
    }

    #[inline(always)]
    fn tag_beside(&self) -> u16 {
        self.tag
    }

    #[inline(always)]
    fn forget(offset: usize) -> usize {
        const { assert!(MAX_OFFSET == 255) }
        let mut offset = offset;
        #[cfg(target_arch = "bpf")]
        // SAFETY: arithmetic on a register.
        unsafe {
            asm!("{o} &= 255", o = inout(reg) offset, options(pure, nomem, nostack));
        }
        offset &= MAX_OFFSET;
        offset
    }
}

impl<const L: usize> Head for FrameHead<L> {
    #[inline(always)]
    fn get<const O: usize, const N: usize>(&self) -> [u8; N] {
        const { assert!(O + N <= L, "a read beyond the checked header") };
        // SAFETY: `head` checked `L` bytes at this pointer, and `O + N <= L`.
        unsafe { load::<O, N>(self.0) }
    }

    #[inline(always)]
    fn set<const O: usize, const N: usize>(&self, bytes: [u8; N]) {
        const { assert!(O + N <= L, "a write beyond the checked header") };
        // SAFETY: as in `get`; XDP frames are writable, and the kernel unclones the frame of a TC
        // program that contains direct writes.
        unsafe { store::<O, N>(self.0, bytes) }
    }
}

/// `data + offset` and `data + offset + N`, computed so that LLVM cannot merge the checks of two
/// reads: the verifier loses the range of a pointer that was recomputed from another one's check.
#[inline(always)]
fn span<const N: usize>(data: *mut u8, offset: usize) -> (*mut u8, *mut u8) {
    #[cfg(target_arch = "bpf")]
    {
        let mut start = data;
        let end: *mut u8;
        // SAFETY: pure pointer arithmetic on registers.
        unsafe {
            asm!(
                "{start} += {offset}",
                "{end} = {start}",
                "{end} += {n}",
                start = inout(reg) start,
                end = out(reg) end,
                offset = in(reg) offset,
                n = const N,
                options(pure, nomem, nostack),
            );
        }
        (start, end)
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let start = data.wrapping_add(offset);
        (start, start.wrapping_add(N))
    }
}

/// Reads `N` bytes at the constant offset `O`.
///
/// A plain unaligned read compiles to `N` byte loads and shifts, 1 ns more for a verdict; a word
/// load needs assembly, because Rust knows of no alignment. LLVM folds the way from word to bytes
/// and back.
///
/// # Safety
/// `O + N` bytes must be readable at `base`.
#[inline(always)]
unsafe fn load<const O: usize, const N: usize>(base: *const u8) -> [u8; N] {
    // SAFETY: every load lies within `O..O + N`, which the caller vouches for.
    unsafe {
        let mut value = [0; N];
        match N {
            2 => value.copy_from_slice(&word16::<O>(base)),
            4 => value.copy_from_slice(&word32::<O>(base)),
            6 => {
                let [a, b] = word16::<O>(base);
                let [c, d, e, f] = word32::<O>(base.add(2));
                value.copy_from_slice(&[a, b, c, d, e, f]);
            }
            8 => value.copy_from_slice(&word64::<O>(base)),
            16 => {
                let (high, low) = (word64::<O>(base), word64::<O>(base.add(8)));
                let [a, b, c, d, e, f, g, h] = high;
                let [i, j, k, l, m, n, o, p] = low;
                value.copy_from_slice(&[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]);
            }
            _ => value = base.add(O).cast::<[u8; N]>().read_unaligned(),
        }
        value
    }
}

/// Writes `N` bytes at the constant offset `O`: a MAC is two stores, and not six with shifts between.
///
/// # Safety
/// `O + N` bytes must be writable at `base`.
#[inline(always)]
unsafe fn store<const O: usize, const N: usize>(base: *mut u8, value: [u8; N]) {
    #[cfg(target_arch = "bpf")]
    if let [a, b, c, d, e, f] = value[..] {
        let (first, last) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]));
        // SAFETY: two stores within the six bytes that the caller vouches for.
        unsafe {
            asm!("*(u32 *)({p} + {o}) = {first}", "*(u16 *)({p} + {l}) = {last}",
                p = in(reg) base, o = const O, l = const O + 4, first = in(reg) first, last = in(reg) last,
                options(nostack));
        }
        return;
    }
    // SAFETY: the caller vouches for the bytes.
    unsafe { base.wrapping_add(O).cast::<[u8; N]>().write_unaligned(value) }
}

/// # Safety
/// Two bytes must be readable at `base + O`.
#[inline(always)]
unsafe fn word16<const O: usize>(base: *const u8) -> [u8; 2] {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: one load of two bytes, which the caller vouches for.
        unsafe {
            asm!("{w} = *(u16 *)({p} + {o})", w = out(reg) word, p = in(reg) base, o = const O,
                options(pure, readonly, nostack));
            // The load clears the rest of the register: no mask is needed after it.
            assert_unchecked(word <= u64::from(u16::MAX));
        }
        (word as u16).to_ne_bytes()
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller vouches for two bytes.
    unsafe {
        base.add(O).cast::<[u8; 2]>().read()
    }
}

/// # Safety
/// Four bytes must be readable at `base + O`.
#[inline(always)]
unsafe fn word32<const O: usize>(base: *const u8) -> [u8; 4] {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: one load of four bytes, which the caller vouches for.
        unsafe {
            asm!("{w} = *(u32 *)({p} + {o})", w = out(reg) word, p = in(reg) base, o = const O,
                options(pure, readonly, nostack));
            // The load clears the rest of the register: no mask is needed after it.
            assert_unchecked(word <= u64::from(u32::MAX));
        }
        (word as u32).to_ne_bytes()
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller vouches for four bytes.
    unsafe {
        base.add(O).cast::<[u8; 4]>().read()
    }
}

/// # Safety
/// Eight bytes must be readable at `base + O`.
#[inline(always)]
unsafe fn word64<const O: usize>(base: *const u8) -> [u8; 8] {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: one load of eight bytes, which the caller vouches for.
        unsafe {
            asm!("{w} = *(u64 *)({p} + {o})", w = out(reg) word, p = in(reg) base, o = const O,
                options(pure, readonly, nostack));
        }
        word.to_ne_bytes()
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller vouches for eight bytes.
    unsafe {
        base.add(O).cast::<[u8; 8]>().read()
    }
}
