//! The working tree: scan, leases, stubs, filling, recovery; on the temporary directory's file
//! system and, where root and loop mounts are to be had, on ext4, xfs and btrfs.

mod case;
mod faults;
mod odd;
mod place;
mod rates;
mod refused;
mod scan;
mod stubs;
mod torn;

use place::Place;

type Case = (&'static str, fn(&Place));

/// Every case that a file system can make a difference to.
const CASES: [Case; 19] = [
    ("converting keeps everything but blocks", stubs::i3_converting_keeps_everything_but_blocks),
    ("only the file that the guard holds is touched", stubs::only_the_file_that_the_guard_holds_is_touched),
    ("filling brings every byte back", stubs::filling_brings_every_byte_back),
    ("sparse files", stubs::holes_stay_holes),
    ("abandoned and dropped fillings", stubs::abandoned_fillings_are_stubs_again),
    ("openers wait", stubs::openers_wait_for_the_whole_content),
    ("writers lose nothing", stubs::i2_writers_never_lose_a_byte),
    ("new files", stubs::new_files_appear_whole_and_replace_nothing),
    ("refusals", refused::every_refusal_says_why_and_changes_nothing),
    ("changed files", refused::changed_files_are_not_converted),
    ("read-only files", refused::read_only_files_of_ordinary_users),
    ("reading", refused::reading_proves_or_says_why_not),
    ("user writes into stubs", odd::whatever_users_do_to_stubs_is_told_apart),
    ("torn files", torn::torn_files_are_explained_or_left_alone),
    ("zeros", torn::zeros_that_the_user_wrote_stay),
    ("files made anew", torn::what_was_made_anew_stays),
    ("whole files written to", torn::what_was_written_to_whole_files_stays),
    ("every fault", faults::every_fault_is_mended),
    ("attributes stay", stubs::attributes_stay),
];

fn run_all(place: &Place) {
    for (name, case) in CASES {
        println!("{}: {name}", place.kind);
        case(place);
    }
}

#[test]
fn on_the_temporary_directory() {
    run_all(&Place::temporary());
}

#[test]
fn on_ext4() {
    Place::mounted("ext4").iter().for_each(run_all);
}

#[test]
fn on_xfs() {
    Place::mounted("xfs").iter().for_each(run_all);
}

#[test]
fn on_btrfs() {
    Place::mounted("btrfs").iter().for_each(run_all);
}
