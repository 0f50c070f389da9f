//! Applying logs: in any order, with damage, again and again.

use ddr::base::error::Error;
use ddr::history::History;
use ddr::history::log::{append, copy_missing, object_name, survey, survey_odd};
use ddr::model::entry::{Dot, Entry, Op};
use ddr::model::version::Vector;
use proptest::prelude::*;

use super::world::*;
use ddr::store::Bucket;

/// Three peers that edit a few paths, each commit having seen what its peer had pulled by then.
fn scenario(steps: &[(u8, u8, u8, bool)]) -> Vec<(Mem, Peer)> {
    let mut peers: Vec<(Mem, Peer, Db)> = (1..4).map(|n| (Mem::default(), Peer::new(n), Db::new())).collect();
    for (i, (who, other, at, is_put)) in steps.iter().enumerate() {
        let other = peers[usize::from(*other) % 3].0.copy();
        let (bucket, peer, db) = &mut peers[usize::from(*who) % 3];
        db.pull(bucket, &other);
        let at = path(format!("p{}", at % 4));
        let seen = db.history.seen(&at).unwrap();
        let op = if *is_put { Op::Put(file(i as u64)) } else { Op::Del };
        // Clocks of different peers may well be equal.
        let hlc = peer.tail.hlc + 1;
        peer.commit(bucket, None, &[entry(&at, hlc, op, &seen)]);
        db.history.catch_up(bucket, FOLDER).unwrap();
    }
    peers.into_iter().map(|(bucket, peer, _)| (bucket, peer)).collect()
}

/// Only the objects of one origin.
fn only(bucket: &Mem, peer: &Peer) -> Mem {
    let out = bucket.copy();
    let mine = format!("log/{}/", peer.origin);
    out.0.lock().unwrap().retain(|name, _| name.starts_with(&mine));
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn state_does_not_depend_on_the_order_of_origins(
        steps in prop::collection::vec((0u8..3, 0u8..3, 0u8..4, prop::bool::weighted(0.7)), 1..14),
        orders in prop::collection::vec(Just(vec![0usize, 1, 2]).prop_shuffle(), 2),
        cuts in prop::collection::vec(0usize..6, 3),
    ) {
        let peers = scenario(&steps);
        let own: Vec<Mem> = peers.iter().map(|(bucket, peer)| only(bucket, peer)).collect();
        let mut hashes = Vec::new();
        for order in orders {
            let mut db = Db::new();
            // First a part of each log, then the rest: any prefix of any origin may come first,
            // also before what it depends on.
            for i in &order {
                let part = own[*i].copy();
                let names = part.names();
                names.iter().skip(cuts[*i]).for_each(|n| part.delete(n).unwrap());
                db.history.catch_up(&part, FOLDER).unwrap();
            }
            for i in order.iter().rev() {
                let done = db.history.catch_up(&own[*i], FOLDER).unwrap();
                prop_assert!(done.problems.is_empty());
            }
            hashes.push(db.history.state_hash().unwrap());
            // Heads are what the set of entries says, whatever way it was built up.
            for p in 0..4 {
                let at = path(format!("p{p}"));
                let all = db.history.versions(&at).unwrap();
                let seen = |d: Dot| all.iter().any(|q| Vector::from_dots(&q.entry.seen).covers(d));
                let mut want: Vec<Dot> =
                    all.iter().filter(|q| q.entry.op != Op::Del && !seen(q.dot)).map(|q| q.dot).collect();
                want.sort();
                let mut got: Vec<Dot> =
                    db.history.heads(&at).unwrap().iter().map(|h| h.dot).collect();
                got.sort();
                prop_assert_eq!(got, want);
            }
        }
        let all = Mem::default();
        for bucket in &own {
            copy_missing(bucket, &all, FOLDER).unwrap();
        }
        hashes.push(Db::rebuilt(&all).history.state_hash().unwrap());
        prop_assert!(hashes.windows(2).all(|w| w[0] == w[1]));
    }
}

/// A bucket in which two peers have committed three batches each.
fn two_peers() -> (Mem, [Peer; 2]) {
    let bucket = Mem::default();
    let mut peers = [Peer::new(1), Peer::new(2)];
    for (p, peer) in peers.iter_mut().enumerate() {
        for i in 0..3u64 {
            let entries: Vec<Entry> =
                (0..4).map(|j| put(&format!("{p}/{i}/{j}"), i * 4 + j + 1, i * 4 + j, &[])).collect();
            peer.commit(&bucket, Some(&format!("commit {i}")), &entries);
        }
    }
    (bucket, peers)
}

