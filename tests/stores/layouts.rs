//! Mirror, bundle and chain: the promises of every store, also with members that fail, and their own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use ddr::base::error::{Error, Result};
use ddr::base::id::{RecordId, StoreId};
use ddr::format::seal::Sealed;
use ddr::format::store::StoreHead;
use ddr::model::entry::Kind;
use ddr::model::placement::{Layout, Rule, Seat};
use ddr::store::Store;
use ddr::store::faulty::{Fault, FaultOp, Faulty, What};
use ddr::store::member::Member;
use ddr::store::memory::MemoryBucket;
use ddr::store::mirror::Mirror;
use ddr::store::packs::Packs;
use ddr::store::spread::Spread;

use super::{
    FOLDER, Place, assert_reads_back, chunk, get, head, ids, keys, list, manifest, noise, put, put_all, seal,
    stores,
};

const KIB: usize = 1 << 10;

/// A store on a bucket with faults, as a member.
struct Part {
    bucket: Arc<Faulty<MemoryBucket>>,
    packs: Arc<Packs>,
    member: Arc<Member>,
    seat: Seat,
}

/// Some of them, and the directory of their indexes.
struct Parts {
    parts: Vec<Part>,
    dirs: tempfile::TempDir,
}

impl Parts {
    /// One per script.
    fn new(scripts: &[&[Fault]]) -> Self {
        let dirs = tempfile::tempdir().unwrap();
        let part = |(n, script): (usize, &&[Fault])| {
            let memory = MemoryBucket::default();
            let id = StoreId([n as u8 + 1; 16]);
            Packs::init(&memory, &StoreHead { store: id, ..head() }).unwrap();
            let bucket = Arc::new(Faulty::new(memory, script.to_vec()));
            let name = format!("disk{n}");
            let packs = Arc::new(Packs::open(&name, bucket.clone(), FOLDER, &keys(), dirs.path()).unwrap());
            let member = Arc::new(Member::new(&name, packs.clone(), Duration::from_micros(n as u64)));
            Part { bucket, packs, member, seat: Seat { store: id, domain: name, weight: 1 } }
        };
        let parts = scripts.iter().enumerate().map(part).collect();
        Self { parts, dirs }
    }

    fn healthy(n: usize) -> Self {
        Self::new(&vec![&[][..]; n])
    }

    fn members(&self) -> Vec<Arc<Member>> {
        self.parts.iter().map(|p| p.member.clone()).collect()
    }

    fn rule(&self, copies: usize) -> Rule {
        Rule { layout: Layout::Mirror, copies, seats: self.parts.iter().map(|p| p.seat.clone()).collect() }
    }

    fn mirror(&self, need: usize) -> Mirror {
        Mirror::new("near", self.rule(need), self.members(), need).unwrap()
    }

    fn bundle(&self, copies: usize) -> Spread {
        Spread::bundle("disks", self.rule(copies), self.members(), copies).unwrap()
    }

    /// The same stores as a new run sees them.
    fn again(&self) -> Vec<Arc<Member>> {
        self.parts.iter().map(|p| Arc::new(Member::new("again", p.packs.clone(), Duration::ZERO))).collect()
    }

    /// Which of them have a record, asked with indexes of their own.
    fn holders(&self, records: &[Sealed]) -> Vec<Vec<usize>> {
        let fresh = tempfile::tempdir().unwrap();
        let mut out = vec![Vec::new(); records.len()];
        for (i, part) in self.parts.iter().enumerate() {
            let packs =
                Packs::open("x", Arc::new(part.bucket.inner().clone()), FOLDER, &keys(), fresh.path())
                    .unwrap();
            let has = packs.has(&ids(records)).unwrap();
            out.iter_mut().zip(has).filter(|(_, has)| *has).for_each(|(o, _)| o.push(i));
        }
        out
    }
}

