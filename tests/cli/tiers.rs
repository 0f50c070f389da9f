//! Several stores at the prompt: tiers, what is behind, what answers, what is lost.

use crate::support::shell::Shell;

#[test]
fn near_and_far() {
    let shell = Shell::with_files();
    shell.ok("ddr init");
    let said = shell.transcript(
        "ddr remote add disk2 ../../near --init --same-disk
         ddr remote add disk3 ../../far --init --same-disk
         ddr tier list
         ddr tier add edge disk2
         ddr tier add far disk3
         ddr tier list
         ddr stash .
         ddr whereis report.txt
         ddr tier check
         ddr config set policy.tier.edge.keep 1s
         sleep 3; ddr policy plan | tail -n 1
         ddr stash
         ddr whereis report.txt
         ddr tier move
         ddr tier drain disk3
         ddr ping | sed 's/[0-9.]* ms, [^f]*free/<n> ms, <n> free/'
         ddr sync",
    );
    insta::assert_snapshot!(said, @r"
    $ ddr remote add disk2 ../../near --init --same-disk
    added remote disk2: /r/near
    Next: ddr stash PATH places files there and frees their space here
    $ ddr remote add disk3 ../../far --init --same-disk
    added remote disk3: /r/far
    Next: ddr stash PATH places files there and frees their space here
    $ ddr tier list
    all  mirror, 2 copies  disk2, disk3
    $ ddr tier add edge disk2
    tier edge: added disk2
    $ ddr tier add far disk3
    tier far: added disk3
    $ ddr tier list
    edge  mirror, 1 copy  disk2
    far   mirror, 1 copy  disk3
    $ ddr stash .
    stashed 2 files (376.0 KiB), freeing <n>; 1 placed but small, kept here
    $ ddr whereis report.txt
    report.txt: 83.0 KiB, stub here
      content 16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816
      edge: disk2 has it, verified <----- now ---->
      far: disk3 does not have it
    $ ddr tier check
    3 contents: all where they should be
    $ ddr config set policy.tier.edge.keep 1s
    $ sleep 3; ddr policy plan | tail -n 1
    3 contents (376.0 KiB) would be moved on to the next tier
    $ ddr stash
    stashed 0 files (0 B), freeing <n>
    3 contents (376.0 KiB) moved on to the next tier
    $ ddr whereis report.txt
    report.txt: 83.0 KiB, stub here
      content 16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816
      edge: disk2 has it, verified <----- now ---->
      far: disk3 has it, verified <----- now ---->
    $ ddr tier move
    3 contents: all where they should be
    $ ddr tier drain disk3
    ! ddr: refused: without disk3 the tier far could not keep 1 copy; add a store first: ddr tier add far NAME
    [exit 4]
    $ ddr ping | sed 's/[0-9.]* ms, [^f]*free/<n> ms, <n> free/'
    disk2: answers in <n> ms, <n> free, history level
    disk3: answers in <n> ms, <n> free, history level
    $ ddr sync
    3 contents: all where they should be
    ");
}

#[test]
fn a_store_that_was_away_and_one_that_is_lost() {
    let shell = Shell::with_files();
    shell.ok("ddr init");
    let said = shell.transcript(
        "ddr remote add disk2 ../../store2 --init --same-disk
         ddr remote add disk3 ../../store3 --init --same-disk
         ddr config set stash.copies 1
         mv ../../store3 ../../away
         ddr stash .
         ddr ping | sed 's/[0-9.]* ms, [^f]*free/<n> ms, <n> free/'
         ddr status
         mv ../../away ../../store3
         ddr sync
         ddr status
         ddr whereis report.txt
         rm -r ../../store2
         ddr remote lost disk2 -n
         ddr remote lost disk2
         ddr remote list
         ddr checkout",
    );
    insta::assert_snapshot!(said, @"
    $ ddr remote add disk2 ../../store2 --init --same-disk
    added remote disk2: /r/store2
    Next: ddr stash PATH places files there and frees their space here
    $ ddr remote add disk3 ../../store3 --init --same-disk
    added remote disk3: /r/store3
    Next: ddr stash PATH places files there and frees their space here
    $ ddr config set stash.copies 1
    $ mv ../../store3 ../../away
    $ ddr stash .
    stashed 2 files (376.0 KiB), freeing <n>; 1 placed but small, kept here
    ! ddr: disk3 is offline: /r/store3 does not exist (is its disk mounted?)
    $ ddr ping | sed 's/[0-9.]* ms, [^f]*free/<n> ms, <n> free/'
    disk2: answers in <n> ms, <n> free, history level
    disk3: offline: /r/store3 does not exist (is its disk mounted?)
    ! ddr: disk3 is offline: /r/store3 does not exist (is its disk mounted?)
    !      mount or plug in its disk, or start its machine, then run the command again
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    store disk3: offline: /r/store3 does not exist (is its disk mounted?), missed up to 6 contents (376.0 KiB)
    $ mv ../../away ../../store3
    $ ddr sync
    3 contents (376.0 KiB) copied to where it was missing
    $ ddr status
    nothing changed since the last commit
    folder: 3 files, 2 stubs; <n> of 376.0 KiB local
    on-demand access is off: no guard runs (sudo ddr guard DIR)
    store disk2: online, <n> free
    store disk3: online, <n> free
    $ ddr whereis report.txt
    report.txt: 83.0 KiB, stub here
      content 16aa3119700247c749c2bbf41f23abda887f0d3014b020bac1f11f270743b816
      disk2 has it, verified <----- now ---->
      disk3 has it, verified <----- now ---->
    $ rm -r ../../store2
    $ ddr remote lost disk2 -n
    3 contents: all where they should be
    disk2 would be forgotten; 1 store left
    $ ddr remote lost disk2
    3 contents: all where they should be
    forgot disk2; 1 store left
    $ ddr remote list
    disk3  online  /r/store3
    $ ddr checkout
    checked out 2 files (376.0 KiB)
    ");
}
