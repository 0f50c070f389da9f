//! A machine without ddr: plain objects over sftp.

use std::path::Path;

use ddr::base::error::Error;
use ddr::peer::sftp::SftpBucket;
use ddr::store::Bucket;

use super::{host, shared, with_server};

#[test]
fn stash_checkout_clone_gc_and_fsck_over_sftp() {
    let Some((shell, _sshd)) = with_server() else { return };
    shell.ok("ddr remote add nas sftp://nas$PWD/../../far --init");
    shell.ok("ddr stash .");
    assert!(shell.at("../../far/folder").exists() && !shell.at("../../far/folder.toml").exists());
    assert!(shell.ok("ddr ls").contains("stub"));
    shell.ok("ddr checkout . && ddr fsck --read-data && ddr gc && ddr status");
    shell.ok("ddr stash report.txt");
    let other = shell.other("two");
    other.ok("ddr clone sftp://nas$PWD/../../far . && ddr checkout .");
    assert_eq!(other.read("report.txt").len(), 85_000);
    assert_eq!(other.read("photos/beach.raw"), shell.read("photos/beach.raw"));
    let list = shell.ok("ddr remote list");
    assert!(list.contains("nas") && list.contains("online") && list.contains("sftp://nas/"), "{list}");
}

#[test]
fn a_place_that_is_not_there_is_offline_never_empty() {
    let Some((shell, sshd)) = with_server() else { return };
    let none = shell.code("ddr remote add nas sftp://nas$PWD/../../far", 1);
    assert!(none.contains("--init"), "{none}");
    shell.ok("mkdir ../../full && touch ../../full/x");
    let full = shell.code("ddr remote add nas sftp://nas$PWD/../../full --init", 4);
    assert!(full.contains("not empty"), "{full}");
    shell.ok("ddr remote add nas sftp://nas$PWD/../../far --init && ddr stash .");
    let bucket = SftpBucket::open(host(&sshd, &shell.sandbox.root().join("far"))).expect("it is there");
    shell.ok("mv ../../far ../../gone && mkdir ../../far");
    let offline =
        |result: Result<(), Error>| assert!(matches!(result, Err(Error::Offline { .. })), "{result:?}");
    offline(bucket.list("data/", &mut |_, _| Ok(())));
    offline(bucket.list("", &mut |_, _| Ok(())));
    offline(bucket.get("folder", 0..1).map(drop));
    offline(bucket.put("log/new/object", &[b"x"]));
    offline(bucket.put("data/x", &[b"x"]));
    offline(bucket.delete("data/x"));
    assert_eq!(std::fs::read_dir(shell.at("../../far")).expect("made").count(), 0, "nothing was made there");
    let said = shell.code("ddr checkout .", 13);
    assert!(said.contains("nas is offline"), "{said}");
    shell.ok("rmdir ../../far && mv ../../gone ../../far && ddr checkout .");
}

#[test]
fn big_objects_come_whole_in_parts_and_from_the_middle() {
    let Some(sshd) = shared() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let bucket = SftpBucket::create(host(sshd, &dir.path().join("store"))).expect("made");
    let big = crate::support::content::noise(5, 20_000_000);
    let parts: Vec<&[u8]> = big.chunks(333_333).collect();
    bucket.put("data/big", &parts).expect("put");
    assert!(std::fs::read(dir.path().join("store/data/big")).expect("there") == big);
    for range in [0..20_000_000u64, 0..u64::MAX, 1..2, 12_345..9_999_999, 19_999_990..20_000_009] {
        let there = &big[range.start as usize..range.end.min(20_000_000) as usize];
        assert!(bucket.get("data/big", range.clone()).expect("get") == there, "{range:?}");
    }
    assert_eq!(files(&dir.path().join("store/tmp")), 0, "nothing temporary stays");
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, |entries| entries.count())
}

#[test]
fn a_peer_and_a_plain_store_on_one_machine_are_one_failure_domain() {
    let Some((shell, _sshd)) = with_server() else { return };
    shell.ok("ddr remote add nas ssh://nas$PWD/../../far --init --same-disk");
    shell.ok("ddr remote add plain sftp://nas$PWD/../../plain --init");
    let said = shell.code("ddr stash --copies 2 .", 4);
    assert!(said.contains("only 1 failure domain"), "{said}");
    shell.ok("ddr remote set plain --domain attic && ddr stash --copies 2 .");
}