/// Tiers as the members of a chain.
fn chain(tiers: Vec<Arc<dyn Store>>) -> Spread {
    let seat = |n| Seat { store: StoreId([n; 16]), domain: format!("tier {n}"), weight: 1 };
    let seats = (0..tiers.len() as u8).map(seat).collect();
    let members = tiers.into_iter().map(|t| Arc::new(Member::new("tier", t, Duration::ZERO))).collect();
    Spread::chain("chain", Rule { layout: Layout::Chain, copies: 1, seats }, members, 1).unwrap()
}

/// A store under test, and what lives as long.
struct Any {
    label: String,
    store: Box<dyn Store>,
    parts: Option<Parts>,
    _place: Option<Place>,
}

fn fault(op: FaultOp, nth: u64, what: What) -> Fault {
    Fault { op, nth, what }
}

/// Every layout, whole and with members that fail in the middle; plain stores, too.
fn every_store() -> Vec<Any> {
    let mut all = Vec::new();
    for place in stores() {
        all.push(Any {
            label: place.label.into(),
            store: Box::new(place.open()),
            parts: None,
            _place: Some(place),
        });
    }
    let full = [fault(FaultOp::Put, 2, What::Full)];
    let gone = [fault(FaultOp::Put, 3, What::Gone)];
    let torn = [fault(FaultOp::Put, 1, What::TornPut)];
    let deaf = [fault(FaultOp::Get, 4, What::Error), fault(FaultOp::Get, 5, What::Missing)];
    let sick: [(&str, &[Fault]); 5] =
        [("whole", &[]), ("full", &full), ("gone", &gone), ("torn", &torn), ("deaf", &deaf)];
    for (how, script) in sick {
        let mut add = |label: &str, parts: Parts, store: Box<dyn Store>| {
            all.push(Any { label: format!("{label}, one {how}"), store, parts: Some(parts), _place: None });
        };
        let parts = Parts::new(&[script, &[]]);
        let mirror = parts.mirror(1);
        add("mirror of two", parts, Box::new(mirror));
        let parts = Parts::new(&[&[], script, &[]]);
        let mirror = parts.mirror(2);
        add("mirror of three", parts, Box::new(mirror));
        for copies in [1, 2] {
            let parts = Parts::new(&[script, &[], &[], &[]]);
            let bundle = parts.bundle(copies);
            add(&format!("bundle of four, {copies} copies"), parts, Box::new(bundle));
        }
        let parts = Parts::new(&[script, &[], &[]]);
        let [near, far] = [0..1, 1..3].map(|range| {
            let rule = Rule { seats: parts.rule(1).seats[range.clone()].to_vec(), ..parts.rule(1) };
            (rule, parts.members()[range].to_vec())
        });
        let near: Arc<dyn Store> = Arc::new(Mirror::new("near", near.0, near.1, 1).unwrap());
        let far: Arc<dyn Store> = Arc::new(Spread::bundle("far", far.0, far.1, 1).unwrap());
        add("chain", parts, Box::new(chain(vec![near, far])));
    }
    all
}

#[test]
fn what_was_put_and_flushed_is_there() {
    for Any { label, store, .. } in every_store() {
        let store = store.as_ref();
        let records: Vec<_> =
            (0..40).map(|n| chunk(n, 10 + n as usize * 3000)).chain((0..5).map(manifest)).collect();
        assert_eq!(store.has(&ids(&records)).unwrap(), [false; 45], "{label}");
        // In several turns, so that members fail between and within them.
        records.chunks(9).for_each(|some| put_all(store, some));
        // What only a member had that is gone now is absent until it is put again.
        let absent: Vec<_> = store.has(&ids(&records)).unwrap().into_iter().map(|has| !has).collect();
        let lost: Vec<_> = records.iter().zip(&absent).filter(|(_, a)| **a).map(|(r, _)| r.clone()).collect();
        assert!(
            lost.is_empty() || (label.contains("gone") && !label.contains("mirror")),
            "{label}: {lost:?}"
        );
        put_all(store, &lost);
        assert_eq!(store.has(&ids(&records)).unwrap(), [true; 45], "{label}");
        assert_reads_back(store, &records);
        let mut expect: Vec<_> = records.iter().map(|r| (r.id, r.kind)).collect();
        expect.sort();
        assert_eq!(list(store), expect, "{label}");
    }
}

