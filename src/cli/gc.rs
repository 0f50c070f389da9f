//! `ddr gc`

use serde_json::json;

use super::session::Session;
use crate::base::error::Result;
use crate::base::units::{self, count, size};
use crate::engine::gc::{GcOptions, GcStats, gc};

/// Arguments of `ddr gc`.
#[derive(clap::Args, Debug)]
pub struct GcArgs {
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Time a dead pack must have been condemned before it is deleted (default: gc.grace, 7d);
    /// shorten it only if no other peer is writing
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<String>,
    /// Take gc of the stores over from the peer that owns it
    #[arg(long)]
    pub take_over: bool,
}

/// Runs gc and says what it did per store; exit code 13 if a store could not be looked at.
pub fn run(session: &Session, args: &GcArgs) -> Result<()> {
    let mut folder = session.relieve(args.dry_run)?;
    let grace = args.grace.as_deref().map(units::parse_duration).transpose()?;
    let options = GcOptions { dry_run: args.dry_run, grace, take_over: args.take_over, owned: false };
    let (all, offline) = gc(&mut folder, &options)?;
    for stats in &all {
        session.terminal.clear();
        show(session, stats)?;
    }
    offline.map_or(Ok(()), Err)
}

/// One store's line.
pub fn show(session: &Session, stats: &GcStats) -> Result<()> {
    session.out.json(&json!({
        "type": "gc", "store": stats.store, "packs": stats.packs, "condemned": stats.condemned,
        "condemned_bytes": stats.condemned_bytes, "deleted": stats.deleted, "deleted_bytes": stats.deleted_bytes,
        "rewritten": stats.rewritten, "rewritten_bytes": stats.rewritten_bytes,
    }))?;
    let rewritten = match stats.rewritten {
        0 => String::new(),
        n => format!(" ({n} of them rewritten, {})", size(stats.rewritten_bytes)),
    };
    session.out.line(format!(
        "{}: {} looked at, {} newly condemned{rewritten}, {} deleted ({})",
        stats.store,
        count(stats.packs, "pack"),
        stats.condemned,
        stats.deleted,
        size(stats.deleted_bytes)
    ))
}
