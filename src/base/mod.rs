//! Words: ids, paths, units, errors and progress.
//!
//! Promises no I/O and no knowledge of anything above it; every other layer may use it.

pub mod cancel;
pub mod error;
pub mod id;
pub mod path;
pub mod progress;
pub mod units;
