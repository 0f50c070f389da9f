//! Version vectors: which entries of a path a change had seen, and hence what supersedes what.
//!
//! Promises order-independence: the set of heads depends only on the set of entries applied.
//! Source: Tra (Cox, Josephson) and tombstone-free OR-sets; see docs/SEMANTICS.md.

use std::collections::BTreeMap;

use super::entry::Dot;
use crate::base::id::OriginId;

/// Per origin the highest entry number of one path that is included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vector(BTreeMap<OriginId, u64>);

impl Vector {
    /// Builds from dots; of several per origin the highest counts.
    pub fn from_dots(dots: &[Dot]) -> Self {
        let mut vector = Self::default();
        dots.iter().for_each(|d| vector.add(*d));
        vector
    }

    /// Includes a dot and everything of its origin below it.
    pub fn add(&mut self, dot: Dot) {
        let slot = self.0.entry(dot.origin).or_default();
        *slot = (*slot).max(dot.number);
    }

    /// Whether the dot is included.
    pub fn covers(&self, dot: Dot) -> bool {
        self.0.get(&dot.origin).is_some_and(|n| *n >= dot.number)
    }

    /// The dots, in origin order.
    pub fn dots(&self) -> Vec<Dot> {
        self.0.iter().map(|(origin, number)| Dot { origin: *origin, number: *number }).collect()
    }
}

/// What applying an entry does to the heads of its path.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Indices of heads that the new entry supersedes.
    pub superseded: Vec<usize>,
    /// Whether the new entry is itself a head: a put that no present head has seen.
    pub is_head: bool,
}

/// Decides how `new` (dot, what it had seen, whether it is a put) changes `heads` (dot and seen).
pub fn apply(heads: &[(Dot, Vector)], new: Dot, seen: &Vector, is_put: bool) -> Outcome {
    let superseded =
        heads.iter().enumerate().filter(|(_, (dot, _))| seen.covers(*dot)).map(|(i, _)| i).collect();
    let known = heads.iter().any(|(dot, had_seen)| *dot == new || had_seen.covers(new));
    Outcome { superseded, is_head: is_put && !known }
}

/// The head that owns the name: the newest by clock, then by origin; pure, so all peers agree.
pub fn winner<T>(heads: &[T], key: impl Fn(&T) -> (u64, Dot)) -> Option<&T> {
    heads.iter().max_by_key(|head| key(head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dot(origin: u8, number: u64) -> Dot {
        Dot { origin: OriginId([origin; 32]), number }
    }

    #[test]
    fn a_later_edit_supersedes_and_a_concurrent_one_does_not() {
        let heads = vec![(dot(1, 1), Vector::default())];
        let after = apply(&heads, dot(2, 1), &Vector::from_dots(&[dot(1, 1)]), true);
        assert_eq!(after, Outcome { superseded: vec![0], is_head: true });
        let beside = apply(&heads, dot(2, 1), &Vector::default(), true);
        assert_eq!(beside, Outcome { superseded: vec![], is_head: true });
    }

    #[test]
    fn a_deletion_is_never_a_head() {
        let heads = vec![(dot(1, 1), Vector::default())];
        let gone = apply(&heads, dot(1, 2), &Vector::from_dots(&[dot(1, 1)]), false);
        assert_eq!(gone, Outcome { superseded: vec![0], is_head: false });
    }

    /// Random edits by three origins, each having seen any set of earlier dots of the path.
    fn edits() -> impl Strategy<Value = Vec<(u8, Vec<usize>, bool)>> {
        prop::collection::vec((0u8..3, prop::collection::vec(0usize..8, 0..3), any::<bool>()), 1..8)
    }

    proptest! {
        #[test]
        fn heads_do_not_depend_on_the_interleaving_of_origins(list in edits(), seed in any::<u64>()) {
            let mut numbers = [0u64; 3];
            let mut all: Vec<(Dot, Vector, bool)> = Vec::new();
            for (origin, saw, put) in list {
                numbers[origin as usize] += 1;
                // What was seen is causally closed: it includes what the seen entries had seen.
                let mut seen = Vector::default();
                for i in saw.into_iter().filter(|i| *i < all.len()) {
                    seen.add(all[i].0);
                    let inner = all[i].1.dots();
                    inner.into_iter().for_each(|d| seen.add(d));
                }
                // An origin has always seen its own earlier entries.
                if numbers[origin as usize] > 1 {
                    let own = dot(origin, numbers[origin as usize] - 1);
                    seen.add(own);
                    if let Some((_, v, _)) = all.iter().find(|(d, _, _)| *d == own) {
                        v.dots().into_iter().for_each(|d| seen.add(d));
                    }
                }
                all.push((dot(origin, numbers[origin as usize]), seen, put));
            }
            let straight = heads_of(all.iter());
            // Any merge of the per-origin sequences is allowed, as long as causes come first.
            let mut left: Vec<_> = all.clone();
            let mut order = Vec::new();
            let mut state = seed;
            while !left.is_empty() {
                let ready: Vec<usize> = (0..left.len())
                    .filter(|i| left[*i].1.dots().iter().all(|d| !left.iter().any(|(o, _, _)| o == d)))
                    .collect();
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let pick = ready[(state >> 33) as usize % ready.len()];
                order.push(left.remove(pick));
            }
            prop_assert_eq!(heads_of(order.iter()), straight);
        }
    }

    fn heads_of<'a>(entries: impl Iterator<Item = &'a (Dot, Vector, bool)>) -> Vec<Dot> {
        let mut heads: Vec<(Dot, Vector)> = Vec::new();
        for (dot, seen, put) in entries {
            let out = apply(&heads, *dot, seen, *put);
            for i in out.superseded.into_iter().rev() {
                heads.remove(i);
            }
            if out.is_head {
                heads.push((*dot, seen.clone()));
            }
        }
        let mut dots: Vec<Dot> = heads.into_iter().map(|h| h.0).collect();
        dots.sort();
        dots
    }
}
