//! `[[tier]]` in `config.toml`: which stores form a tier, and how.
//!
//! Promises that every tier that was read names known remotes, each once. Weights are versioned: a set
//! is added for every change, the last one rules; what older ones placed is found where it is. Knows
//! no store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value};

use crate::base::error::{Error, Result};
use crate::base::units;
use crate::model::placement::{Layout, MAX_SEATS};

/// Name of the tier that all remotes form where no other is configured.
pub const DEFAULT: &str = "all";

/// How a tier's stores share the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayoutName {
    /// Every store keeps everything.
    #[default]
    Mirror,
    /// Each content lies on `copies` of them.
    Bundle,
}

impl LayoutName {
    /// The decision's word for it.
    pub fn layout(self) -> Layout {
        match self {
            Self::Mirror => Layout::Mirror,
            Self::Bundle => Layout::Bundle,
        }
    }

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Bundle => "bundle",
        }
    }
}

/// One tier; the first is the nearest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierConfig {
    /// Its name.
    pub name: String,
    /// Mirror unless set.
    #[serde(default)]
    pub layout: LayoutName,
    /// Names of remotes.
    pub stores: Vec<String>,
    /// Failure domains that must have a content (default: all stores of a mirror, one of a bundle).
    #[serde(default)]
    pub copies: Option<usize>,
    /// Shares of the stores, oldest set first; a store without one has 1, one with 0 is drained.
    #[serde(default)]
    pub weights: Vec<BTreeMap<String, u32>>,
    /// How long an unused content stays before it moves on to the next tier; for ever unless set.
    #[serde(default)]
    pub keep: Option<String>,
}

impl TierConfig {
    /// The share of a store.
    pub fn weight(&self, store: &str) -> u32 {
        self.weights.last().and_then(|set| set.get(store).copied()).unwrap_or(1)
    }

    /// Failure domains that must have a content.
    pub fn copies(&self) -> usize {
        let open = self.stores.iter().filter(|s| self.weight(s) > 0).count().max(1);
        self.copies.unwrap_or(match self.layout {
            LayoutName::Mirror => open,
            LayoutName::Bundle => 1,
        })
    }

    /// How long an unused content stays.
    pub fn keep(&self) -> Result<Option<Duration>> {
        self.keep.as_deref().map(units::parse_duration).transpose()
    }
}

/// Checks all tiers against the names of the remotes.
pub fn check<'a>(tiers: &[TierConfig], remotes: impl Iterator<Item = &'a String>) -> Result<()> {
    let known: BTreeSet<&str> = remotes.map(String::as_str).collect();
    let (mut names, mut used) = (BTreeSet::new(), BTreeSet::new());
    for tier in tiers {
        let bad = |why: String| Err(Error::Invalid(format!("[[tier]] {}: {why}", tier.name)));
        if tier.name.is_empty() || !names.insert(tier.name.as_str()) {
            return bad("every tier needs a name of its own".into());
        }
        if tier.stores.is_empty() || tier.stores.len() > MAX_SEATS {
            return bad(format!("a tier has 1 to {MAX_SEATS} stores"));
        }
        for store in &tier.stores {
            if !known.contains(store.as_str()) {
                return bad(format!("there is no remote {store}"));
            }
            if !used.insert(store.as_str()) {
                return bad(format!("{store} is in it twice, or in another tier, too"));
            }
        }
        let strange = tier.weights.last().and_then(|set| set.keys().find(|s| !tier.stores.contains(s)));
        if let Some(strange) = strange {
            return bad(format!("{strange} has a weight, but is none of its stores"));
        }
        if tier.copies == Some(0) || tier.copies() > tier.stores.len() {
            return bad(format!("copies = {}, with {} stores", tier.copies(), tier.stores.len()));
        }
        tier.keep()?;
    }
    Ok(())
}

/// Writes a new tier behind the others.
pub fn append(doc: &mut DocumentMut, tier: &TierConfig) -> Result<()> {
    let all = doc.entry("tier").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    let all = all.as_array_of_tables_mut().ok_or_else(|| Error::Invalid("`tier` is not [[tier]]".into()))?;
    let mut table = Table::new();
    table["name"] = toml_edit::value(tier.name.as_str());
    table["layout"] = toml_edit::value(tier.layout.word());
    table["stores"] = toml_edit::value(tier.stores.iter().collect::<Array>());
    if let Some(copies) = tier.copies {
        table["copies"] = toml_edit::value(copies as i64);
    }
    if let Some(keep) = &tier.keep {
        table["keep"] = toml_edit::value(keep.as_str());
    }
    all.push(table);
    Ok(())
}

/// Adds a store to a tier, with a set of weights that says so.
pub fn add_store(doc: &mut DocumentMut, tier: &TierConfig, store: &str, weight: u32) -> Result<()> {
    let table = find(doc, &tier.name)?;
    let stores = table.get_mut("stores").and_then(Item::as_array_mut);
    stores.ok_or_else(|| Error::Invalid(format!("[[tier]] {}: stores", tier.name)))?.push(store);
    let mut after = tier.clone();
    after.stores.push(store.into());
    push_weights(table, &after, store, weight)
}

/// Gives a store another share.
pub fn weigh(doc: &mut DocumentMut, tier: &TierConfig, store: &str, weight: u32) -> Result<()> {
    push_weights(find(doc, &tier.name)?, tier, store, weight)
}

