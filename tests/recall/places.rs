//! Stubs seen from elsewhere: other mounts, other namespaces, other names.

use std::path::Path;
use std::process::Command;

use super::races::guarded;
use crate::support::content::noise;
use crate::support::guarded::{Guarded, is_stub, is_unsettled, obstacle, wait_until};
use crate::support::{Running, say};

fn content(name: &str) -> Vec<u8> {
    noise(name.len() as u64, 300_001)
}

/// Runs shell lines in a mount namespace of their own; `$from` is the folder, `$to` an empty directory.
fn elsewhere(guarded: &Guarded, lines: &str) -> Result<String, String> {
    let to = guarded.outside().join("to");
    std::fs::create_dir_all(&to).unwrap();
    let mut command = Command::new("unshare");
    guarded.sandbox.settle(&mut command);
    command.args(["-m", "sh", "-ec", lines]);
    command.env("from", guarded.sandbox.folder()).env("to", &to).env("beside", guarded.beside());
    Running::spawn(command, lines.into()).wait().expect(&[0]).map(|output| output.stdout)
}

fn b3(path: &Path) -> String {
    blake3::hash(&std::fs::read(path).unwrap()).to_string()
}

/// Reads each file in another way by `cp` to `beside`, in a namespace; each copy must be the content.
fn read_by(name: &str, lines: &str) {
    let Some(guarded) = guarded(&[]) else { return };
    guarded.write(name, &content(name));
    guarded.stash();
    elsewhere(&guarded, lines).unwrap_or_else(|e| panic!("{e}\n{:?}", guarded.guard().said()));
    assert_eq!(b3(&guarded.beside().join("copy")), blake3::hash(&content(name)).to_string(), "{name}");
    assert!(!is_stub(&guarded.at(name)), "it was brought back for good");
}

#[test]
fn through_a_bind_mount_in_another_namespace_a_stub_is_its_content() {
    read_by("bind", "mount --bind \"$from\" \"$to\"; cp \"$to/bind\" \"$beside/copy\"");
}

#[test]
fn through_a_read_only_bind_mount_a_stub_is_its_content() {
    let lines = "mount --bind \"$from\" \"$to\"; mount -o remount,bind,ro \"$to\"; cp \"$to/read-only\" \"$beside/copy\"";
    read_by("read-only", lines);
}

#[test]
fn with_the_folder_moved_aside_in_another_namespace_a_stub_is_its_content() {
    // The folder's own path shows something else there.
    let lines =
        "mount --bind \"$from\" \"$to\"; mount -t tmpfs none \"$from\"; cp \"$to/hidden\" \"$beside/copy\"";
    read_by("hidden", lines);
}

#[test]
fn through_a_link_outside_of_the_folder_a_stub_is_its_content() {
    let Some(guarded) = guarded(&[]) else { return };
    guarded.write("linked", &content("linked"));
    guarded.stash();
    let other = guarded.beside().join("other name");
    std::fs::hard_link(guarded.at("linked"), &other).unwrap();
    assert!(is_stub(&other));
    std::fs::remove_file(guarded.at("linked")).unwrap();
    assert!(std::fs::read(&other).unwrap() == content("linked"));
}

#[test]
fn moved_out_of_the_folder_a_stub_is_its_content() {
    let Some(guarded) = guarded(&[]) else { return };
    guarded.write("moved", &content("moved"));
    guarded.stash();
    let to = guarded.beside().join("moved");
    std::fs::rename(guarded.at("moved"), &to).unwrap();
    assert!(std::fs::read(&to).unwrap() == content("moved"));
}

#[test]
fn below_an_overlay_a_stub_is_never_taken_for_its_content() {
    let Some(guarded) = guarded(&[]) else { return };
    guarded.write("lower", &content("lower"));
    guarded.stash();
    let lines = "mkdir \"$to/up\" \"$to/work\" \"$to/all\"; \
        mount -t overlay -o lowerdir=\"$from\",upperdir=\"$to/up\",workdir=\"$to/work\" none \"$to/all\" || exit 77; \
        cp \"$to/all/lower\" \"$beside/copy\" || exit 78";
    match elsewhere(&guarded, lines) {
        Ok(_) => assert_eq!(b3(&guarded.beside().join("copy")), blake3::hash(&content("lower")).to_string()),
        Err(e) if e.contains("Some(77)") => say("overlays were passed over: none can be mounted here"),
        Err(e) => assert!(e.contains("Some(78)"), "an error is allowed, this is not: {e}"),
    }
}

#[test]
fn on_another_file_system_within_the_folder_a_stub_is_its_content() {
    if let Some(why) = obstacle(&["btrfs"]) {
        return say(&format!("a folder of several file systems was passed over: {why}"));
    }
    let mut guarded = Guarded::unguarded("btrfs", 2 << 30).unwrap_or_else(|e| panic!("{e}"));
    let made = Command::new("btrfs").args(["subvolume", "create"]).arg(guarded.at("other")).output();
    assert!(made.is_ok_and(|made| made.status.success()));
    guarded.configure("[scan]\ncross_devices = true");
    guarded.start(&[]);
    let path = guarded.at("other/file");
    for anew in [false, true] {
        guarded.write("other/file", &noise(1, 100_000));
        guarded.stash();
        assert!(is_stub(&path));
        if anew {
            guarded.start(&[]);
        }
        assert!(std::fs::read(&path).unwrap() == noise(1, 100_000), "{:?}", guarded.guard().said());
        wait_until("it is settled", || !is_unsettled(&path));
    }
}
