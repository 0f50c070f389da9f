//! Which members of a tier keep a record.
//!
//! Promises that the same key and seats give the same order on every machine; that a new, drained
//! or removed seat moves only its own share; and that copies lie in distinct failure domains. Knows
//! no store: who has what and who can be reached are arguments.

use crate::base::id::{RecordId, StoreId};
use crate::model::entry::Kind;

/// Most members of one tier.
pub const MAX_SEATS: usize = 64;

/// How a tier's members share the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Layout {
    /// Every member keeps everything.
    #[default]
    Mirror,
    /// Each content lies on `copies` of them, chosen by weighted rendezvous.
    Bundle,
    /// The first one that takes it, in the order given.
    Chain,
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seat {
    /// Its store; a renamed remote keeps its share.
    pub store: StoreId,
    /// What fails together with it.
    pub domain: String,
    /// Its share, relative to the others; 0 is being drained: it counts for nothing.
    pub weight: u32,
}

/// Some members, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Members(u64);

impl Members {
    /// Those for which `is` says so, of the first `n`.
    pub fn of(n: usize, is: impl Fn(usize) -> bool) -> Self {
        (0..n.min(MAX_SEATS)).filter(|i| is(*i)).fold(Self::default(), Self::with)
    }

    /// And this one.
    pub fn with(self, i: usize) -> Self {
        Self(self.0 | 1u64.checked_shl(i as u32).unwrap_or(0))
    }

    /// Those in either.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without those.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether this one is among them.
    pub fn contains(self, i: usize) -> bool {
        i < MAX_SEATS && self.0 >> i & 1 == 1
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_SEATS).filter(move |i| self.contains(*i))
    }
}

/// What a tier wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// How.
    pub layout: Layout,
    /// In how many failure domains; of a mirror every member gets one all the same.
    pub copies: usize,
    /// The members.
    pub seats: Vec<Seat>,
}

impl Rule {
    /// Number of failure domains among these members, drained ones left out.
    pub fn domains(&self, members: Members) -> usize {
        let mut names: Vec<&str> = Vec::new();
        for seat in members.iter().filter_map(|i| self.seats.get(i)).filter(|s| s.weight > 0) {
            if !names.contains(&seat.domain.as_str()) {
                names.push(&seat.domain);
            }
        }
        names.len()
    }

    /// Whether a record that `has` have needs to go nowhere else, if only `writable` ones can get more.
    pub fn is_kept(&self, has: Members, writable: Members) -> bool {
        match self.layout {
            Layout::Mirror => !has.is_empty() && self.open(writable).without(has).is_empty(),
            _ => {
                let can = self.domains(has.union(writable)).min(self.copies).max(1);
                self.domains(has) >= can
            }
        }
    }

    /// The members that should get a record (of the content `key`) which `has` have already. Fewer
    /// than would make `copies` domains if no more are writable.
    pub fn wanted(&self, key: &RecordId, kind: Kind, has: Members, writable: Members) -> Members {
        let open = self.open(writable);
        // What is needed to make sense of the rest is everywhere, so that any member will do.
        if self.layout == Layout::Mirror || kind == Kind::Manifest {
            return open.without(has);
        }
        let mut chosen = Members::default();
        let mut domains = self.domains(has);
        for i in self.order(key).into_iter().filter(|i| open.contains(*i) && !has.contains(*i)) {
            if domains >= self.copies.max(1) {
                break;
            }
            let more = self.domains(has.union(chosen).with(i));
            if more > domains {
                chosen = chosen.with(i);
                domains = more;
            }
        }
        chosen
    }

    /// Members in the order in which they are asked to take a content; drained ones are not.
    pub fn order(&self, key: &RecordId) -> Vec<usize> {
        let open = (0..self.seats.len()).filter(|i| self.seats[*i].weight > 0);
        if self.layout == Layout::Chain {
            return open.collect();
        }
        let mut order: Vec<(f64, usize)> = open.map(|i| (arrival(key, &self.seats[i]), i)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(self.seats[a.1].store.cmp(&self.seats[b.1].store)));
        order.into_iter().map(|(_, i)| i).collect()
    }

