//! `ddr tier`

use serde_json::json;

use super::output::{WARN, styled, table};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::{count, size};
use crate::engine::commit::sync_logs;
use crate::engine::folder::Folder;
use crate::engine::level::{Finding, LevelOptions, LevelStats, State, level, settle_behind};
use crate::engine::remotes::Remotes;
use crate::engine::targets::{self, Tier, layout_word};
use crate::engine::tiers::{self, LayoutName, TierConfig};
use crate::engine::{behind, config};

/// What to do with tiers.
#[derive(clap::Subcommand, Debug)]
pub enum TierCommand {
    /// Make a tier of remotes, or add some to one that is there; new tiers are the farthest
    Add {
        /// Name of the tier
        tier: String,
        /// Names of remotes
        #[arg(required = true)]
        stores: Vec<String>,
        /// Of a new tier: mirror (each store keeps everything) or bundle (they share)
        #[arg(long, value_name = "LAYOUT")]
        layout: Option<String>,
        /// Of a new tier: failure domains that must have each content
        #[arg(long)]
        copies: Option<usize>,
        /// Of a new tier: move contents on that were not used for so long
        #[arg(long, value_name = "DURATION")]
        keep: Option<String>,
        /// Share of each added store, relative to the others
        #[arg(long, default_value_t = 1)]
        weight: u32,
    },
    /// List tiers and their stores, near to far
    List,
    /// Move everything off a store; it gets nothing new from now on
    Drain {
        /// Name of the remote
        store: String,
        /// Only show what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Check that every content has the copies that its tier wants
    Check {
        /// Make the missing copies
        #[arg(long)]
        repair: bool,
    },
    /// Move contents on to the next tier that were not used for longer than their tier keeps them
    Move {
        /// Only show what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}

/// Runs one of them.
pub fn run(session: &Session, command: &TierCommand) -> Result<()> {
    match command {
        TierCommand::Add { tier, stores, layout, copies, keep, weight } => {
            let layout = match layout.as_deref() {
                None | Some("mirror") => LayoutName::Mirror,
                Some("bundle") => LayoutName::Bundle,
                Some(other) => {
                    return Err(Error::Invalid(format!("{other:?} is no layout: mirror or bundle")));
                }
            };
            let (name, stores) = (tier.clone(), stores.clone());
            let new =
                TierConfig { name, layout, stores, copies: *copies, weights: vec![], keep: keep.clone() };
            add(session, new, *weight)
        }
        TierCommand::List => list(session),
        TierCommand::Drain { store, dry_run } => drain(session, store, *dry_run),
        TierCommand::Check { repair } => check(session, *repair),
        TierCommand::Move { dry_run } => {
            let options = LevelOptions { dry_run: *dry_run, moves: true, limit: None };
            let stats = run_level(session, &mut session.write()?, options)?;
            tell_level(session, &stats, *dry_run)
        }
    }
}

fn add(session: &Session, new: TierConfig, weight: u32) -> Result<()> {
    let mut folder = session.write()?;
    let file = folder.dir.join("config.toml");
    config::edit_with(&file, |doc| match folder.config.tier.iter().find(|t| t.name == new.name) {
        None => tiers::append(doc, &new),
        Some(old) => {
            let mut old = old.clone();
            for store in &new.stores {
                tiers::add_store(doc, &old, store, weight)?;
                let mut set: std::collections::BTreeMap<String, u32> =
                    old.stores.iter().map(|s| (s.clone(), old.weight(s))).collect();
                set.insert(store.clone(), weight);
                old.weights.push(set);
                old.stores.push(store.clone());
            }
            Ok(())
        }
    })?;
    // Whatever the new ones lack, the next command that writes begins to bring.
    behind::note_behind(&mut folder.history, &new.stores, (0, 0))?;
    session.out.json(&json!({ "type": "tier", "name": new.name, "added": new.stores }))?;
    session.out.line(format!("tier {}: added {}", new.name, new.stores.join(", ")))
}

fn open(session: &Session, folder: &Folder) -> Result<(Remotes, Vec<Tier>)> {
    let remotes = Remotes::open(folder)?;
    let tiers = targets::tiers(folder, &remotes)?;
    session.terminal.clear();
    Ok((remotes, tiers))
}

fn list(session: &Session) -> Result<()> {
    let folder = session.read()?;
    let (_, tiers) = open(session, &folder)?;
    let mut rows = Vec::new();
    for tier in &tiers {
        let mut names = Vec::new();
        for (remote, seat) in tier.members.iter().zip(&tier.rule.seats) {
            session.out.json(&json!({
                "type": "seat", "tier": tier.name, "store": remote.name, "online": true, "weight": seat.weight, "domain": remote.domain,
            }))?;
            names.push(match seat.weight {
                0 => format!("{} (drained)", remote.name),
                1 => remote.name.clone(),
                n => format!("{} (weight {n})", remote.name),
            });
        }
        for name in &tier.absent {
            session
                .out
                .json(&json!({ "type": "seat", "tier": tier.name, "store": name, "online": false }))?;
            names.push(format!("{name} ({})", styled(WARN, "offline")));
        }
        let keep =
            tier.keep.map(|k| format!("keeps {}", crate::base::units::duration(k))).unwrap_or_default();
        session.out.json(&json!({
            "type": "tier", "name": tier.name, "layout": layout_word(tier.rule.layout), "copies": tier.rule.copies,
            "keep_seconds": tier.keep.map(|k| k.as_secs()),
        }))?;
        let layout = format!("{}, {}", layout_word(tier.rule.layout), copies(tier.rule.copies));
        rows.push(vec![tier.name.clone(), layout, names.join(", "), keep]);
    }
    table(&rows, &[]).into_iter().try_for_each(|line| session.out.answer(line))
}

fn copies(n: usize) -> String {
    if n == 1 { "1 copy".into() } else { format!("{n} copies") }
}

fn drain(session: &Session, store: &str, dry_run: bool) -> Result<()> {
    let mut folder = session.write()?;
    let tier = folder.config.tier.iter().find(|t| t.stores.iter().any(|s| s == store)).cloned();
    let Some(tier) = tier else {
        return Err(Error::Missing(format!("a tier with the store {store} (see `ddr tier list`)")));
    };
    let open: Vec<&String> = tier.stores.iter().filter(|s| *s != store && tier.weight(s) > 0).collect();
    if open.is_empty() || tier.copies.is_some_and(|c| c > open.len()) {
        return Err(Error::Refused(format!(
            "without {store} the tier {} could not keep {}; add a store first: ddr tier add {} NAME",
            tier.name,
            copies(tier.copies()),
            tier.name
        )));
    }
    if !dry_run {
        config::edit_with(&folder.dir.join("config.toml"), |doc| tiers::weigh(doc, &tier, store, 0))?;
    }
    let mut after = tier.clone();
    let mut set: std::collections::BTreeMap<String, u32> =
        tier.stores.iter().map(|s| (s.clone(), tier.weight(s))).collect();
    set.insert(store.into(), 0);
    after.weights.push(set);
    folder.config.tier.iter_mut().filter(|t| t.name == after.name).for_each(|t| *t = after.clone());
    let stats = run_level(session, &mut folder, LevelOptions { dry_run, ..LevelOptions::default() })?;
    tell_level(session, &stats, dry_run)?;
    match dry_run {
        true => Ok(()),
        false => session.out.line(format!(
            "{store} gets nothing new; `ddr gc` frees what it no longer must keep, then: ddr remote remove {store}"
        )),
    }
}

fn check(session: &Session, repair: bool) -> Result<()> {
    let mut folder = session.write()?;
    let remotes = Remotes::open(&folder)?;
    remotes.note_offline(&folder);
    if repair {
        sync_logs(&mut folder, &remotes)?;
    }
    let options = LevelOptions { dry_run: !repair, ..LevelOptions::default() };
    let mut bad = 0;
    let stats = level(&mut folder, &remotes, options, &mut |finding| {
        bad += u64::from(!repair || matches!(finding.state, State::Short | State::Lost));
        tell_finding(session, finding)
    })?;
    if repair {
        settle_behind(&mut folder, &remotes, &stats)?;
    }
    tell_level(session, &stats, !repair)?;
    if bad == 0 { Ok(()) } else { Err(Error::Problems(count(bad, "content"))) }
}

fn run_level(session: &Session, folder: &mut Folder, options: LevelOptions) -> Result<LevelStats> {
    let remotes = Remotes::open(folder)?;
    remotes.note_offline(folder);
    if !options.dry_run {
        sync_logs(folder, &remotes)?;
    }
    let stats = level(folder, &remotes, options, &mut |_| Ok(()))?;
    if !options.dry_run {
        settle_behind(folder, &remotes, &stats)?;
    }
    session.terminal.clear();
    Ok(stats)
}

/// One content that is not as it should be, as JSON.
pub fn tell_finding(session: &Session, finding: &Finding) -> Result<()> {
    let state = match finding.state {
        State::Copied => "copied",
        State::Moved => "moved",
        State::Short => "short",
        State::Lost => "lost",
    };
    session.out.json(&json!({
        "type": "content", "body": finding.body.id.to_string(), "size": finding.size, "tier": finding.tier,
        "copies": finding.copies, "wanted": finding.wanted, "state": state,
    }))
}

/// What moved on, or would, if anything.
pub fn tell_moved(session: &Session, stats: &LevelStats, dry_run: bool) -> Result<()> {
    match stats.moved.0 + stats.short.0 + stats.lost.0 {
        0 => Ok(()),
        _ => tell_level(session, stats, dry_run),
    }
}

/// What was done, or would be.
pub fn tell_level(session: &Session, stats: &LevelStats, dry_run: bool) -> Result<()> {
    session.terminal.clear();
    let pair = |(n, bytes): (u64, u64)| json!({ "contents": n, "bytes": bytes });
    session.out.json(&json!({
        "type": "level", "contents": stats.contents, "copied": pair(stats.copied), "moved": pair(stats.moved),
        "short": pair(stats.short), "lost": pair(stats.lost), "written_bytes": stats.written, "dry_run": dry_run,
    }))?;
    let mut said = false;
    let would = if dry_run { "would be " } else { "" };
    for (verb, (n, bytes)) in [
        (format!("{would}copied to where it was missing"), stats.copied),
        (format!("{would}moved on to the next tier"), stats.moved),
    ] {
        if n > 0 {
            said = true;
            session.out.line(format!("{} ({}) {verb}", count(n, "content"), size(bytes)))?;
        }
    }
    for (what, (n, bytes)) in [
        ("short of copies: add a store, or bring one back", stats.short),
        ("on no reachable store", stats.lost),
    ] {
        if n > 0 {
            said = true;
            let text = format!("{} ({}) {what}", count(n, "content"), size(bytes));
            session.out.line(styled(WARN, text))?;
        }
    }
    match said {
        true => Ok(()),
        false => session.out.line(format!("{}: all where they should be", count(stats.contents, "content"))),
    }
}
