//! Measurements. Every figure is a median over rounds in which all paths take turns, and every gate
//! a ratio within one run: machines are shared, and their nanoseconds are not each other's.

mod packet;

pub use packet::packet;