#[test]
fn a_rebuilt_index_equals_one_built_step_by_step() {
    let bucket = Mem::default();
    let (mut peer, mut db) = (Peer::new(1), Db::new());
    for i in 0..4u64 {
        let at = path("a");
        let seen = db.history.seen(&at).unwrap();
        let entries = [entry(&at, i + 1, Op::Put(file(i)), &seen), put(&format!("b{i}"), i + 1, i, &[])];
        let rows: Vec<_> = entries.iter().map(|e| local(&e.path, peer.dot(1), &file(i))).collect();
        let first = peer.tail.number + 1;
        let message = format!("m{i}");
        peer.commit(&bucket, Some(&message), &entries);
        db.history.apply_commit(&peer.who, Some(&message), first, &entries, &peer.tail, &rows).unwrap();
        // Saying it twice changes nothing.
        db.history.apply_commit(&peer.who, Some(&message), first, &entries, &peer.tail, &rows).unwrap();
    }
    let fresh = Db::rebuilt(&bucket);
    assert_eq!(fresh.history.state_hash().unwrap(), db.history.state_hash().unwrap());
    assert_eq!(fresh.history.versions(&path("a")).unwrap(), db.history.versions(&path("a")).unwrap());
    assert_eq!(fresh.history.tail(&peer.origin).unwrap(), peer.tail);
    assert_eq!(fresh.history.knowledge().unwrap(), vec![peer.dot(8)]);
}

#[test]
fn catching_up_again_or_after_a_restart_changes_nothing() {
    let (bucket, _) = two_peers();
    let mut db = Db::new();
    assert_eq!(db.history.catch_up(&bucket, FOLDER).unwrap().entries, 24);
    let hash = db.history.state_hash().unwrap();
    assert_eq!(db.history.catch_up(&bucket, FOLDER).unwrap().entries, 0);
    let file = db.dir.path().join("history.db");
    drop(db.history);
    let mut again = History::open(&file).unwrap();
    assert!(!again.was_reset());
    assert_eq!(again.catch_up(&bucket, FOLDER).unwrap().entries, 0);
    assert_eq!(again.state_hash().unwrap(), hash);
    again.check().unwrap();
}

/// Breaks the first peer's second batch and checks that the second peer's log is complete anyway.
fn set_aside(broken: impl Fn(&Mem, &Peer, &str)) -> Vec<Error> {
    let (bucket, [sick, healthy]) = two_peers();
    broken(&bucket, &sick, &object_name(&sick.origin, 5, 8));
    let mut db = Db::new();
    let done = db.history.catch_up(&bucket, FOLDER).unwrap();
    assert_eq!(db.history.tail(&sick.origin).unwrap().number, 4);
    assert_eq!(db.history.tail(&healthy.origin).unwrap(), healthy.tail);
    assert!(!done.problems.is_empty());
    assert!(done.problems.iter().all(|(origin, _)| *origin == sick.origin));
    let again = db.history.catch_up(&bucket, FOLDER).unwrap();
    assert_eq!((again.entries, again.problems.len()), (0, done.problems.len()));
    done.problems.into_iter().map(|(_, e)| e).collect()
}

#[test]
fn i8_a_damaged_batch_sets_only_its_origin_aside() {
    let errors = set_aside(|bucket, _, name| bucket.damage(name));
    assert!(errors.len() == 1 && errors[0].is_corruption());
}

#[test]
fn a_missing_batch_sets_only_its_origin_aside() {
    let errors = set_aside(|bucket, _, name| bucket.delete(name).unwrap());
    assert!(errors.len() == 1 && errors[0].is_missing());
}

#[test]
fn a_batch_under_another_name_sets_only_its_origin_aside() {
    set_aside(|bucket, sick, name| {
        let other = bucket.get(&object_name(&sick.origin, 9, 12), 0..u64::MAX).unwrap();
        bucket.delete(name).unwrap();
        bucket.put(name, &[&other]).unwrap();
    });
}

