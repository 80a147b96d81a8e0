//! The agent: what runs on every node of a farm.

pub mod control;
