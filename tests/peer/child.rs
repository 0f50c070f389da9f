//! The real `ddr serve` in a process of its own: killed, refused, silent about what is not its business.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ddr::base::error::{Error, Result};
use ddr::base::id::FolderId;
use ddr::engine::init::make_bare;
use ddr::format::hold::Hold;
use ddr::format::key::FolderKey;
use ddr::format::message::NewPeer;
use ddr::model::entry::Kind;
use ddr::peer::bucket::RemoteBucket;
use ddr::peer::stream::{ChildDial, Dial, Stream};
use ddr::store::Bucket;
use ddr::store::dir::DirBucket;

use super::noise;
use crate::support::peers::QUICK;
use crate::support::{own_files, program, scale};

const FOLDER: FolderId = FolderId([7; 16]);

/// Starts `ddr serve`, the first time with a fault.
struct ServeDial {
    path: PathBuf,
    home: PathBuf,
    fault: Option<String>,
    dials: AtomicU64,
}

impl Dial for ServeDial {
    fn dial(&self) -> Result<Stream> {
        let words = [program().into_os_string(), "serve".into(), self.path.clone().into()];
        let dial = ChildDial::new(words).env("HOME", self.home.to_str().unwrap());
        let is_first = self.dials.fetch_add(1, Ordering::SeqCst) == 0;
        let fault = self.fault.as_ref().filter(|_| is_first);
        let _guard = own_files();
        fault
            .map_or(Ok(dial), |fault| {
                Ok(ChildDial::new([program().into_os_string(), "serve".into(), self.path.clone().into()])
                    .env("HOME", self.home.to_str().unwrap())
                    .env("DDR_FAULT", fault))
            })
            .and_then(|dial| dial.dial())
    }

    fn place(&self) -> String {
        "ddr serve".into()
    }
}

struct Host {
    dirs: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { dirs: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dirs.path().join("nas")
    }

    /// With a bare peer.
    fn with_peer() -> Self {
        let host = Self::new();
        make_bare(&host.path(), Some("nas"), (FOLDER, FolderKey([9; 32]))).unwrap();
        host
    }

    fn dial(&self, path: &Path, fault: Option<&str>) -> Arc<ServeDial> {
        let (path, home) = (path.to_path_buf(), self.dirs.path().join("home"));
        Arc::new(ServeDial { path, home, fault: fault.map(Into::into), dials: AtomicU64::new(0) })
    }

    fn bucket(&self, folder: Option<FolderId>) -> RemoteBucket {
        RemoteBucket::new("nas", self.dial(&self.path(), None), folder, 1, QUICK)
    }
}

fn hold(number: u64) -> (String, Vec<u8>) {
    let origin = ddr::base::id::OriginId([4; 32]);
    let adds =
        (0..200).map(|n| ddr::model::entry::Body { kind: Kind::Chunk, id: ddr::base::id::RecordId([n; 32]) });
    let hold = Hold {
        requires: vec![],
        folder: FOLDER,
        origin,
        number,
        adds: adds.collect(),
        releases: vec![],
        since: None,
    };
    (ddr::store::names::hold(origin, number), hold.encode())
}