#[test]
fn a_batch_of_another_folder_sets_only_its_origin_aside() {
    set_aside(|bucket, sick, name| {
        let foreign = Mem::default();
        let folder = ddr::base::id::FolderId([1; 16]);
        let entries: Vec<Entry> = (1..5).map(|i| put("x", i, i, &[])).collect();
        let tail = append(&foreign, folder, &sick.who, &Default::default(), None, &entries).unwrap().tail;
        append(&foreign, folder, &sick.who, &tail, None, &entries).unwrap();
        bucket.delete(name).unwrap();
        bucket.put(name, &[&foreign.get(name, 0..u64::MAX).unwrap()]).unwrap();
    });
}

/// What the owner would write after its state was put back to the end of the first batch.
fn forked(sick: &Peer, len: u64) -> Mem {
    let other = Mem::default();
    let mut past = Peer::new(1);
    assert_eq!(past.origin, sick.origin);
    let first: Vec<Entry> = (0..4).map(|j| put(&format!("0/0/{j}"), j + 1, j, &[])).collect();
    past.commit(&other, Some("commit 0"), &first);
    let second: Vec<Entry> = (0..len).map(|j| put(&format!("fork/{j}"), j + 20, j, &[])).collect();
    past.commit(&other, None, &second);
    other
}

#[test]
fn i8_a_fork_sets_only_its_origin_aside() {
    // The same numbers, more, or fewer.
    for len in [4, 6, 2] {
        set_aside(|bucket, sick, name| {
            let other = forked(sick, len);
            let fork = object_name(&sick.origin, 5, 4 + len);
            let bytes = other.get(&fork, 0..u64::MAX).unwrap();
            if fork == name {
                // The fork took the name; what was written before continues another batch.
                let cont = object_name(&sick.origin, 9, 12);
                let mut db = Db::new();
                bucket.delete(name).unwrap();
                bucket.put(name, &[&bytes]).unwrap();
                let done = db.history.catch_up(bucket, FOLDER).unwrap();
                assert!(done.problems[0].1.to_string().contains(&cont), "{:?}", done.problems);
                bucket.damage(name);
            } else {
                bucket.put(&fork, &[&bytes]).unwrap();
            }
        });
    }
}

#[test]
fn an_unsigned_object_cannot_pass_for_a_fork() {
    let (bucket, [sick, _]) = two_peers();
    for (from, to) in [(5, 6), (5, 12), (3, 6), (9, 10)] {
        bucket.put(&object_name(&sick.origin, from, to), &[b"junk"]).unwrap();
    }
    bucket.put(&format!("log/{}/notes.txt", sick.origin), &[b""]).unwrap();
    bucket.put("log/readme", &[b""]).unwrap();
    let mut db = Db::new();
    let done = db.history.catch_up(&bucket, FOLDER).unwrap();
    assert_eq!(db.history.tail(&sick.origin).unwrap(), sick.tail);
    assert!(done.entries == 24 && done.problems.len() >= 4, "{:?}", done.problems);
    assert_eq!(survey_odd(&bucket).unwrap().len(), 2);
    assert_eq!(survey(&bucket).unwrap().len(), 2);
}

#[test]
fn copying_fills_in_what_is_missing_and_nothing_unverified() {
    let (bucket, [sick, healthy]) = two_peers();
    let to = Mem::default();
    let stats = copy_missing(&bucket, &to, FOLDER).unwrap();
    assert_eq!((stats.objects, stats.entries, stats.problems.len()), (6, 24, 0));
    assert_eq!(copy_missing(&bucket, &to, FOLDER).unwrap().objects, 0);
    // A hole in the middle is filled; what follows is there already.
    to.delete(&object_name(&healthy.origin, 5, 8)).unwrap();
    assert_eq!(copy_missing(&bucket, &to, FOLDER).unwrap().objects, 1);

    bucket.damage(&object_name(&sick.origin, 5, 8));
    let to = Mem::default();
    let stats = copy_missing(&bucket, &to, FOLDER).unwrap();
    assert_eq!((stats.objects, stats.problems.len()), (4, 1));
    assert!(stats.problems[0].1.is_corruption());
    let mine = |n: &String| n.contains(&sick.origin.to_string());
    assert_eq!(to.names().into_iter().filter(mine).count(), 1);

    // A fork never gets in beside what is there.
    let other = forked(&sick, 6);
    let (whole, _) = two_peers();
    let before = whole.names();
    let stats = copy_missing(&other, &whole, FOLDER).unwrap();
    assert_eq!((stats.objects, stats.problems.len()), (0, 1));
    assert_eq!(whole.names(), before);
}

