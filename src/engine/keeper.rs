//! Which contents of history a store must keep although nobody holds them there.
//!
//! Promises that two stores never each rely on the other: a store may only let go what a farther tier
//! keeps, or, when it is being drained, the rest of its own. Copies count only on stores whose gc is
//! this peer's (or nobody's yet), or that hold the content for this peer; all others decide by rules
//! that are not known here.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use super::folder::Folder;
use super::remotes::{Remote, Remotes};
use super::targets::{self, Tier};
use crate::base::error::Result;
use crate::base::id::{RecordId, StoreId};
use crate::format::manifest;
use crate::format::seal::Opener;
use crate::history::Kept;
use crate::model::entry::{Body, Kind};
use crate::model::placement::Members;
use crate::store::{Store, holds, marks};

/// The tiers, and whose copies can be relied on.
pub struct Keeper {
    tiers: Vec<Tier>,
    /// Stores whose gc follows this peer's rules.
    owned: HashSet<StoreId>,
    /// What the others hold for this peer.
    mine: HashMap<StoreId, HashSet<Body>>,
    opener: RefCell<Opener>,
}

impl Keeper {
    /// Looks at owners and holds.
    pub fn new(folder: &Folder, remotes: &Remotes) -> Result<Self> {
        let tiers = targets::tiers(folder, remotes)?;
        let (mut owned, mut mine) = (HashSet::new(), HashMap::new());
        let me = folder.origin();
        for remote in &remotes.online {
            let bucket = remote.packs.bucket().as_ref();
            if marks::owner(bucket)?.is_none_or(|owner| owner.origin == me) {
                owned.insert(remote.packs.id());
                continue;
            }
            let mut held = HashSet::new();
            holds::held(bucket, |origin, body| {
                if origin == me {
                    held.insert(body);
                }
            })?;
            mine.insert(remote.packs.id(), held);
        }
        Ok(Self { tiers, owned, mine, opener: RefCell::new(Opener::new(&folder.keys)?) })
    }

    /// Whether a store must keep a content.
    pub fn keeps(&self, remotes: &Remotes, remote: &Remote, kept: &Kept) -> Result<bool> {
        let others = self.others(remote);
        if others.is_empty() {
            return Ok(true);
        }
        let ids = match kept.body.kind {
            Kind::Chunk => vec![kept.body.id],
            Kind::Manifest => match remotes.read(kept.body.id, &mut self.opener.borrow_mut()) {
                Ok(raw) => manifest::decode_any(&raw)?.data().map(|(_, id, _)| id).collect(),
                // What is not understood is kept; gc itself finds out why.
                Err(_) => return Ok(true),
            },
        };
        for tier in others {
            if self.has_copies(tier, &ids, &kept.body)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The tiers that a store may rely on.
    fn others(&self, remote: &Remote) -> &[Tier] {
        let id = remote.packs.id();
        let seat_in = |tier: &Tier| tier.rule.seats.iter().find(|s| s.store == id).map(|s| s.weight);
        let found = self.tiers.iter().enumerate().find_map(|(t, tier)| Some((t, seat_in(tier)?)));
        match found {
            Some((t, 0)) => &self.tiers[t..],
            Some((t, _)) => &self.tiers[t + 1..],
            // In no tier: nothing says what it is for.
            None => &[],
        }
    }

    /// Whether a tier has every record as often as it wants, on stores that can be relied on.
    fn has_copies(&self, tier: &Tier, ids: &[RecordId], body: &Body) -> Result<bool> {
        let mut has = vec![Members::default(); ids.len()];
        for i in tier.counting().iter() {
            let store = tier.members[i].packs.id();
            let held = self.mine.get(&store).is_some_and(|mine| mine.contains(body));
            if self.owned.contains(&store) || held {
                let answers = tier.members[i].packs.has(ids)?;
                has.iter_mut().zip(answers).filter(|(_, yes)| *yes).for_each(|(has, _)| *has = has.with(i));
            }
        }
        Ok(has.into_iter().all(|has| tier.rule.domains(has) >= tier.rule.copies))
    }
}
