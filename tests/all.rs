//! Every integration test in one binary, so that it links once; `tests/tidy.rs` checks the list.
#![allow(clippy::unwrap_used, missing_docs)]

mod cli;
mod daemon;
mod faults;
mod formats;
mod full;
mod history;
mod kill;
mod local;
mod peer;
mod policy;
mod powercut;
mod recall;
mod rot;
mod ssh;
mod stores;
mod stubs;
mod support;
mod tidy;
mod tiers;
mod versions;
