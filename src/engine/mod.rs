//! Verbs: each file is one thing a user asks for, with its options and what it did.
//!
//! Promises that a verb calls down, returns values and prints nothing; that its order of durable
//! steps, argued in its header, survives a crash at any instruction.

pub mod aging;
pub mod apply;
pub mod behind;
pub mod checkout;
pub mod clock;
pub mod clone;
pub mod commit;
pub mod config;
pub mod content;
pub mod diff;
pub mod domains;
pub mod fetch;
pub mod folder;
pub mod fsck;
pub mod gc;
pub mod heal;
pub mod held;
pub mod hold;
pub mod init;
pub mod instance;
pub mod keeper;
pub mod level;
pub mod live;
pub mod lost;
pub mod manifests;
pub mod mend;
pub mod objects;
pub mod pin;
pub mod ping;
pub mod place;
pub mod places;
pub mod policy;
pub mod prune;
pub mod rebuild;
pub mod recall;
pub mod registry;
pub mod related;
pub mod release;
pub mod remotes;
pub mod repair;
pub mod restore;
pub mod restore_at;
pub mod rewrite;
pub mod room;
pub mod scrub;
pub mod spool;
pub mod spread;
pub mod stash;
pub mod survey;
pub mod targets;
pub mod tiers;
pub mod trace;
pub mod when;
