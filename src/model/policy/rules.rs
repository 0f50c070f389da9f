//! A policy ready to judge files: which rule fits, and what follows from it.
//!
//! Promises one verdict per file, from facts alone; that of a pinned file is never to go, and that
//! of a file is never to go before its age says so.

use std::collections::BTreeMap;

use super::class::{Class, Look};
use super::doc::{Do, Doc, RuleDoc};
use super::last_use::LastUse;
use super::pins::Pins;
use super::value::{Age, Bytes};
use super::water::Water;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::{self, Time};

/// What a stub keeps of a file's room on the disk.
const HEADER: u64 = 4096;

/// A policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Where it comes from, for messages.
    pub name: String,
    /// Classes, in name order.
    pub classes: Vec<Class>,
    /// Rules; the first one that fits counts.
    pub rules: Vec<Rule>,
    /// High and low water, if it has any.
    pub water: Option<Water>,
    /// How often the daemon runs it.
    pub every: Age,
    /// Bytes a second at most.
    pub rate: Option<Bytes>,
    /// Bytes in one run: it ends with the file that reaches them.
    pub bytes: Option<Bytes>,
    /// Files in one run at most.
    pub files: Option<u64>,
    /// Per tier, how long a content stays there before it moves on.
    pub keep: BTreeMap<String, Age>,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Index of its class; every file without one.
    pub class: Option<usize>,
    /// What it does.
    pub act: Do,
    /// Stash after so long without use.
    pub after: Option<Age>,
    /// When room is short, stash after so long.
    pub when_full: Option<Age>,
    /// Where the content goes.
    pub tier: Option<String>,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Path below the folder's root.
    pub path: &'a RelPath,
    /// Its size.
    pub size: u64,
    /// Bytes it takes on the disk.
    pub local: u64,
    /// Its hard links.
    pub links: u64,
    /// Whether it is a stub already.
    pub stub: bool,
    /// When it was last used.
    pub last_use: LastUse,
}

/// What holds for every file.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The time.
    pub now: Time,
    /// Smaller files never become stubs.
    pub min_size: u64,
    /// Places that stay.
    pub pins: &'a Pins,
}

/// What would happen to a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// It is a stub already.
    Stub,
    /// Pinned, by the user or by a rule.
    Pinned,
    /// A rule keeps it, or none fits.
    Kept,
    /// Smaller than anything that becomes a stub.
    Small,
    /// It has several names.
    Linked,
    /// It takes no room that a stub would not.
    Thin,
    /// Used too recently.
    Young,
    /// It may go when room is short.
    Spare,
    /// It goes.
    Go,
}

impl Fate {
    /// All, in the order of the enum.
    pub const ALL: [Self; 9] = [
        Self::Stub,
        Self::Pinned,
        Self::Kept,
        Self::Small,
        Self::Linked,
        Self::Thin,
        Self::Young,
        Self::Spare,
        Self::Go,
    ];

    /// One word, the same in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stub => "stub",
            Self::Pinned => "pinned",
            Self::Kept => "kept",
            Self::Small => "small",
            Self::Linked => "linked",
            Self::Thin => "thin",
            Self::Young => "young",
            Self::Spare => "spare",
            Self::Go => "stash",
        }
    }
}

/// What a policy says of one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Index of the rule that fits.
    pub rule: Option<usize>,
    /// What would happen now.
    pub fate: Fate,
    /// When it goes, if it is not used until then.
    pub due: Option<Time>,
    /// From when on it may go when room is short.
    pub due_when_full: Option<Time>,
}

