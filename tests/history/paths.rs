//! Questions about paths: versions, heads, deletions, moves, odd names.

use ddr::base::path::RelPath;
use ddr::model::entry::Op;

use super::world::*;

#[test]
fn versions_are_numbered_from_the_oldest() {
    let bucket = Mem::default();
    let mut peer = Peer::new(1);
    peer.commit(&bucket, Some("first"), &[put("a", 10, 1, &[])]);
    peer.commit(&bucket, None, &[put("a", 20, 2, &[peer.dot(1)])]);
    peer.commit(&bucket, Some("gone"), &[del("a", 30, &[peer.dot(2)])]);
    peer.commit(&bucket, Some("back"), &[put("a", 40, 1, &[peer.dot(3)])]);
    let db = Db::rebuilt(&bucket);
    let all = db.history.versions(&path("a")).unwrap();
    let told: Vec<_> = all.iter().map(|p| (p.n, p.entry.hlc, p.message.as_deref())).collect();
    assert_eq!(told, [(1, 10, Some("first")), (2, 20, None), (3, 30, Some("gone")), (4, 40, Some("back"))]);
    assert!(all.iter().all(|p| p.origin_name == "peer1"));
    let mut recent = Vec::new();
    let keep = &mut |_: RelPath, p: ddr::history::Past| {
        recent.push(p);
        Ok(())
    };
    db.history.recent(&RelPath::root(), 3, keep).unwrap();
    assert_eq!(recent, all.into_iter().rev().take(3).collect::<Vec<_>>());
    assert!(db.history.versions(&path("none")).unwrap().is_empty());
}

#[test]
fn concurrent_heads_are_both_kept_and_all_peers_agree_on_the_winner() {
    // Equal clocks: the origin decides.
    for clocks in [(10, 11), (11, 10), (10, 10)] {
        let (one, two) = (Mem::default(), Mem::default());
        let (mut a, mut b) = (Peer::new(1), Peer::new(2));
        a.commit(&one, None, &[put("f", clocks.0, 1, &[])]);
        b.commit(&two, None, &[put("f", clocks.1, 2, &[])]);
        let (mut first, mut second) = (Db::rebuilt(&one), Db::rebuilt(&two));
        first.pull(&one, &two);
        second.pull(&two, &one);
        let heads = first.history.heads(&path("f")).unwrap();
        assert_eq!(heads, second.history.heads(&path("f")).unwrap());
        assert_eq!(heads.len(), 2);
        let want = (clocks.0, a.dot(1)).max((clocks.1, b.dot(1)));
        assert_eq!((heads[0].hlc, heads[0].dot), want);
        let mut winners = Vec::new();
        let keep = &mut |path: RelPath, head: ddr::history::Head| {
            winners.push((path, head));
            Ok(())
        };
        first.history.each_head(&RelPath::root(), keep).unwrap();
        assert_eq!(winners, vec![(path("f"), heads[0].clone())]);
        // An entry made on both resolves it.
        let seen = first.history.seen(&path("f")).unwrap();
        a.commit(&one, None, &[put("f", 20, 3, &seen)]);
        first.history.catch_up(&one, FOLDER).unwrap();
        second.pull(&two, &one);
        assert_eq!(second.history.heads(&path("f")).unwrap().len(), 1);
        assert_eq!(first.history.state_hash().unwrap(), second.history.state_hash().unwrap());
    }
}

#[test]
fn an_edit_survives_a_deletion_that_had_not_seen_it() {
    let (one, two) = (Mem::default(), Mem::default());
    let (mut a, mut b) = (Peer::new(1), Peer::new(2));
    a.commit(&one, None, &[put("f", 1, 1, &[])]);
    let mut db = Db::rebuilt(&two);
    db.pull(&two, &one);
    b.commit(&two, None, &[put("f", 2, 2, &[a.dot(1)])]);
    a.commit(&one, None, &[del("f", 9, &[a.dot(1)])]);
    db.pull(&two, &one);
    let heads = db.history.heads(&path("f")).unwrap();
    assert_eq!(heads.iter().map(|h| h.dot).collect::<Vec<_>>(), [b.dot(1)]);
}

