//! What every object needs beside its programs.

/// The kernel lets only programs of a GPL-compatible licence call some helpers (see LICENSE).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// No panic path survives in the object: one would be a jump to itself, which does not load.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
