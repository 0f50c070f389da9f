//! Which packs gc keeps, rewrites or condemns, decided from what is reachable.
//!
//! Promises that a pack holding a live record is never condemned unless every live record of it is
//! first written elsewhere. Knows no store: live counts are an argument.

use crate::base::id::PackId;

/// How much of one pack is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The pack.
    pub pack: PackId,
    /// Stored bytes of reachable records.
    pub live: u64,
    /// Stored bytes of all records.
    pub total: u64,
}

/// What to do with the packs of a store.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// Nothing in them is reachable.
    pub condemn: Vec<PackId>,
    /// Reachable, but too little of them: copy the live records out, then condemn.
    pub rewrite: Vec<PackId>,
    /// Bytes that both will free in the end.
    pub frees: u64,
}

/// Condemns dead packs and rewrites those less than `keep_percent` live.
pub fn plan(usage: &[Usage], keep_percent: u64) -> GcPlan {
    let mut plan = GcPlan::default();
    for u in usage {
        if u.live == 0 {
            plan.condemn.push(u.pack);
            plan.frees += u.total;
        } else if u128::from(u.live) * 100 < u128::from(u.total) * u128::from(keep_percent) {
            plan.rewrite.push(u.pack);
            plan.frees += u.total - u.live;
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_packs_are_kept_sparse_ones_rewritten_dead_ones_condemned() {
        let usage = |n, live, total| Usage { pack: PackId([n; 32]), live, total };
        let got = plan(&[usage(1, 0, 10), usage(2, 5, 10), usage(3, 6, 10)], 60);
        assert_eq!(got, GcPlan { condemn: vec![PackId([1; 32])], rewrite: vec![PackId([2; 32])], frees: 15 });
    }
}
