//! Which of the files that may go do go: the least recently used first, of those equally old the
//! largest first, then in path order.
//!
//! Promises to choose the shortest such row of files that makes room enough, whatever their
//! number, in memory that does not grow with it: the candidates are gone through several times,
//! and each time their place in the row is narrowed down by a histogram.

use crate::base::error::Result;

/// A candidate's place in the row; smaller goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rank {
    /// Last use, in seconds since 1970.
    pub used: i64,
    /// Size in bytes.
    pub size: u64,
    /// Its number in path order.
    pub nth: u64,
}

impl Rank {
    /// Three words whose order is that of ranks.
    fn words(&self) -> [u64; 3] {
        [(self.used as u64) ^ (1 << 63), !self.size, self.nth]
    }

    /// The words cut into sixteen-bit digits, the most significant first.
    fn digit(&self, at: usize) -> u16 {
        (self.words()[at / 4] >> (48 - 16 * (at % 4))) as u16
    }

    fn starts_with(&self, prefix: &[u16]) -> bool {
        prefix.iter().enumerate().all(|(at, digit)| self.digit(at) == *digit)
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.words().cmp(&other.words())
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A file that goes, or may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its place.
    pub rank: Rank,
    /// Bytes on the disk that it makes free.
    pub frees: u64,
    /// It goes for its age alone; otherwise only if room is short.
    pub go: bool,
}

/// How far down the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    Nothing,
    UpTo(Rank),
    Everything,
}

impl Cut {
    fn has(&self, rank: &Rank) -> bool {
        match self {
            Self::Nothing => false,
            Self::UpTo(last) => rank <= last,
            Self::Everything => true,
        }
    }
}

/// Bounds on what is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Bytes of files: the row ends with the file that reaches them.
    pub bytes: Option<u64>,
    /// Files.
    pub files: Option<u64>,
}

/// The decision.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    spare: Cut,
    bytes: Cut,
    files: Cut,
    /// Bytes that must go but cannot, because too few files may.
    pub short: u64,
}

impl Choice {
    /// Whether a candidate goes.
    pub fn takes(&self, candidate: &Candidate) -> bool {
        (candidate.go || self.spare.has(&candidate.rank))
            && self.bytes.has(&candidate.rank)
            && self.files.has(&candidate.rank)
    }
}

/// Goes through all candidates once, always in the same order.
pub type Pass<'a> = dyn FnMut(&mut dyn FnMut(&Candidate)) -> Result<()> + 'a;

/// Decides: all whose age says so, and of the others as many as `excess` bytes need; both within bounds.
pub fn choose(excess: u64, bounds: Bounds, pass: &mut Pass) -> Result<Choice> {
    let (mut aged, mut spare) = (0u64, 0u64);
    pass(&mut |c| {
        let sum = if c.go { &mut aged } else { &mut spare };
        *sum = sum.saturating_add(c.frees);
    })?;
    let need = excess.saturating_sub(aged);
    let everything = Cut::Everything;
    let short = need.saturating_sub(spare);
    let mut choice = Choice { spare: Cut::Nothing, bytes: everything, files: everything, short };
    choice.spare = cut(need, &mut |sink| {
        pass(&mut |c| {
            if !c.go {
                sink(&c.rank, c.frees);
            }
        })
    })?;
    let unbound = choice;
    let mut bound = |at_most: Option<u64>, weight: fn(&Candidate) -> u64| match at_most {
        None => Ok(Cut::Everything),
        Some(at_most) => cut(at_most, &mut |sink| {
            pass(&mut |c| {
                if unbound.takes(c) {
                    sink(&c.rank, weight(c));
                }
            })
        }),
    };
    choice.bytes = bound(bounds.bytes, |c| c.rank.size)?;
    choice.files = bound(bounds.files, |_| 1)?;
    Ok(choice)
}

/// So few are sorted in memory.
const FEW: u64 = 1 << 16;
/// Digits of a rank.
const DIGITS: usize = 12;

type Weighed<'a> = dyn FnMut(&mut dyn FnMut(&Rank, u64)) -> Result<()> + 'a;

