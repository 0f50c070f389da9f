//! The engine on a loop: one thread for each registered folder watches it and does what is due.
//!
//! Promises that nothing it does differs from a command that a user could type, that it has a folder's
//! lock only while it works and gives way to any command that waits for it, and that a stop at any moment
//! loses nothing. What is due when, `triggers` decides; what happened in the tree, `seen` keeps.

pub mod beside;
pub mod clock;
pub mod log;
pub mod memory;
pub mod run;
pub mod seen;
pub mod settings;
pub mod socket;
pub mod state;
pub mod tend;
pub mod triggers;
pub mod watch;
pub mod work;
