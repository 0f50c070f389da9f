//! What a server promises whoever asks: only good objects, slow requests that hold up nobody, silence
//! that ends it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ddr::base::cancel::Cancel;
use ddr::base::error::Error;
use ddr::base::id::{FolderId, OriginId, StoreId};
use ddr::format::frame::MAGIC;
use ddr::format::hold::Hold;
use ddr::format::key::{FolderKey, Keys};
use ddr::format::pack::PackWriter;
use ddr::format::seal::Sealer;
use ddr::format::store::{FORMAT, StoreHead};
use ddr::model::entry::Kind;
use ddr::peer::serve::{Offer, Source, serve};
use ddr::store::packs::Packs;
use ddr::store::{Bucket, names};

use super::{far, noise};
use crate::support::proxy::Line;

const FOLDER: FolderId = FolderId([7; 16]);

fn head(folder: FolderId) -> StoreHead {
    StoreHead {
        format: FORMAT,
        requires: vec![],
        folder,
        store: StoreId([8; 16]),
        key: None,
        name: "x".into(),
    }
}

fn pack(folder: FolderId) -> (String, Vec<u8>) {
    let keys = Keys::new(&FolderKey([9; 32]));
    let mut writer = PackWriter::new(folder, 5);
    let raw = noise(1, 100_000);
    writer.push(Sealer::new().unwrap().seal(keys.record_id(Kind::Chunk, &raw), Kind::Chunk, raw));
    let pack = writer.finish();
    (names::pack(Kind::Chunk, pack.id), pack.parts.iter().flat_map(|p| p.iter().copied()).collect())
}

#[test]
fn a_store_takes_only_objects_that_are_what_their_names_say() {
    let far = far(Line::new(Duration::ZERO), 1);
    Packs::init(&far.far, &head(FOLDER)).unwrap();
    let (name, bytes) = pack(FOLDER);
    far.far.put(&name, &[&bytes]).unwrap();

    let corrupt = |name: &str, bytes: &[u8]| {
        let refused = far.far.put(name, &[bytes]);
        assert!(matches!(refused, Err(Error::Corrupt { .. } | Error::Refused(_))), "{name}: {refused:?}");
        assert!(matches!(far.near.get(name, 0..1), Err(Error::Missing(_))), "{name} is there");
    };
    let mut bad = bytes.clone();
    bad[bytes.len() - 60] ^= 1;
    corrupt(&names::pack(Kind::Chunk, ddr::base::id::PackId([1; 32])), &bytes);
    corrupt(&names::pack(Kind::Manifest, ddr::base::id::PackId([1; 32])), &bad);
    corrupt(&name.replace("data/", "meta/"), &bytes);
    let (foreign, bytes) = pack(FolderId([6; 16]));
    corrupt(&foreign, &bytes);
    let origin = OriginId([4; 32]);
    let hold = |folder, number| {
        Hold { requires: vec![], folder, origin, number, adds: vec![], releases: vec![], since: None }
            .encode()
    };
    far.far.put(&names::hold(origin, 1), &[&hold(FOLDER, 1)]).unwrap();
    corrupt(&names::hold(origin, 2), &hold(FOLDER, 3));
    corrupt(&names::hold(origin, 2), &hold(FolderId([6; 16]), 2));
    corrupt(&names::hold(origin, 2), b"junk");
    corrupt(&names::log(origin, 1, 2), b"junk");
    corrupt(&names::owner(1), b"junk");
    corrupt(&names::mark(1), b"");
    for odd in ["data/x", "meta/x", "log/x", "holds/x/1", "gc/x"] {
        assert!(matches!(far.far.put(odd, &[b"1"]), Err(Error::Invalid(_))), "{odd}");
    }
    far.far.put("quarantine/data/x", &[b"anything"]).unwrap();
    assert!(matches!(far.far.delete("folder"), Err(Error::Refused(_))));
    assert_eq!(std::fs::read_dir(far.dirs.path().join("store/tmp")).unwrap().count(), 0);
}

