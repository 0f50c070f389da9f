//! The tiers of a folder, opened, and the store that new contents go to.
//!
//! Promises that the layouts of `config.toml` decide where a content goes, and that which copies
//! count is answered per record: a content is kept where each of its records is kept as some tier
//! wants it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::folder::Folder;
use super::remotes::{OWN, Remote, Remotes};
use super::tiers::{DEFAULT, LayoutName, TierConfig};
use crate::base::error::Result;
use crate::base::id::StoreId;
use crate::format::manifest;
use crate::format::seal::Opener;
use crate::model::entry::{Body, Kind};
use crate::model::placement::{Layout, Members, Rule, Seat};
use crate::store::Store;
use crate::store::member::Member;
use crate::store::mirror::Mirror;
use crate::store::spread::Spread;

/// One tier with those of its stores that can be reached.
#[derive(Clone)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// What it wants of its reachable stores; `copies` as configured.
    pub rule: Rule,
    /// The reachable stores, in the order of the rule's seats.
    pub members: Vec<Remote>,
    /// Names of those that are not reachable.
    pub absent: Vec<String>,
    /// How long an unused content stays before it moves on to the next tier.
    pub keep: Option<Duration>,
}

impl Tier {
    /// The members whose copies let local bytes go.
    pub fn counting(&self) -> Members {
        Members::of(self.members.len(), |i| self.members[i].counts && self.members[i].member.is_readable())
    }

    /// Members that can be written to.
    pub fn writable(&self) -> Members {
        Members::of(self.members.len(), |i| self.members[i].member.is_at_work())
    }

    /// The members' stores as one; nothing is written with fewer than `need` failure domains.
    fn store(&self, need: usize) -> Result<Arc<dyn Store>> {
        let members = self.members.iter().map(|r| Arc::clone(&r.member)).collect();
        Ok(match self.rule.layout {
            Layout::Bundle => Arc::new(Spread::bundle(&self.name, self.rule.clone(), members, need)?),
            _ => Arc::new(Mirror::new(&self.name, self.rule.clone(), members, need)?),
        })
    }
}

/// The tiers of a folder, near to far. Without any configured, all remotes form one mirror.
pub fn tiers(folder: &Folder, remotes: &Remotes) -> Result<Vec<Tier>> {
    let configured = match folder.config.tier.as_slice() {
        [] => {
            let stores: Vec<String> = match folder.config.remote.is_empty() {
                true => vec![OWN.into()],
                false => folder.config.remote.keys().cloned().collect(),
            };
            let copies = folder.config.stash.copies;
            vec![TierConfig { name: DEFAULT.into(), stores, copies, ..TierConfig::default() }]
        }
        tiers => tiers.to_vec(),
    };
    configured.iter().map(|config| open(config, remotes)).collect()
}

fn open(config: &TierConfig, remotes: &Remotes) -> Result<Tier> {
    let find = |name: &String| remotes.online.iter().find(|r| r.name == *name);
    let members: Vec<Remote> = config.stores.iter().filter_map(find).cloned().collect();
    let absent = config.stores.iter().filter(|name| find(name).is_none()).cloned().collect();
    let seat = |r: &Remote| {
        let weight = config.weight(&r.name);
        Seat { store: r.packs.id(), domain: r.domain.clone(), weight }
    };
    let rule = Rule {
        layout: config.layout.layout(),
        copies: config.copies(),
        seats: members.iter().map(seat).collect(),
    };
    Ok(Tier { name: config.name.clone(), rule, members, absent, keep: config.keep()? })
}

/// Where contents and logs go in one run.
pub struct Targets {
    /// Every reachable store: each gets the logs.
    pub remotes: Vec<Remote>,
    /// The tiers, near to far.
    pub tiers: Vec<Tier>,
    /// What contents are put to; `None` if no store of a tier can be reached.
    pub store: Option<Arc<dyn Store>>,
    opener: Mutex<Opener>,
}