#[test]
fn nothing_asked_nothing_done() {
    for Any { label, store, parts, .. } in every_store() {
        store.flush().unwrap();
        assert_eq!(store.has(&[]).unwrap(), [] as [bool; 0]);
        store.get(&[], &mut |_, _| panic!("nothing was asked for")).unwrap();
        assert!(list(store.as_ref()).is_empty(), "{label}");
        for part in parts.iter().flat_map(|p| &p.parts) {
            assert_eq!(part.bucket.calls(FaultOp::Put), 0, "{label}: an empty flush writes nothing");
        }
    }
}

#[test]
fn duplicates_are_answered_once_and_missing_records_are_said_to_be_missing() {
    for Any { label, store, .. } in every_store() {
        let store = store.as_ref();
        let (a, none) = (chunk(1, 9000), RecordId([0xee; 32]));
        put_all(store, &[a.clone(), a.clone()]);
        put_all(store, std::slice::from_ref(&a));
        assert_eq!(store.has(&[a.id, none, a.id]).unwrap(), [true, false, true], "{label}");
        let got = get(store, &[a.id, none, a.id]);
        assert!(got.len() == 2 && got[&a.id].is_ok(), "{label}");
        // Where a member is away, it may be there.
        assert!(matches!(got[&none], Err(Error::Missing(_) | Error::Offline { .. })), "{label}");
        assert_eq!(list(store).len(), 1);
    }
}

#[test]
fn what_was_put_is_had_and_readable_before_it_is_flushed() {
    for Any { label, store, .. } in every_store() {
        let records = [chunk(1, 100), seal(Kind::Chunk, vec![]), manifest(7)];
        records.iter().for_each(|r| put(store.as_ref(), r.clone()).unwrap());
        assert_eq!(store.has(&ids(&records)).unwrap(), [true; 3], "{label}");
        assert_reads_back(store.as_ref(), &records);
    }
}

#[test]
fn an_error_of_the_sink_ends_the_call_and_is_nobodys_fault() {
    for Any { label, store, parts, .. } in every_store() {
        let records = [chunk(1, 100), chunk(2, 100), chunk(3, 100)];
        put_all(store.as_ref(), &records);
        let mut calls = 0;
        let out = |parts: &Option<Parts>| {
            parts.iter().flat_map(|p| &p.parts).filter(|p| !p.member.is_at_work()).count()
        };
        let before = out(&parts);
        let result = store.get(&ids(&records), &mut |_, _| {
            calls += 1;
            Err(Error::Locked("me".into()))
        });
        assert!(matches!(result, Err(Error::Locked(_))) && calls == 1, "{label}");
        let result = store.list(&mut |_, _| Err(Error::Locked("me".into())));
        assert!(matches!(result, Err(Error::Locked(_))), "{label}");
        assert!(out(&parts) <= before + 1, "{label}");
        assert_reads_back(store.as_ref(), &records);
    }
}

fn soon(is: impl Fn() -> bool) -> bool {
    (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        is()
    })
}

#[test]
fn several_threads_may_put_while_others_flush() {
    for Any { label, store, .. } in every_store() {
        // Some only have one copy, and their readers must find it.
        if label.ends_with("gone") || label.ends_with("deaf") {
            continue;
        }
        std::thread::scope(|s| {
            for t in 0..4u64 {
                let (label, store) = (&label, store.as_ref());
                s.spawn(move || {
                    for n in 0..30 {
                        let record =
                            if n % 9 == 0 { manifest(t * 1000 + n) } else { chunk(t * 25 + n, 3000) };
                        put(store, record.clone()).unwrap();
                        let has = || store.has(&[record.id]).unwrap() == [true];
                        // A member that is failing just now has it no more, and is counted on for a moment yet.
                        let fails = label.ends_with("torn") || label.ends_with("full");
                        assert!(has() || fails && soon(has), "{label}");
                        if n % 15 == t {
                            store.flush().unwrap();
                            assert_reads_back(store, &[record]);
                        }
                    }
                });
            }
        });
        store.flush().unwrap();
        assert!(list(store.as_ref()).len() > 90, "{label}");
    }
}

