//! What the policy says of contents on tiers: how near they stay, and for how long.
//!
//! Decides only; `engine::level` moves.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::folder::Folder;
use crate::base::error::Result;
use crate::base::units::Time;
use crate::history::LocalRow;
use crate::model::policy::class::Look;
use crate::model::policy::rules::Policy;
use crate::model::residency::Residency;

/// What decides how near a content stays.
pub struct Aging {
    policy: Policy,
    /// Places of the tiers, by name.
    tiers: BTreeMap<String, usize>,
}

impl Aging {
    /// By the policy in force and the tiers of the folder.
    pub fn of(folder: &Folder) -> Result<Self> {
        let tiers = folder.config.tier.iter().map(|t| t.name.clone()).zip(0..).collect();
        Ok(Self { policy: super::load(folder)?.policy, tiers })
    }

    /// How long a tier keeps what is not used, in seconds, unless its own settings say so.
    pub fn keep(&self, tier: &str) -> Option<Duration> {
        self.policy.keep.get(tier).map(|age| age.0)
    }

    /// The nearest tier for the content of a file: its rule's once it is a stub.
    pub fn nearest(&self, row: &LocalRow, last: i64, now: Time) -> usize {
        if row.residency != Residency::Stub {
            return 0;
        }
        let idle = now.secs.saturating_sub(last).max(0);
        let rule = self.policy.rule_for(&Look { path: &row.path, size: row.size, idle });
        let tier = rule.and_then(|n| self.policy.rules[n].tier.as_deref());
        tier.and_then(|name| self.tiers.get(name)).copied().unwrap_or(0)
    }

    /// Whether anything could ever move.
    pub fn moves(&self, folder: &Folder) -> bool {
        let keeps = folder.config.tier.iter().any(|t| t.keep.is_some() || self.keep(&t.name).is_some());
        let sends = self.policy.tiers().any(|name| self.tiers.get(name).is_some_and(|place| *place > 0));
        self.tiers.len() > 1 && (keeps || sends)
    }
}
