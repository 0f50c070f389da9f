//! Facts and decisions: what a file version is and what follows from it.
//!
//! Promises purity: no I/O, no clock, no randomness; time is an argument.

pub mod entry;
pub mod manifest;
pub mod manners;
pub mod placement;
pub mod policy;
pub mod reach;
pub mod related;
pub mod release;
pub mod residency;
pub mod retention;
pub mod version;