/// Takes a store out of whatever tier it is in; a tier without stores goes.
pub fn remove_store(doc: &mut DocumentMut, tiers: &[TierConfig], store: &str) -> Result<()> {
    let Some(tier) = tiers.iter().find(|t| t.stores.iter().any(|s| s == store)) else { return Ok(()) };
    let left: Vec<String> = tier.stores.iter().filter(|s| *s != store).cloned().collect();
    if left.is_empty() {
        if let Some(all) = doc.get_mut("tier").and_then(Item::as_array_of_tables_mut) {
            all.retain(|t| t.get("name").and_then(Item::as_str) != Some(&tier.name));
            if all.is_empty() {
                doc.remove("tier");
            }
        }
        return Ok(());
    }
    let mut after = TierConfig { stores: left, ..tier.clone() };
    if let Some(set) = after.weights.last_mut() {
        set.remove(store);
    }
    let table = find(doc, &tier.name)?;
    table["stores"] = toml_edit::value(after.stores.iter().collect::<Array>());
    if let Some(copies) = tier.copies.filter(|c| *c > after.stores.len()) {
        table["copies"] = toml_edit::value(copies.min(after.stores.len()) as i64);
    }
    match tier.weights.is_empty() {
        true => Ok(()),
        false => add_set(table, &after),
    }
}

fn find<'a>(doc: &'a mut DocumentMut, name: &str) -> Result<&'a mut Table> {
    let all = doc.get_mut("tier").and_then(Item::as_array_of_tables_mut);
    let found =
        all.and_then(|all| all.iter_mut().find(|t| t.get("name").and_then(Item::as_str) == Some(name)));
    found.ok_or_else(|| Error::Missing(format!("[[tier]] {name} in config.toml")))
}

fn push_weights(table: &mut Table, tier: &TierConfig, store: &str, weight: u32) -> Result<()> {
    let mut after = tier.clone();
    let mut set: BTreeMap<String, u32> = tier.stores.iter().map(|s| (s.clone(), tier.weight(s))).collect();
    set.insert(store.into(), weight);
    after.weights.push(set);
    add_set(table, &after)
}

/// Writes the last set behind those that are there.
fn add_set(table: &mut Table, tier: &TierConfig) -> Result<()> {
    let Some(last) = tier.weights.last() else { return Ok(()) };
    let set: InlineTable = last.iter().map(|(s, w)| (s.clone(), Value::from(i64::from(*w)))).collect();
    let sets = table.entry("weights").or_insert_with(|| toml_edit::value(Array::new()));
    let sets =
        sets.as_array_mut().ok_or_else(|| Error::Invalid(format!("[[tier]] {}: weights", tier.name)))?;
    sets.push(set);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        tier: Vec<TierConfig>,
    }

    fn parse(text: &str) -> Result<Vec<TierConfig>> {
        let file: File = toml::from_str(text).map_err(|e| Error::Invalid(e.to_string()))?;
        let names: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
        check(&file.tier, names.iter())?;
        Ok(file.tier)
    }

    const TWO: &str = "# mine\n[[tier]]\nname = \"edge\"\nstores = [\"a\"] # fast\nkeep = \"14d\"\n\n[[tier]]\nname = \"far\"\nlayout = \"bundle\"\nstores = [\"b\", \"c\"]\n";

    #[test]
    fn tiers_are_read_and_checked() {
        let tiers = parse(TWO).expect("valid");
        assert_eq!((tiers[0].copies(), tiers[1].copies(), tiers[1].weight("c")), (1, 1, 1));
        for bad in [
            "[[tier]]\nname = \"\"\nstores = [\"a\"]\n",
            "[[tier]]\nname = \"x\"\nstores = []\n",
            "[[tier]]\nname = \"x\"\nstores = [\"nobody\"]\n",
            "[[tier]]\nname = \"x\"\nstores = [\"a\", \"a\"]\n",
            "[[tier]]\nname = \"x\"\nstores = [\"a\"]\ncopies = 2\n",
            "[[tier]]\nname = \"x\"\nstores = [\"a\"]\nkeep = \"soon\"\n",
            "[[tier]]\nname = \"x\"\nstores = [\"a\"]\nweights = [{ b = 1 }]\n",
            "[[tier]]\nname = \"x\"\nstores = [\"a\"]\nlayout = \"raid\"\n",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn changes_add_a_set_of_weights_and_keep_the_old_ones() {
        let mut doc: DocumentMut = TWO.parse().expect("toml");
        let tiers = parse(TWO).expect("valid");
        add_store(&mut doc, &tiers[1], "d", 3).expect("add");
        let tiers = parse(&doc.to_string()).expect("valid");
        assert_eq!((tiers[1].stores.len(), tiers[1].weight("d"), tiers[1].weight("b")), (3, 3, 1));
        weigh(&mut doc, &tiers[1], "b", 0).expect("drain");
        let tiers = parse(&doc.to_string()).expect("valid");
        assert_eq!((tiers[1].weights.len(), tiers[1].weight("b"), tiers[1].weight("d")), (2, 0, 3));
        remove_store(&mut doc, &tiers, "b").expect("remove");
        let tiers = parse(&doc.to_string()).expect("valid");
        assert_eq!((tiers[1].weights.len(), tiers[1].stores.as_slice()), (3, &["c".into(), "d".into()][..]));
        remove_store(&mut doc, &tiers, "a").expect("remove");
        let tiers = parse(&doc.to_string()).expect("valid");
        assert_eq!((tiers.len(), tiers[0].name.as_str()), (1, "far"));
    }

    #[test]
    fn comments_stay_and_a_new_tier_comes_last() {
        let mut doc: DocumentMut = TWO.parse().expect("toml");
        let new = TierConfig { name: "cold".into(), stores: vec!["d".into()], ..TierConfig::default() };
        append(&mut doc, &new).expect("append");
        let text = doc.to_string();
        assert!(text.contains("# mine") && text.contains("# fast"), "{text}");
        assert_eq!(parse(&text).expect("valid")[2].name, "cold");
    }
}
