//! Manners at a prompt: closed pipes, colour, quiet, and an environment that lacks things.

use crate::support::shell::Shell;

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let shell = Shell::stashed();
    for i in 0..3000 {
        std::fs::write(shell.at(format!("{i:04}-a-name-of-some-length")), b"x").expect("sandbox file");
    }
    // The exit code of the left side of the pipe is what counts.
    let left = |line: &str| {
        let output = shell.run(&format!("{{ {line}; echo $? > ../code; }} | head -n 1"));
        assert!(!output.stderr.contains("panic"), "{line}: {}", output.stderr);
        let code = std::fs::read_to_string(shell.at("../code")).expect("written");
        assert_eq!((code.trim(), output.stderr.as_str()), ("0", ""), "{line}");
    };
    left("ddr ls");
    left("ddr ls --json");
    left("ddr status");
    left("ddr status --json");
    left("ddr commit -n");
    shell.ok("ddr commit -q");
    left("ddr history --limit 5000");
    left("ddr completions bash");
    left("ddr help");
    left("ddr du --json");
}

#[test]
fn a_full_disk_for_output_is_an_error() {
    let shell = Shell::stashed();
    if !std::path::Path::new("/dev/full").exists() {
        return;
    }
    let output = shell.run("ddr ls > /dev/full");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("no space left") || output.stderr.contains("stdout"), "{output:?}");
}

#[test]
fn colour_is_for_terminals_or_on_request() {
    let shell = Shell::stashed();
    let colourful = |line: &str| {
        let said = shell.run(line);
        (said.stdout + &said.stderr).contains('\u{1b}')
    };
    assert!(!colourful("unset NO_COLOR; ddr ls"), "not a terminal");
    assert!(!colourful("NO_COLOR=1 ddr ls"));
    assert!(!colourful("unset NO_COLOR; ddr --color never ls"));
    assert!(colourful("unset NO_COLOR; ddr --color always ls"));
    assert!(colourful("unset NO_COLOR; ddr ls --color=always"));
    assert!(colourful("unset NO_COLOR; ddr --color always ls nope"), "errors, too");
    assert!(!colourful("unset NO_COLOR; ddr --color always ls --json"));
    assert!(shell.code("ddr --color sometimes ls", 2).contains("sometimes"));
    // On a terminal, where `script` is there to make one.
    if shell.run("command -v script").code == Some(0) {
        assert!(colourful("unset NO_COLOR; TERM=xterm script -qec 'ddr ls' /dev/null"));
        assert!(!colourful("NO_COLOR=1 TERM=xterm script -qec 'ddr ls' /dev/null"));
    }
}

#[test]
fn quiet_says_only_what_was_asked_for_and_what_went_wrong() {
    let shell = Shell::with_files();
    let said = shell.transcript(
        "ddr init -q
         ddr remote add disk2 ../../store --init --same-disk -q
         ddr commit -n -q
         ddr stash -q .
         ddr -q status
         ddr -q ls note.txt
         ddr -q stash note.txt
         ddr -q checkout
         ddr -q checkout nope",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr init -q
    $ ddr remote add disk2 ../../store --init --same-disk -q
    $ ddr commit -n -q
    A empty
    A link
    A note.txt
    A photos
    A photos/beach.raw
    A report.txt
    $ ddr stash -q .
    $ ddr -q status
    $ ddr -q ls note.txt
    full  1  9 B  note.txt
    $ ddr -q stash note.txt
    ! note.txt: unsupported: placed, but stays: 9 B is below stash.min_size (16.0 KiB), a stub would hardly free anything
    ! ddr: 1 file had problems
    [exit 3]
    $ ddr -q checkout
    $ ddr -q checkout nope
    ! ddr: nope not found
    [exit 1]
    ");
}

#[test]
fn an_environment_that_lacks_things() {
    let shell = Shell::with_files();
    let said = shell.transcript(
        "env -u HOME -u XDG_CACHE_HOME -u XDG_STATE_HOME ddr --version
         ddr init -q && TZ=Nowhere/Atall ddr ls -l note.txt
         mkdir ../gone && cd ../gone && rmdir ../gone && ddr status",
    );
    insta::assert_snapshot!(said, @r"
    $ env -u HOME -u XDG_CACHE_HOME -u XDG_STATE_HOME ddr --version
    ddr 0.1.0
    $ ddr init -q && TZ=Nowhere/Atall ddr ls -l note.txt
    new  -  9 B  644  2024-01-02 03:04  -  note.txt
    $ mkdir ../gone && cd ../gone && rmdir ../gone && ddr status
    ! ddr: finding the working directory: No such file or directory (os error 2)
    [exit 1]
    ");
}
