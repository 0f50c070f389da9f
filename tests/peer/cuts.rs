//! A line that is cut at random bytes: nothing is lost, nothing is done twice, little is sent again.

use std::collections::BTreeMap;
use std::time::Duration;

use ddr::base::error::Error;
use ddr::store::Bucket;

use super::{Far, far, noise};
use crate::support::proxy::Line;
use crate::support::{scale, seed};

const MIB: usize = 1 << 20;

fn left_over(far: &Far) -> usize {
    std::fs::read_dir(far.dirs.path().join("store/tmp")).unwrap().count()
}

/// Attempts for a share that is to be small: on a busy machine more is under way when the line is cut.
const ATTEMPTS: u64 = 3;

#[test]
fn objects_put_over_a_line_that_is_cut_are_whole_and_hardly_sent_again() {
    let again = (0..ATTEMPTS).map(put_over_cuts).find(|again| *again < 0.05);
    assert!(again.is_some(), "more was sent again, {ATTEMPTS} times");
}

/// Which part was sent again.
fn put_over_cuts(attempt: u64) -> f64 {
    let (count, size) = (24 * scale(), 4 * MIB);
    let total = (count * size) as u64;
    let far = far(Line::new(Duration::ZERO).cut_every(total / 50, seed() + attempt), 1);
    std::thread::scope(|s| {
        for half in 0..2 {
            let bucket = &far.far;
            s.spawn(move || {
                for n in (half..count).step_by(2) {
                    bucket.put(&format!("data/{n}"), &[&noise(n as u64, size)]).unwrap();
                }
            });
        }
    });
    for n in 0..count {
        assert_eq!(far.near.get(&format!("data/{n}"), 0..u64::MAX).unwrap(), noise(n as u64, size));
    }
    assert_eq!(left_over(&far), 0, "unfinished uploads");
    let (up, _) = far.line.passed();
    assert!(far.line.cuts() >= 20, "{} cuts", far.line.cuts());
    let again = up as f64 / total as f64 - 1.0;
    println!("{} cuts, {:.2} % sent again", far.line.cuts(), again * 100.0);
    again
}

#[test]
fn objects_read_over_a_line_that_is_cut_are_whole_and_hardly_sent_again() {
    let (count, size) = (12 * scale(), 8 * MIB);
    let total = (count * size) as u64;
    let far = far(Line::new(Duration::ZERO).cut_every(total / 50, seed() + 1), 2);
    for n in 0..count {
        far.near.put(&format!("data/{n}"), &[&noise(n as u64, size)]).unwrap();
    }
    let wanted: Vec<_> = (0..count).map(|n| (format!("data/{n}"), 5..(size - 7) as u64)).collect();
    let mut next = 0;
    far.far
        .get_all(&wanted, &mut |i, got| {
            assert_eq!(i, next);
            next += 1;
            assert!(got.unwrap() == noise(i as u64, size)[5..size - 7]);
            Ok(())
        })
        .unwrap();
    assert_eq!(next, count);
    let (_, down) = far.line.passed();
    assert!(far.line.cuts() >= 20, "{} cuts", far.line.cuts());
    let again = down as f64 / total as f64 - 1.0;
    println!("{} cuts, {:.2} % sent again", far.line.cuts(), again * 100.0);
    assert!(again < 0.05, "{} cuts, {:.2} % sent again", far.line.cuts(), again * 100.0);
}

#[test]
fn every_call_is_done_once_however_often_it_is_cut() {
    let far = far(Line::new(Duration::ZERO).cut_every(3000, seed() + 2), 1);
    let mut there = BTreeMap::new();
    for n in 0..60 * scale() as u64 {
        let name = format!("gc/{n:04}");
        far.far.put(&name, &[&noise(n, 300)]).unwrap();
        // A second one is refused, also if it is the same.
        assert!(
            matches!(far.far.put(&name, &[&noise(n, 300)]), Err(Error::Refused(_))) || far.line.cuts() > 0
        );
        assert!(matches!(far.far.put(&name, &[b"other"]), Err(Error::Refused(_))));
        there.insert(name, 300);
        if n % 3 == 0 {
            let name = format!("gc/{:04}", n / 2);
            far.far.delete(&name).unwrap();
            there.remove(&name);
        }
        let batch: Vec<_> =
            (0..5).map(|k| (format!("log/{n:04}/{k}"), noise(n * 7 + k, 100 * k as usize))).collect();
        far.far.put_all(&batch).unwrap();
        there.extend(batch.into_iter().map(|(name, bytes)| (name, bytes.len() as u64)));
        if n % 10 == 9 {
            let mut listed = BTreeMap::new();
            far.far
                .list("", &mut |name, size| {
                    assert!(listed.insert(name.to_string(), size).is_none(), "{name} twice");
                    Ok(())
                })
                .unwrap();
            assert_eq!(listed, there);
        }
    }
    assert!(far.line.cuts() > 10, "{} cuts", far.line.cuts());
    assert_eq!(left_over(&far), 0);
}

#[test]
fn a_long_listing_goes_on_where_it_was_cut() {
    let far = far(Line::new(Duration::ZERO), 1);
    let mut sorted: Vec<String> = (0..4000).map(|n| format!("log/{:02}.a/{n:060}", n % 7)).collect();
    sorted.extend((0..9).map(|n| format!("log/{n:02}-b")));
    sorted.sort();
    let root = far.dirs.path().join("store");
    // Made behind the bucket's back: 4,000 syncs would take long.
    for name in &sorted {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }
    for cut in [0, 100, 40_000, 150_000] {
        far.far.ping().unwrap();
        far.line.cut_after(cut + 1);
        let mut listed = Vec::new();
        far.far
            .list("log/", &mut |name, _| {
                listed.push(name.to_string());
                Ok(())
            })
            .unwrap();
        assert!(listed == sorted, "cut after {cut}");
    }
    assert!(far.line.cuts() >= 4);
}

#[test]
fn what_is_held_but_wrong_is_sent_again() {
    let far = far(Line::new(Duration::ZERO), 1);
    let bytes = noise(3, 6 * MIB);
    std::thread::scope(|s| {
        far.far.ping().unwrap();
        far.line.cut_after(3 << 20);
        let tmp = far.dirs.path().join("store/tmp");
        let damage = s.spawn(move || {
            // Flips bytes in the unfinished upload, as a failing disk might, as soon as there is one.
            for _ in 0..2000 {
                for entry in std::fs::read_dir(&tmp).unwrap().flatten() {
                    use std::os::unix::fs::FileExt;
                    let file = std::fs::File::options().write(true).open(entry.path());
                    if file.is_ok_and(|f| {
                        f.metadata().unwrap().len() > 1 << 20 && f.write_at(b"!!!!", 5).is_ok()
                    }) {
                        return true;
                    }
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            false
        });
        let result = far.far.put("data/x", &[&bytes]);
        let _ = damage.join().unwrap();
        // Damage before the end of the first attempt is told from a cut by the hash alone.
        match result {
            Ok(()) => assert!(far.near.get("data/x", 0..u64::MAX).unwrap().len() == bytes.len()),
            Err(e) => assert!(matches!(e, Error::Corrupt { .. }), "{e}"),
        }
    });
}

#[test]
fn a_place_that_went_away_is_given_up_in_bounded_time() {
    let far = far(Line::new(Duration::ZERO).cut_every(1, 1), 1);
    let since = std::time::Instant::now();
    let error = far.far.get("data/x", 0..9).unwrap_err();
    assert!(matches!(&error, Error::Offline { name, .. } if name == "nas"), "{error}");
    assert!(since.elapsed() < Duration::from_secs(20));
}