impl Targets {
    /// For placing with at least `copies` copies (`None`: as many as the tier wants, or fewer).
    pub fn new(folder: &Folder, remotes: &Remotes, copies: Need) -> Result<Self> {
        let tiers = tiers(folder, remotes)?;
        let mut stores = Vec::new();
        for tier in tiers.iter().filter(|t| !t.members.is_empty()) {
            stores.push((tier, tier.store(copies.of(tier))?));
        }
        let store = match stores.len() {
            0 | 1 => stores.pop().map(|(_, store)| store),
            _ => Some(chain(stores)?),
        };
        let opener = Mutex::new(Opener::new(&folder.keys)?);
        Ok(Self { remotes: remotes.online.clone(), tiers, store, opener })
    }

    /// Whether no store of any tier can be written to (any more).
    pub fn is_closed(&self) -> bool {
        self.tiers.iter().flat_map(|t| &t.members).all(|r| !r.member.is_at_work())
    }

    /// Whether every store keeps everything: then one record of a content tells of all.
    pub fn is_plain(&self) -> bool {
        matches!(self.tiers.as_slice(), [tier] if tier.rule.layout == Layout::Mirror)
    }

    /// Whether a content has to be placed (again).
    pub fn lacks(&self, body: Option<Body>) -> Result<bool> {
        let (Some(body), Some(store)) = (body, &self.store) else { return Ok(false) };
        if !store.has(&[body.id])?[0] {
            return Ok(true);
        }
        if self.is_plain() || body.kind == Kind::Chunk {
            return Ok(false);
        }
        let mut chunks = None;
        let mut opener = self.opener.lock().unwrap_or_else(PoisonError::into_inner);
        store.get(&[body.id], &mut |_, got| {
            chunks =
                got.and_then(|sealed| opener.open(&sealed)).and_then(|raw| manifest::decode_any(&raw)).ok();
            Ok(())
        })?;
        // An unreadable manifest is placed again, with all the rest.
        let Some(chunks) = chunks else { return Ok(true) };
        let ids: Vec<_> = chunks.data().map(|(_, id, _)| id).collect();
        Ok(store.has(&ids)?.contains(&false))
    }

    /// Names of the stores that did not get what this run placed: unreachable or fallen out.
    pub fn behind(&self) -> Vec<String> {
        let mut names = Vec::new();
        for tier in self.tiers.iter().filter(|t| t.rule.layout == Layout::Mirror) {
            names.extend(tier.absent.iter().cloned());
        }
        let out = self.remotes.iter().filter(|r| !r.member.is_at_work()).map(|r| r.name.clone());
        names.extend(out);
        names.sort();
        names.dedup();
        names
    }
}

/// How many copies a run insists on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// One is enough: nothing local depends on it yet.
    Any,
    /// As many as each tier is configured for.
    Tier,
    /// So many.
    Copies(usize),
}

impl Need {
    /// For one tier.
    pub fn of(self, tier: &Tier) -> usize {
        match self {
            Self::Any => 1,
            Self::Tier => tier.rule.copies,
            Self::Copies(n) => n,
        }
    }
}

fn chain(stores: Vec<(&Tier, Arc<dyn Store>)>) -> Result<Arc<dyn Store>> {
    let seat = |(n, (tier, _)): (usize, &(&Tier, _))| Seat {
        store: StoreId([n as u8; 16]),
        domain: tier.name.clone(),
        weight: 1,
    };
    let seats = stores.iter().enumerate().map(seat).collect();
    let member =
        |(tier, store): (&Tier, Arc<dyn Store>)| Arc::new(Member::new(&tier.name, store, Duration::ZERO));
    let members = stores.into_iter().map(member).collect();
    let rule = Rule { layout: Layout::Chain, copies: 1, seats };
    Ok(Arc::new(Spread::chain("the tiers", rule, members, 1)?))
}

/// The layout's word, for people.
pub fn layout_word(layout: Layout) -> &'static str {
    match layout {
        Layout::Bundle => LayoutName::Bundle.word(),
        _ => LayoutName::Mirror.word(),
    }
}
