//! The real program, as a person at a prompt sees it: every command, and what goes wrong.

mod bare;
mod clone;
mod cloned;
mod commands;
mod dry;
mod invariants;
mod names;
mod pins;
mod places;
mod policy;
mod prompt;
mod restored;
mod special;
mod stopped;
mod tiers;
mod two;
