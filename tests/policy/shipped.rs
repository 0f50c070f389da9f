//! Each shipped policy opens with its intent and an example; the example is planned here.

use ddr::base::path::RelPath;
use ddr::base::units::{Time, parse_duration, parse_size};
use ddr::model::policy::choose::{Bounds, Candidate, Rank, choose};
use ddr::model::policy::last_use::{LastUse, SeenBy};
use ddr::model::policy::pins::Pins;
use ddr::model::policy::rules::{Facts, Fate, Policy, Terms};
use ddr::model::policy::shipped::{ALL, Shipped};
use ddr::model::policy::water::Room;

const NOW: i64 = 1_780_000_000;

/// One line of an example: `#   PATH  SIZE  IDLE  WORD`.
#[derive(Debug)]
struct Line {
    path: RelPath,
    size: u64,
    used: i64,
    word: String,
}

/// The example in a policy's header: the disk, and the files with what becomes of them.
fn example(policy: &Shipped) -> (Room, Vec<Line>) {
    let header: Vec<&str> = policy.text.lines().take_while(|l| l.starts_with('#')).collect();
    let at = header.iter().position(|l| l.starts_with("# Example:")).expect("an example");
    let words: Vec<&str> = header[at].split_whitespace().collect();
    let size = |unit: &str| parse_size(unit.trim_end_matches(',')).expect("a size");
    // # Example: a disk of TOTAL, USED in use
    let room = Room { total: size(words[5]), used: size(words[6]) };
    let line = |text: &&str| {
        let words: Vec<&str> = text.trim_start_matches('#').split_whitespace().collect();
        let [path, bytes, idle, word] = words[..] else { panic!("{}: {text:?}", policy.name) };
        let idle = parse_duration(idle).expect("an age").as_secs() as i64;
        Line {
            path: RelPath::new(path).expect("a path"),
            size: size(bytes),
            used: NOW - idle,
            word: word.into(),
        }
    };
    (room, header[at + 1..].iter().map(line).collect())
}

fn words(policy: &Policy, room: Room, lines: &[Line]) -> Vec<String> {
    let now = Time { secs: NOW, nanos: 0 };
    let terms = Terms { now, min_size: 16 << 10, pins: &Pins::default() };
    let fate = |line: &Line| {
        let last_use = LastUse { at: Time { secs: line.used, nanos: 0 }, by: SeenBy::Access };
        let facts =
            Facts { path: &line.path, size: line.size, local: line.size, links: 1, stub: false, last_use };
        policy.judge(&facts, &terms).fate
    };
    let candidate = |nth: usize| {
        let line = &lines[nth];
        let rank = Rank { used: line.used, size: line.size, nth: nth as u64 };
        Candidate { rank, frees: line.size - 4096, go: fate(line) == Fate::Go }
    };
    let may = |nth: usize| matches!(fate(&lines[nth]), Fate::Go | Fate::Spare);
    let excess = policy.water.map_or(0, |w| w.excess(&room));
    let choice = choose(excess, Bounds::default(), &mut |sink| {
        (0..lines.len()).filter(|n| may(*n)).for_each(|nth| sink(&candidate(nth)));
        Ok(())
    })
    .expect("no I/O");
    let word = |nth: usize| {
        let chosen = may(nth) && choice.takes(&candidate(nth));
        if chosen { Fate::Go } else { fate(&lines[nth]) }.word().to_string()
    };
    (0..lines.len()).map(word).collect()
}

#[test]
fn every_shipped_policy_plans_its_own_example_as_it_says() {
    for shipped in &ALL {
        let doc = shipped.doc().unwrap_or_else(|flaw| panic!("{}.toml: {flaw}", shipped.name));
        let policy = Policy::new(shipped.name, &doc).expect("valid");
        let (room, lines) = example(shipped);
        let expected: Vec<String> = lines.iter().map(|l| l.word.clone()).collect();
        assert_eq!(words(&policy, room, &lines), expected, "{}: {lines:#?}", shipped.name);
        assert!(shipped.intent().len() > 20 && shipped.intent().to_lowercase().starts_with(shipped.name));
    }
}

#[test]
fn every_file_in_policies_is_shipped() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .expect("policies/")
        .map(|e| e.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut shipped: Vec<String> = ALL.iter().map(|s| format!("{}.toml", s.name)).collect();
    shipped.sort();
    assert_eq!(files, shipped);
}
