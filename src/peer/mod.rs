//! Another ddr over a byte stream.
//!
//! Promises that a store behind a stream behaves as one on a disk, only farther away: it is a
//! [`Bucket`](crate::store::Bucket), a cut stream is dialled again, and what was under way is
//! resumed. Whatever comes over the stream is checked before it is used. Knows no folder's tree and
//! no verb; what is sent is in docs/PROTOCOL.md.

pub mod stream;
