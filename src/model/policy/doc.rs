//! The text of a policy: TOML, read and checked, every flaw with its place.
//!
//! Promises that unknown keys, bad values and rules that contradict themselves are refused with
//! line and column. What a policy *means* is `rules`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::value::{Age, Bytes, Level, Pattern, Vessel};

/// What is wrong with a policy, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// In words.
    pub why: String,
}

impl Flaw {
    fn at(text: &str, offset: usize, why: impl Into<String>) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { line, column, why: why.into() }
    }
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.why)
    }
}

/// A policy as written; also what `[policy]` of a folder's settings may change of one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Doc {
    /// `[class.NAME]`
    pub class: BTreeMap<String, ClassDoc>,
    /// `[[rule]]`, in order: the first one that fits a file counts.
    pub rule: Vec<Spanned<RuleDoc>>,
    /// `[water]`
    pub water: WaterDoc,
    /// How often the daemon runs it.
    pub every: Option<Age>,
    /// `[limit]`
    pub limit: LimitDoc,
    /// `[tier.NAME]`
    pub tier: BTreeMap<String, TierDoc>,
}

/// Which files belong to a class: all that is given must hold, of a list one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassDoc {
    /// Globs over the path.
    pub glob: Vec<Pattern>,
    /// Directories (or files) it must be or lie below.
    pub under: Vec<String>,
    /// Globs over the last component, in any case.
    pub name: Vec<Pattern>,
    /// Extensions without the dot, in any case.
    pub ext: Vec<String>,
    /// At least so large.
    pub min_size: Option<Bytes>,
    /// At most so large.
    pub max_size: Option<Bytes>,
    /// Not used for at least so long.
    pub unused: Option<Age>,
}

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Do {
    /// Files become stubs, after an age or when room is short.
    Stash,
    /// Files stay, unless somebody names them.
    Keep,
    /// Files stay, also when named.
    Pin,
}

/// One rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleDoc {
    /// The class it is about; every file without one.
    pub class: Option<Spanned<String>>,
    /// What it does.
    #[serde(rename = "do")]
    pub act: Do,
    /// Stash whatever was not used for so long.
    pub after: Option<Age>,
    /// Above high water, stash what was not used for so long, least recently used first.
    pub when_full: Option<Age>,
    /// Where the content goes; the nearest tier without one.
    pub tier: Option<String>,
}

/// High and low water.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WaterDoc {
    /// What is measured.
    pub of: Option<Vessel>,
    /// Above this, stashing begins.
    pub high: Option<Level>,
    /// And goes on down to this.
    pub low: Option<Spanned<Level>>,
}

/// Bounds on one run.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitDoc {
    /// Bytes a second.
    pub rate: Option<Bytes>,
    /// Bytes in one run.
    pub bytes: Option<Bytes>,
    /// Files in one run.
    pub files: Option<u64>,
}

/// What happens to contents that lie on a tier.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierDoc {
    /// How long a content stays there before it moves on to the next tier; for ever without.
    pub keep: Option<Age>,
}

impl Doc {
    /// Reads a whole policy.
    pub fn parse(text: &str) -> Result<Self, Flaw> {
        let doc: Self = toml::from_str(text).map_err(|e| {
            let offset = e.span().map_or(0, |span| span.start);
            Flaw::at(text, offset, e.message().trim_end())
        })?;
        for rule in &doc.rule {
            let flaw = |offset, why: String| Flaw::at(text, offset, why);
            rule.get_ref().check().map_err(|why| flaw(rule.span().start, why))?;
            if let Some(class) =
                rule.get_ref().class.as_ref().filter(|c| !doc.class.contains_key(c.get_ref()))
            {
                let why = format!("there is no [class.{}]{}", class.get_ref(), doc.known_classes());
                return Err(flaw(class.span().start, why));
            }
        }
        match (doc.water.check(), &doc.water.low) {
            (Err(why), Some(low)) => Err(Flaw::at(text, low.span().start, why)),
            _ => Ok(doc),
        }
    }

    /// The same, to be said in an error.
    fn known_classes(&self) -> String {
        let names: Vec<&str> = self.class.keys().map(String::as_str).collect();
        if names.is_empty() { String::new() } else { format!("; there are: {}", names.join(", ")) }
    }

    /// This policy with the changes laid over it: classes of the same name are replaced, rules come
    /// first, other settings win.
    pub fn changed_by(mut self, changes: Self) -> Self {
        let mut rule = changes.rule;
        rule.append(&mut self.rule);
        self.class.extend(changes.class);
        self.tier.extend(changes.tier);
        Self {
            class: self.class,
            rule,
            water: WaterDoc {
                of: changes.water.of.or(self.water.of),
                high: changes.water.high.or(self.water.high),
                low: changes.water.low.or(self.water.low),
            },
            every: changes.every.or(self.every),
            limit: LimitDoc {
                rate: changes.limit.rate.or(self.limit.rate),
                bytes: changes.limit.bytes.or(self.limit.bytes),
                files: changes.limit.files.or(self.limit.files),
            },
            tier: self.tier,
        }
    }
}

impl RuleDoc {
    /// Whether its keys go together.
    pub fn check(&self) -> Result<(), String> {
        let ages = self.after.is_some() || self.when_full.is_some();
        match self.act {
            Do::Stash if !ages => Err("a rule that stashes needs `after` or `when_full`".into()),
            Do::Keep | Do::Pin if ages || self.tier.is_some() => {
                Err("`after`, `when_full` and `tier` go with do = \"stash\" only".into())
            }
            _ => Ok(()),
        }
    }
}

impl WaterDoc {
    /// Whether high and low go together.
    pub fn check(&self) -> Result<(), String> {
        match (self.high, self.low.as_ref().map(|low| *low.get_ref())) {
            (None, Some(_)) => Err("low water without high water does nothing".into()),
            (Some(Level::Percent(high)), Some(Level::Percent(low))) if low > high => {
                Err(format!("low water ({low}%) lies above high water ({high}%)"))
            }
            (Some(Level::Used(high)), Some(Level::Used(low))) if low > high => {
                Err("low water lies above high water".into())
            }
            (Some(Level::Free(high)), Some(Level::Free(low))) if low < high => {
                Err("low water must leave more free than high water".into())
            }
            _ => Ok(()),
        }
    }
}
