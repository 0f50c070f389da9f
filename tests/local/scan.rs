//! The walk: its order, odd names, rules, and what is left out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ddr::base::error::Error;
use ddr::base::path::RelPath;
use ddr::local::root::Root;
use ddr::local::scan::{Scan, ScanOptions, Seen, Skip};
use ddr::local::stat::FileType;
use proptest::prelude::*;

use super::place::as_ordinary_user;

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("temp dir")
}

fn scan(dir: &Path, start: &RelPath) -> Vec<Seen> {
    let root = Root::open(dir).expect("root");
    let scan = Scan::new(&root, start, ScanOptions::default()).expect("scan");
    scan.map(|seen| seen.expect("goes on")).collect()
}

/// Entries only, as joined bytes; skips as `!why path`.
fn lines(dir: &Path, start: &str) -> Vec<String> {
    let line = |seen| match seen {
        Seen::Entry(path, _) => path.to_string(),
        Seen::Skipped { path, subtree, why } => {
            let why = match why {
                Skip::Unreadable(_) => "unreadable".into(),
                other => format!("{other:?}").to_lowercase(),
            };
            format!("!{why}{} {path}", if subtree { "/" } else { "" })
        }
    };
    scan(dir, &RelPath::new(start).expect("path")).into_iter().map(line).collect()
}

fn put(dir: &Path, name: &[u8], text: &str) -> PathBuf {
    let path = dir.join(OsStr::from_bytes(name));
    std::fs::create_dir_all(path.parent().expect("parent")).expect("dirs");
    std::fs::write(&path, text).expect("write");
    path
}

