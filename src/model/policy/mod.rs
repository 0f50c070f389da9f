//! Policies: which files may become stubs, when, and where their content goes.
//!
//! Promises purity and determinism: the same files, policy and time give the same plan; a pinned file
//! and one used more recently than its rule says are never chosen; the least recently used go
//! first. Knows no file system: facts about a file, room on the disk and the time are arguments.
//!
//! The language is docs/POLICY.md; `engine::policy` gathers the facts and applies the plan.

pub mod breaker;
pub mod bursts;
pub mod choose;
pub mod class;
pub mod doc;
pub mod last_use;
pub mod pins;
pub mod rules;
pub mod shipped;
pub mod value;
pub mod water;

#[cfg(test)]
mod tests;
