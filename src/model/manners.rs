//! Who may have stubs brought back, and how fast: rules per program and user, and a watch for bursts.
//!
//! Promises that the first rule that fits decides, that a program which opens many different stubs in a
//! short time is slowed from then on and not before, and that memory is bounded by the number of
//! programs seen within the window. Pure: time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use globset::GlobMatcher;

/// What is done about an opener.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Bring the content back at once.
    Allow,
    /// Answer with EPERM.
    Refuse,
    /// Bring it back, but not at once.
    Slow,
}

/// A rule; what it leaves open fits everybody.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Path of the program.
    pub program: Option<GlobMatcher>,
    /// Number of the user.
    pub user: Option<u32>,
    /// What to do.
    pub action: Action,
}

/// How many different stubs a program may open in how long before it counts as a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BurstLimit {
    /// Stubs.
    pub stubs: usize,
    /// Length of the window.
    pub within: Duration,
}

/// What was decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Whether it is part of a burst, and so no sign of use.
    pub burst: bool,
    /// Whether the burst begins here: to be told once.
    pub news: bool,
}

/// The rules, and who opened what lately.
#[derive(Debug)]
pub struct Manners {
    rules: Vec<Rule>,
    limit: BurstLimit,
    seen: HashMap<String, Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Milliseconds.
    opens: VecDeque<u64>,
    told: bool,
}

impl Manners {
    /// With these rules.
    pub fn new(rules: Vec<Rule>, limit: BurstLimit) -> Self {
        Self { rules, limit, seen: HashMap::new() }
    }

    /// A program of a user opens a stub; `now` in milliseconds never goes back.
    pub fn decide(&mut self, program: &str, user: u32, now: u64) -> Decision {
        let rule = self.rules.iter().find(|rule| {
            rule.program.as_ref().is_none_or(|glob| glob.is_match(program))
                && rule.user.is_none_or(|wanted| wanted == user)
        });
        let rule = rule.map(|rule| rule.action);
        if rule == Some(Action::Refuse) {
            return Decision { action: Action::Refuse, burst: false, news: false };
        }
        let (burst, news) = self.note(program, now);
        let action = rule.unwrap_or(if burst { Action::Slow } else { Action::Allow });
        Decision { action, burst, news: news && rule.is_none() }
    }

    fn note(&mut self, program: &str, now: u64) -> (bool, bool) {
        let start = now.saturating_sub(self.limit.within.as_millis() as u64);
        self.seen.retain(|_, recent| recent.opens.back().is_some_and(|last| *last >= start));
        let recent = self.seen.entry(program.to_string()).or_default();
        recent.opens.push_back(now);
        while recent.opens.front().is_some_and(|first| *first < start) {
            recent.opens.pop_front();
        }
        let burst = recent.opens.len() > self.limit.stubs;
        if burst {
            // One more is all that must be remembered to know that it goes on.
            recent.opens.pop_front();
        }
        let news = burst && !recent.told;
        recent.told |= burst;
        (burst, news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manners(rules: Vec<Rule>) -> Manners {
        Manners::new(rules, BurstLimit { stubs: 3, within: Duration::from_secs(1) })
    }

    fn rule(program: &str, action: Action) -> Rule {
        let glob = globset::Glob::new(program).expect("a glob").compile_matcher();
        Rule { program: Some(glob), user: None, action }
    }

    #[test]
    fn a_burst_slows_its_program_only_and_ends_by_itself() {
        let mut manners = manners(Vec::new());
        let actions: Vec<Action> = (0..5).map(|at| manners.decide("grep", 1, at).action).collect();
        assert_eq!(actions, [Action::Allow, Action::Allow, Action::Allow, Action::Slow, Action::Slow]);
        assert_eq!(manners.decide("vi", 1, 6).action, Action::Allow);
        assert_eq!(manners.decide("grep", 1, 2_000).action, Action::Allow);
    }

    #[test]
    fn a_burst_is_told_once() {
        let mut manners = manners(Vec::new());
        let news = (0..9).filter(|at| manners.decide("grep", 1, *at).news).count();
        assert_eq!(news, 1);
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let mut manners = manners(vec![rule("*/indexer", Action::Refuse), rule("**", Action::Allow)]);
        assert_eq!(manners.decide("/usr/bin/indexer", 1, 0).action, Action::Refuse);
        assert!((0..9).all(|at| manners.decide("/usr/bin/tar", 1, at).action == Action::Allow));
    }

    #[test]
    fn a_rule_for_one_user_leaves_the_others_alone() {
        let only = Rule { program: None, user: Some(7), action: Action::Refuse };
        let mut manners = manners(vec![only]);
        assert_eq!(manners.decide("cat", 7, 0).action, Action::Refuse);
        assert_eq!(manners.decide("cat", 8, 0).action, Action::Allow);
    }
}
