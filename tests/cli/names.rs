//! Names that break careless programs, through the whole way: stash, listing, clone, checkout.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::support::content::noise;
use crate::support::shell::Shell;
use crate::support::tree::read;

fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "new\nline",
        "tab\there",
        "-n",
        "--json",
        " leading",
        "trailing ",
        "#1",
        "a#2",
        "quote'\"`$x;",
        "back\\slash",
        "\u{1f4a7} drop",
        "\u{7f}del",
        "*?[x]",
        ".hidden",
        "con",
        "a:b",
        "~",
        "%00",
        "{}",
        "e\u{301}",
        "\u{e9}",
        "\u{202e}evil",
        "\u{1b}[31mred",
    ]
    .iter()
    .map(|n| n.as_bytes().to_vec())
    .collect();
    names.push(b"invalid \xff\xfe\x80".to_vec());
    names.push(b"\xc3".to_vec());
    names.push((1..=255u8).filter(|b| *b != b'/').take(200).collect());
    names.push(vec![b'n'; 255]);
    names.push("\u{1f4a7}".repeat(63).into_bytes());
    names
}

#[test]
fn every_name_goes_the_whole_way() {
    let shell = Shell::with_store();
    let names = odd_names();
    for (i, name) in names.iter().enumerate() {
        let path = Path::new("odd").join(OsStr::from_bytes(name));
        shell.write(&path, &noise(i as u64, 17_000));
    }
    shell.ok("mkdir \"dir\nectory\" && echo in > \"dir\nectory/in\" && ln -s 'to\nnowhere' 'sym\nlink'");
    let before = read(&shell.at("")).expect("readable");
    shell.ok("ddr stash .");
    let ls = shell.ok("ddr ls odd");
    assert_eq!(ls.lines().count(), names.len(), "one line per name: {ls}");
    assert!(ls.lines().all(|l| l.starts_with("stub")), "{ls}");
    assert!(!ls.contains('\u{1b}') && !ls.contains('\u{202e}'), "nothing that moves the cursor: {ls:?}");
    for line in ["ddr ls --json odd", "ddr history --json --limit 1000", "ddr status --json"] {
        let said = shell.ok(line);
        let all: Result<Vec<serde_json::Value>, _> = said.lines().map(serde_json::from_str).collect();
        assert!(all.is_ok(), "{line}: {said}");
    }
    let two = shell.other("two");
    two.ok("ddr clone ../../store . && ddr checkout");
    assert!(read(&two.at("")).expect("readable") == before);
    shell.ok("ddr checkout && ddr commit");
    assert!(read(&shell.at("")).expect("readable") == before);
}

#[test]
fn odd_names_can_be_named() {
    let shell = Shell::with_store();
    for name in ["-n", "a#2", "new\nline", "--json"] {
        shell.write(Path::new(name), &noise(3, 20_000));
    }
    let said = shell.transcript(
        r#"ddr stash ./-n -- --json "$(printf 'new\nline')" 'a#2'
           ddr ls -- -n --json
           ddr whereis "$(printf 'new\nline')"
           ddr history 'a#2'
           rm 'a#2' && ddr commit -q
           ddr restore 'a#2#1'
           ddr restore 'a#2'
           ddr checkout -- -n"#,
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr stash ./-n -- --json "$(printf 'new\nline')" 'a#2'
    stashed 4 files (78.1 KiB), freeing <n>
    $ ddr ls -- -n --json
    stub  1  19.5 KiB  --json
    stub  1  19.5 KiB  -n
    $ ddr whereis "$(printf 'new\nline')"
    new\nline: 19.5 KiB, stub here
      content 13e5d891abdfe7a28559f5c8bb88d19bd73fbc39618d7eda48ab4e5d5a5e3356
      disk2 has it, verified <----- now ---->
    $ ddr history 'a#2'
    <----- now ---->  #1  file  19.5 KiB  13e5d891  folder
    $ rm 'a#2' && ddr commit -q
    $ ddr restore 'a#2#1'
    restored a#2#1 (19.5 KiB) to /r/one/folder/a#2
    $ ddr restore 'a#2'
    restored a#2#3 (19.5 KiB) to /r/one/folder/a#2
    $ ddr checkout -- -n
    checked out 1 file (19.5 KiB)
    "#);
}

#[test]
fn paths_as_long_as_they_can_be() {
    let shell = Shell::with_store();
    // Deeper than one system call can name: made and read step by step.
    let dir = "d".repeat(250);
    shell.ok(&format!(
        "i=0; while [ $i -lt 15 ]; do mkdir {dir} && cd -P {dir} && i=$((i+1)); done; \
                       head -c 20000 /dev/zero | tr '\\0' y > {}; pwd | wc -c > $OLDPWD/len",
        "f".repeat(230)
    ));
    let deep: PathBuf = std::iter::repeat_n(dir.as_str(), 15).collect();
    let path = deep.join("f".repeat(230));
    assert!(path.as_os_str().len() > 3990);
    shell.ok("ddr stash .");
    let said = shell.ok("ddr status");
    assert!(said.contains("nothing changed"), "{said}");
    let two = shell.other("two");
    two.ok("ddr clone ../../store .");
    two.ok("ddr checkout && ddr commit");
    let cat = |shell: &Shell| shell.ok(&format!("{} cat f*", format!("cd -P {dir}; ").repeat(15)));
    assert_eq!(cat(&two), "y".repeat(20_000));
    shell.ok("ddr checkout");
    assert_eq!(cat(&shell), "y".repeat(20_000));
}

#[test]
fn a_path_too_long_is_reported_and_left_alone() {
    let shell = Shell::with_store();
    let dir = "d".repeat(250);
    shell.ok(&format!(
        "i=0; while [ $i -lt 16 ]; do mkdir {dir} && cd -P {dir} && i=$((i+1)); done; \
                       echo ok > short; echo far > {}",
        "f".repeat(200)
    ));
    let said = shell.code("ddr commit", 3);
    assert!(said.contains("longer than 4,095 bytes") && said.contains("1 file had problems"), "{said}");
    shell.code("ddr status", 3);
    shell.ok(&format!("{} test -f f*", format!("cd -P {dir}; ").repeat(16)));
}
