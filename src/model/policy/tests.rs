//! What every plan promises, whatever the policy and the files; and that flaws are named with their place.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::choose::{Bounds, Candidate, Choice, Rank, choose};
use super::doc::Doc;
use super::last_use::{LastUse, SeenBy};
use super::pins::Pins;
use super::rules::{Facts, Fate, Policy, Terms, Verdict};
use super::shipped;
use super::water::Room;
use crate::base::path::RelPath;
use crate::base::units::Time;

const NOW: Time = Time { secs: 1_800_000_000, nanos: 0 };
const DAY: i64 = 86_400;

/// A file of a made-up folder.
#[derive(Clone, Debug)]
struct File {
    path: RelPath,
    size: u64,
    idle: i64,
    stub: bool,
}

impl File {
    fn facts(&self) -> Facts<'_> {
        let at = Time { secs: NOW.secs - self.idle, nanos: 0 };
        let local = if self.stub { 4096 } else { self.size };
        let last_use = LastUse { at, by: SeenBy::Access };
        Facts { path: &self.path, size: self.size, local, links: 1, stub: self.stub, last_use }
    }
}

/// A plan over files in memory, made by the same two decisions that the engine makes.
struct Planned {
    verdicts: Vec<Verdict>,
    chosen: BTreeSet<usize>,
    freed: u64,
    choice: Choice,
}

fn plan(policy: &Policy, files: &[File], pins: &Pins, room: Room) -> Planned {
    let terms = Terms { now: NOW, min_size: 16 << 10, pins };
    let verdicts: Vec<Verdict> = files.iter().map(|f| policy.judge(&f.facts(), &terms)).collect();
    let candidate = |nth: usize| {
        let file = &files[nth];
        let rank = Rank { used: NOW.secs - file.idle, size: file.size, nth: nth as u64 };
        Candidate { rank, frees: file.facts().frees(), go: verdicts[nth].fate == Fate::Go }
    };
    let may = |nth: &usize| matches!(verdicts[*nth].fate, Fate::Go | Fate::Spare);
    let excess = policy.water.map_or(0, |w| w.excess(&room));
    let bounds = Bounds { bytes: policy.bytes.map(|b| b.0), files: policy.files };
    let choice = choose(excess, bounds, &mut |sink| {
        (0..files.len()).filter(may).for_each(|nth| sink(&candidate(nth)));
        Ok(())
    })
    .expect("no I/O");
    let chosen: BTreeSet<usize> =
        (0..files.len()).filter(may).filter(|nth| choice.takes(&candidate(*nth))).collect();
    let freed = chosen.iter().map(|nth| candidate(*nth).frees).sum();
    Planned { verdicts, chosen, freed, choice }
}

