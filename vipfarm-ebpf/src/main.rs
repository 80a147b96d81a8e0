//! The kernel side of vipfarm: a thin shell around the decision in `vipfarm-common`.
//!
//! Programs: `filter`, `slow` and `trace` (XDP; each tail-calls the next), `vipfarm_guard` (TC egress),
//! `vipfarm_fixup` (TC ingress), `vipfarm_clock` (run by the agent to read the kernel's two clocks).
//!
//! It also compiles for the host, for lints only.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unstable_features, reason = "inline assembly for BPF is not stable yet"),
    feature(asm_experimental_arch)
)]
#![expect(clippy::needless_pass_by_value, reason = "the entry points' signature is aya's")]
#![expect(
    clippy::inline_always,
    reason = "a call costs 8 ns in the kernel, and a packet pointer does not survive one"
)]

mod frame;
mod object;
mod tables;
mod tc;
mod trace;
mod xdp;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
