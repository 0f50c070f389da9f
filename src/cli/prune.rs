//! `ddr prune`

use std::path::PathBuf;

use serde_json::json;

use super::output::{DIM, styled};
use super::session::Session;
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::base::units::{self, count, size};
use crate::engine::prune::{PruneOptions, Verdict, prune};
use crate::model::retention::{Period, Rules};

/// Arguments of `ddr prune`.
#[derive(clap::Args, Debug)]
pub struct PruneArgs {
    /// Whose versions (default: all); a directory means everything in it
    pub paths: Vec<PathBuf>,
    /// Keep the newest N versions of each file, the current one included
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u64>,
    /// Keep every version recorded within this time
    #[arg(long, value_name = "DURATION")]
    pub keep_within: Option<String>,
    /// Keep the newest version of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u64>,
    /// The same by day
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u64>,
    /// The same by week, from Monday
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u64>,
    /// The same by month
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u64>,
    /// The same by year
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u64>,
    /// Forget the oldest until all that stay need at most this, current versions included
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
    /// Only show what would be forgotten
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Show every version with the reason why it stays
    #[arg(short, long)]
    pub verbose: bool,
}

/// Prunes and says what went.
pub fn run(session: &Session, args: &PruneArgs) -> Result<()> {
    let mut folder = session.relieve(args.dry_run)?;
    let paths = match args.paths.is_empty() {
        true => vec![RelPath::root()],
        false => session.paths(&folder, &args.paths)?,
    };
    let max_size = args.max_size.as_deref().map(units::parse_size).transpose()?;
    let options = PruneOptions { rules: rules(args)?, max_size, paths, dry_run: args.dry_run };
    let stats = prune(&mut folder, &options, &mut |verdict| show(session, args, verdict))?;
    session.terminal.clear();
    session.out.json(&json!({
        "type": "prune", "kept": stats.kept, "kept_bytes": stats.kept_bytes, "forgotten": stats.forgotten,
        "forgotten_bytes": stats.forgotten_bytes, "dry_run": args.dry_run,
    }))?;
    session.out.line(format!(
        "{} {} ({}), {} stay ({})",
        if args.dry_run { "would forget" } else { "forgot" },
        count(stats.forgotten, "version"),
        size(stats.forgotten_bytes),
        stats.kept,
        size(stats.kept_bytes)
    ))?;
    for stats in &stats.gc {
        super::gc::show(session, stats)?;
    }
    let waits: u64 = stats.gc.iter().map(|s| s.condemned_bytes).sum();
    if waits > 0 {
        let grace = units::duration(folder.config.grace()?);
        session
            .out
            .line(format!("{} will be freed by `ddr gc`, not before {grace} are over", size(waits)))?;
    }
    Ok(())
}

fn rules(args: &PruneArgs) -> Result<Rules> {
    let periods = [
        (Period::Hour, args.keep_hourly),
        (Period::Day, args.keep_daily),
        (Period::Week, args.keep_weekly),
        (Period::Month, args.keep_monthly),
        (Period::Year, args.keep_yearly),
    ];
    Ok(Rules {
        last: args.keep_last,
        within: args.keep_within.as_deref().map(units::parse_duration).transpose()?,
        periods: periods.into_iter().filter_map(|(period, n)| Some((period, n?))).collect(),
    })
}

fn show(session: &Session, args: &PruneArgs, verdict: &Verdict) -> Result<()> {
    let reasons: Vec<&str> = verdict.reasons.iter().map(|r| r.name()).collect();
    session.out.json(&json!({
        "type": "version", "path": verdict.path.to_string(), "n": verdict.n, "time": verdict.at.secs,
        "size": verdict.size, "keep": !reasons.is_empty(), "reasons": reasons, "over_size": verdict.over_size,
    }))?;
    if !args.verbose {
        return Ok(());
    }
    let why = match (reasons.is_empty(), verdict.over_size) {
        (false, _) => format!("keep    {}", styled(DIM, reasons.join(", "))),
        (true, true) => format!("forget  {}", styled(DIM, "over --max-size")),
        (true, false) => format!("forget  {}", styled(DIM, "no rule keeps it")),
    };
    session.out.answer(format!(
        "{}  {}#{}  {}  {why}",
        verdict.at,
        verdict.path,
        verdict.n,
        size(verdict.size)
    ))
}
