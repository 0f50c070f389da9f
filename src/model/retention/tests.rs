//! Retention against what restic's users expect, and against brute force.

use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Time {
    Time { secs: text.parse::<Timestamp>().expect("a time").as_second(), nanos: 0 }
}

fn version(text: &str) -> Item {
    Item { at: at(text), what: What::Version { is_head: false, is_needed: false } }
}

fn head(text: &str) -> Item {
    Item { at: at(text), what: What::Version { is_head: true, is_needed: false } }
}

fn now(text: &str) -> Now {
    let at = at(text);
    Now { at, zone: TimeZone::UTC, deleted_since: Time { secs: at.secs - 90 * 86_400, nanos: 0 } }
}

fn kept(items: &[Item], rules: &Rules, now: &Now) -> Vec<usize> {
    let reasons = decide(items, rules, now);
    (0..items.len()).filter(|i| !reasons[*i].is_empty()).collect()
}

fn daily(n: u64) -> Rules {
    Rules { periods: vec![(Period::Day, n)], ..Rules::default() }
}

#[test]
fn a_rule_by_period_keeps_the_newest_of_each_of_the_last_periods_that_have_one() {
    let items = [
        version("2026-01-01T10:00:00Z"),
        version("2026-01-02T10:00:00Z"),
        version("2026-01-02T23:59:59Z"),
        version("2026-01-20T00:00:00Z"),
        head("2026-01-20T12:00:00Z"),
    ];
    let now = now("2026-06-01T00:00:00Z");
    assert_eq!(kept(&items, &daily(1), &now), [4]);
    assert_eq!(kept(&items, &daily(2), &now), [2, 4]);
    assert_eq!(kept(&items, &daily(9), &now), [0, 2, 4]);
    let weekly = Rules { periods: vec![(Period::Week, 9)], ..Rules::default() };
    assert_eq!(kept(&items, &weekly, &now), [2, 4], "1 and 2 January are in one week");
}

#[test]
fn where_a_day_begins_is_the_zone_s_business() {
    let items =
        [version("2026-01-01T22:30:00Z"), version("2026-01-01T23:30:00Z"), head("2026-01-09T00:00:00Z")];
    let mut now = now("2026-06-01T00:00:00Z");
    assert_eq!(kept(&items, &daily(3), &now), [1, 2]);
    now.zone = TimeZone::fixed(jiff::tz::offset(1));
    assert_eq!(kept(&items, &daily(3), &now), [0, 1, 2]);
}

#[test]
fn heads_and_needs_stay_without_any_rule() {
    let needed =
        Item { what: What::Version { is_head: false, is_needed: true }, ..version("2020-01-01T00:00:00Z") };
    let items =
        [needed, version("2020-01-02T00:00:00Z"), head("2020-01-03T00:00:00Z"), head("2020-01-04T00:00:00Z")];
    assert_eq!(kept(&items, &Rules::default(), &now("2026-01-01T00:00:00Z")), [0, 2, 3]);
}

#[test]
fn i11_what_was_deleted_lately_stays_and_goes_when_that_is_long_ago() {
    let gone = |text| Item { what: What::Deletion, ..version(text) };
    let items =
        [version("2026-01-01T00:00:00Z"), version("2026-01-02T00:00:00Z"), gone("2026-01-03T00:00:00Z")];
    let rules = Rules { last: Some(2), ..Rules::default() };
    assert_eq!(kept(&items, &rules, &now("2026-02-01T00:00:00Z")), [0, 1]);
    assert_eq!(kept(&items, &Rules::default(), &now("2026-02-01T00:00:00Z")), [1]);
    assert_eq!(kept(&items, &rules, &now("2026-06-01T00:00:00Z")), [] as [usize; 0]);
    let within = Rules { within: Some(Duration::from_secs(400 * 86_400)), ..rules };
    assert_eq!(kept(&items, &within, &now("2026-06-01T00:00:00Z")), [0, 1]);
    let again = [&items[..], &[head("2026-01-04T00:00:00Z")]].concat();
    assert_eq!(kept(&again, &Rules::default(), &now("2026-02-01T00:00:00Z")), [1, 3], "made anew since");
}

proptest! {
    #[test]
    fn more_rules_never_keep_less(
        times in prop::collection::vec(0i64..100_000_000, 1..60),
        n in 0u64..10, m in 0u64..10, days in 0u64..1000,
    ) {
        let mut times = times;
        times.sort_unstable();
        let mut items: Vec<Item> = times
            .iter()
            .map(|secs| Item { at: Time { secs: *secs, nanos: 0 }, ..version("2026-01-01T00:00:00Z") })
            .collect();
        items.last_mut().expect("one").what = What::Version { is_head: true, is_needed: false };
        let now = Now { at: Time { secs: 100_000_000, nanos: 0 }, ..now("2026-01-01T00:00:00Z") };
        let few = kept(&items, &daily(n), &now);
        let more = Rules { last: Some(m), within: Some(Duration::from_secs(days * 86_400)), ..daily(n) };
        let many = kept(&items, &more, &now);
        prop_assert!(few.iter().all(|i| many.contains(i)));
        prop_assert!(few.contains(&(items.len() - 1)));
        let all_days: std::collections::BTreeSet<i64> = times.iter().map(|t| t / 86_400).collect();
        prop_assert_eq!(few.len() as u64, n.clamp(1, all_days.len() as u64), "one per day");
        let newest = (items.len() as u64).saturating_sub(m) as usize;
        prop_assert!((newest..items.len()).all(|i| many.contains(&i)));
        let since = 100_000_000 - days as i64 * 86_400;
        prop_assert!((0..items.len()).all(|i| times[i] < since || many.contains(&i)));
    }

    #[test]
    fn a_limit_on_size_takes_the_oldest_first_and_no_more_than_it_must(
        all in prop::collection::vec((0u64..u64::MAX / 2, 0u64..100, any::<bool>()), 0..40),
        limit in 0u64..3000,
    ) {
        let cut = oldest_kept(limit, |sink| {
            all.iter().for_each(|(clock, size, may_go)| sink(*clock, *size, *may_go));
            Ok::<(), ()>(())
        }).expect("no error");
        let stays = |cut: u64| all.iter().filter(|(clock, _, may_go)| !may_go || *clock >= cut).map(|v| v.1).sum::<u64>();
        let firm: u64 = all.iter().filter(|v| !v.2).map(|v| v.1).sum();
        prop_assert!(stays(cut) <= limit.max(firm));
        // With the next older one it would be too much.
        let older = all.iter().filter(|(clock, size, may_go)| *may_go && *clock < cut && *size > 0).map(|v| v.0).max();
        prop_assert!(older.is_none_or(|clock| stays(clock) > limit));
    }
}