#[test]
fn a_peer_is_made_filled_and_read_by_its_own_ddr() {
    let host = Host::new();
    let bucket = host.bucket(Some(FOLDER));
    assert!(matches!(bucket.info(), Err(Error::Missing(_))));
    let new = NewPeer { folder: FOLDER, key: [9; 32], name: "nas".into(), again: false };
    bucket.create(&new).unwrap();
    assert!(matches!(bucket.create(&new), Err(Error::Refused(_))));
    bucket.create(&NewPeer { again: true, ..new }).unwrap();
    let info = bucket.info().unwrap();
    assert_eq!(info.folder, FOLDER);
    assert_eq!(info.host, ddr::peer::machine::id());
    assert_eq!(info.boot, ddr::local::mount::boot());
    assert!(info.free > 0 && info.total >= info.free && info.pid != std::process::id());
    assert_eq!(info.device, DirBucket::open(&host.path().join("store")).unwrap().domain());
    let large = noise(1, 9 << 20);
    bucket.put("quarantine/large", &[&large[..100], &large[100..]]).unwrap();
    assert!(bucket.get("quarantine/large", 0..u64::MAX).unwrap() == large);
    assert!(bucket.ping().unwrap() < Duration::from_secs(5));
    assert_eq!(bucket.traffic().dials, 1);
    let pid = info.pid;
    drop(bucket);
    // It ends with its connection.
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn i10_denied_looks_like_nonexistent() {
    let host = Host::with_peer();
    let other = FolderId([8; 16]);
    std::fs::create_dir(host.dirs.path().join("plain")).unwrap();
    std::fs::write(host.dirs.path().join("file"), b"x").unwrap();
    make_bare(&host.dirs.path().join("foreign"), Some("x"), (other, FolderKey([1; 32]))).unwrap();
    let mut answers = Vec::new();
    for place in ["foreign", "plain", "file", "none", "none/at/all", "file/below"] {
        let path = host.dirs.path().join(place);
        let bucket = RemoteBucket::new("nas", host.dial(&path, None), Some(FOLDER), 1, QUICK);
        let said = |result: Result<()>| {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Missing(_)), "{place}: {error}");
            error.to_string().replace(path.to_str().unwrap(), "PATH")
        };
        answers.push(vec![
            said(bucket.info().map(drop)),
            said(bucket.get("folder", 0..9).map(drop)),
            said(bucket.put("gc/x", &[b"1"])),
            said(bucket.list("", &mut |_, _| Ok(()))),
            said(bucket.delete("gc/x")),
        ]);
    }
    assert!(answers.iter().flatten().all(|a| a == &answers[0][0]), "{answers:?}");
}

#[test]
fn a_peer_killed_at_any_operation_loses_nothing() {
    let objects = |n: u64| (hold(n).0, noise(n, 600 << 10));
    let step = if scale() > 1 { 1 } else { 3 };
    for k in (1..).step_by(step) {
        let host = Host::with_peer();
        let dial = host.dial(&host.path(), Some(&format!("last:{k}")));
        let bucket = RemoteBucket::new("nas", dial.clone(), Some(FOLDER), 1, QUICK);
        bucket.put("quarantine/a", &[&objects(1).1]).unwrap();
        bucket.put_all(&[hold(1), hold(2), hold(3)]).unwrap();
        bucket.put("quarantine/b", &[b"small"]).unwrap();
        bucket.delete("quarantine/b").unwrap();
        let near = DirBucket::open(&host.path().join("store")).unwrap();
        assert!(near.get("quarantine/a", 0..u64::MAX).unwrap() == objects(1).1, "killed at {k}");
        for n in 1..=3 {
            assert!(near.get(&hold(n).0, 0..u64::MAX).unwrap() == hold(n).1, "killed at {k}");
        }
        assert!(matches!(near.get("quarantine/b", 0..9), Err(Error::Missing(_))));
        if dial.dials.load(Ordering::SeqCst) == 1 {
            assert!(k > 10, "only {k} operations");
            return;
        }
    }
}

#[test]
fn a_failing_disk_is_an_error_here_and_leaves_whole_objects_only() {
    for k in 1.. {
        let host = Host::with_peer();
        let bucket = RemoteBucket::new(
            "nas",
            host.dial(&host.path(), Some(&format!("fail:{k}"))),
            Some(FOLDER),
            1,
            QUICK,
        );
        let put = bucket.put_all(&[hold(1), hold(2)]);
        let near = DirBucket::open(&host.path().join("store")).unwrap();
        for n in 1..=2 {
            match near.get(&hold(n).0, 0..u64::MAX) {
                Ok(bytes) => assert!(bytes == hold(n).1),
                Err(e) => assert!(e.is_missing() && put.is_err(), "failed at {k}: {e}"),
            }
        }
        match put {
            Ok(()) => {
                assert!(k > 6, "only {k} operations");
                return;
            }
            Err(e) => assert_eq!(e.errno(), Some(libc::EIO), "failed at {k}: {e}"),
        }
    }
}

#[test]
fn a_full_disk_there_says_so_here() {
    let host = Host::with_peer();
    let bucket = RemoteBucket::new("nas", host.dial(&host.path(), Some("full:1")), Some(FOLDER), 1, QUICK);
    let error = bucket.put("quarantine/x", &[&noise(1, 1000)]).unwrap_err();
    assert!(matches!(error, Error::NoSpace(_)), "{error}");
}
