//! `config.toml`: the user's settings for one folder, read whole and written key by key.
//!
//! Promises that hand-made comments and order survive `ddr config set` and `ddr remote add`, and
//! that an unknown or ill-typed key is an error that names line and column.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::tiers::{self, TierConfig};

use crate::base::error::{Error, Result};
use crate::base::path::{self, RelPath};
use crate::base::units;
use crate::disk;
use crate::format::stub::MIN_STUB;
use crate::model::manners::Action;
use crate::model::policy::doc::{ClassDoc, Doc, LimitDoc, RuleDoc, TierDoc, WaterDoc};
use crate::model::policy::pins::Pins;
use crate::model::policy::value::Age;
use crate::peer::url::Url;

/// Settings of one folder; every field has a default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[stash]`
    pub stash: StashConfig,
    /// `[scan]`
    pub scan: ScanConfig,
    /// `[gc]`
    pub gc: GcConfig,
    /// `[remote.NAME]`, in name order.
    pub remote: BTreeMap<String, RemoteConfig>,
    /// `[[tier]]`, near to far.
    pub tier: Vec<TierConfig>,
    /// `[policy]`
    pub policy: PolicyConfig,
    /// `[recall]`
    pub recall: RecallConfig,
    /// `[daemon]`
    pub daemon: DaemonConfig,
    /// Places that stay on this device, written as ddr prints paths; see `ddr pin`.
    pub pins: Vec<String>,
}

/// Which policy the folder uses, and what is different here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// Name of a policy that comes with ddr (`laptop`).
    #[serde(rename = "use")]
    pub name: Option<String>,
    /// Or a file of one's own, relative to the folder.
    pub file: Option<PathBuf>,
    /// Classes that are added, or replaced by name.
    pub class: BTreeMap<String, ClassDoc>,
    /// Rules that come before those of the policy.
    pub rule: Vec<toml::Spanned<RuleDoc>>,
    /// Levels that differ.
    pub water: WaterDoc,
    /// How often the daemon runs it.
    pub every: Option<Age>,
    /// Limits that differ.
    pub limit: LimitDoc,
    /// Tiers that differ.
    pub tier: BTreeMap<String, TierDoc>,
}

impl PolicyConfig {
    /// What is laid over the policy.
    pub fn changes(&self) -> Doc {
        Doc {
            class: self.class.clone(),
            rule: self.rule.clone(),
            water: self.water.clone(),
            every: self.every,
            limit: self.limit,
            tier: self.tier.clone(),
        }
    }
}

/// When and how files become stubs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StashConfig {
    /// Smaller files are placed but stay (`16KiB`).
    pub min_size: Option<String>,
    /// Stores that must have a copy before local bytes are freed (default: all remotes).
    pub copies: Option<usize>,
    /// Copies not verified for so long are read back before they count (`30d`).
    pub verify_every: Option<String>,
    /// How long what was deleted is kept whatever else is pruned (`90d`).
    pub keep_deleted: Option<String>,
    /// Whether stubs may be made while no guard brings them back (`optional`), or not (`required`).
    pub guard: NeedGuard,
}

/// Whether stashing needs on-demand access.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NeedGuard {
    /// Stubs may be made without.
    #[default]
    Optional,
    /// No stub without a guard that brings it back.
    Required,
}

/// How the tree is walked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScanConfig {
    /// Also walk into other file systems mounted below the root.
    pub cross_devices: bool,
}

/// On-demand access: who may have stubs brought back, and how fast.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecallConfig {
    /// Recalls at a time (4).
    pub parallel: Option<usize>,
    /// Different stubs that a program may open within a minute before it is slowed (200).
    pub burst: Option<usize>,
    /// How long a slowed opener waits beforehand (`250ms`).
    pub slow: Option<String>,
    /// How long an opener waits at most before it gets an error (`5m`); the guard's own limit still holds.
    pub deadline: Option<String>,
    /// Bytes of neighbours that are fetched ahead of a file, when there is nothing else to do (0).
    pub ahead: Option<String>,
    /// `[[recall.rule]]`: the first that fits decides.
    pub rule: Vec<RecallRule>,
}

impl RecallConfig {
    /// Files that may be opened before it tells nothing of use.
    pub fn burst(&self) -> usize {
        self.burst.unwrap_or(200)
    }
}

