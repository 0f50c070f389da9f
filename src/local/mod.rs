//! The working tree on this machine: walking it, reading it safely, turning files into stubs and
//! back.
//!
//! Promises that nothing outside the folder's root is ever touched (every path is opened beneath
//! it, no symlink followed), that only proven bytes are freed and that a user's bytes are never
//! overwritten. Knows no stores, no history and no policy.

pub mod create;
pub mod fill;
pub mod guard;
pub mod ignores;
pub mod inode;
pub mod inspect;
pub mod intent;
pub mod lease;
pub mod mend;
pub mod mount;
pub mod names;
pub mod read;
pub mod replace;
pub mod root;
pub mod scan;
pub mod stat;
pub mod stub;
