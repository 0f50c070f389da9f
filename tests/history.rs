//! The history layer: logs in buckets and the index over them.

mod logs;
mod paths;
mod speed;
mod tables;
mod world;
