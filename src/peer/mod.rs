//! Another ddr over a byte stream.
//!
//! Promises that a store behind a stream behaves as one on a disk, only farther away: it is a
//! [`Bucket`](crate::store::Bucket), a cut stream is dialled again, and what was under way is
//! resumed. Whatever comes over the stream is checked before it is used. Knows no folder's tree and
//! no verb; what is sent is in docs/PROTOCOL.md.

pub mod auth;
pub mod bucket;
pub mod config;
pub mod host;
pub mod hosts;
pub mod link;
pub mod machine;
pub mod openssh;
mod pipe;
pub mod proxy;
mod pump;
pub mod remote;
pub mod serve;
pub mod sftp;
pub mod ssh;
pub mod stream;
pub mod url;

/// This program, as it introduces itself.
pub fn program() -> String {
    concat!("ddr ", env!("CARGO_PKG_VERSION")).into()
}
