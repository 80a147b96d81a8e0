//! The lab: a farm on one machine, for tests and for the demo.
//!
//! A [`Lab`] is a bridge (the switch), a network namespace per node and one per client, and a veth
//! pair from each to the switch. What runs in it is real: kernels' network stacks, child processes,
//! TCP connections. Everything vanishes with the [`Lab`], also after a panic; what a killed run
//! left behind is swept by the next [`Lab::new`].
//!
//! ```text
//!  client1   client2      10.77.1.1..  10.77.2.1..   (many source addresses each)
//!     |         |
//!   ==+=========+==  switch: bridge, one port per host, named as the host
//!     |         |
//!   node1     node2      10.77.0.11    10.77.0.12    VIP 10.77.0.100
//! ```
//!
//! If asked for, all of them have an IPv6 address beside each of these:
//! `fd00:77::a4d:b` with 10.77.0.11.
//!
//! - [`lab`]: the topology and its life; [`host`]: what one can do at a node or client.
//! - [`elsewhere`]: another network of the nodes; [`remote`]: a client behind a router.
//! - [`process`], [`capture`], [`frame`]: children, recordings, hand-made frames.
//! - [`traffic`]: servers and clients that count what users of a farm would notice.
//! - [`generator`]: frames by chance; [`pcap`]: frames in a file.
//! - [`world`]: a farm on paper, and the decision about single frames in it, on host and kernel.
//! - [`farm`]: agents on the nodes, through the `vipfarm` program; [`tables`]: what their kernels have.
//! - [`tcx`]: a TC program of somebody else.
//! - [`skip`]: how a test says that it cannot run here.
//! - [`bench`]: what a packet costs, what clients notice of failures; [`translated`]: what the kernel made of a program.
//! - [`demo`]: the guided tour that `cargo xtask demo` shows.

pub mod bench;
mod bpffs;
pub mod capture;
pub mod demo;
pub mod elsewhere;
mod ethtool;
pub mod farm;
mod flood;
mod footprint;
pub mod frame;
pub mod generator;
pub mod host;
mod interrupt;
mod iproute;
pub mod lab;
pub mod ns;
mod offload;
mod packet_socket;
pub mod pcap;
pub mod process;
pub mod remote;
pub mod skip;
mod sweep;
mod switch;
pub mod tables;
pub mod tcx;
pub mod traffic;
pub mod translated;
pub mod world;
mod xdp;

pub use capture::{Capture, Captured, Direction};
pub use farm::{Farm, Footprint};
pub use frame::Frame;
pub use host::Host;
pub use lab::{Lab, Topology};
pub use ns::Namespace;
pub use process::Process;