#[test]
fn deleted_paths_are_listed_with_their_last_version() {
    let bucket = Mem::default();
    let mut peer = Peer::new(1);
    let names = ["d", "d.txt", "d/x", "d/y", "e"];
    let puts: Vec<_> = (1..).zip(names).map(|(i, n)| put(n, i, i, &[])).collect();
    peer.commit(&bucket, None, &puts);
    let dels: Vec<_> = (1..).zip(names).map(|(i, n)| del(n, i + 10, &[peer.dot(i)])).collect();
    peer.commit(&bucket, Some("rm"), &dels[..4]);
    peer.commit(&bucket, None, &[put("d/y", 30, 9, &[])]);
    let db = Db::rebuilt(&bucket);
    let listed = |under: &RelPath| {
        let mut out = Vec::new();
        let keep = &mut |path: RelPath, past: ddr::history::Past, last| {
            assert!(past.entry.op == Op::Del && past.n == 2 && past.message.as_deref() == Some("rm"));
            out.push((path.to_string(), last));
            Ok(())
        };
        db.history.deleted(under, keep).unwrap();
        out
    };
    let want = [("d".to_string(), file(1)), ("d.txt".into(), file(2)), ("d/x".into(), file(3))];
    assert_eq!(listed(&RelPath::root()), want);
    assert_eq!(listed(&path("d")), [want[0].clone(), want[2].clone()]);
    assert_eq!(listed(&path("e")), []);
}

#[test]
fn a_move_is_told_from_both_ends() {
    let bucket = Mem::default();
    let mut peer = Peer::new(1);
    peer.commit(&bucket, None, &[put("old", 1, 1, &[])]);
    let mut gone = del("old", 2, &[peer.dot(1)]);
    gone.moved_to = Some(path("new"));
    let mut come = put("new", 3, 1, &[]);
    come.moved_from = Some(path("old"));
    come.base = file(1).content;
    peer.commit(&bucket, None, &[gone.clone(), come.clone()]);
    let db = Db::rebuilt(&bucket);
    assert_eq!(db.history.versions(&path("old")).unwrap()[1].entry, gone);
    assert_eq!(db.history.versions(&path("new")).unwrap()[0].entry, come);
    let mut found = Vec::new();
    let keep = &mut |path: RelPath, dot, version, is_head| {
        found.push((path.to_string(), dot, version, is_head));
        Ok(())
    };
    db.history.by_content(&file(1).content.unwrap(), keep).unwrap();
    let want = [("new".to_string(), peer.dot(3), file(1), true), ("old".into(), peer.dot(1), file(1), false)];
    assert_eq!(found, want);
    let mut bodies = Vec::new();
    db.history
        .each_body(&mut |body, size| {
            bodies.push((body, size));
            Ok(())
        })
        .unwrap();
    assert_eq!(bodies, [(file(1).body.unwrap(), 2), (file(1).body.unwrap(), 2)]);
}

#[test]
fn odd_names_keep_their_bytes_and_their_order() {
    let bucket = Mem::default();
    let (mut peer, mut db) = (Peer::new(1), Db::new());
    let mut names: Vec<RelPath> =
        [&b"line\nbreak"[..], b"\xff\xfe", b"\xff", b"a", b"a!", b"a/b", b"a/\xc3(", b"a0", b"%_'\"", b" "]
            .map(path)
            .to_vec();
    names.push(path(vec![b'n'; 255]));
    names.push(path([b"/".as_slice(); 15].map(|_| vec![0xff; 255]).join(&b'/')));
    let entries: Vec<_> = (1..).zip(&names).map(|(i, n)| entry(n, i, Op::Put(file(i)), &[])).collect();
    let rows: Vec<_> = (1..).zip(&names).map(|(i, n)| local(n, peer.dot(i), &file(i))).collect();
    peer.commit(&bucket, None, &entries);
    db.history.apply_own(&peer.origin, 1, &entries, &peer.tail, &rows).unwrap();
    assert_eq!(db.history.state_hash().unwrap(), Db::rebuilt(&bucket).history.state_hash().unwrap());
    for (i, n) in (1..).zip(&names) {
        assert_eq!(db.history.heads(n).unwrap()[0].dot, peer.dot(i));
        assert_eq!(db.history.local(n).unwrap().as_ref(), Some(&rows[i as usize - 1]));
    }
    names.sort();
    for under in [RelPath::root(), path("a"), path("a/b"), path(b"\xff"), path("nothing")] {
        let want: Vec<RelPath> = names.iter().filter(|n| n.is_under(&under)).cloned().collect();
        let mut heads = Vec::new();
        db.history
            .each_head(&under, &mut |path, _| {
                heads.push(path);
                Ok(())
            })
            .unwrap();
        assert_eq!(heads, want);
        let mut recent = Vec::new();
        db.history
            .recent(&under, 100, &mut |path, _| {
                recent.push(path);
                Ok(())
            })
            .unwrap();
        recent.sort();
        assert_eq!(recent, want);
        let mut cursor = db.history.local_cursor(&under);
        let mut pulled = Vec::new();
        while let Some(row) = cursor.next().unwrap() {
            pulled.push(row.path);
        }
        assert_eq!(pulled, want);
    }
}
