//! The policy of a folder: which one it is, and what it would do.
//!
//! Promises to look only, in flat memory. `engine::apply` does what a plan says.

use std::path::Path;

use super::folder::Folder;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::model::policy::class::Look;
use crate::model::policy::doc::Doc;
use crate::model::policy::pins::Pins;
use crate::model::policy::rules::Policy;
use crate::model::policy::shipped;

pub mod aging;
pub mod facts;
pub mod plan;
pub mod queue;
pub mod speed;
pub mod why;

/// The policy in force, with where it comes from.
pub struct InForce {
    /// The policy.
    pub policy: Policy,
    /// In words: `laptop (the default)`.
    pub source: String,
    /// The text it was made of, without what the folder's settings change.
    pub text: String,
    /// Whether the folder's settings change something of it.
    pub changed: bool,
}

/// Reads the policy that the folder's settings name, with what they change of it.
pub fn load(folder: &Folder) -> Result<InForce> {
    let config = &folder.config.policy;
    let (name, source, text) = match (&config.name, &config.file) {
        (Some(_), Some(_)) => {
            return Err(Error::Invalid("[policy] names both `use` and `file`; remove one of them".into()));
        }
        (None, Some(file)) => {
            let full = folder.dir.parent().unwrap_or(&folder.dir).join(file);
            let text = read(&full)?;
            (file.display().to_string(), full.display().to_string(), text)
        }
        (name, None) => {
            let wanted = name.as_deref().unwrap_or(shipped::DEFAULT);
            let text = shipped(wanted).map_err(|e| Error::Invalid(format!("policy.use: {e}")))?.text;
            let source = if name.is_some() { wanted.into() } else { format!("{wanted} (the default)") };
            (wanted.to_string(), source, text)
        }
    };
    let doc = parse(&source, &text)?;
    let changes = config.changes();
    let changed = format!("{changes:?}") != format!("{:?}", Doc::default());
    let policy = Policy::new(&name, &doc.changed_by(changes))?;
    Ok(InForce { policy, source, text, changed })
}

/// A policy that comes with ddr.
pub fn shipped(name: &str) -> Result<InForce> {
    let found = shipped::find(name).ok_or_else(|| {
        let names = shipped::names();
        Error::Invalid(format!("there is no policy {name:?}; there are: {names}"))
    })?;
    let policy = Policy::new(name, &parse(name, found.text)?)?;
    Ok(InForce { policy, source: name.into(), text: found.text.into(), changed: false })
}

/// Reads a policy file; an error names file, line and column.
pub fn check(path: &Path) -> Result<Policy> {
    let name = path.display().to_string();
    Policy::new(&name, &parse(&name, &read(path)?)?)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))
}

fn parse(name: &str, text: &str) -> Result<Doc> {
    Doc::parse(text).map_err(|flaw| Error::Invalid(format!("{name}: {flaw}")))
}

/// What may not be stashed even when it is named: pinned places, and what a rule pins.
pub struct Pinned {
    /// Pinned places.
    pub pins: Pins,
    /// The policy, if it pins anything.
    policy: Option<Policy>,
}

impl Pinned {
    /// Those of a folder.
    pub fn of(folder: &Folder) -> Result<Self> {
        let policy = load(folder)?.policy;
        Ok(Self { pins: folder.config.pins()?, policy: Some(policy).filter(Policy::has_pins) })
    }

    /// Whether a file is pinned.
    pub fn holds(&self, path: &RelPath, size: u64) -> bool {
        self.pins.cover(path) || self.by_rule(path, size)
    }

    /// Whether a rule pins a file.
    pub fn by_rule(&self, path: &RelPath, size: u64) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.pins(&Look { path, size, idle: 0 }))
    }

    /// An error if one of these paths lies at or below a pin.
    pub fn refuse(&self, folder: &Folder, named: &[RelPath]) -> Result<()> {
        for path in named {
            if let Some(pin) = self.pins.covering(path) {
                return Err(Error::Refused(format!("{path} is pinned; to let it go run: ddr unpin {pin}")));
            }
            let size = folder.tree()?.stat(path)?.map_or(0, |stat| stat.size);
            if self.by_rule(path, size) {
                return Err(Error::Refused(format!(
                    "{path} is pinned by a rule of the policy; `ddr why {path}` shows it"
                )));
            }
        }
        Ok(())
    }
}
