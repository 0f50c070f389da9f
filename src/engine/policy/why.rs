//! Why a file is where it is, and what the policy would do with it.

use super::super::folder::Folder;
use super::super::survey::survey;
use super::facts::{AccessTimes, File};
use super::plan::{Sum, plan};
use super::{InForce, load};
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::model::policy::choose::Rank;
use crate::model::policy::last_use::LastUse;
use crate::model::policy::rules::{Fate, Terms, Verdict};

/// All there is to say of one file.
pub struct Why {
    /// Its path.
    pub path: RelPath,
    /// Its size.
    pub size: u64,
    /// Whether it is a stub.
    pub stub: bool,
    /// Whether it is recorded as it is.
    pub recorded: bool,
    /// When it was last used.
    pub last_use: LastUse,
    /// How the file system keeps access times.
    pub access: AccessTimes,
    /// The pin that covers it.
    pub pin: Option<RelPath>,
    /// What the policy says.
    pub verdict: Verdict,
    /// If it may go when room is short, and room is short: whether it does, and what goes before it.
    pub queue: Option<(bool, Sum)>,
}

/// Looks at files; the policy they were judged by comes along.
pub fn why(folder: &Folder, paths: &[RelPath], now: Time) -> Result<(InForce, Vec<Why>)> {
    let force = load(folder)?;
    let pins = folder.config.pins()?;
    let access = AccessTimes::of(folder)?;
    let terms = Terms { now, min_size: folder.config.min_size()?, pins: &pins };
    let mut all = Vec::new();
    for path in paths {
        let mut found = None;
        survey(folder, std::slice::from_ref(path), &mut |item| {
            if item.path == *path {
                found = Some(item);
            }
            Ok(())
        })?;
        let item = found.ok_or_else(|| Error::Missing(path.to_string()))?;
        let (observed, bursts) = (folder.history.used(path)?, folder.history.bursts()?);
        let Some(file) = File::new(folder, &item, observed, &bursts, now)? else {
            let hint =
                "policies are about regular files; `ddr policy plan --paths` lists those of a directory";
            return Err(Error::Invalid(format!("{path} is no regular file: {hint}")));
        };
        let verdict = force.policy.judge(&file.facts(), &terms);
        all.push(Why {
            path: path.clone(),
            size: file.stat.size,
            stub: file.is_stub(),
            recorded: file.is_placed(),
            last_use: file.last_use,
            access,
            pin: pins.covering(path).cloned(),
            verdict,
            queue: None,
        });
    }
    if all.iter().any(|why| why.verdict.fate == Fate::Spare) {
        queue_up(folder, &mut all)?;
    }
    Ok((force, all))
}

/// Finds the places of files that may go when room is short, if it is.
fn queue_up(folder: &Folder, all: &mut [Why]) -> Result<()> {
    let mut plan = plan(folder)?;
    if plan.excess == 0 {
        return Ok(());
    }
    let mut chosen = std::collections::HashSet::new();
    plan.each(&mut |waiting| {
        if all.iter().any(|why| why.path == waiting.path) {
            chosen.insert(waiting.path);
        }
        Ok(())
    })?;
    for why in all.iter_mut().filter(|why| why.verdict.fate == Fate::Spare) {
        let rank = Rank { used: why.last_use.at.secs, size: why.size, nth: 0 };
        why.queue = Some((chosen.contains(&why.path), plan.before(&rank)?));
    }
    Ok(())
}