/// A store that takes its time over taking a record, and then cannot write it.
struct Slow {
    inner: Arc<Packs>,
    /// Told that a record came, and waited for before it is taken.
    gate: Barrier,
    fails: AtomicBool,
}

impl Store for Slow {
    fn has(&self, ids: &[RecordId]) -> Result<Vec<bool>> {
        // What it could not write is not there.
        let fails = self.fails.load(Relaxed);
        Ok(self.inner.has(ids)?.into_iter().map(|has| has && !fails).collect())
    }

    fn get(
        &self,
        ids: &[RecordId],
        sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
    ) -> Result<()> {
        self.inner.get(ids, sink)
    }

    fn put(&self, content: RecordId, sealed: Sealed) -> Result<()> {
        self.gate.wait();
        self.gate.wait();
        self.inner.put(content, sealed)
    }

    fn flush(&self) -> Result<()> {
        match self.fails.load(Relaxed) {
            true => Err(Error::Refused("a disk that is out of order".into())),
            false => self.inner.flush(),
        }
    }

    fn list(&self, sink: &mut dyn FnMut(RecordId, Kind) -> Result<()>) -> Result<()> {
        self.inner.list(sink)
    }
}

#[test]
fn what_a_member_takes_while_others_flush_is_not_forgotten_when_it_fails() {
    let parts = Parts::healthy(2);
    let slow =
        Arc::new(Slow { inner: parts.parts[0].packs.clone(), gate: Barrier::new(2), fails: false.into() });
    let spread = chain(vec![slow.clone(), parts.parts[1].packs.clone()]);
    let record = chunk(1, 3000);
    std::thread::scope(|s| {
        s.spawn(|| put(&spread, record.clone()).unwrap());
        // It waits for the near tier to take it; a flush begins and ends before that.
        slow.gate.wait();
        spread.flush().unwrap();
        slow.gate.wait();
    });
    slow.fails.store(true, Relaxed);
    spread.flush().unwrap();
    assert_eq!(parts.holders(&[record]), [[1]]);
}

#[test]
fn after_flush_every_record_lies_on_as_many_members_as_wanted() {
    for Any { label, store, parts, .. } in every_store() {
        let Some(parts) = parts else { continue };
        let records: Vec<_> = (0..60).map(|n| chunk(n, 5000)).chain((0..6).map(manifest)).collect();
        records.chunks(11).for_each(|some| put_all(store.as_ref(), some));
        let want = if label.contains("2 copies") || label.contains("three") { 2 } else { 1 };
        for holders in parts.holders(&records) {
            assert!(holders.len() >= want, "{label}: {holders:?}");
        }
    }
}

#[test]
fn a_mirror_puts_everything_on_every_member_and_lacks_what_one_lacks() {
    let parts = Parts::healthy(3);
    let records = [chunk(1, 500), chunk(2, 500), manifest(1)];
    put_all(parts.parts[1].packs.as_ref(), &records[..1]);
    let mirror = parts.mirror(2);
    assert_eq!(mirror.has(&ids(&records)).unwrap(), [false; 3]);
    put_all(&mirror, &records);
    assert!(parts.holders(&records).iter().all(|h| *h == [0, 1, 2]));
    // What one had was not put there again.
    assert_eq!(parts.parts[1].bucket.calls(FaultOp::Put), 3);
}

