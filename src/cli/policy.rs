//! `ddr policy`: which policy is in force, whether a file is one, and what it would do now.

use std::path::PathBuf;

use serde_json::json;

use super::output::{BOLD, DIM, WARN, styled, table};
use super::session::Session;
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::base::units::{count, duration, size};
use crate::engine::aging::age;
use crate::engine::policy::plan::{Plan, Sum, plan};
use crate::engine::policy::{self, speed};
use crate::model::policy::rules::{Fate, Policy};
use crate::model::policy::shipped;
use crate::model::policy::value::Vessel;

/// What to do with policies.
#[derive(clap::Subcommand, Debug)]
pub enum PolicyCommand {
    /// Show the policy in force, or one that comes with ddr
    Show {
        /// A policy that comes with ddr (default: the one in force)
        name: Option<String>,
        /// Print its file
        #[arg(long)]
        text: bool,
    },
    /// Check a policy file; errors name line and column
    Check {
        /// The file
        file: PathBuf,
    },
    /// Show what `ddr stash` would do now
    Plan {
        /// List every file
        #[arg(long)]
        paths: bool,
    },
}

/// Runs one of them.
pub fn run(session: &Session, command: &PolicyCommand) -> Result<()> {
    match command {
        PolicyCommand::Show { name, text } => show(session, name.as_deref(), *text),
        PolicyCommand::Check { file } => {
            let policy = policy::check(&session.cwd.join(file))?;
            session.out.json(&json!({
                "type": "policy", "name": policy.name, "rules": policy.rules.len(), "classes": policy.classes.len(),
            }))?;
            let rules = count(policy.rules.len() as u64, "rule");
            session.out.line(format!("{}: {rules}, no mistakes", file.display()))
        }
        PolicyCommand::Plan { paths } => {
            let mut folder = session.read()?;
            let mut plan = plan(&folder)?;
            let speed = speed::known(&folder.history)?;
            session.terminal.clear();
            tell(session, &mut plan, speed, *paths)?;
            super::tier::tell_moved(session, &age(&mut folder, true, None)?, true)
        }
    }
}

fn show(session: &Session, name: Option<&str>, text: bool) -> Result<()> {
    let force = match name {
        Some(name) => policy::shipped(name)?,
        None => policy::load(&session.read()?)?,
    };
    if text {
        return session.out.answer(force.text.trim_end());
    }
    let policy = &force.policy;
    let rules: Vec<String> = policy.rules.iter().map(|r| r.words(&policy.classes)).collect();
    session.out.json(&json!({
        "type": "policy", "name": policy.name, "source": force.source, "changed": force.changed, "rules": rules,
        "high": policy.water.map(|w| w.high.to_string()), "low": policy.water.map(|w| w.low.to_string()),
        "every_secs": policy.every.secs(),
    }))?;
    let changed = if force.changed { ", changed by config.toml" } else { "" };
    session.out.answer(styled(BOLD, format!("policy {}{changed}", force.source)))?;
    if let Some(intent) = shipped::find(&policy.name).map(|s| s.intent()) {
        session.out.answer(styled(DIM, intent))?;
    }
    for (n, rule) in rules.iter().enumerate() {
        session.out.answer(format!("  {}. {rule}", n + 1))?;
    }
    for line in bounds(policy) {
        session.out.answer(format!("  {line}"))?;
    }
    if name.is_none() {
        session
            .out
            .line(format!("others: {}; choose one with: ddr config set policy.use NAME", shipped::names()))?;
    }
    Ok(())
}

/// Water, limits and tiers, a line each.
fn bounds(policy: &Policy) -> Vec<String> {
    let mut lines = vec![format!("every {}", duration(policy.every.0))];
    lines
        .extend(policy.water.map(|w| format!("high water {}, low water {} of {}", w.high, w.low, of(&w.of))));
    lines.extend(policy.rate.map(|b| format!("at most {} a second", size(b.0))));
    lines.extend(policy.bytes.map(|b| format!("at most {} a run", size(b.0))));
    lines.extend(policy.files.map(|n| format!("at most {} a run", count(n, "file"))));
    lines.extend(policy.keep.iter().map(|(t, age)| format!("tier {t} keeps contents {}", duration(age.0))));
    lines
}

fn of(vessel: &Vessel) -> String {
    match vessel {
        Vessel::Disk => "the disk".into(),
        Vessel::Budget(total) => format!("a budget of {}", size(*total)),
    }
}

/// Prints a plan: also what `ddr stash -n` without a path shows.
pub fn tell(session: &Session, plan: &mut Plan, speed: Option<u64>, paths: bool) -> Result<()> {
    let seconds = speed.map(|speed| plan.to_place.div_ceil(speed));
    session.out.json(&as_json(plan, seconds))?;
    for (fate, sum) in &plan.fates {
        session.out.json(&json!({
            "type": "fate", "fate": fate.word(), "files": sum.files, "bytes": sum.bytes, "frees_bytes": sum.frees,
        }))?;
    }
    session.out.line(styled(BOLD, format!("policy {}", plan.force.source)))?;
    water(session, plan)?;
    if plan.chosen.files == 0 {
        session.out.answer("nothing to stash now")?;
    } else {
        groups(session, plan)?;
        session.out.line(time(plan, seconds, speed))?;
    }
    kept(session, plan)?;
    if paths { list(session, plan) } else { Ok(()) }
}

