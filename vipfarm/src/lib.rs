//! vipfarm: several servers hold the same virtual IP at the same time.
//!
//! Data flows one way: YAML → [`config`] → [`model`] → [`membership`] → [`assign`] → [`plan`] →
//! [`datapath`] → kernel → counters → [`status`] → [`commands`].

pub mod agent;
pub mod assign;
pub mod cli;
pub mod commands;
pub mod config;
pub mod datapath;
pub mod doctor;
mod file;
pub mod host;
pub mod import;
pub mod membership;
pub mod model;
pub mod net;
pub mod pcap;
pub mod placement;
pub mod plan;
pub mod status;
pub mod summary;