impl Policy {
    /// Builds a policy from its text; the name is for messages.
    pub fn new(name: &str, doc: &Doc) -> Result<Self> {
        let bad = |why: String| Error::Invalid(format!("policy {name}: {why}"));
        let classes = doc.class.iter().map(|(n, c)| Class::new(n, c)).collect::<Result<Vec<_>>>();
        let classes = classes.map_err(|e| bad(e.to_string()))?;
        let rule = |doc: &RuleDoc| {
            doc.check().map_err(&bad)?;
            let named = doc.class.as_ref().map(|c| c.get_ref());
            let find = |name: &String| {
                let found = classes.iter().position(|c| c.name == *name);
                found.ok_or_else(|| {
                    bad(format!("a rule names the class {name}, but there is no [class.{name}]"))
                })
            };
            Ok(Rule {
                class: named.map(find).transpose()?,
                act: doc.act,
                after: doc.after,
                when_full: doc.when_full,
                tier: doc.tier.clone(),
            })
        };
        let rules = doc.rule.iter().map(|r| rule(r.get_ref())).collect::<Result<Vec<_>>>()?;
        doc.water.check().map_err(&bad)?;
        let of = doc.water.of.unwrap_or_default();
        let low = doc.water.low.as_ref().map(|low| *low.get_ref());
        let water = doc.water.high.map(|high| Water { of, high, low: low.unwrap_or(high) });
        let keep = doc.tier.iter().filter_map(|(name, tier)| Some((name.clone(), tier.keep?))).collect();
        Ok(Self {
            name: name.into(),
            classes,
            rules,
            water,
            every: doc.every.unwrap_or(Age(std::time::Duration::from_secs(3600))),
            rate: doc.limit.rate,
            bytes: doc.limit.bytes,
            files: doc.limit.files,
            keep,
        })
    }

    /// The first rule that fits.
    pub fn rule_for(&self, file: &Look) -> Option<usize> {
        self.rules.iter().position(|rule| rule.class.is_none_or(|class| self.classes[class].has(file)))
    }

    /// Whether a rule pins the file.
    pub fn pins(&self, file: &Look) -> bool {
        self.rule_for(file).is_some_and(|rule| self.rules[rule].act == Do::Pin)
    }

    /// Whether any rule pins anything.
    pub fn has_pins(&self) -> bool {
        self.rules.iter().any(|rule| rule.act == Do::Pin)
    }

    /// Names of the tiers that rules send contents to.
    pub fn tiers(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| rule.tier.as_deref())
    }

    /// What it says of a file.
    pub fn judge(&self, file: &Facts, terms: &Terms) -> Verdict {
        let idle = file.last_use.idle(terms.now);
        let rule = self.rule_for(&Look { path: file.path, size: file.size, idle });
        let act = rule.map_or(Do::Keep, |n| self.rules[n].act);
        let ages = rule.map(|n| (self.rules[n].after, self.rules[n].when_full)).unwrap_or_default();
        let is_due = |age: Option<Age>| age.is_some_and(|age| idle >= age.secs());
        let fate = match act {
            _ if file.stub => Fate::Stub,
            _ if act == Do::Pin || terms.pins.cover(file.path) => Fate::Pinned,
            Do::Keep | Do::Pin => Fate::Kept,
            Do::Stash if file.size < terms.min_size => Fate::Small,
            Do::Stash if file.links > 1 => Fate::Linked,
            Do::Stash if file.local <= HEADER => Fate::Thin,
            Do::Stash if is_due(ages.0) => Fate::Go,
            Do::Stash if is_due(ages.1) => Fate::Spare,
            Do::Stash => Fate::Young,
        };
        let moving = matches!(fate, Fate::Young | Fate::Spare | Fate::Go);
        let when = |age: Option<Age>| {
            let secs = file.last_use.at.secs.saturating_add(age.filter(|_| moving)?.secs());
            Some(Time { secs, nanos: file.last_use.at.nanos })
        };
        Verdict { rule, fate, due: when(ages.0), due_when_full: when(ages.1) }
    }
}

impl Facts<'_> {
    /// Bytes on the disk that a stub would not take.
    pub fn frees(&self) -> u64 {
        self.local.saturating_sub(HEADER)
    }
}

impl Rule {
    /// In words: `video: stash after 30d, when full after 1d, to far`.
    pub fn words(&self, classes: &[Class]) -> String {
        let class = self.class.map_or("every file", |n| &classes[n].name);
        let mut text = format!("{class}: ");
        match self.act {
            Do::Keep => text += "keep",
            Do::Pin => text += "pin",
            Do::Stash => {
                text += "stash ";
                let after = self.after.map(|a| format!("after {}", units::duration(a.0)));
                let full = self.when_full.map(|a| format!("when full after {}", units::duration(a.0)));
                text += &after.into_iter().chain(full).collect::<Vec<_>>().join(", ");
            }
        }
        if let Some(tier) = &self.tier {
            text += &format!(", to {tier}");
        }
        text
    }
}
