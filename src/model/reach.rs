//! Which packs of a store gc keeps, rewrites or condemns.
//!
//! Promises that a pack holding a live record is never condemned unless every live record of it is
//! first written elsewhere. Knows no store: who has what, and how much, are arguments.

use crate::base::id::PackId;

/// How much of one pack is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The pack.
    pub pack: PackId,
    /// Stored bytes of reachable records that no other pack keeps.
    pub live: u64,
    /// Stored bytes of all records.
    pub total: u64,
}

/// How far gc goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unreachable bytes that may stay in live packs, in percent of the reachable ones.
    pub unused_percent: u64,
    /// Bytes that may be written anew now; what does not fit waits for the next run.
    pub room: u64,
}

/// What to do with the packs of a store.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// Nothing in them is reachable.
    pub condemn: Vec<PackId>,
    /// Reachable, but too little of them: copy the live records out, then condemn. The emptiest first.
    pub rewrite: Vec<PackId>,
    /// Bytes that both will free in the end.
    pub frees: u64,
}

/// Condemns dead packs; rewrites the emptiest of the others until no more than the allowed share is
/// unreachable.
pub fn plan(usage: &[Usage], limits: &Limits) -> GcPlan {
    let mut plan = GcPlan::default();
    let (dead, mut rest): (Vec<Usage>, Vec<Usage>) = usage.iter().partition(|u| u.live == 0);
    for u in dead {
        plan.condemn.push(u.pack);
        plan.frees += u.total;
    }
    let live: u64 = rest.iter().map(|u| u.live).sum();
    let allowed = u128::from(live) * u128::from(limits.unused_percent) / 100;
    let mut unused: u64 = rest.iter().map(unused_in).sum();
    let mut room = limits.room;
    rest.retain(|u| unused_in(u) > 0);
    rest.sort_by_key(|u| (std::cmp::Reverse(unused_share(u)), u.pack));
    for u in rest {
        if u128::from(unused) <= allowed {
            break;
        }
        if u.live <= room {
            room -= u.live;
            unused -= unused_in(&u);
            plan.rewrite.push(u.pack);
            plan.frees += unused_in(&u);
        }
    }
    plan
}

fn unused_in(u: &Usage) -> u64 {
    u.total.saturating_sub(u.live)
}

/// In millionths.
fn unused_share(u: &Usage) -> u128 {
    u128::from(unused_in(u)) * 1_000_000 / u128::from(u.total.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(n: u8, live: u64, total: u64) -> Usage {
        Usage { pack: PackId([n; 32]), live, total }
    }

    fn names(all: &[u8]) -> Vec<PackId> {
        all.iter().map(|n| PackId([*n; 32])).collect()
    }

    #[test]
    fn live_packs_are_kept_sparse_ones_rewritten_dead_ones_condemned() {
        let all = [usage(1, 0, 10), usage(2, 2, 10), usage(3, 6, 10), usage(4, 100, 100)];
        let limits = Limits { unused_percent: 5, room: 1000 };
        let got = plan(&all, &limits);
        assert_eq!(got, GcPlan { condemn: names(&[1]), rewrite: names(&[2]), frees: 18 });
        let got = plan(&all, &Limits { unused_percent: 0, ..limits });
        assert_eq!(got.rewrite, names(&[2, 3]), "the emptiest first");
        let got = plan(&all, &Limits { unused_percent: 0, room: 3 });
        assert_eq!(got.rewrite, names(&[2]), "no more than there is room for");
    }

    proptest! {
        #[test]
        fn what_stays_unused_is_within_the_limit(
            sizes in prop::collection::vec((0u64..1000, 0u64..1000), 0..40),
            percent in 0u64..100,
        ) {
            let all: Vec<Usage> =
                sizes.iter().zip(0..).map(|((a, b), n)| usage(n, *a.min(b), *a.max(b))).collect();
            let plan = plan(&all, &Limits { unused_percent: percent, room: u64::MAX });
            let is_in = |list: &[PackId], u: &&Usage| list.contains(&u.pack);
            prop_assert!(all.iter().all(|u| (u.live == 0) == is_in(&plan.condemn, &u)));
            let live: u64 = all.iter().map(|u| u.live).sum();
            let stays: u64 = all
                .iter()
                .filter(|u| u.live > 0 && !is_in(&plan.rewrite, u))
                .map(|u| u.total - u.live)
                .sum();
            prop_assert!(stays * 100 <= live * percent);
        }
    }
}
