//! Another ddr over ssh, through libssh2 and through the ssh program.

use super::with_server;

fn round_trip(more: &str) {
    let Some((shell, _sshd)) = with_server() else { return };
    shell.ok(&format!("ddr remote add nas ssh://nas$PWD/../../far --init --same-disk {more}"));
    shell.ok("ddr stash .");
    assert!(shell.at("../../far/folder.toml").exists() && shell.ok("ddr ls").contains("stub"));
    shell.ok("ddr checkout . && ddr fsck --read-data && ddr gc && ddr status");
    shell.ok("ddr stash report.txt");
    let other = shell.other("two");
    other.ok(&format!("ddr clone nas:$PWD/../../far . {more} && ddr checkout ."));
    assert_eq!(other.read("report.txt").len(), 85_000);
    assert_eq!(other.read("photos/beach.raw"), shell.read("photos/beach.raw"));
    let list = shell.ok("ddr remote list");
    assert!(list.contains("online") && list.contains("ssh://nas/"), "{list}");
}

#[test]
fn stash_checkout_clone_gc_and_fsck_through_libssh2() {
    round_trip("");
}

#[test]
fn stash_checkout_clone_gc_and_fsck_through_the_ssh_program() {
    round_trip("--transport openssh");
}

#[test]
fn no_ddr_there_and_no_folder_there_are_told_apart() {
    let Some((shell, _sshd)) = with_server() else { return };
    for more in ["", "--transport openssh"] {
        let none = shell.code(&format!("ddr remote add nas ssh://nas$PWD/../../far {more}"), 1);
        assert!(none.contains("--init"), "{none}");
        let line =
            format!("ddr remote add nas ssh://nas$PWD/../../far --init --same-disk --program /no/ddr {more}");
        let none = shell.code(&line, 1);
        assert!(none.contains("no ddr on") && none.contains("--program"), "{none}");
    }
}

#[test]
fn a_peer_on_the_same_disk_is_refused_unless_accepted() {
    let Some((shell, _sshd)) = with_server() else { return };
    shell.ok("ddr remote add nas ssh://nas$PWD/../../far --init");
    let said = shell.code("ddr stash .", 4);
    assert!(said.contains("same disk") || said.contains("own disk"), "{said}");
}

#[test]
fn the_ssh_program_reports_unknown_and_changed_hosts() {
    let Some((shell, sshd)) = with_server() else { return };
    let known = std::fs::read_to_string(sshd.file("known_hosts")).expect("made before");
    std::fs::remove_file(sshd.file("known_hosts")).expect("made before");
    let add = "ddr remote add nas ssh://nas$PWD/../../far --init --same-disk --transport openssh";
    let said = shell.code(add, 4);
    assert!(said.contains("--accept-new"), "{said}");
    let wrong = std::fs::read_to_string(sshd.file("id.pub")).expect("made before");
    std::fs::write(sshd.file("known_hosts"), format!("nas {wrong}")).expect("own file");
    let said = shell.code(&format!("{add} --accept-new"), 4);
    assert!(said.contains("known_hosts:1"), "{said}");
    std::fs::write(sshd.file("known_hosts"), known).expect("own file");
    shell.ok(add);
}
