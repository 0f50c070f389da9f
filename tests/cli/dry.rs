//! `-n` says what would be done and does nothing: not one byte of folder, store or home moves.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::shell::Shell;
use crate::support::tree::walk;

/// Everything below a directory: size, times, mode, and bytes of what is small.
fn everything(root: &Path) -> BTreeMap<PathBuf, String> {
    let look = |path: PathBuf| {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).expect("just listed");
        let hash = (meta.is_file()).then(|| blake3::hash(&fs::read(&full).expect("readable")));
        let facts = format!(
            "{:o} {} {}.{} {} {hash:?}",
            meta.mode(),
            if meta.is_dir() { 0 } else { meta.len() },
            if meta.is_dir() { 0 } else { meta.mtime() },
            if meta.is_dir() { 0 } else { meta.mtime_nsec() },
            meta.ino(),
        );
        (path, facts)
    };
    let dirs = [root.to_path_buf(), root.join(".ddr")];
    let all = dirs.iter().filter(|d| d.exists()).flat_map(|dir| {
        let prefix = dir.strip_prefix(root).expect("below").to_path_buf();
        walk(dir).expect("readable").into_iter().map(move |p| prefix.join(p))
    });
    // The lock file names who had it last; databases are only indexes, and opening one may fold its
    // journal into it.
    let is_state = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.ends_with("lock") && !name.contains(".db")
    };
    all.filter(is_state).map(look).collect()
}

fn nothing_moves(shell: &Shell, line: &str) -> String {
    let places = [shell.at(""), shell.sandbox.store(), shell.sandbox.home()];
    let look = || places.iter().filter(|p| p.exists()).map(|p| everything(p)).collect::<Vec<_>>();
    let before = look();
    let said = shell.transcript(line);
    let after = look();
    for (old, new) in before.iter().zip(&after) {
        let differs = |(path, facts): &(&PathBuf, &String)| old.get(*path) != Some(*facts);
        let changed: Vec<_> = new.iter().filter(differs).collect();
        assert!(changed.is_empty(), "`{line}` changed {changed:#?}");
        assert_eq!(old.len(), new.len(), "`{line}` removed something");
    }
    said
}

#[test]
fn a_dry_run_changes_nothing() {
    let shell = Shell::stashed();
    shell.ok("echo 'buy milk and bread' > note.txt && ddr commit");
    shell.write("new.bin", &[7; 40_000]);
    shell.ok("rm link && echo again > note.txt");
    let mut said = String::new();
    for line in [
        "ddr stash -n .",
        "ddr stash -n note.txt",
        "ddr stash --dry-run --json .",
        "ddr commit -n",
        "ddr commit -n --json note.txt",
        "ddr checkout -n .",
        "ddr checkout -n --json photos",
        "ddr restore -n 'note.txt#1'",
        "ddr restore -n 'note.txt#1' --to elsewhere",
        "ddr restore -n link",
        "ddr gc -n",
        "ddr gc -n --grace 0s",
    ] {
        said += &nothing_moves(&shell, line);
    }
    insta::assert_snapshot!(said, @r#"
    $ ddr stash -n .
    would stash 1 file (39.1 KiB), freeing <n>; 2 stubs already; 1 placed but small, kept here
    $ ddr stash -n note.txt
    would stash 0 files (0 B), freeing <n>; 1 placed but small, kept here
    ! note.txt: unsupported: placed, but stays: 6 B is below stash.min_size (16.0 KiB), a stub would hardly free anything
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr stash --dry-run --json .
    {"already":2,"deleted":1,"dry_run":true,"freed_bytes":<n>,"pinned":0,"problems":0,"recorded":2,"small":1,"stashed":1,"stashed_bytes":40000,"type":"stash"}
    $ ddr commit -n
    D link
    A new.bin
    M note.txt
    $ ddr commit -n --json note.txt
    {"change":"M","path":"note.txt","type":"change"}
    $ ddr checkout -n .
    would check out 2 files (376.0 KiB)
    $ ddr checkout -n --json photos
    {"dry_run":true,"filled":1,"filled_bytes":300000,"problems":0,"type":"checkout"}
    $ ddr restore -n 'note.txt#1'
    would restore note.txt#1 (9 B) to /r/one/folder/note.txt
    $ ddr restore -n 'note.txt#1' --to elsewhere
    would restore note.txt#1 (9 B) to /r/one/folder/elsewhere
    $ ddr restore -n link
    would restore link#1 (0 B) to /r/one/folder/link
    $ ddr gc -n
    disk2: 2 packs looked at, 0 newly condemned, 0 deleted (0 B)
    $ ddr gc -n --grace 0s
    disk2: 2 packs looked at, 0 newly condemned, 0 deleted (0 B)
    "#);
}

#[test]
fn looking_changes_nothing() {
    let shell = Shell::stashed();
    shell.ok("echo more >> note.txt");
    for line in [
        "ddr status",
        "ddr ls -l",
        "ddr du",
        "ddr whereis report.txt",
        "ddr history",
        "ddr history --deleted",
        "ddr find --same report.txt",
        "ddr remote list",
        "ddr config list",
        "ddr debug state-hash",
        "ddr fsck --read-data",
    ] {
        nothing_moves(&shell, line);
    }
}

#[test]
fn what_a_dry_run_announces_is_what_happens() {
    let shell = Shell::with_store();
    let figures = |said: String| {
        let json: serde_json::Value = serde_json::from_str(&said).expect("one object");
        ["stashed", "stashed_bytes", "small", "already", "recorded", "deleted"].map(|f| json[f].clone())
    };
    assert_eq!(figures(shell.ok("ddr stash -n --json .")), figures(shell.ok("ddr stash --json .")));
    shell.write("photos/new.raw", &[7; 40_000]);
    shell.ok("rm note.txt && ddr checkout report.txt");
    assert_eq!(figures(shell.ok("ddr stash -n --json .")), figures(shell.ok("ddr stash --json .")));
    assert_eq!(figures(shell.ok("ddr stash -n --json .")), figures(shell.ok("ddr stash --json .")));
}
