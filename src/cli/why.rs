//! `ddr why`

use std::path::PathBuf;

use serde_json::json;

use super::output::{BOLD, DIM, styled};
use super::session::Session;
use super::whereis;
use crate::base::error::Result;
use crate::base::units::{Time, duration, size};
use crate::engine::policy::InForce;
use crate::engine::policy::why::{Why, why};
use crate::model::policy::doc::Do;
use crate::model::policy::rules::Fate;

/// Arguments of `ddr why`.
#[derive(clap::Args, Debug)]
pub struct WhyArgs {
    /// Files
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}

/// Explains each file: class, rule, last use, copies, verdict.
pub fn run(session: &Session, args: &WhyArgs) -> Result<()> {
    let folder = session.read()?;
    let paths = session.paths(&folder, &args.paths)?;
    let now = Time::now();
    let (force, all) = why(&folder, &paths, now)?;
    for why in &all {
        let copies = whereis::stores_with(&folder, &why.path)?;
        tell(session, &force, why, copies.as_deref(), now)?;
    }
    Ok(())
}

fn tell(session: &Session, force: &InForce, why: &Why, copies: Option<&[String]>, now: Time) -> Result<()> {
    let policy = &force.policy;
    let rule = why.verdict.rule.and_then(|n| policy.rules.get(n));
    let class = rule.map(|r| r.class.map_or("every file", |n| &policy.classes[n].name));
    let words = rule.map(|r| r.words(&policy.classes));
    let verdict = verdict(force, why, now);
    session.out.json(&json!({
        "type": "why", "path": why.path.to_string(), "size": why.size, "residency": if why.stub { "stub" } else { "full" },
        "last_use": why.last_use.at.secs, "seen": why.last_use.by.words(), "policy": force.source, "class": class,
        "rule": why.verdict.rule.map(|n| n + 1), "rule_text": words, "fate": why.verdict.fate.word(),
        "pin": why.pin.as_ref().map(|p| p.to_string()), "due": why.verdict.due.map(|t| t.secs),
        "due_when_full": why.verdict.due_when_full.map(|t| t.secs), "stores": copies, "verdict": verdict,
    }))?;
    let state = if why.stub { "a stub" } else { "full here" };
    session.out.answer(format!("{}: {}, {state}", styled(BOLD, &why.path), size(why.size)))?;
    let idle = std::time::Duration::from_secs(why.last_use.idle(now).max(0) as u64);
    let seen = why.last_use.by.words();
    session.out.answer(format!("  last use  {}, {} ago ({seen})", why.last_use.at, duration(idle)))?;
    if let Some(caveat) = why.access.caveat() {
        session.out.answer(styled(DIM, format!("            {caveat}")))?;
    }
    let rule = match (why.verdict.rule, words) {
        (Some(n), Some(words)) => format!("rule {} of policy {}: {words}", n + 1, force.source),
        _ => format!("no rule of policy {} fits it", force.source),
    };
    session.out.answer(format!("  rule      {rule}"))?;
    let copies = match copies {
        Some([]) => "no reachable store".into(),
        Some(names) => names.join(", "),
        None => "not recorded yet".into(),
    };
    session.out.answer(format!("  copies    {copies}"))?;
    session.out.answer(format!("  verdict   {verdict}"))
}

fn verdict(force: &InForce, why: &Why, now: Time) -> String {
    let until = |time: Option<Time>| {
        time.map(|t| {
            let left = std::time::Duration::from_secs(t.secs.saturating_sub(now.secs).max(0) as u64);
            format!("in {} ({t})", duration(left))
        })
    };
    match why.verdict.fate {
        Fate::Stub if why.pin.is_some() => "pinned, but still a stub: `ddr checkout` brings it here".into(),
        Fate::Stub => "a stub already; `ddr checkout` brings it here".into(),
        Fate::Pinned => match &why.pin {
            Some(pin) => format!("stays: pinned by `ddr pin {pin}`"),
            None => "stays: a rule pins it".into(),
        },
        Fate::Kept => match why.verdict.rule.map(|n| force.policy.rules[n].act) {
            Some(Do::Keep) => {
                "stays: a rule keeps it; `ddr stash` with its name stashes it all the same".into()
            }
            _ => "stays: no rule fits it; `ddr stash` with its name stashes it all the same".into(),
        },
        Fate::Small => "stays: too small, a stub would hardly free anything (stash.min_size)".into(),
        Fate::Linked => "stays: it has several names".into(),
        Fate::Thin => "stays: it takes no more room on the disk than a stub".into(),
        Fate::Go => "goes with the next `ddr stash`".into(),
        Fate::Young => {
            let age = until(why.verdict.due).map(|t| format!("goes {t}"));
            let full = until(why.verdict.due_when_full).map(|t| format!("when room is short {t}"));
            let when: Vec<String> = age.into_iter().chain(full).collect();
            format!("stays for now: {}, if it is not used until then", when.join(", "))
        }
        Fate::Spare => {
            let age = until(why.verdict.due).map_or(String::new(), |t| format!("; anyway {t}"));
            match &why.queue {
                None => format!("goes once high water is passed, and not before{age}"),
                Some((true, _)) => "goes with the next `ddr stash`: room is short".into(),
                Some((false, before)) => {
                    format!(
                        "stays: room is short, but {} were used longer ago and are enough{age}",
                        size(before.bytes)
                    )
                }
            }
        }
    }
}
