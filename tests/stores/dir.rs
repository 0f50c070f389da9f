//! What only a bucket in a directory has to promise.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use ddr::store::dir::DirBucket;
use ddr::store::domain;
use ddr::store::packs::Packs;
use ddr::store::{Bucket, Store};

use super::{FOLDER, assert_reads_back, chunk, head, ids, is_offline, keys, objects, put, put_all};

fn made() -> (tempfile::TempDir, DirBucket) {
    let dirs = tempfile::tempdir().unwrap();
    let bucket = DirBucket::create(&dirs.path().join("store")).unwrap();
    (dirs, bucket)
}

#[test]
fn a_missing_or_bare_directory_is_offline() {
    let dirs = tempfile::tempdir().unwrap();
    assert!(is_offline(&DirBucket::open(&dirs.path().join("none"))));
    assert!(is_offline(&DirBucket::open(dirs.path())));
    fs::write(dirs.path().join("file"), b"x").unwrap();
    assert!(is_offline(&DirBucket::open(&dirs.path().join("file"))));
    DirBucket::create(&dirs.path().join("a/b")).unwrap();
    let bucket = DirBucket::open(&dirs.path().join("a/b")).unwrap();
    assert_eq!(bucket.domain(), domain::of(fs::File::open(dirs.path()).unwrap()).unwrap());
    assert_eq!(bucket.path(), dirs.path().join("a/b"));
}

fn assert_offline(bucket: &DirBucket) {
    assert!(is_offline(&bucket.list("", &mut |_, _| panic!("lists nothing"))));
    assert!(is_offline(&bucket.list("data/", &mut |_, _| panic!("lists nothing"))));
    assert!(is_offline(&bucket.get("data/x", 0..1)));
    assert!(is_offline(&bucket.get("data/none", 0..1)));
    assert!(is_offline(&bucket.put("data/y", &[b"2"])));
    assert!(is_offline(&bucket.delete("data/x")));
    assert!(is_offline(&bucket.sweep_temp()));
}

#[test]
fn a_directory_that_went_away_is_offline_not_empty() {
    let (dirs, bucket) = made();
    bucket.put("data/x", &[b"1"]).unwrap();
    let (here, away) = (dirs.path().join("store"), dirs.path().join("away"));
    fs::rename(&here, &away).unwrap();
    assert_offline(&bucket);
    // As after unmounting: the empty directory below shows.
    fs::create_dir(&here).unwrap();
    assert_offline(&bucket);
    assert_eq!(fs::read_dir(&here).unwrap().count(), 0, "nothing was written beside the store");
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    assert_eq!(bucket.get("data/x", 0..9).unwrap(), b"1");
    assert_eq!(objects(&bucket, "").len(), 1);
}

#[test]
fn a_store_whose_directory_went_away_keeps_its_index() {
    let (dirs, bucket) = made();
    Packs::init(&bucket, &head()).unwrap();
    let index = dirs.path().join("index");
    let packs = Packs::open("d", std::sync::Arc::new(bucket), FOLDER, &keys(), &index).unwrap();
    let records = [chunk(1, 5000), chunk(2, 5000)];
    put_all(&packs, &records);
    let (here, away) = (dirs.path().join("store"), dirs.path().join("away"));
    fs::rename(&here, &away).unwrap();
    assert!(is_offline(&packs.refresh()));
    assert!(is_offline(&packs.get(&ids(&records), &mut |_, _| Ok(()))));
    put(&packs, chunk(4, 100)).unwrap();
    assert!(is_offline(&packs.flush()));
    fs::rename(&away, &here).unwrap();
    assert_eq!(packs.refresh().unwrap().vanished_packs, 0);
    assert_reads_back(&packs, &records);
}

#[test]
fn files_and_directories_are_private() {
    let (dirs, bucket) = made();
    bucket.put("holds/abc/1", &[b"1"]).unwrap();
    let mode = |path: &str| fs::metadata(dirs.path().join(path)).unwrap().permissions().mode() & 0o777;
    for dir in ["store", "store/data", "store/holds", "store/holds/abc", "store/tmp"] {
        assert_eq!(mode(dir), 0o700, "{dir}");
    }
    assert_eq!(mode("store/holds/abc/1"), 0o600);
}

