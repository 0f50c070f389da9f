//! How fast: measured only when asked for, with
//! `DDR_SPEED=1 cargo test --release -- --nocapture history::speed`.

use std::time::Instant;

use ddr::base::path::RelPath;
use ddr::history::log::append;
use ddr::model::entry::Entry;

use super::world::*;

/// Measurements take long and say nothing on a busy machine.
fn asked() -> bool {
    let asked = std::env::var_os("DDR_SPEED").is_some();
    if !asked {
        eprintln!("not measured: set DDR_SPEED");
    }
    asked
}

fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn paths(n: u64) -> Vec<RelPath> {
    let mut all: Vec<RelPath> =
        (0..n).map(|i| path(format!("drivers/subsystem-{:04}/device-driver-{:06}.c", i / 97, i))).collect();
    all.sort();
    all
}

#[test]
fn applying_and_catching_up() {
    if !asked() {
        return;
    }
    let bucket = Mem::default();
    let (mut peer, mut db) = (Peer::new(1), Db::new());
    let all = paths(78_579);
    let entries: Vec<Entry> =
        (1..).zip(&all).map(|(i, p)| entry(p, i, ddr::model::entry::Op::Put(file(i)), &[])).collect();
    let (mut log, mut index) = (0.0, 0.0);
    for part in entries.chunks(8000) {
        let first = peer.tail.number + 1;
        let start = Instant::now();
        peer.tail = append(&bucket, FOLDER, &peer.who, &peer.tail, None, part).unwrap().tail;
        log += start.elapsed().as_secs_f64();
        let rows: Vec<_> =
            (first..).zip(part).map(|(n, e)| local(&e.path, peer.dot(n), e.version().unwrap())).collect();
        let start = Instant::now();
        db.history.apply_own(&peer.origin, first, part, &peer.tail, &rows).unwrap();
        index += start.elapsed().as_secs_f64();
    }
    println!("append {log:.2} s, apply_own {index:.2} s");
    let time = |what: &str, act: &mut dyn FnMut()| {
        let start = Instant::now();
        act();
        println!("{what} {:.2} s", start.elapsed().as_secs_f64());
    };
    let mut fresh = Db::new();
    time("catch_up", &mut || assert_eq!(fresh.history.catch_up(&bucket, FOLDER).unwrap().entries, 78_579));
    time("catch_up, nothing new", &mut || drop(fresh.history.catch_up(&bucket, FOLDER).unwrap()));
    time("state_hash", &mut || assert_ne!(fresh.history.state_hash().unwrap(), [0; 32]));
    time("each_head", &mut || fresh.history.each_head(&RelPath::root(), &mut |_, _| Ok(())).unwrap());
    time("deleted", &mut || fresh.history.deleted(&RelPath::root(), &mut |_, _, _| Ok(())).unwrap());
    time("recent", &mut || fresh.history.recent(&RelPath::root(), 20, &mut |_, _| Ok(())).unwrap());
}

#[test]
fn a_million_local_rows() {
    if !asked() {
        return;
    }
    let (mut db, peer) = (Db::new(), Peer::new(1));
    let mut put = 0.0;
    for part in paths(1_000_000).chunks(8000) {
        let rows: Vec<_> = (1..).zip(part).map(|(n, p)| local(p, peer.dot(n), &file(n))).collect();
        let start = Instant::now();
        db.history.put_local(&rows).unwrap();
        put += start.elapsed().as_secs_f64();
    }
    println!("put_local {put:.2} s");
    for _ in 0..2 {
        let before = rss();
        let start = Instant::now();
        let mut cursor = db.history.local_cursor(&RelPath::root());
        let mut n = 0;
        while let Some(row) = cursor.next().unwrap() {
            n += u64::from(row.proven);
        }
        println!("cursor: {n} rows {:.2} s, rss {} -> {} KiB", start.elapsed().as_secs_f64(), before, rss());
    }
    let start = Instant::now();
    db.history.each_local(&RelPath::root(), &mut |_| Ok(())).unwrap();
    println!("each_local {:.2} s", start.elapsed().as_secs_f64());
}