/// The shortest row that weighs at least `target`; everything, if all together weigh less.
fn cut(target: u64, pass: &mut Weighed) -> Result<Cut> {
    if target == 0 {
        return Ok(Cut::Nothing);
    }
    let (mut prefix, mut before) = (Vec::new(), 0u64);
    loop {
        let mut bins = vec![(0u64, 0u64); 1 << 16];
        pass(&mut |rank, weight| {
            if rank.starts_with(&prefix) {
                let bin = &mut bins[usize::from(rank.digit(prefix.len()))];
                *bin = (bin.0.saturating_add(weight), bin.1 + 1);
            }
        })?;
        let Some(at) = bins.iter().position(|(weight, _)| {
            let enough = before.saturating_add(*weight) >= target;
            before = if enough { before } else { before + weight };
            enough
        }) else {
            return Ok(Cut::Everything);
        };
        prefix.push(at as u16);
        if bins[at].1 <= FEW || prefix.len() == DIGITS {
            return within(&prefix, target - before, pass);
        }
    }
}

/// The end of the row among few candidates whose ranks start alike.
fn within(prefix: &[u16], target: u64, pass: &mut Weighed) -> Result<Cut> {
    let mut few = Vec::new();
    pass(&mut |rank, weight| {
        if rank.starts_with(prefix) {
            few.push((*rank, weight));
        }
    })?;
    few.sort_unstable();
    let mut sum = 0u64;
    let last = few.iter().find(|(_, weight)| {
        sum = sum.saturating_add(*weight);
        sum >= target
    });
    Ok(last.map_or(Cut::Everything, |(rank, _)| Cut::UpTo(*rank)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        // Few different times and sizes, so that ties are common; some times before 1970.
        let one = (-3i64..6, 1u64..5, 0u64..50, any::<bool>(), prop_oneof![Just(1i64), Just(1 << 20)]);
        prop::collection::vec(one, 0..60).prop_map(|list| {
            let number = |(nth, (used, size, frees, go, unit)): (usize, (i64, u64, u64, bool, i64))| {
                Candidate { rank: Rank { used: used * unit, size, nth: nth as u64 }, frees, go }
            };
            list.into_iter().enumerate().map(number).collect()
        })
    }

    fn decide(list: &[Candidate], excess: u64, bounds: Bounds) -> Choice {
        choose(excess, bounds, &mut |sink| {
            list.iter().for_each(&mut *sink);
            Ok(())
        })
        .expect("no I/O")
    }

    proptest! {
        #[test]
        fn the_choice_is_the_shortest_row_of_the_sorted_candidates(list in candidates(), excess in 0u64..2000) {
            let choice = decide(&list, excess, Bounds::default());
            let mut sorted = list.clone();
            sorted.sort_by_key(|c| (c.rank.used, std::cmp::Reverse(c.rank.size), c.rank.nth));
            let mut freed: u64 = list.iter().filter(|c| c.go).map(|c| c.frees).sum();
            let mut expected: Vec<u64> = list.iter().filter(|c| c.go).map(|c| c.rank.nth).collect();
            for c in sorted.iter().filter(|c| !c.go) {
                if freed >= excess {
                    break;
                }
                freed += c.frees;
                expected.push(c.rank.nth);
            }
            expected.sort_unstable();
            let taken: Vec<u64> = list.iter().filter(|c| choice.takes(c)).map(|c| c.rank.nth).collect();
            prop_assert_eq!(taken, expected);
            prop_assert_eq!(choice.short, excess.saturating_sub(freed));
        }

        #[test]
        fn bounds_hold_and_the_oldest_go_first(list in candidates(), excess in 0u64..2000, files in 0u64..20, bytes in 1u64..60) {
            let free = decide(&list, excess, Bounds::default());
            let bound = decide(&list, excess, Bounds { bytes: Some(bytes), files: Some(files) });
            let taken: Vec<&Candidate> = list.iter().filter(|c| bound.takes(c)).collect();
            prop_assert!(taken.len() as u64 <= files);
            // Without its last file the row is below the bound on bytes.
            let sum: u64 = taken.iter().map(|c| c.rank.size).sum();
            let last = taken.iter().max_by_key(|c| c.rank).map_or(0, |c| c.rank.size);
            prop_assert!(taken.is_empty() || sum - last < bytes);
            let newest = taken.iter().map(|c| c.rank).max();
            let passed_over = list.iter().find(|c| free.takes(c) && !bound.takes(c) && Some(c.rank) < newest);
            prop_assert_eq!(passed_over, None);
        }
    }

    #[test]
    fn more_alike_than_can_be_sorted_are_told_apart_by_their_number() {
        let all: Vec<Candidate> = (0..FEW * 3)
            .map(|nth| Candidate { rank: Rank { used: 7, size: 9, nth }, frees: 1, go: false })
            .collect();
        let choice = decide(&all, FEW * 2 + 5, Bounds::default());
        assert_eq!(all.iter().filter(|c| choice.takes(c)).count() as u64, FEW * 2 + 5);
    }
}