#[test]
fn a_mirror_goes_on_while_enough_members_are_left_and_says_who_fell_out() {
    let gone = [fault(FaultOp::Put, 1, What::Gone)];
    let parts = Parts::new(&[&[], &gone, &[]]);
    let mirror = parts.mirror(2);
    put_all(&mirror, &[chunk(1, 500)]);
    assert!(!parts.parts[1].member.is_at_work());
    assert!(matches!(parts.parts[1].member.why_out(), Some(Error::Offline { .. })));
    // Another one, and two copies are no longer possible.
    parts.parts[0].bucket.set_full(true);
    put(&mirror, chunk(2, 500)).unwrap();
    assert!(matches!(mirror.flush(), Err(Error::NoSpace(_) | Error::Offline { .. })));
    assert!(mirror.flush().is_err() && put(&mirror, chunk(3, 500)).is_err());
    assert_reads_back(&mirror, &[chunk(1, 500)]);
    // In a run of its own the members count again, and what one lacks is put there.
    parts.parts.iter().for_each(|p| p.bucket.set_gone(false));
    let again = Mirror::new("near", parts.rule(1), parts.again(), 1).unwrap();
    assert_eq!(again.has(&[chunk(1, 500).id]).unwrap(), [false]);
}

#[test]
fn reading_takes_another_copy_where_one_is_damaged_and_remembers_which() {
    let parts = Parts::healthy(2);
    let records = [chunk(1, 9000), chunk(3, 9000)];
    let mirror = parts.mirror(1);
    put_all(&mirror, &records);
    let name = super::only_pack(parts.parts[0].bucket.inner());
    let at = parts.parts[0].packs.locate(&records[0].id).unwrap().unwrap().row.offset as usize;
    parts.parts[0].bucket.inner().damage(&name, |b| b[at + 60] ^= 1).unwrap();
    assert_reads_back(&mirror, &records);
    assert_eq!(parts.parts[0].member.take_damaged(), [records[0].id]);
    assert!(parts.parts[0].member.take_damaged().is_empty() && parts.parts[0].member.is_at_work());
    assert!(parts.parts[1].member.take_damaged().is_empty());
}

#[test]
fn reading_prefers_the_faster_member() {
    let parts = Parts::healthy(2);
    let records: Vec<_> = (0..20).map(|n| chunk(n * 2, 64 * KIB)).collect();
    put_all(&parts.mirror(1), &records);
    let member = |i: usize, micros| {
        Arc::new(Member::new("m", parts.parts[i].packs.clone(), Duration::from_micros(micros)))
    };
    let mirror = Mirror::new("near", parts.rule(1), vec![member(0, 90_000), member(1, 10)], 1).unwrap();
    let before = parts.parts[0].bucket.calls(FaultOp::Get);
    assert_reads_back(&mirror, &records);
    assert_eq!(parts.parts[0].bucket.calls(FaultOp::Get), before, "the far one is not asked");
}

/// Records of contents of five chunks each.
fn contents(n: u64) -> Vec<(RecordId, Vec<Sealed>)> {
    let content = |c| {
        let records: Vec<_> = (0..5).map(|k| seal(Kind::Chunk, noise(c * 100 + k, 3000))).collect();
        (records[0].id, records)
    };
    (0..n).map(content).collect()
}

fn put_contents(store: &dyn Store, contents: &[(RecordId, Vec<Sealed>)]) -> Result<()> {
    for (key, records) in contents {
        let missing = store.has(&ids(records))?;
        for (record, has) in records.iter().zip(missing) {
            if !has {
                store.put(*key, record.clone())?;
            }
        }
    }
    store.flush()
}

fn placed(parts: &Parts, contents: &[(RecordId, Vec<Sealed>)]) -> Vec<Vec<usize>> {
    contents
        .iter()
        .map(|(_, records)| {
            let holders = parts.holders(records);
            assert!(holders.windows(2).all(|w| w[0] == w[1]), "a content lies together: {holders:?}");
            holders[0].clone()
        })
        .collect()
}

#[test]
fn a_bundle_keeps_contents_together_and_spreads_them() {
    for copies in [1, 2, 3] {
        let parts = Parts::healthy(4);
        let contents = contents(80);
        put_contents(&parts.bundle(copies), &contents).unwrap();
        let mut shares = BTreeMap::new();
        for holders in placed(&parts, &contents) {
            assert_eq!(holders.len(), copies);
            holders.iter().for_each(|h| *shares.entry(*h).or_insert(0) += 1);
        }
        assert!(shares.len() == 4 && shares.values().all(|n| *n > 80 * copies / 10), "{shares:?}");
    }
}