/// What to do about some openers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecallRule {
    /// Path of the program, with `*`, `?` and `**`; any unless given.
    pub program: Option<String>,
    /// Number of the user; any unless given.
    pub user: Option<u32>,
    /// `allow`, `refuse` or `slow`.
    pub action: Action,
}

impl RecallConfig {
    /// How long a slowed opener waits beforehand.
    pub fn slow(&self) -> Result<Duration> {
        self.slow.as_deref().map_or(Ok(Duration::from_millis(250)), units::parse_duration)
    }

    /// How long an opener waits at most.
    pub fn deadline(&self) -> Result<Duration> {
        let deadline =
            self.deadline.as_deref().map_or(Ok(Duration::from_secs(300)), units::parse_duration)?;
        match deadline >= Duration::from_secs(1) {
            true => Ok(deadline),
            false => Err(Error::Invalid("recall.deadline must be at least 1s".into())),
        }
    }

    /// Bytes of neighbours that are fetched ahead.
    pub fn ahead(&self) -> Result<u64> {
        self.ahead.as_deref().map_or(Ok(0), units::parse_size)
    }

    fn check(&self) -> Result<()> {
        self.slow()?;
        self.deadline()?;
        self.ahead()?;
        self.rule.iter().try_for_each(|rule| rule.glob().map(drop))
    }
}

impl RecallRule {
    /// The programs that it is about; `None` for all.
    pub fn glob(&self) -> Result<Option<globset::GlobMatcher>> {
        let glob = |text: &String| {
            let glob = globset::Glob::new(text).map(|glob| glob.compile_matcher());
            glob.map_err(|e| Error::Invalid(format!("recall.rule.program: {e}")))
        };
        self.program.as_ref().map(glob).transpose()
    }
}

/// Garbage collection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcConfig {
    /// How long a dead pack stays before it may be deleted (`7d`).
    pub grace: Option<String>,
    /// Packs are rewritten until no more than this share is unused, in percent of what is used (4).
    pub max_unused: Option<u64>,
}

/// What the daemon does, and how often.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonConfig {
    /// A change is committed when nothing happened to it for so long (`10s`).
    pub settle: Option<Age>,
    /// The whole tree is looked at so often, whatever was watched (`1h`).
    pub rescan: Option<Age>,
    /// The same where not every directory is watched (`5m`).
    pub rescan_unwatched: Option<Age>,
    /// Stores are asked so often what they missed (`5m`).
    pub contact: Option<Age>,
    /// gc runs so often where this peer owns it (`1d`).
    pub gc: Option<Age>,
    /// Bytes of the stores that are read and checked in a day (`4GiB`); 0 for none.
    pub scrub: Option<String>,
    /// Directories that are watched at most; without it, as many as the system allows.
    pub watches: Option<u64>,
}

impl DaemonConfig {
    /// Bytes of the stores that are read in a day.
    pub fn scrub(&self) -> Result<u64> {
        self.scrub.as_deref().map_or(Ok(4 << 30), units::parse_size)
    }
}

/// One remote.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteConfig {
    /// Where it is: `/path`, `ssh://host/path`, `host:path` or `sftp://host/path`.
    pub url: String,
    /// What carries ssh: `ssh2` (the default) or `openssh`, the `ssh` program.
    #[serde(default)]
    pub transport: Transport,
    /// What to run on the other machine (`ddr`).
    #[serde(default)]
    pub program: Option<String>,
    /// The user accepts that it lies on the folder's own disk.
    #[serde(default)]
    pub same_disk: bool,
    /// Failure domain, where the device does not tell (two partitions of one disk, say).
    #[serde(default)]
    pub domain: Option<String>,
}

/// What carries the protocol to another machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// libssh2, in this process.
    #[default]
    Ssh2,
    /// The `ssh` program.
    Openssh,
}

impl Transport {
    /// As it is written in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssh2 => "ssh2",
            Self::Openssh => "openssh",
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Transport {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = [Self::Ssh2, Self::Openssh].into_iter().find(|t| t.name() == text);
        known.ok_or_else(|| Error::Invalid(format!("{text:?} is none of ssh2, openssh")))
    }
}

impl RemoteConfig {
    /// Where it is.
    pub fn place(&self) -> Result<Url> {
        Url::parse(&self.url)
    }
}

