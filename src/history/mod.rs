//! What happened: log objects in buckets are the history, `history.db` is an index over them.
//!
//! Promises that the database can be deleted at any time: `History::catch_up` over the same logs
//! ends in the same `History::state_hash`, in whatever order origins were applied before. A
//! damaged or forked log sets its origin aside and no other (I8, I9). Knows nothing of the working
//! tree beyond the rows it is told to keep, and nothing of stores beyond `Bucket`.

pub mod log;

mod apply;
mod db;
mod forgotten;
mod local;
mod origins;
mod read;
mod reader;
mod row;
mod sql;
mod summary;
mod survey;
mod then;
mod used;

pub use apply::CatchUp;
pub use db::History;
pub use forgotten::Light;
pub use local::{LocalCursor, LocalRow};
pub use log::{Identity, Tail};
pub use read::{Head, Past};
pub use summary::{Counts, Kept};
pub use survey::LogObject;
pub use then::Then;
pub use used::{Used, UsedCursor};