#[test]
fn a_slow_request_holds_up_no_other() {
    let far = far(Line::new(Duration::ZERO), 1);
    for n in 0..9000 {
        std::fs::write(far.dirs.path().join(format!("store/data/{n:0200}")), b"").unwrap();
    }
    let bucket = &far.far;
    std::thread::scope(|s| {
        let (started, starts) = crossbeam_channel::bounded(1);
        let (go, goes) = crossbeam_channel::bounded::<()>(0);
        // Stands still in the middle of a listing that fills its window.
        s.spawn(move || {
            let mut names = 0;
            bucket
                .list("data/", &mut |_, _| {
                    names += 1;
                    if names == 1 {
                        started.send(()).unwrap();
                        // Closed when the others are done.
                        let _ = goes.recv();
                    }
                    Ok(())
                })
                .unwrap();
            assert_eq!(names, 9000);
        });
        starts.recv().unwrap();
        bucket.put("gc/a", &[&noise(2, 20 << 20)]).unwrap();
        assert_eq!(bucket.get("gc/a", 0..u64::MAX).unwrap().len(), 20 << 20);
        drop(go);
    });
    assert_eq!(bucket.traffic().dials, 1);
}

/// Serves one end of a socket; returns the other, and what came of it.
fn raw(silence: Duration) -> (UnixStream, std::thread::JoinHandle<ddr::base::error::Result<()>>) {
    let (here, there) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let dirs = tempfile::tempdir().unwrap();
        let offer = Offer {
            source: Source::Peer(dirs.path().join("none")),
            create: &|_, _| Err(Error::Refused("no".into())),
            silence,
            cancel: Cancel::default(),
        };
        let result = serve(there.try_clone().unwrap().into(), there.into(), &offer);
        assert_eq!(std::fs::read_dir(dirs.path()).unwrap().count(), 0);
        result
    });
    (here, thread)
}

#[test]
fn silence_ends_it_and_so_does_the_end_of_the_stream() {
    let (here, thread) = raw(Duration::from_secs(1));
    let since = Instant::now();
    thread.join().unwrap().unwrap();
    assert!(since.elapsed() < Duration::from_secs(5));
    drop(here);
    let (here, thread) = raw(Duration::from_secs(60));
    drop(here);
    thread.join().unwrap().unwrap();
    let (mut here, thread) = raw(Duration::from_secs(60));
    here.write_all(&MAGIC[..5]).unwrap();
    here.shutdown(std::net::Shutdown::Write).unwrap();
    thread.join().unwrap().unwrap();
    let mut said = Vec::new();
    here.read_to_end(&mut said).unwrap();
    assert!(said.is_empty());
}

#[test]
fn what_is_no_request_ends_it_with_an_error() {
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[&MAGIC[..], &[255; 100]].concat(), &[0; 1 << 16]] {
        let (mut here, thread) = raw(Duration::from_secs(60));
        // It may be closed before all is written.
        let _ = here.write_all(junk);
        assert!(matches!(thread.join().unwrap(), Err(Error::Corrupt { .. })));
    }
}

#[test]
fn what_is_no_server_is_told() {
    use ddr::peer::bucket::RemoteBucket;
    use ddr::peer::stream::ChildDial;
    let talk = |script: &str| {
        let dial = Arc::new(ChildDial::new(["sh", "-c", script]));
        RemoteBucket::new("nas", dial, None, 1, crate::support::peers::QUICK).info().unwrap_err()
    };
    let error = talk("echo 'Welcome to nas!'; cat > /dev/null");
    assert!(matches!(&error, Error::Corrupt { why, .. } if why.contains("Welcome to nas!")), "{error}");
    let error = talk("echo 'ddr: no such thing' >&2; exit 2");
    assert!(matches!(&error, Error::Offline { name, why } if name == "nas" && why.contains("no such thing")));
    let error = talk("exit 0");
    assert!(matches!(error, Error::Offline { .. }));
}
