//! How soon, how many, and at what cost; figures are printed.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::support::content::{noise, text};
use crate::support::guarded::{Guarded, is_stub, obstacle};
use crate::support::{say, scale};

fn first_byte(path: &std::path::Path) -> Duration {
    let start = Instant::now();
    let mut byte = [0u8];
    std::fs::File::open(path).unwrap().read_exact(&mut byte).unwrap();
    start.elapsed()
}

#[test]
fn the_first_byte_of_a_small_stub_comes_soon() {
    for kind in ["ext4", "xfs", "btrfs"] {
        if let Some(why) = obstacle(&[kind]) {
            say(&format!("latency was passed over on {kind}: {why}"));
            continue;
        }
        let guarded = Guarded::new(kind, &[]).unwrap_or_else(|e| panic!("{e}"));
        for i in 0..101 {
            guarded.write(format!("{i}"), &noise(i, 64 << 10));
        }
        guarded.stash();
        // The first one finds what was stashed since the worker opened the store.
        first_byte(&guarded.at("100"));
        let mut times: Vec<Duration> = (0..100).map(|i| first_byte(&guarded.at(i.to_string()))).collect();
        times.sort_unstable();
        let (median, worst) = (times[50], times[99]);
        say(&format!("first byte of a 64 KiB stub on {kind}: median {median:?}, worst of 100 {worst:?}"));
        // A build without optimization on a busy machine is allowed a lot.
        assert!(median < Duration::from_millis(100), "{median:?}");
    }
}

#[test]
fn many_stubs_are_guarded_soon_after_the_start() {
    if let Some(why) = obstacle(&["ext4"]) {
        return say(&format!("many stubs were passed over: {why}"));
    }
    // By hand: DDR_DRILL=50 makes 100,000.
    let count = 2_000 * scale();
    let mut guarded = Guarded::unguarded("ext4", 6 << 30).unwrap_or_else(|e| panic!("{e}"));
    for i in 0..count {
        guarded.write(format!("{}/{i}", i / 1000), &text(i as u64, 17_000));
    }
    for dir in 0..count.div_ceil(1000) {
        guarded.sandbox.ok(&["stash", &dir.to_string()]).unwrap_or_else(|e| panic!("{e}"));
    }
    let slab = || {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Slab:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let (before, start) = (slab(), Instant::now());
    guarded.start(&[]);
    let time = start.elapsed();
    let guard = guarded.guard();
    assert_eq!(guard.marks(), count);
    let resident = |id: i32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().to_string()
    };
    say(&format!(
        "{count} stubs guarded {time:?} after the start; resident: guard {}, worker {}; the kernel's tables grew by {} KiB",
        resident(guard.id()),
        resident(guard.workers()[0]),
        slab().saturating_sub(before),
    ));
    // A build without optimization on a busy machine is allowed a lot.
    assert!(time < Duration::from_secs(60), "{time:?}");
}

#[test]
fn full_files_are_nobodys_business() {
    if let Some(why) = obstacle(&["ext4"]) {
        return say(&format!("full files were passed over: {why}"));
    }
    let guarded = Guarded::new("ext4", &[]).unwrap_or_else(|e| panic!("{e}"));
    const SIZE: u64 = 64 << 20;
    guarded.write("full", &noise(1, SIZE));
    std::fs::copy(guarded.at("full"), guarded.beside().join("plain")).unwrap();
    guarded.stash();
    assert!(is_stub(&guarded.at("full")) && guarded.guard().marks() == 1);
    assert!(std::fs::read(guarded.at("full")).unwrap() == noise(1, SIZE));
    assert_eq!(guarded.guard().marks(), 0, "no event is raised by a file that is full again");
    let mut buf = vec![0; 1 << 20];
    let mut read = |path: &std::path::Path| {
        let start = Instant::now();
        let mut file = std::fs::File::open(path).unwrap();
        while file.read(&mut buf).unwrap() > 0 {}
        start.elapsed()
    };
    let (mut full, mut plain) = (Duration::MAX, Duration::MAX);
    for _ in 0..20 {
        full = full.min(read(&guarded.at("full")));
        plain = plain.min(read(&guarded.beside().join("plain")));
    }
    say(&format!("64 MiB from the cache: {full:?} in the folder, {plain:?} beside it (best of 20)"));
}
