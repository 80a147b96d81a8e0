//! The agent: what runs on every node of a farm.

pub mod control;
pub mod history;
pub mod options;