/// All paths below, the slow and simple way.
fn reference(dir: &Path, prefix: &[u8], out: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(dir).expect("list") {
        let entry = entry.expect("entry");
        let mut path = prefix.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(entry.file_name().as_bytes());
        if entry.file_type().expect("type").is_dir() {
            reference(&entry.path(), &path, out);
        }
        out.push(path);
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // Bytes around '/', so that the order of children matters.
    let byte = prop::sample::select(b"a!-.0~\n\xff\x01 \\".to_vec());
    prop::collection::vec(byte, 1..4).prop_filter("not a name", |n| !matches!(n.as_slice(), b"." | b".."))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_scan_comes_in_byte_order(
        paths in prop::collection::vec((prop::collection::vec(name(), 1..4), any::<bool>()), 1..40),
    ) {
        let temp = temp();
        for (parts, is_dir) in paths {
            let path = temp.path().join(OsStr::from_bytes(&parts.join(&b'/')));
            // Some paths run into files made before; that is fine.
            let _ = std::fs::create_dir_all(if is_dir { &path } else { path.parent().expect("parent") });
            if !is_dir && !path.exists() {
                let _ = std::fs::write(&path, b"x");
            }
        }
        let mut expected = Vec::new();
        reference(temp.path(), b"", &mut expected);
        expected.sort();
        let all: Vec<Vec<u8>> = scan(temp.path(), &RelPath::root()).iter().map(|seen| match seen {
            Seen::Entry(path, _) => path.as_bytes().to_vec(),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(&all, &expected);
        for start in &expected {
            let start = RelPath::new(start.clone()).expect("path");
            let part: Vec<Vec<u8>> = scan(temp.path(), &start).iter().map(|seen| match seen {
                Seen::Entry(path, _) => path.as_bytes().to_vec(),
                other => panic!("{other:?}"),
            }).collect();
            let under = |p: &&Vec<u8>| RelPath::new((*p).clone()).expect("path").is_under(&start);
            prop_assert_eq!(part, expected.iter().filter(under).cloned().collect::<Vec<_>>());
        }
    }
}

#[test]
fn entries_say_what_they_are() {
    let temp = temp();
    put(temp.path(), b"d/file", "12345");
    std::os::unix::fs::symlink("nowhere", temp.path().join("link")).expect("link");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        temp.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .expect("fifo");
    put(temp.path(), b".ddr/folder.toml", "own");
    put(temp.path(), b"nested/.ddr/folder.toml", "a folder of its own");
    put(temp.path(), b"odd/.DDR/x", "not ours");
    put(temp.path(), b".ddr-tmp-0123456789abcdef", "left over");
    assert_eq!(
        lines(temp.path(), ""),
        [
            "!special(\"temporary file of an interrupted ddr\") .ddr-tmp-0123456789abcdef",
            "d",
            "d/file",
            "link",
            "!nested/ nested",
            "odd",
            "!badname(\"path odd/.ddr: `.ddr` is ddr's own directory\") odd",
            "!special(\"fifo\") pipe",
        ]
    );
    let kinds: Vec<FileType> = scan(temp.path(), &RelPath::root())
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Entry(_, stat) => Some(stat.kind),
            Seen::Skipped { .. } => None,
        })
        .collect();
    assert_eq!(kinds, [FileType::Dir, FileType::File, FileType::Symlink, FileType::Dir]);
    let root = Root::open(temp.path()).expect("root");
    let inside = RelPath::new("nested/x").expect("path");
    assert!(matches!(Scan::new(&root, &inside, ScanOptions::default()), Err(Error::Refused(_))));
}

#[test]
fn starts_below_the_root() {
    let temp = temp();
    put(temp.path(), b"a/b/c", "x");
    std::os::unix::fs::symlink("a", temp.path().join("link")).expect("link");
    assert_eq!(lines(temp.path(), "a/b"), ["a/b", "a/b/c"]);
    assert_eq!(lines(temp.path(), "a/b/c"), ["a/b/c"]);
    assert_eq!(lines(temp.path(), "link"), ["link"]);
    for absent in ["x", "a/x", "x/y", "a/b/c/d"] {
        assert!(lines(temp.path(), absent).is_empty(), "{absent}");
    }
    let root = Root::open(temp.path()).expect("root");
    let behind = RelPath::new("link/b").expect("path");
    assert!(matches!(Scan::new(&root, &behind, ScanOptions::default()), Err(Error::Refused(_))));
}

#[test]
fn ignore_files_nest_and_negate() {
    let temp = temp();
    put(temp.path(), b".ddrignore", "*.o\n/build/\n!keep.o\n[z-a]\nlogs/**/old\n");
    for path in [
        "a.o",
        "a.c",
        "keep.o",
        "build/x",
        "sub/build/x",
        "sub/a.o",
        "sub/b.o",
        "logs/1/old",
        "sub/.ddrignore",
    ] {
        put(temp.path(), path.as_bytes(), if path.ends_with("ignore") { "!b.o\na.c\n" } else { "x" });
    }
    assert_eq!(
        lines(temp.path(), ""),
        [
            ".ddrignore",
            "!unreadable .ddrignore",
            "a.c",
            "!ignored a.o",
            "!ignored/ build",
            "keep.o",
            "logs",
            "logs/1",
            "!ignored logs/1/old",
            "sub",
            "sub/.ddrignore",
            "!ignored sub/a.o",
            "sub/b.o",
            "sub/build",
            "sub/build/x",
        ]
    );
    assert_eq!(lines(temp.path(), "build/x"), ["!ignored/ build/x"]);
    assert_eq!(lines(temp.path(), "sub/a.o"), ["!ignored sub/a.o"]);
    assert_eq!(lines(temp.path(), "sub/b.o"), ["sub/b.o"]);
}

#[test]
fn long_and_deep_paths() {
    let temp = temp();
    let root = Root::open(temp.path()).expect("root");
    // 15 names of 255 bytes and one of 159: 3,999 bytes; below that, names that go too far.
    let mut path = RelPath::root();
    for len in [vec![255; 15], vec![159]].concat() {
        path = path.join(&vec![b'n'; len]).expect("fits");
        ddr::local::stub::create_dir(&root, &path, 0o700).expect("made");
    }
    assert_eq!(path.as_bytes().len(), 3999);
    let deepest = root.open_dir(&path).expect("open");
    rustix::fs::mkdirat(&deepest, "x".repeat(200), 0o700.into()).expect("made");
    let seen = scan(temp.path(), &RelPath::root());
    assert_eq!(seen.len(), 17);
    assert!(matches!(seen.last(), Some(Seen::Skipped { why: Skip::BadName(_), subtree: false, .. })));
    assert_eq!(scan(temp.path(), &path).len(), 2);

    // Deeper than directories are kept open.
    let mut path = RelPath::new("deep").expect("path");
    for _ in 0..300 {
        ddr::local::stub::create_dir(&root, &path, 0o700).expect("made");
        ddr::local::stub::create_dir(&root, &path.join(b"z").expect("fits"), 0o700).expect("made");
        path = path.join(b"d").expect("fits");
    }
    let seen = lines(temp.path(), "deep");
    assert_eq!(seen.len(), 600);
    assert!(seen.is_sorted() && seen.iter().all(|line| !line.starts_with('!')));
}

#[test]
fn what_cannot_be_listed_is_said() {
    let temp = temp();
    std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    put(temp.path(), b"a/x", "x");
    put(temp.path(), b"a-b", "x");
    let closed = temp.path().join("a");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).expect("chmod");
    as_ordinary_user(|| assert_eq!(lines(temp.path(), ""), ["a", "a-b", "!unreadable/ a"]));
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("chmod");
}

#[test]
fn other_file_systems_are_left_out_unless_asked_for() {
    let Some(place) = super::place::Place::mounted("ext4") else { return };
    let mount = place.dir("x").parent().expect("mount").to_path_buf();
    let above = mount.parent().expect("above");
    assert!(lines(above, "").contains(&"!otherdevice/ mnt".to_string()));
    assert!(lines(above, "mnt").contains(&"!otherdevice/ mnt".to_string()));
    let root = Root::open_across(above).expect("root");
    let options = ScanOptions { cross_devices: true };
    let seen = Scan::new(&root, &RelPath::new("mnt/x").expect("path"), options).expect("scan").count();
    assert_eq!(seen, 1);
}
