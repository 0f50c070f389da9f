//! Thousands of versions: what pruning them needs and frees, and that being killed loses none that stays.
//!
//! `DDR_DRILL=10` is 10,000 versions and 50 kills.

use std::time::{Duration, Instant};

use ddr::base::id::{ContentId, RecordId};
use ddr::base::path::RelPath;
use ddr::base::units::Time;
use ddr::engine::remotes::Remotes;
use ddr::format::seal::Sealer;
use ddr::history::log;
use ddr::model::entry::{Body, Dot, Entry, FileKind, Kind, Op, Version, next_hlc};
use ddr::store::Store;

use super::bytes;
use crate::support::content::{Random, noise};
use crate::support::shell::Shell;
use crate::support::{say, scale, seed};

const FILES: u64 = 10;
const SIZE: u64 = 20_000;
/// Time between two versions: the thousand of them spans a month or more.
const STEP: i64 = 3 * 3600;

fn total() -> u64 {
    1000 * scale() as u64
}

/// A folder of a few files with versions recorded every few hours up to now, all of them in the store.
fn recorded() -> Shell {
    let shell = Shell::new();
    shell.ok("ddr init && ddr remote add disk2 ../../store --init --same-disk");
    let mut folder = shell.open();
    let remotes = Remotes::open(&folder).unwrap();
    let store = &remotes.online[0].packs;
    let mut sealer = Sealer::new().unwrap();
    let (origin, now) = (folder.origin(), Time::now());
    let mut entries = Vec::new();
    for i in 0..total() {
        let raw = noise(i, SIZE);
        let content = ContentId(*blake3::hash(&raw).as_bytes());
        let id: RecordId = folder.keys.record_id(Kind::Chunk, &raw);
        let path = RelPath::new(format!("f{}", i % FILES)).unwrap();
        let at = Time { secs: now.secs - (total() - i) as i64 * STEP, nanos: 0 };
        if i + FILES >= total() {
            shell.write(format!("f{}", i % FILES), &raw);
            shell.ok(&format!("touch -d @{} f{}; chmod 644 f{1}", at.secs, i % FILES));
        }
        store.put(id, sealer.seal(id, Kind::Chunk, raw)).unwrap();
        let body = Some(Body { kind: Kind::Chunk, id });
        let (kind, content, size) = (FileKind::File, Some(content), SIZE);
        let version = Version { kind, content, body, size, mtime: at, mode: 0o644, target: None };
        let seen = i.checked_sub(FILES).map(|before| Dot { origin, number: before + 1 });
        let (seen, hlc) = (seen.into_iter().collect(), next_hlc(0, at));
        let (base, moved_from, moved_to) = (None, None, None);
        entries.push(Entry { hlc, path, op: Op::Put(version), seen, base, moved_from, moved_to });
    }
    store.flush().unwrap();
    let instance = folder.instance.as_mut().unwrap();
    instance.reserve(total(), 0).unwrap();
    let tail = log::Tail::default();
    log::append(folder.own.as_ref(), folder.id, &folder.identity, &tail, None, &entries).unwrap();
    drop(folder);
    shell.ok("ddr commit && ddr status");
    assert_eq!(versions(&shell), total());
    shell
}

/// Versions of files that can be restored.
fn versions(shell: &Shell) -> u64 {
    (0..FILES).map(|n| shell.ok(&format!("ddr history f{n} --json")).lines().count() as u64).sum()
}

/// Peak memory of a command, in bytes.
fn peak(shell: &Shell, words: &[&str]) -> u64 {
    let mut running = shell.sandbox.start(words, None);
    let (path, mut peak) = (format!("/proc/{}/status", running.id()), 0);
    while !running.ended() {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let line =
            text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        peak = peak.max(line.unwrap_or(0u64) * 1024);
        std::thread::sleep(Duration::from_millis(2));
    }
    running.wait().expect(&[0]).unwrap();
    peak
}

#[test]
fn what_pruned_versions_took_is_freed_but_for_a_few_percent() {
    let shell = recorded();
    let before = bytes(&shell, "data/") + bytes(&shell, "meta/");
    let start = Instant::now();
    let memory = peak(&shell, &["prune", "--keep-daily", "7"]);
    let took = start.elapsed();
    shell.ok("ddr gc --grace 0");
    assert_eq!(versions(&shell), 7 * FILES);
    let after = bytes(&shell, "data/") + bytes(&shell, "meta/");
    let need = 7 * FILES * SIZE;
    say(&format!(
        "{} versions pruned to {} in {took:?}: {before} -> {after} bytes of packs for {need} bytes of content, \
         log {} bytes, peak memory {} MiB",
        total(),
        7 * FILES,
        bytes(&shell, "log/"),
        memory >> 20
    ));
    assert!(after <= need * 105 / 100, "{after} bytes for {need}");
    assert!(memory < 200 << 20, "{memory} bytes of memory");
    shell.ok("ddr fsck --read-data");
}

#[test]
fn i6_nothing_kept_is_lost_when_prune_and_gc_are_killed() {
    let shell = recorded();
    let mut random = Random::new(seed());
    let kills = 5 * scale() as u64;
    let days = total() / FILES * STEP as u64 / 86_400;
    let mut typical = Duration::from_millis(400);
    let mut killed = 0;
    for k in 0..kills {
        // Every run has something to forget.
        let keep = (days * (kills - k) / (kills + 1)).max(2).to_string();
        let words: &[&str] = match random.below(3) {
            0 => &["gc", "--grace", "0"],
            _ => &["prune", "--keep-daily", &keep],
        };
        let mut running = shell.sandbox.start(words, None);
        running.wait_at_most(Duration::from_micros(random.below(typical.as_micros() as u64 + 1)));
        killed += u64::from(!running.ended());
        typical = typical.max(running.age());
        running.kill();
        drop(running);
        shell.ok("ddr fsck");
    }
    shell.ok("ddr fsck --read-data");
    shell.ok("ddr prune --keep-daily 2 && ddr gc --grace 0 && ddr gc --grace 0 && ddr fsck --read-data");
    assert_eq!(versions(&shell), 2 * FILES);
    let other = shell.other("two");
    other.ok("ddr clone ../../store . && ddr checkout .");
    for n in 0..FILES {
        let last = total() - FILES + n;
        assert_eq!(other.read(format!("f{n}")), noise(last, SIZE));
    }
    let after = bytes(&shell, "data/");
    assert!(after <= 2 * FILES * SIZE * 105 / 100, "{after} bytes left");
    say(&format!("prune drill: {killed} of {kills} runs killed, nothing kept was lost"));
}