fn files() -> impl Strategy<Value = Vec<File>> {
    let ext = prop::sample::select(vec!["mp4", "txt", "CR3", "jpg", "xmp", "part", "bin"]);
    let dir = prop::sample::select(vec!["", ".config/", "a/", "a/b/", "pinned/", "pinned/deep/"]);
    let one = (dir, 0u32..40, ext, 0u64..(1 << 30), 0i64..500 * DAY, prop::bool::weighted(0.1));
    prop::collection::vec(one, 0..80).prop_map(|list| {
        let mut files: Vec<File> = list
            .into_iter()
            .map(|(dir, n, ext, size, idle, stub)| File {
                path: RelPath::new(format!("{dir}{n}.{ext}")).expect("valid"),
                size,
                // Some exactly on the thresholds.
                idle: if n % 5 == 0 { idle / (10 * DAY) * 10 * DAY } else { idle },
                stub,
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        files
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let shipped = prop::sample::select(shipped::ALL.to_vec())
        .prop_map(|s| Policy::new(s.name, &s.doc().expect("shipped")).expect("shipped"));
    let age = prop::option::of(0u64..400);
    let made =
        (age.clone(), age, 0u64..100, 50u8..100, 0u8..50).prop_map(|(after, full, keep, high, low)| {
            let after = after.map_or(String::new(), |d| format!("after = \"{d}d\"\n"));
            let text = format!(
                "[class.big]\nmin_size = \"{keep}MiB\"\n[class.young]\nunused = \"9d\"\n\
             [[rule]]\nclass = \"young\"\ndo = \"stash\"\n{after}when_full = \"{}d\"\n\
             [[rule]]\nclass = \"big\"\ndo = \"keep\"\n[[rule]]\ndo = \"stash\"\nafter = \"300d\"\n\
             [water]\nhigh = \"{high}%\"\nlow = \"{low}%\"\n",
                full.unwrap_or(7)
            );
            Policy::new("made", &Doc::parse(&text).expect("valid")).expect("valid")
        });
    prop_oneof![shipped, made]
}

/// The room of a disk on which these files lie and something else, so that it is about so full.
fn room(files: &[File], percent: u64) -> Room {
    let used: u64 = files.iter().map(|f| f.facts().local).sum::<u64>() + (10 << 20);
    Room { used, total: used * 100 / percent.max(1) }
}

fn pins() -> Pins {
    [RelPath::new("pinned").expect("valid")].into_iter().collect()
}

proptest! {
    #[test]
    fn pinned_and_young_files_are_never_chosen(policy in policies(), files in files(), percent in 40u64..130) {
        let got = plan(&policy, &files, &pins(), room(&files, percent));
        for nth in got.chosen {
            let (file, verdict) = (&files[nth], &got.verdicts[nth]);
            prop_assert!(!file.path.as_bytes().starts_with(b"pinned/"));
            let rule = &policy.rules[verdict.rule.expect("only a rule stashes")];
            let youngest = rule.after.into_iter().chain(rule.when_full).min().expect("an age");
            prop_assert!(file.idle >= youngest.secs());
            prop_assert!(!file.stub && file.size >= 16 << 10);
        }
    }

    #[test]
    fn low_water_is_met_when_it_can_be(policy in policies(), files in files(), percent in 40u64..130) {
        let room = room(&files, percent);
        let got = plan(&policy, &files, &pins(), room);
        let excess = policy.water.map_or(0, |w| w.excess(&room));
        if got.freed < excess {
            let may = got.verdicts.iter().filter(|v| matches!(v.fate, Fate::Go | Fate::Spare)).count();
            prop_assert_eq!((got.chosen.len(), got.choice.short), (may, excess - got.freed));
        } else {
            prop_assert_eq!(got.choice.short, 0);
        }
    }

    #[test]
    fn the_least_recently_used_go_first(policy in policies(), files in files(), percent in 40u64..130) {
        let got = plan(&policy, &files, &pins(), room(&files, percent));
        let spare = |nth: &usize| got.verdicts[*nth].fate == Fate::Spare;
        let newest = got.chosen.iter().filter(|n| spare(n)).map(|n| files[*n].idle).min();
        let left = (0..files.len()).filter(|n| spare(n) && !got.chosen.contains(n)).map(|n| files[n].idle).max();
        if let (Some(newest), Some(left)) = (newest, left) {
            prop_assert!(left <= newest);
        }
    }

    #[test]
    fn the_same_facts_give_the_same_plan_and_applying_it_leaves_nothing(
        policy in policies(), files in files(), percent in 40u64..130,
    ) {
        let before = room(&files, percent);
        let got = plan(&policy, &files, &pins(), before);
        prop_assert_eq!(&got.chosen, &plan(&policy, &files, &pins(), before).chosen);
        let mut after = files.clone();
        got.chosen.iter().for_each(|nth| after[*nth].stub = true);
        let room = Room { used: before.used - got.freed, ..before };
        prop_assert!(plan(&policy, &after, &pins(), room).chosen.is_empty());
    }
}

fn flaw(text: &str) -> String {
    Doc::parse(text).expect_err("a flaw").to_string()
}

#[test]
fn flaws_are_named_with_line_and_column() {
    let flaws = [
        "evry = \"1h\"\n",
        "every = \"soon\"\n",
        "[class.a]\nmin_size = 5\n",
        "[class.a]\nglob = [\"*.mp4\",\n  \"a[\"]\n",
        "[class.a]\n[[rule]]\nclass = \"b\"\ndo = \"keep\"\n",
        "[[rule]]\ndo = \"keep\"\n[[rule]]\ndo = \"stash\"\n",
        "[[rule]]\ndo = \"pin\"\ntier = \"far\"\n",
        "[[rule]]\ndo = \"drop\"\n",
        "\n[water]\nhigh = \"120%\"\n",
        "\n[water]\nlow = \"10%\"\n",
        "[water]\nhigh = \"50%\"\nlow = \"60%\"\n",
        "[water\n",
    ];
    let said: Vec<String> = flaws.iter().map(|text| flaw(text)).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    line 1, column 1: unknown field `evry`, expected one of `class`, `rule`, `water`, `every`, `limit`, `tier`
    line 1, column 9: "soon" is not a duration: write 90s, 10m, 36h, 30d, 2w or 1y
    line 2, column 12: invalid type: integer `5`, expected a string
    line 2, column 8: "a[" is no glob: unclosed character class; missing ']'
    line 3, column 9: there is no [class.b]; there are: a
    line 3, column 1: a rule that stashes needs `after` or `when_full`
    line 1, column 1: `after`, `when_full` and `tier` go with do = "stash" only
    line 2, column 6: unknown variant `drop`, expected one of `stash`, `keep`, `pin`
    line 3, column 8: "120%" is no level: write 85%, 40GiB or "20GiB free"
    line 3, column 7: low water without high water does nothing
    line 3, column 7: low water (60%) lies above high water (50%)
    line 1, column 7: unclosed table, expected `]`
    "#);
}

#[test]
fn changes_are_laid_over_a_policy() {
    let base = shipped::find("laptop").expect("shipped").doc().expect("valid");
    let rules = base.rule.len();
    let changes = Doc::parse(
        "[water]\nhigh = \"95%\"\n[class.settings]\nunder = [\"etc\"]\n[[rule]]\nclass = \"settings\"\ndo = \"pin\"\n",
    );
    let both = base.changed_by(changes.expect("valid"));
    let policy = Policy::new("laptop", &both).expect("valid");
    assert_eq!(policy.rules.len(), rules + 1);
    assert_eq!(policy.rules[0].words(&policy.classes), "settings: pin");
    let water = policy.water.expect("has water");
    assert_eq!((water.high.to_string(), water.low.to_string()), ("95%".into(), "75%".into()));
}
