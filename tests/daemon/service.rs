//! Units for systemd: what is written, where, and that systemd understands it.

use std::process::Command;

use crate::support::say;
use crate::support::shell::Shell;

#[test]
fn the_users_unit_is_written_and_removed_and_a_foreign_one_stays() {
    let shell = Shell::new();
    let dry = shell.ok("ddr service install --dry-run");
    assert!(dry.contains("ExecStart=") && dry.contains(" daemon\n") && dry.contains("Type=notify"), "{dry}");
    let path = shell.sandbox.home().join("config/systemd/user/ddr.service");
    assert!(!path.exists(), "a dry run writes nothing");
    let said = shell.ok("ddr service install");
    assert!(
        said.contains("systemctl --user daemon-reload && systemctl --user enable --now ddr.service"),
        "{said}"
    );
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(dry.contains(text.trim_end()));
    shell.ok("ddr service install --user");
    shell.ok("ddr service remove --dry-run");
    assert!(path.exists());
    let wants = path.with_file_name("default.target.wants");
    std::fs::create_dir(&wants).unwrap();
    std::os::unix::fs::symlink(&path, wants.join("ddr.service")).unwrap();
    shell.ok("ddr service remove");
    assert!(!path.exists());
    assert!(!wants.join("ddr.service").is_symlink(), "nor is it enabled any more");
    assert!(shell.code("ddr service remove", 1).contains("not found"));
    std::fs::write(&path, "[Unit]\nDescription=mine\n").unwrap();
    assert!(shell.code("ddr service install", 4).contains("was not written by ddr service"));
    assert!(shell.code("ddr service remove", 4).contains("was not written by ddr service"));
}

#[test]
fn the_guards_unit_keeps_descriptors_and_comes_back() {
    let shell = Shell::new();
    shell.ok("ddr init");
    assert!(shell.code("ddr service install --system --dry-run", 2).contains("needs its folders"));
    let unit = shell.ok("ddr service install --system . --dry-run");
    let start = format!(" guard {}\n", shell.sandbox.folder().display());
    for line in [
        "FileDescriptorStoreMax=1024",
        "FileDescriptorStorePreserve=restart",
        "Restart=always",
        "RestartPreventExitStatus=2 4",
        &start,
    ] {
        assert!(unit.contains(line), "{line} is missing:\n{unit}");
    }
}

#[test]
fn systemd_understands_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return say("units: passed over, there is no systemd-analyze");
    }
    let shell = Shell::new();
    shell.ok("ddr init");
    for (words, name) in [("", "ddr.service"), ("--system .", "ddr-guard.service")] {
        let text = shell.ok(&format!("ddr service install {words} --dry-run"));
        let path = shell.sandbox.root().join(name);
        std::fs::write(&path, text).unwrap();
        let out = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        // Settings newer than the systemd here are not a mistake of the unit.
        let wrong: Vec<&str> =
            said.lines().filter(|l| l.contains(name) && !l.contains("FileDescriptorStorePreserve")).collect();
        assert!(wrong.is_empty(), "{said}");
    }
}
