//! Policies at the prompt: which one is in force, what it would do, doing it, and why.

use std::fs::OpenOptions;

use crate::support::content::noise;
use crate::support::own_files;
use crate::support::shell::Shell;

/// Files of several ages with a store: large and old, old, in between, young, small, kept.
fn aged() -> Shell {
    let shell = Shell::new();
    let files = [
        ("Videos/lecture.mp4", 11_000_000, 70),
        ("Documents/report.pdf", 200_000, 200),
        ("Documents/draft.pdf", 300_000, 20),
        ("Documents/plan.pdf", 100_000, 1),
        ("Documents/notes.txt", 500, 900),
        (".config/state.db", 100_000, 400),
    ];
    for (path, size, _) in files {
        shell.write(path, &noise(size, size));
    }
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk");
    for (path, _, days) in files {
        shell.ok(&format!("touch -d '{days} days ago' {path}"));
    }
    shell
}

#[test]
fn policies_are_shown_and_checked() {
    let shell = aged();
    shell.ok("printf '[class.raw]\\next = [\"cr3\"]\\n[[rule]]\\nclass = \"raw\"\\ndo = \"stash\"\\nafter = \"30d\"\\n' > mine.toml");
    shell.ok("printf '[[rule]]\\nclass = \"raw\"\\ndo = \"keep\"\\n' > bad.toml");
    let said = shell.transcript(
        "ddr policy show
         ddr policy show mirror
         ddr policy show mirror --text | head -1
         ddr policy show nothing
         ddr policy check mine.toml
         ddr policy check bad.toml
         ddr policy check none.toml
         ddr config set policy.file mine.toml
         ddr config set policy.water.high 90%
         ddr policy show
         ddr policy show --json
         ddr config set policy.use edge
         ddr policy show
         ddr config unset policy.file
         ddr config set policy.use nothing
         ddr stash
         ddr config set policy.every never",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr policy show
    policy laptop (the default)
    Laptop: a small disk that never runs full, with what you work on always at hand.
      1. settings: keep
      2. large: stash after 60d, when full after 3d
      3. every file: stash after 180d, when full after 7d
      every 60m
      high water 85%, low water 75% of the disk
    others: laptop, workstation, photographer, edge, archive, mirror; choose one with: ddr config set policy.use NAME
    $ ddr policy show mirror
    policy mirror
    Mirror: every file stays here whole; stores hold copies, and nothing ever goes by itself.
      1. every file: keep
      every 24h
    $ ddr policy show mirror --text | head -1
    # Mirror: every file stays here whole; stores hold copies, and nothing ever goes by itself.
    $ ddr policy show nothing
    ! ddr: there is no policy "nothing"; there are: laptop, workstation, photographer, edge, archive, mirror
    [exit 2]
    $ ddr policy check mine.toml
    mine.toml: 1 rule, no mistakes
    $ ddr policy check bad.toml
    ! ddr: /r/one/folder/bad.toml: line 2, column 9: there is no [class.raw]
    [exit 2]
    $ ddr policy check none.toml
    ! ddr: reading /r/one/folder/none.toml: No such file or directory (os error 2)
    [exit 1]
    $ ddr config set policy.file mine.toml
    $ ddr config set policy.water.high 90%
    $ ddr policy show
    policy /r/one/folder/mine.toml, changed by config.toml
      1. raw: stash after 30d
      every 60m
      high water 90%, low water 90% of the disk
    others: laptop, workstation, photographer, edge, archive, mirror; choose one with: ddr config set policy.use NAME
    $ ddr policy show --json
    {"changed":true,"every_secs":3600,"high":"90%","low":"90%","name":"mine.toml","rules":["raw: stash after 30d"],"source":"/r/one/folder/mine.toml","type":"policy"}
    $ ddr config set policy.use edge
    $ ddr policy show
    ! ddr: [policy] names both `use` and `file`; remove one of them
    [exit 2]
    $ ddr config unset policy.file
    $ ddr config set policy.use nothing
    $ ddr stash
    ! ddr: policy.use: there is no policy "nothing"; there are: laptop, workstation, photographer, edge, archive, mirror
    [exit 2]
    $ ddr config set policy.every never
    ! ddr: TOML parse error at line 7, column 9
    !   |
    ! 7 | every = "never"
    !   |         ^^^^^^^
    ! "never" is not a duration: write 90s, 10m, 36h, 30d, 2w or 1y
    [exit 2]
    "#);
}

#[test]
fn the_policy_picks_by_age_and_says_so() {
    let shell = aged();
    shell.ok("ddr config set policy.water.of 1GiB");
    let json = shell.ok("ddr policy plan --json --paths");
    assert_eq!(json.matches("\"because\":\"age\"").count(), 2, "{json}");
    assert!(json.contains("\"excess_bytes\":0,\"files\":2") && json.contains("\"fate\":\"spare\""), "{json}");
    let said = shell.transcript(
        "ddr policy plan | grep -v budget
         ddr policy plan --paths | tail -2
         ddr stash -n | head -1
         ddr stash
         ddr stash
         ddr policy plan | grep -v budget",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr policy plan | grep -v budget
    policy laptop (the default)
        frees  files  to      because
     10.5 MiB      1  stores  large: not used for 60d
    192.0 KiB      1  stores  every file: not used for 180d
     10.7 MiB      2          together
    most of it from:
     10.5 MiB  1 file  Videos
    192.0 KiB  1 file  Documents
    10.7 MiB to place; how long that takes is known after the first run
    what stays:
    1 file  kept: a rule says so, or none fits  (97.7 KiB)
    1 file  too small to gain anything          (500 B)
    1 file  used too recently                   (97.7 KiB)
    1 file  only when room is short             (293.0 KiB)
    $ ddr policy plan --paths | tail -2
    <----- now ---->   195.3 KiB  Documents/report.pdf
    <----- now ---->    10.5 MiB  Videos/lecture.mp4
    $ ddr stash -n | head -1
    policy laptop (the default)
    $ ddr stash
    stashed 2 files (10.7 MiB), freeing <n>
    $ ddr stash
    stashed 0 files (0 B), freeing <n>
    $ ddr policy plan | grep -v budget
    policy laptop (the default)
    nothing to stash now
    what stays:
    2 files  stubs already                       (10.7 MiB)
     1 file  kept: a rule says so, or none fits  (97.7 KiB)
     1 file  too small to gain anything          (500 B)
     1 file  used too recently                   (97.7 KiB)
     1 file  only when room is short             (293.0 KiB)
    "#);
}

#[test]
fn above_high_water_the_least_recently_used_go_first() {
    let shell = aged();
    shell.ok(
        "ddr stash Videos && ddr config set policy.water.of 800KiB && ddr config set policy.water.low 60%",
    );
    let said = shell.transcript(
        "ddr policy plan --paths | grep -v 'budget|to place' -E
         ddr why Documents/draft.pdf | tail -1
         ddr stash
         ddr policy plan | grep -v budget
         ddr ls Documents",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr policy plan --paths | grep -v 'budget|to place' -E
    policy laptop (the default)
        frees  files  to      because
    292.0 KiB      1  stores  every file: room is short, not used for 7d
    192.0 KiB      1  stores  every file: not used for 180d
    484.0 KiB      2          together
    most of it from:
    484.0 KiB  2 files  Documents
    what stays:
    1 file  stubs already                       (10.5 MiB)
    1 file  kept: a rule says so, or none fits  (97.7 KiB)
    1 file  too small to gain anything          (500 B)
    1 file  used too recently                   (97.7 KiB)
    <----- now ---->   293.0 KiB  Documents/draft.pdf
    <----- now ---->   195.3 KiB  Documents/report.pdf
    $ ddr why Documents/draft.pdf | tail -1
      verdict   goes with the next `ddr stash`: room is short
    $ ddr stash
    stashed 2 files (488.3 KiB), freeing <n>
    $ ddr policy plan | grep -v budget
    policy laptop (the default)
    nothing to stash now
    what stays:
    3 files  stubs already                       (11.0 MiB)
     1 file  kept: a rule says so, or none fits  (97.7 KiB)
     1 file  too small to gain anything          (500 B)
     1 file  used too recently                   (97.7 KiB)
    $ ddr ls Documents
    stub  1  293.0 KiB  draft.pdf
    new   -      500 B  notes.txt
    new   -   97.7 KiB  plan.pdf
    stub  1  195.3 KiB  report.pdf
    "#);
    shell.ok("ddr config set policy.water.of 100KiB");
    assert!(shell.ok("ddr policy plan").contains("low water is out of reach"));
}

#[test]
fn why_explains_every_fate() {
    let shell = aged();
    shell.ok(
        "ddr config set policy.water.of 1GiB && ddr stash Documents/report.pdf && ddr pin Documents/plan.pdf",
    );
    let said = shell.transcript(
        "ddr why Videos/lecture.mp4 | grep -v mounted
         ddr why Documents/report.pdf | grep -v mounted
         ddr why Documents/draft.pdf Documents/plan.pdf | grep -v mounted | sed s/159d/160d/
         ddr why Documents/notes.txt .config/state.db | grep -v mounted
         ddr why Documents
         ddr why nothing",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr why Videos/lecture.mp4 | grep -v mounted
    Videos/lecture.mp4: 10.5 MiB, full here
      last use  <----- now ---->, 70d ago (access time)
      rule      rule 2 of policy laptop (the default): large: stash after 60d, when full after 3d
      copies    not recorded yet
      verdict   goes with the next `ddr stash`
    $ ddr why Documents/report.pdf | grep -v mounted
    Documents/report.pdf: 195.3 KiB, a stub
      last use  <----- now ---->, 200d ago (access time)
      rule      rule 3 of policy laptop (the default): every file: stash after 180d, when full after 7d
      copies    disk2
      verdict   a stub already; `ddr checkout` brings it here
    $ ddr why Documents/draft.pdf Documents/plan.pdf | grep -v mounted | sed s/159d/160d/
    Documents/draft.pdf: 293.0 KiB, full here
      last use  <----- now ---->, 20d ago (access time)
      rule      rule 3 of policy laptop (the default): every file: stash after 180d, when full after 7d
      copies    not recorded yet
      verdict   goes once high water is passed, and not before; anyway in 160d (<----- now ---->)
    Documents/plan.pdf: 97.7 KiB, full here
      last use  <----- now ---->, 24h ago (access time)
      rule      rule 3 of policy laptop (the default): every file: stash after 180d, when full after 7d
      copies    not recorded yet
      verdict   stays: pinned by `ddr pin Documents/plan.pdf`
    $ ddr why Documents/notes.txt .config/state.db | grep -v mounted
    .config/state.db: 97.7 KiB, full here
      last use  <----- now ---->, 400d ago (access time)
      rule      rule 1 of policy laptop (the default): settings: keep
      copies    not recorded yet
      verdict   stays: a rule keeps it; `ddr stash` with its name stashes it all the same
    Documents/notes.txt: 500 B, full here
      last use  <----- now ---->, 900d ago (access time)
      rule      rule 3 of policy laptop (the default): every file: stash after 180d, when full after 7d
      copies    not recorded yet
      verdict   stays: too small, a stub would hardly free anything (stash.min_size)
    $ ddr why Documents
    ! ddr: Documents is no regular file: policies are about regular files; `ddr policy plan --paths` lists those of a directory
    [exit 2]
    $ ddr why nothing
    ! ddr: nothing not found
    [exit 1]
    "#);
    let json = shell.ok("ddr why --json Videos/lecture.mp4");
    assert!(json.contains("\"fate\":\"stash\"") && json.contains("\"rule\":2"), "{json}");
}

#[test]
fn checking_out_is_a_use() {
    let shell = aged();
    shell.ok("ddr stash && ddr checkout Documents/report.pdf");
    let said = shell.transcript("ddr stash --json");
    assert!(said.contains("\"stashed\":0"), "{said}");
    assert!(shell.ok("ddr why Documents/report.pdf").contains("seen by ddr"));
    // Whatever the databases forget, access times are still there.
    shell.ok("rm .ddr/history.db*");
    assert!(shell.ok("ddr why Documents/report.pdf").contains("200d ago"));
}

#[test]
fn a_file_from_the_future_is_young() {
    let shell = aged();
    shell.ok("touch -d '2 years' Documents/report.pdf && touch -a -d '5 years ago' Documents/report.pdf");
    shell.ok("ddr config set policy.water.of 1GiB && ddr commit");
    let said = shell.ok("ddr why Documents/report.pdf");
    assert!(said.contains("stays for now") && said.contains("lies in the future"), "{said}");
}

#[test]
fn limits_hold_and_the_next_run_goes_on() {
    let shell = aged();
    shell.ok("ddr config set policy.water.of 1GiB && ddr config set policy.limit.files 1");
    assert!(shell.ok("ddr policy plan").contains("1 file left for the next run"));
    for expected in ["\"stashed\":1", "\"stashed\":1", "\"stashed\":0"] {
        let said = shell.ok("ddr stash --json");
        assert!(said.contains(expected), "{said}");
    }
    shell.ok("ddr checkout . && rm .ddr/history.db* && ddr config unset policy.limit.files");
    // The lecture and the report are 11.2 MB: at 8 MB a second that takes over a second.
    shell.ok("ddr config set policy.limit.rate 8MiB");
    shell.write("more.bin", &noise(7, 11_000_000));
    shell.ok("touch -d '300 days ago' more.bin");
    let since = std::time::Instant::now();
    shell.ok("ddr stash");
    assert!(since.elapsed() > std::time::Duration::from_millis(1200), "{:?}", since.elapsed());
}

#[test]
fn a_run_that_mostly_fails_stops() {
    let shell = Shell::new();
    let paths: Vec<String> = (0..400).map(|n| format!("d/{n:03}")).collect();
    paths.iter().for_each(|path| shell.write(path, &noise(1, 20_000)));
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk");
    shell.ok("ddr config set policy.use archive && touch -d '9 days ago' d/*");
    let guard = own_files();
    let open = |path: &String| OpenOptions::new().append(true).open(shell.at(path)).expect("opens");
    let held: Vec<_> = paths.iter().map(open).collect();
    drop(guard);
    let said = shell.code("ddr stash --json", 3);
    assert!(said.contains("stopped: 128 of 128 files had problems"), "{said}");
    assert_eq!(said.matches("\"type\":\"problem\"").count(), 128);
    drop(held);
    assert!(shell.ok("ddr stash --json").contains("\"stashed\":400"));
}

#[test]
fn rules_can_pin_and_inline_rules_come_first() {
    let shell = aged();
    shell.ok("printf '[policy.class.reports]\\nglob = [\"report*\"]\\n[[policy.rule]]\\nclass = \"reports\"\\ndo = \"pin\"\\n' >> .ddr/config.toml");
    let said = shell.transcript(
        "ddr stash Documents/report.pdf
         ddr stash --json Documents
         ddr why Documents/report.pdf",
    );
    insta::assert_snapshot!(said, @r#"
    $ ddr stash Documents/report.pdf
    ! ddr: refused: Documents/report.pdf is pinned by a rule of the policy; `ddr why Documents/report.pdf` shows it
    [exit 4]
    $ ddr stash --json Documents
    {"already":0,"deleted":0,"dry_run":false,"freed_bytes":<n>,"pinned":1,"problems":0,"recorded":5,"small":1,"stashed":2,"stashed_bytes":400000,"type":"stash"}
    $ ddr why Documents/report.pdf
    Documents/report.pdf: 195.3 KiB, full here
      last use  <----- now ---->, 200d ago (access time)
                reads are seen to the day only: the file system is mounted relatime
      rule      rule 1 of policy laptop (the default): reports: pin
      copies    disk2
      verdict   stays: a rule pins it
    "#);
}
