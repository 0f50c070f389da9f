//! What every bucket promises.

use std::sync::atomic::{AtomicU32, Ordering};

use ddr::base::error::Error;

use super::{buckets, is_refused, objects};

#[test]
fn an_empty_bucket_has_nothing() {
    for place in buckets() {
        let b = &place.bucket;
        assert!(objects(b.as_ref(), "").is_empty(), "{}", place.label);
        assert!(objects(b.as_ref(), "data/").is_empty());
        assert!(matches!(b.get("data/x", 0..9), Err(Error::Missing(_))));
        assert!(matches!(b.get("a/b/c", 0..9), Err(Error::Missing(_))));
        b.delete("data/x").unwrap();
        b.delete("a/b/c").unwrap();
    }
}

#[test]
fn what_was_put_can_be_read_in_any_range() {
    for place in buckets() {
        let b = &place.bucket;
        b.put("data/x", &[b"", b"01", b"", b"23456", b"789"]).unwrap();
        let get = |range| String::from_utf8(b.get("data/x", range).unwrap()).unwrap();
        assert_eq!(get(0..10), "0123456789", "{}", place.label);
        assert_eq!(get(0..u64::MAX), "0123456789");
        assert_eq!(get(3..6), "345");
        assert_eq!(get(8..20), "89");
        assert_eq!(get(10..20), "");
        assert_eq!(get(11..20), "");
        assert_eq!(get(u64::MAX - 1..u64::MAX), "");
        assert_eq!(get(5..5), "");
        b.put("log/empty", &[]).unwrap();
        assert_eq!(b.get("log/empty", 0..1).unwrap(), b"");
        let part = [7u8; 3];
        b.put("many", &vec![part.as_slice(); 3000]).unwrap();
        assert_eq!(b.get("many", 0..u64::MAX).unwrap(), [7u8; 9000]);
    }
}

#[test]
fn listings_give_names_and_sizes_below_a_prefix() {
    for place in buckets() {
        let b = place.bucket.as_ref();
        for (name, len) in [("folder", 3), ("data/a", 1), ("data/b", 2), ("database/c", 4), ("holds/o/1", 5)]
        {
            b.put(name, &[&vec![0; len]]).unwrap();
        }
        assert_eq!(
            objects(b, "data/").into_iter().collect::<Vec<_>>(),
            [("data/a".to_string(), 1), ("data/b".to_string(), 2)]
        );
        assert_eq!(objects(b, "holds/o/").len(), 1, "{}", place.label);
        assert_eq!(objects(b, "holds/").len(), 1);
        assert_eq!(objects(b, "none/").len(), 0);
        assert_eq!(objects(b, "").len(), 5);
    }
}

#[test]
fn an_error_of_the_sink_ends_the_listing() {
    for place in buckets() {
        let b = &place.bucket;
        b.put("data/a", &[b"1"]).unwrap();
        b.put("data/b", &[b"1"]).unwrap();
        let mut calls = 0;
        let result = b.list("data/", &mut |_, _| {
            calls += 1;
            Err(Error::Interrupted)
        });
        assert!(matches!(result, Err(Error::Interrupted)) && calls == 1, "{}", place.label);
    }
}

#[test]
fn objects_may_be_deleted_during_a_listing() {
    for place in buckets() {
        let b = &place.bucket;
        for n in 0..50 {
            b.put(&format!("gc/{n}"), &[b"1"]).unwrap();
        }
        b.list("gc/", &mut |name, _| b.delete(name)).unwrap();
        assert!(objects(b.as_ref(), "").is_empty(), "{}", place.label);
    }
}

#[test]
fn names_are_never_overwritten_and_can_be_used_again_after_deletion() {
    for place in buckets() {
        let b = &place.bucket;
        b.put("data/x", &[b"first"]).unwrap();
        b.put("data/y", &[b"other"]).unwrap();
        assert!(is_refused(&b.put("data/x", &[b"second"])), "{}", place.label);
        assert_eq!(b.get("data/x", 0..99).unwrap(), b"first");
        b.delete("data/x").unwrap();
        assert!(matches!(b.get("data/x", 0..99), Err(Error::Missing(_))));
        b.put("data/x", &[b"third"]).unwrap();
        assert_eq!(b.get("data/x", 0..99).unwrap(), b"third");
        assert_eq!(b.get("data/y", 0..99).unwrap(), b"other");
    }
}

#[test]
fn of_several_puts_of_one_name_one_wins() {
    for place in buckets() {
        let (b, won) = (&place.bucket, AtomicU32::new(0));
        std::thread::scope(|s| {
            for n in 0..8u8 {
                let won = &won;
                s.spawn(move || match b.put("new/deep/x", &[&[n; 1000]]) {
                    Ok(()) => drop(won.fetch_add(1, Ordering::SeqCst)),
                    Err(e) => assert!(matches!(e, Error::Refused(_)), "{e}"),
                });
            }
        });
        assert_eq!(won.into_inner(), 1, "{}", place.label);
        let bytes = b.get("new/deep/x", 0..9999).unwrap();
        assert!(bytes.len() == 1000 && bytes.iter().all(|x| *x == bytes[0]));
    }
}

#[test]
fn bad_names_are_refused_by_every_call() {
    for place in buckets() {
        let b = &place.bucket;
        for bad in ["", "/", "/etc/passwd", "..", "../x", "data/../../x", "data//x", "data/", "A", "a\0b"] {
            assert!(matches!(b.put(bad, &[b"1"]), Err(Error::Invalid(_))), "{} {bad:?}", place.label);
            assert!(matches!(b.get(bad, 0..1), Err(Error::Invalid(_))));
            assert!(matches!(b.delete(bad), Err(Error::Invalid(_))));
        }
        assert!(objects(b.as_ref(), "").is_empty());
    }
}