#[test]
fn unfinished_files_are_not_objects_and_are_swept_after_a_day() {
    let (dirs, bucket) = made();
    let temp = dirs.path().join("store/tmp");
    for (name, age) in [("old", 90_000), ("new", 80_000)] {
        let file = fs::File::create(temp.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    assert!(objects(&bucket, "").is_empty());
    assert!(bucket.put("tmp/x", &[b"1"]).is_err());
    assert_eq!(bucket.sweep_temp().unwrap(), 1);
    assert!(!temp.join("old").exists() && temp.join("new").exists());
    bucket.put("data/x", &[b"1"]).unwrap();
    assert!(bucket.put("data/x", &[b"1"]).is_err());
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 1, "a refused put leaves nothing behind");
}

#[test]
fn links_and_foreign_files_are_not_objects() {
    let (dirs, bucket) = made();
    let store = dirs.path().join("store");
    fs::write(dirs.path().join("secret"), b"s").unwrap();
    symlink(dirs.path().join("secret"), store.join("data/link")).unwrap();
    symlink(dirs.path(), store.join("data/dir")).unwrap();
    fs::write(store.join("data/Thumbs.db"), b"s").unwrap();
    fs::create_dir(store.join("lost+found")).unwrap();
    assert!(objects(&bucket, "").is_empty());
    assert!(bucket.get("data/link", 0..9).is_err());
    assert!(bucket.get("data/dir/secret", 0..9).is_err());
    assert!(bucket.put("data/dir/x", &[b"1"]).is_err());
    assert!(!dirs.path().join("x").exists());
}

/// Opens, reads and tries to write a store that cannot be written.
fn check_read_only(store: &Path, index: &Path) {
    let bucket = DirBucket::open(store).unwrap();
    assert!(bucket.put("data/new", &[b"1"]).is_err());
    let packs = Packs::open("ro", std::sync::Arc::new(bucket), FOLDER, &keys(), index).unwrap();
    assert_reads_back(&packs, &[chunk(1, 5000)]);
    assert!(packs.verify_stale(&ids(&[chunk(1, 5000)]), 2_000_000_000, 0).unwrap().is_empty());
    put(&packs, chunk(2, 100)).unwrap();
    assert!(packs.flush().is_err());
    assert_eq!(packs.has(&ids(&[chunk(1, 5000), chunk(2, 100)])).unwrap(), [true, false]);
}

fn filled() -> tempfile::TempDir {
    let (dirs, bucket) = made();
    Packs::init(&bucket, &head()).unwrap();
    let index = dirs.path().join("index");
    let packs = Packs::open("d", std::sync::Arc::new(bucket), FOLDER, &keys(), &index).unwrap();
    put_all(&packs, &[chunk(1, 5000)]);
    dirs
}

#[test]
fn a_read_only_store_can_be_read() {
    let dirs = filled();
    let store = dirs.path().join("store");
    if !rustix::process::geteuid().is_root() {
        for part in ["data", "tmp", ""] {
            fs::set_permissions(store.join(part), fs::Permissions::from_mode(0o500)).unwrap();
        }
        check_read_only(&store, &dirs.path().join("other"));
        for part in ["", "tmp", "data"] {
            fs::set_permissions(store.join(part), fs::Permissions::from_mode(0o700)).unwrap();
        }
        return;
    }
    in_own_mounts(move || {
        mount(&store, &store, libc::MS_BIND)?;
        mount(&store, &store, libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY)?;
        check_read_only(&store, &dirs.path().join("other"));
        Ok(())
    });
}

#[test]
fn subvolumes_of_one_btrfs_are_one_failure_domain() {
    if let Some(why) = crate::support::mount::obstacle(&["btrfs"]) {
        return eprintln!("skipped: {why}");
    }
    let dirs = tempfile::tempdir().unwrap();
    let (image, point) = (dirs.path().join("image"), dirs.path().join("disk"));
    fs::create_dir(&point).unwrap();
    crate::support::mount::make("btrfs", &image, 512 << 20).unwrap();
    let mounted = crate::support::mount::Mounted::new(&image, &point, "btrfs", None).unwrap();
    for name in ["one", "two"] {
        let path = point.join(name).into_os_string();
        crate::support::mount::run("btrfs", &["subvolume".into(), "create".into(), path]).unwrap();
    }
    let at = |name: &str| {
        let dir = fs::File::open(point.join(name)).unwrap();
        (dir.metadata().unwrap().dev(), domain::of(dir).unwrap())
    };
    let (one, two, top) = (at("one"), at("two"), at("."));
    assert_ne!(one.0, two.0, "the kernel numbers them apart");
    assert!(one.1 == two.1 && two.1 == top.1, "{one:x?} {two:x?} {top:x?}");
    let elsewhere = domain::of(fs::File::open(dirs.path()).unwrap()).unwrap();
    assert_ne!(one.1, elsewhere);
    drop(mounted);
}

#[test]
fn an_unmounted_disk_is_offline() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: mounting needs root");
    }
    let dirs = tempfile::tempdir().unwrap();
    in_own_mounts(move || {
        let at = dirs.path().join("disk");
        fs::create_dir(&at).unwrap();
        mount(Path::new("tmpfs"), &at, 0)?;
        let bucket = DirBucket::create(&at).unwrap();
        bucket.put("data/x", &[b"1"]).unwrap();
        let path = std::ffi::CString::new(at.to_str().unwrap()).unwrap();
        // SAFETY: a valid path; only this thread sees the mount.
        assert_eq!(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }, 0);
        assert_offline(&bucket);
        assert!(is_offline(&DirBucket::open(&at)));
        Ok(())
    });
}

/// Runs on a thread whose mounts nobody else sees; says so if this system does not allow it.
fn in_own_mounts(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    let run = move || {
        // SAFETY: affects this thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        mount(Path::new("none"), Path::new("/"), libc::MS_REC | libc::MS_PRIVATE)?;
        work()
    };
    if let Err(e) = std::thread::spawn(run).join().unwrap() {
        eprintln!("skipped: cannot mount: {e}");
    }
}

fn mount(what: &Path, at: &Path, flags: libc::c_ulong) -> std::io::Result<()> {
    let text = |path: &Path| std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let (source, target) = (text(what), text(at));
    // SAFETY: all pointers are to valid C strings that outlive the call.
    let done =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), flags, std::ptr::null()) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