impl Config {
    /// Reads the file; a missing one is all defaults.
    pub fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::io("reading", path, e)),
        };
        let config = Self::parse(&text).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
        Ok(config)
    }

    /// Reads settings from text and checks every value.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self =
            toml::from_str(text).map_err(|e| Error::Invalid(e.to_string().trim_end().into()))?;
        config.min_size()?;
        config.verify_every()?;
        config.grace()?;
        config.keep_deleted()?;
        config.daemon.scrub()?;
        config.recall.check()?;
        if config.stash.copies == Some(0) {
            return Err(Error::Invalid("stash.copies must be at least 1".into()));
        }
        config.remote.keys().try_for_each(|name| check_remote_name(name))?;
        config.pins()?;
        for rule in &config.policy.rule {
            rule.get_ref().check().map_err(|why| Error::Invalid(format!("[[policy.rule]]: {why}")))?;
        }
        tiers::check(&config.tier, config.remote.keys())?;
        Ok(config)
    }

    /// Smallest size that is stashed, at least what a stub needs.
    pub fn min_size(&self) -> Result<u64> {
        let size = self.stash.min_size.as_deref().map_or(Ok(16 << 10), units::parse_size)?;
        if size < MIN_STUB {
            return Err(Error::Invalid(format!("stash.min_size must be at least {MIN_STUB} bytes")));
        }
        Ok(size)
    }

    /// The pinned places.
    pub fn pins(&self) -> Result<Pins> {
        let pin = |text: &String| {
            let bytes = path::unescape(text.trim_end_matches('/'));
            let bytes = bytes.ok_or_else(|| Error::Invalid(format!("pins: {text:?} is no path")))?;
            if bytes == b"." { Ok(RelPath::root()) } else { RelPath::new(bytes) }
        };
        self.pins.iter().map(pin).collect()
    }

    /// Age after which a copy is read back before it counts.
    pub fn verify_every(&self) -> Result<Duration> {
        self.stash.verify_every.as_deref().map_or(Ok(Duration::from_secs(30 * 86_400)), units::parse_duration)
    }

    /// How long what was deleted is kept.
    pub fn keep_deleted(&self) -> Result<Duration> {
        self.stash.keep_deleted.as_deref().map_or(Ok(Duration::from_secs(90 * 86_400)), units::parse_duration)
    }

    /// How long dead packs stay.
    pub fn grace(&self) -> Result<Duration> {
        self.gc.grace.as_deref().map_or(Ok(Duration::from_secs(7 * 86_400)), units::parse_duration)
    }
}

/// Names of remotes are used in messages and keys: letters, digits, `-`, `_` and `.`.
pub fn check_remote_name(name: &str) -> Result<()> {
    let ok = !name.is_empty()
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if ok { Ok(()) } else { Err(Error::Invalid(format!("{name:?} is no name for a remote"))) }
}

/// Edits one key of the file, keeping everything else as it stands; `None` removes it.
///
/// A file that was right stays right. One with several mistakes can be mended key by key: each edit is
/// written, and the error names what is still wrong.
pub fn edit(path: &Path, key: &str, value: Option<&str>) -> Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::io("reading", path, e)),
    };
    let mut doc: toml_edit::DocumentMut =
        text.parse().map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    let was_right = Config::parse(&text).is_ok();
    let parts: Vec<&str> = key.split('.').collect();
    let (last, tables) = parts.split_last().ok_or_else(|| Error::Invalid("empty key".into()))?;
    let mut table = doc.as_table_mut();
    for part in tables {
        let item = table.entry(part).or_insert_with(|| {
            let mut fresh = toml_edit::Table::new();
            fresh.set_implicit(true);
            toml_edit::Item::Table(fresh)
        });
        table = item.as_table_mut().ok_or_else(|| Error::Invalid(format!("{key}: {part} is not a table")))?;
    }
    match value {
        Some(value) => table[last] = toml_edit::Item::Value(parse_value(value)),
        None if table.remove(last).is_none() => return Err(Error::Missing(format!("config key {key}"))),
        None => {}
    }
    let mut after = Config::parse(&doc.to_string());
    if let (Err(_), Some(value), false) = (&after, value, is_right_alone(&doc, &parts)) {
        // `4097` is a number, and where a size is wanted it is one written as text.
        set_text(&mut doc, &parts, value);
        let as_text = Config::parse(&doc.to_string());
        if as_text.is_ok() || is_right_alone(&doc, &parts) {
            after = as_text;
        } else {
            return after.map(drop);
        }
    }
    if was_right {
        after?;
        return disk::replace_file(path, doc.to_string().as_bytes(), 0o600);
    }
    disk::replace_file(path, doc.to_string().as_bytes(), 0o600)?;
    after.map(drop).map_err(|e| {
        Error::Invalid(format!("{key} is changed, but there is more to mend in {}: {e}", path.display()))
    })
}

