//! ddr (dewdrop): keep every file's name, size and date where you work; keep its bytes where there
//! is room.
//!
//! The modules below are the layers, low to high. A module names only modules listed above it;
//! `tests/tidy.rs` enforces that.

/// Words: ids, paths, units, errors, progress. No I/O.
pub mod base;

/// Facts and decisions. Pure; time is an argument.
pub mod model;

/// Bytes to values and back. Pure; every byte is in docs/FORMAT.md.
pub mod format;

/// The operations that make bytes durable; the fault drills hook in here.
pub mod disk;

/// Chunks at rest: buckets of objects, stores of records.
pub mod store;

/// The working tree on this machine.
pub mod local;

/// What happened: logs, and the index over them.
pub mod history;

/// Another ddr over a byte stream.
pub mod peer;

/// Verbs: one file per thing a user asks for.
pub mod engine;

/// The engine on a loop: watches folders and works on them without being asked.
pub mod daemon;
/// On-demand access: opening a stub brings its content back.
pub mod recall;

/// Words on a terminal.
pub mod cli;
