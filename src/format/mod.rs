//! Bytes to values and back, purely; every byte is in docs/FORMAT.md.
//!
//! Promises that decoders survive any input: sizes are checked before allocation, hashes before
//! use. Knows no files and no stores.

pub mod chunker;
pub mod frame;
pub mod hold;
pub mod key;
pub mod log;
pub mod manifest;
pub mod mark;
pub mod message;
pub mod pack;
pub mod seal;
pub mod store;
pub mod stub;
pub mod wire;