/// Whether a key's value is right whatever else is in the file.
fn is_right_alone(doc: &toml_edit::DocumentMut, key: &[&str]) -> bool {
    // A remote is more than one key: without its URL none of them can be judged.
    if let ["remote", _, "url" | "same_disk" | "domain"] = key {
        return true;
    }
    let item = key.iter().try_fold(doc.as_item(), |item, part| item.get(part));
    let Some(value) = item.and_then(toml_edit::Item::as_value) else { return false };
    let mut alone = value.clone();
    alone.decor_mut().clear();
    Config::parse(&format!("{} = {alone}\n", key.join("."))).is_ok()
}

/// Edits the file as a whole, keeping what `change` does not touch.
pub fn edit_with(path: &Path, change: impl FnOnce(&mut toml_edit::DocumentMut) -> Result<()>) -> Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::io("reading", path, e)),
    };
    let mut doc = text.parse().map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    change(&mut doc)?;
    let text = doc.to_string();
    Config::parse(&text)?;
    disk::replace_file(path, text.as_bytes(), 0o600)
}

fn set_text(doc: &mut toml_edit::DocumentMut, key: &[&str], value: &str) {
    let item = key.iter().try_fold(doc.as_item_mut(), |item, part| item.get_mut(part));
    if let Some(item) = item {
        *item = toml_edit::value(value);
    }
}

/// A TOML value as typed on a command line: numbers and booleans as such, all else a string.
fn parse_value(text: &str) -> toml_edit::Value {
    match text.parse::<toml_edit::Value>() {
        Ok(value) if value.is_bool() || value.is_integer() => value,
        _ => toml_edit::Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_bad_values_are_errors_with_a_place() {
        let error = Config::parse("[stash]\nmin_sice = \"1MiB\"\n").expect_err("unknown key").to_string();
        assert!(error.contains("line 2") && error.contains("min_sice"), "{error}");
        assert!(Config::parse("[stash]\nmin_size = \"1KiB\"\n").is_err());
        assert!(Config::parse("[stash]\ncopies = 0\n").is_err());
        for bad in ["deadline = \"10ms\"", "deadline = \"soon\"", "slow = \"x\"", "ahead = \"x\""] {
            assert!(Config::parse(&format!("[recall]\n{bad}\n")).is_err(), "{bad}");
        }
    }

    #[test]
    fn pins_are_paths_as_they_are_printed() {
        let pins = Config::parse("pins = ['keys/', 'a\\xff']").and_then(|c| c.pins()).expect("valid");
        let p = |bytes: &[u8]| RelPath::new(bytes).expect("valid");
        assert!(pins.cover(&p(b"keys/a")) && pins.cover(&p(b"a\xff")) && !pins.cover(&p(b"a")));
        assert!(Config::parse("pins = ['a/../b']").is_err() && Config::parse("pins = ['\\q']").is_err());
    }

    #[test]
    fn editing_keeps_comments() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "# mine\n[stash]\ncopies = 1 # one\n").expect("write");
        edit(&path, "remote.disk2.url", Some("/mnt/disk2")).expect("edit");
        edit(&path, "stash.min_size", Some("1MiB")).expect("edit");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(
            text.contains("# mine") && text.contains("# one") && text.contains("[remote.disk2]"),
            "{text}"
        );
        let config = Config::load(&path).expect("valid");
        assert_eq!(
            (config.min_size().expect("size"), config.remote["disk2"].url.as_str()),
            (1 << 20, "/mnt/disk2")
        );
        assert!(edit(&path, "stash.min_size", Some("tiny")).is_err());
        assert_eq!(Config::load(&path).expect("unchanged").min_size().expect("size"), 1 << 20);
    }
}