    /// Those that may get something new.
    fn open(&self, writable: Members) -> Members {
        let is = |i: usize| writable.contains(i) && self.seats[i].weight > 0;
        Members::of(self.seats.len(), is)
    }
}

/// The tier on which a content should lie: `whole` are those that have all of it, `keep` says for how
/// many seconds an unused one stays on each, `age` for how many it has not been used. It never moves
/// back by itself.
pub fn home(whole: Members, keep: &[Option<u64>], age: u64) -> usize {
    let mut at = whole.iter().last().unwrap_or(0);
    while at + 1 < keep.len() && keep[at].is_some_and(|keep| age > keep) {
        at += 1;
    }
    at
}

/// A time drawn from the exponential distribution of rate `weight`, fixed by key and store: the
/// probability of being first is the share of the weight.
fn arrival(key: &RecordId, seat: &Seat) -> f64 {
    let mut hasher = blake3::Hasher::new_derive_key("ddr placement 1");
    hasher.update(&seat.store.0).update(&key.0);
    let mut first = [0u8; 8];
    hasher.finalize_xof().fill(&mut first);
    // 53 bits, never 0 and never 1.
    let uniform = ((u64::from_le_bytes(first) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / f64::from(seat.weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u64) -> RecordId {
        RecordId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn seat(n: u8, weight: u32) -> Seat {
        Seat { store: StoreId([n; 16]), domain: format!("d{n}"), weight }
    }

    fn bundle(copies: usize, weights: &[u32]) -> Rule {
        let seats = weights.iter().enumerate().map(|(n, w)| seat(n as u8, *w)).collect();
        Rule { layout: Layout::Bundle, copies, seats }
    }

    fn all(rule: &Rule) -> Members {
        Members::of(rule.seats.len(), |_| true)
    }

    fn place(rule: &Rule, n: u64) -> Members {
        rule.wanted(&key(n), Kind::Chunk, Members::default(), all(rule))
    }

    #[test]
    fn the_order_is_fixed_for_ever() {
        let orders: Vec<Vec<usize>> = (0..4).map(|n| bundle(1, &[1, 2, 1, 3]).order(&key(n))).collect();
        assert_eq!(orders, GOLDEN, "contents placed by an older ddr would seem misplaced");
    }

    const GOLDEN: [[usize; 4]; 4] = [[0, 3, 2, 1], [2, 0, 3, 1], [3, 1, 2, 0], [1, 3, 0, 2]];

    #[test]
    fn shares_follow_weights() {
        let rule = bundle(1, &[1, 2, 3, 4]);
        let mut counts = [0f64; 4];
        for n in 0..20_000 {
            place(&rule, n).iter().for_each(|i| counts[i] += 1.0);
        }
        for (i, count) in counts.iter().enumerate() {
            let expect = 2000.0 * (i + 1) as f64;
            assert!((count - expect).abs() < expect.sqrt() * 5.0, "{i}: {count} of {expect}");
        }
    }

    #[test]
    fn copies_lie_in_distinct_domains() {
        let mut rule = bundle(2, &[1, 1, 1, 1]);
        rule.seats.iter_mut().take(3).for_each(|s| s.domain = "one host".into());
        for n in 0..200 {
            let chosen = place(&rule, n);
            assert!(chosen.iter().count() == 2 && chosen.contains(3), "{chosen:?}");
        }
    }

    #[test]
    fn a_mirror_and_manifests_go_everywhere() {
        let mut rule = bundle(1, &[1, 1, 0]);
        let two = Members::default().with(0).with(1);
        assert_eq!(rule.wanted(&key(1), Kind::Manifest, Members::default(), all(&rule)), two);
        rule.layout = Layout::Mirror;
        assert_eq!(
            rule.wanted(&key(1), Kind::Chunk, Members::default().with(1), all(&rule)).iter().count(),
            1
        );
        assert!(rule.is_kept(two, all(&rule)) && !rule.is_kept(Members::default().with(1), all(&rule)));
    }

    #[test]
    fn a_chain_takes_the_first_that_can_be_reached() {
        let rule = Rule { layout: Layout::Chain, ..bundle(1, &[1, 1, 1]) };
        assert_eq!(place(&rule, 1), Members::default().with(0));
        let far = Members::of(3, |i| i > 0);
        assert_eq!(rule.wanted(&key(1), Kind::Chunk, Members::default(), far), Members::default().with(1));
        assert!(rule.is_kept(Members::default().with(2), all(&rule)), "wherever it is");
    }

    #[test]
    fn contents_move_on_by_age_and_never_back() {
        let keep = [Some(10), None, Some(5)];
        let near = Members::default().with(0);
        assert_eq!([home(near, &keep, 10), home(near, &keep, 11), home(near, &keep, 999)], [0, 1, 1]);
        assert_eq!([home(near.with(1), &keep, 0), home(Members::default(), &keep, 0)], [1, 0]);
        assert_eq!(home(near.with(2), &keep, 999), 2, "there is nothing farther");
    }

    proptest! {
        #[test]
        fn a_new_member_takes_only_its_share(weights in prop::collection::vec(1u32..9, 1..6), new in 1u32..9, copies in 1usize..4, n: u64) {
            let before = bundle(copies, &weights);
            let after = bundle(copies, &[&weights[..], &[new]].concat());
            let (old, now) = (place(&before, n), place(&after, n));
            let newcomer = Members::default().with(weights.len());
            // Whoever is chosen now was chosen before, or is the new one.
            prop_assert!(now.without(newcomer).without(old).is_empty());
            prop_assert!(old.without(now).iter().count() <= 1);
        }

        #[test]
        fn a_drained_member_gives_only_its_share(weights in prop::collection::vec(1u32..9, 2..6), at in 0usize..6, n: u64) {
            let at = at % weights.len();
            let before = bundle(1, &weights);
            let mut drained = weights.clone();
            drained[at] = 0;
            let (old, now) = (place(&before, n), place(&bundle(1, &drained), n));
            prop_assert!(!now.contains(at));
            prop_assert!(old.contains(at) || old == now);
        }

        #[test]
        fn what_is_there_counts_and_what_is_missing_is_chosen(
            weights in prop::collection::vec(0u32..4, 1..7), copies in 1usize..4, has: u8, writable: u8, n: u64,
        ) {
            let rule = bundle(copies, &weights);
            let some = |bits: u8| Members::of(weights.len(), |i| bits >> i & 1 == 1);
            let (has, writable) = (some(has), some(writable));
            let chosen = rule.wanted(&key(n), Kind::Chunk, has, writable);
            prop_assert!(chosen.and(has).is_empty() && chosen.without(writable).is_empty());
            let domains = rule.domains(has.union(chosen));
            prop_assert!(domains >= copies.min(rule.domains(has.union(writable))));
            prop_assert!(chosen.is_empty() || domains <= copies.max(rule.domains(has)));
            prop_assert_eq!(chosen.is_empty(), rule.is_kept(has, writable) || rule.domains(writable) == 0);
        }

        #[test]
        fn a_missing_member_does_not_move_the_others(weights in prop::collection::vec(1u32..9, 2..7), away in 0usize..7, n: u64) {
            let rule = bundle(1, &weights);
            let away = away % weights.len();
            let reachable = Members::of(weights.len(), |i| i != away);
            let (normal, now) = (place(&rule, n), rule.wanted(&key(n), Kind::Chunk, Members::default(), reachable));
            prop_assert!(normal.contains(away) || normal == now);
        }
    }
}