fn as_json(plan: &Plan, seconds: Option<u64>) -> serde_json::Value {
    json!({
        "type": "plan", "policy": plan.force.source, "files": plan.chosen.files, "bytes": plan.chosen.bytes,
        "frees_bytes": plan.chosen.frees, "to_place_bytes": plan.to_place, "seconds": seconds,
        "room_total": plan.room.map(|r| r.total), "room_used": plan.room.map(|r| r.used),
        "excess_bytes": plan.excess, "short_bytes": plan.short, "beyond_limit_files": plan.beyond.files,
        "top": plan.top.iter().map(|(dir, sum)| json!({
            "path": dir.to_string(), "files": sum.files, "frees_bytes": sum.frees,
        })).collect::<Vec<_>>(),
    })
}

fn water(session: &Session, plan: &Plan) -> Result<()> {
    let (Some(room), Some(water)) = (plan.room, plan.force.policy.water) else { return Ok(()) };
    let what = of(&water.of);
    let state = match plan.excess {
        0 => format!("below high water ({})", water.high),
        n => format!("above high water ({}): {} must go to reach {}", water.high, size(n), water.low),
    };
    let (used, total) = (size(room.used), size(room.total));
    session.out.line(format!("{}% of {what} in use ({used} of {total}), {state}", room.percent()))?;
    if plan.short > 0 {
        let text = format!("low water is out of reach: {} more would have to go", size(plan.short));
        session.out.line(styled(WARN, text))?;
    }
    Ok(())
}

fn groups(session: &Session, plan: &Plan) -> Result<()> {
    let head = ["frees", "files", "to", "because"].map(|head| styled(DIM, head)).to_vec();
    let mut rows = vec![head];
    let policy = &plan.force.policy;
    let line = |sum: &Sum, to: &str, why: String| {
        let files = count(sum.files, "file");
        vec![
            size(sum.frees),
            files.trim_end_matches(" files").trim_end_matches(" file").into(),
            to.into(),
            why,
        ]
    };
    for ((rule, go), sum) in &plan.groups {
        let Some(rule) = policy.rules.get(*rule) else { continue };
        let class = rule.class.map_or("every file", |n| &policy.classes[n].name);
        let age = if *go { rule.after } else { rule.when_full };
        let age = age.map_or(String::new(), |age| duration(age.0));
        let why = match go {
            true => format!("{class}: not used for {age}"),
            false => format!("{class}: room is short, not used for {age}"),
        };
        rows.push(line(sum, rule.tier.as_deref().unwrap_or("stores"), why));
    }
    if plan.groups.len() > 1 {
        rows.push(line(&plan.chosen, "", "together".into()));
    }
    table(&rows, &[0, 1]).into_iter().try_for_each(|line| session.out.answer(line))?;
    session.out.line(styled(DIM, "most of it from:"))?;
    let top: Vec<Vec<String>> = plan
        .top
        .iter()
        .map(|(dir, sum)| vec![size(sum.frees), count(sum.files, "file"), dir.to_string()])
        .collect();
    table(&top, &[0, 1]).into_iter().try_for_each(|line| session.out.line(line))
}

fn time(plan: &Plan, seconds: Option<u64>, speed: Option<u64>) -> String {
    let place = size(plan.to_place);
    match (seconds, speed) {
        (Some(_), _) if plan.to_place == 0 => "all of it is on the stores already".into(),
        (Some(secs), Some(speed)) => {
            let time = duration(std::time::Duration::from_secs(secs));
            format!("{place} to place: about {time} at {} a second, as measured in earlier runs", size(speed))
        }
        _ => format!("{place} to place; how long that takes is known after the first run"),
    }
}

/// What stays, and why.
fn kept(session: &Session, plan: &Plan) -> Result<()> {
    let words = |fate: &Fate| match fate {
        Fate::Stub => "stubs already",
        Fate::Pinned => "pinned",
        Fate::Kept => "kept: a rule says so, or none fits",
        Fate::Small => "too small to gain anything",
        Fate::Linked => "with several names",
        Fate::Thin => "no larger on the disk than a stub",
        Fate::Young => "used too recently",
        Fate::Spare => "only when room is short",
        Fate::Go => "",
    };
    let left: Vec<Vec<String>> = Fate::ALL
        .iter()
        .filter(|fate| **fate != Fate::Go)
        .filter_map(|fate| Some((fate, plan.fates.get(fate)?)))
        .map(|(fate, sum)| {
            vec![count(sum.files, "file"), words(fate).into(), format!("({})", size(sum.bytes))]
        })
        .collect();
    if !left.is_empty() {
        session.out.line(styled(DIM, "what stays:"))?;
    }
    table(&left, &[0]).into_iter().try_for_each(|line| session.out.line(line))?;
    match plan.beyond.files {
        0 => Ok(()),
        n => session
            .out
            .line(format!("{} left for the next run: the policy limits this one", count(n, "file"))),
    }
}

fn list(session: &Session, plan: &mut Plan) -> Result<()> {
    let policy = plan.force.policy.clone();
    plan.each(&mut |waiting| {
        let used = crate::base::units::Time { secs: waiting.candidate.rank.used, nanos: 0 };
        let path: &RelPath = &waiting.path;
        let rule = policy.rules.get(usize::from(waiting.rule));
        session.out.json(&json!({
            "type": "file", "path": path.to_string(), "bytes": waiting.candidate.rank.size,
            "frees_bytes": waiting.candidate.frees, "last_use": used.secs, "rule": waiting.rule + 1,
            "tier": rule.and_then(|r| r.tier.clone()), "because": if waiting.candidate.go { "age" } else { "room" },
        }))?;
        session.out.answer(format!("{used}  {:>10}  {path}", size(waiting.candidate.rank.size)))
    })
}