#[test]
fn a_stale_tail_cannot_append() {
    let (bucket, [peer, _]) = two_peers();
    let end = peer.tail;
    let mut stale = Peer { tail: Default::default(), ..peer };
    let entries: Vec<Entry> = (0..4).map(|j| put("again", j + 1, j, &[])).collect();
    let result = append(&bucket, FOLDER, &stale.who, &stale.tail, None, &entries);
    assert!(matches!(result, Err(Error::Refused(_))));
    stale.tail = end;
    stale.commit(&bucket, None, &entries);
    // The index must be caught up before entries at hand are applied to it.
    let mut db = Db::new();
    let ahead = db.history.apply_commit(&stale.who, None, 13, &entries, &stale.tail, &[]);
    assert!(matches!(ahead, Err(Error::Changed(_))));
    db.history.catch_up(&bucket, FOLDER).unwrap();
    assert_eq!(db.history.tail(&stale.origin).unwrap(), stale.tail);
}

#[test]
fn long_commits_are_cut_into_batches() {
    let bucket = Mem::default();
    let mut peer = Peer::new(1);
    let mut entries: Vec<Entry> = (0..2500).map(|i| put(&format!("f{i}"), i + 1, i, &[])).collect();
    peer.commit(&bucket, Some("all"), &entries);
    assert_eq!(bucket.names().len(), 3);
    // Entries that are large themselves make for smaller batches.
    let target = vec![b'x'; 4000];
    let seen: Vec<Dot> = (1..200).map(|n| Peer::new(n).dot(1)).collect();
    for e in &mut entries {
        let mut version = file(0);
        (version.kind, version.content, version.body, version.size) =
            (ddr::model::entry::FileKind::Symlink, None, None, 0);
        version.target = Some(target.clone());
        e.op = Op::Put(version);
        e.moved_from = Some(path(vec![b'y'; 200]));
        e.hlc += 5000;
        e.seen = seen.clone();
    }
    peer.commit(&bucket, None, &entries[..1500]);
    assert!(bucket.names().len() > 5);
    let db = Db::rebuilt(&bucket);
    assert_eq!(db.history.tail(&peer.origin).unwrap(), peer.tail);
    let past = &db.history.versions(&path("f7")).unwrap()[1];
    assert_eq!(past.entry, entries[7]);
    assert_eq!(past.message, None);
    assert_eq!(db.history.versions(&path("f2400")).unwrap()[0].message.as_deref(), Some("all"));
}

/// Takes everything but writes.
struct Full(Mem);

impl Bucket for Full {
    fn put(&self, _: &str, _: &[&[u8]]) -> ddr::base::error::Result<()> {
        Err(Error::io("writing", "store", std::io::Error::from_raw_os_error(5)))
    }
    fn get(&self, name: &str, range: std::ops::Range<u64>) -> ddr::base::error::Result<Vec<u8>> {
        self.0.get(name, range)
    }
    fn list(
        &self,
        prefix: &str,
        sink: &mut dyn FnMut(&str, u64) -> ddr::base::error::Result<()>,
    ) -> ddr::base::error::Result<()> {
        self.0.list(prefix, sink)
    }
    fn delete(&self, name: &str) -> ddr::base::error::Result<()> {
        self.0.delete(name)
    }
}

#[test]
fn a_target_that_cannot_be_written_fails_the_copy() {
    let (bucket, _) = two_peers();
    assert!(copy_missing(&bucket, &Full(Mem::default()), FOLDER).is_err());
    assert!(copy_missing(&bucket, &Full(bucket.copy()), FOLDER).is_ok());
}

#[test]
fn a_path_with_thousands_of_versions_stays_quick() {
    let (bucket, mut peer) = (Mem::default(), Peer::new(1));
    let entries: Vec<Entry> = (1..=5000)
        .map(|i| put("busy", i, i, if i == 1 { vec![] } else { vec![peer.dot(i - 1)] }.as_slice()))
        .collect();
    peer.commit(&bucket, None, &entries);
    let start = std::time::Instant::now();
    let db = Db::rebuilt(&bucket);
    assert!(start.elapsed().as_secs() < 10);
    assert_eq!(db.history.heads(&path("busy")).unwrap().len(), 1);
    assert_eq!(db.history.seen(&path("busy")).unwrap(), vec![peer.dot(5000)]);
}