#[test]
fn what_older_weights_placed_is_found_and_not_placed_again() {
    let parts = Parts::healthy(4);
    let contents = contents(40);
    let narrow = Rule { seats: parts.rule(1).seats[..2].to_vec(), ..parts.rule(1) };
    put_contents(&Spread::bundle("disks", narrow, parts.members()[..2].to_vec(), 1).unwrap(), &contents)
        .unwrap();
    let before = placed(&parts, &contents);
    let wide = Spread::bundle("disks", parts.rule(1), parts.again(), 1).unwrap();
    assert!(wide.has(&[contents[0].0]).unwrap()[0]);
    put_contents(&wide, &contents).unwrap();
    assert_eq!(placed(&parts, &contents), before);
}

#[test]
fn a_full_or_missing_member_of_a_bundle_is_worked_around() {
    let parts = Parts::healthy(4);
    let contents = contents(40);
    let normal: Vec<usize> = {
        let reference = Parts::healthy(4);
        put_contents(&reference.bundle(1), &contents).unwrap();
        placed(&reference, &contents).into_iter().map(|h| h[0]).collect()
    };
    parts.parts[0].bucket.set_full(true);
    parts.parts[2].bucket.set_gone(true);
    put_contents(&parts.bundle(1), &contents).unwrap();
    for (holders, normal) in placed(&parts, &contents).into_iter().zip(normal) {
        assert!(
            holders == [normal]
                || ([0, 2].contains(&normal) && !holders.contains(&0) && !holders.contains(&2))
        );
    }
}

#[test]
fn manifests_lie_on_every_member_of_a_bundle_and_in_every_tier() {
    let parts = Parts::healthy(4);
    put_all(&parts.bundle(1), &[manifest(1), chunk(1, 50)]);
    assert_eq!(parts.holders(&[manifest(1)]), [[0, 1, 2, 3]]);
    let parts = Parts::healthy(2);
    let tiers = (0..2).map(|i| Arc::clone(&parts.parts[i].packs) as Arc<dyn Store>).collect();
    put_all(&chain(tiers), &[manifest(1), chunk(1, 50)]);
    assert_eq!(parts.holders(&[manifest(1), chunk(1, 50)]), [vec![0, 1], vec![0]]);
}

#[test]
fn a_chain_goes_on_with_the_next_tier_when_the_nearest_is_full_and_reads_the_nearest_first() {
    let full = [fault(FaultOp::Put, 1, What::Full)];
    let parts = Parts::new(&[&full, &[]]);
    let tiers: Vec<_> = parts.parts.iter().map(|p| Arc::clone(&p.packs) as Arc<dyn Store>).collect();
    let records: Vec<_> = (0..30).map(|n| chunk(n, 4000)).collect();
    let store = chain(tiers);
    put_all(&store, &records);
    assert!(parts.holders(&records).iter().all(|h| *h == [1]));
    assert_reads_back(&store, &records);

    let parts = Parts::healthy(2);
    parts.parts.iter().for_each(|p| put_all(p.packs.as_ref(), &records));
    let tiers: Vec<_> = parts.parts.iter().map(|p| Arc::clone(&p.packs) as Arc<dyn Store>).collect();
    let before = parts.parts[1].bucket.calls(FaultOp::Get);
    assert_reads_back(&chain(tiers), &records);
    assert_eq!(parts.parts[1].bucket.calls(FaultOp::Get), before);
    assert!(parts.dirs.path().exists());
}

#[test]
fn when_nobody_is_left_everything_fails_and_nothing_is_forgotten() {
    let parts = Parts::healthy(2);
    let bundle = parts.bundle(1);
    put(&bundle, chunk(1, 500)).unwrap();
    parts.parts.iter().for_each(|p| p.bucket.set_full(true));
    for _ in 0..3 {
        assert!(bundle.flush().is_err(), "a flush never passes over what it did not write");
        assert!(put(&bundle, chunk(2, 500)).is_err());
    }
}
