//! The access matrix: every way to touch a stub, on every file system, in every state of the guard.
//!
//! Promises that a way which passes has seen the right bytes, and that one which may fail has said so.

use std::time::{Duration, Instant};

use super::trouble::Trouble;
use super::ways::{Needs, Place, Way, all};
use crate::support::content::Random;
use crate::support::guarded::{Guarded, obstacle};
use crate::support::{say, scale, seed};

/// How long anybody may wait, on a machine that is busy with other tests.
const SLACK: Duration = Duration::from_secs(60);

/// A file system with one stub per way.
struct Matrix {
    guarded: Guarded,
    rows: Vec<(&'static Way, Place)>,
}

impl Matrix {
    fn new(kind: &str, flags: &[&str]) -> Self {
        let guarded = Guarded::new(kind, flags).unwrap_or_else(|e| panic!("{e}"));
        let rows = all().filter(|way| match way.obstacle(kind) {
            Some(why) => {
                say(&format!("{} is not tried on {kind}: {why}", way.name));
                false
            }
            None => true,
        });
        let rows: Vec<_> = rows
            .map(|way| {
                let dir = guarded.at(way.name);
                std::fs::create_dir(&dir).unwrap();
                let (out, far) = (guarded.beside().join(way.name), guarded.far.join(way.name));
                let file = dir.join("data");
                let mut place = Place { dir, file, content: Vec::new(), out, far };
                (way.prepare)(&mut place);
                (way, place)
            })
            .collect();
        guarded.stash();
        Self { guarded, rows }
    }

    /// Touches all stubs at once; what came of each.
    fn touch(&self, fits: impl Fn(&Way) -> bool) -> Vec<(&'static Way, Result<(), Trouble>, Duration)> {
        std::thread::scope(|scope| {
            let rows = self.rows.iter().filter(|(way, _)| fits(way));
            let threads: Vec<_> = rows
                .map(|(way, place)| {
                    let run = move || {
                        let start = Instant::now();
                        ((way.touch)(place), start.elapsed())
                    };
                    (*way, scope.spawn(run))
                })
                .collect();
            let join = |(way, thread): (&'static Way, std::thread::ScopedJoinHandle<_>)| {
                let (result, time) = thread.join().unwrap_or_else(|_| panic!("{} panicked", way.name));
                (way, result, time)
            };
            threads.into_iter().map(join).collect()
        })
    }

    fn all_right(&self, fits: impl Fn(&Way) -> bool, excused: &[&str]) {
        let wrong = self.touch(fits).into_iter().filter_map(|(way, result, time)| match result {
            Ok(()) if time < SLACK => None,
            Ok(()) => Some(format!("{} took {time:?}", way.name)),
            Err(Trouble::Failed(_)) if excused.contains(&way.name) => None,
            Err(trouble) => Some(format!("{}: {trouble}", way.name)),
        });
        let wrong: Vec<_> = wrong.collect();
        assert!(
            wrong.is_empty(),
            "\n{}\nthe guard said: {:#?}",
            wrong.join("\n"),
            self.guarded.guard().said()
        );
    }

    fn recalled(&self) -> usize {
        let said = |way: &Way| way.needs == Needs::Content;
        self.rows.iter().filter(|(way, _)| said(way)).count()
    }
}

fn on_each(run: impl Fn(&str)) {
    for kind in ["ext4", "xfs", "btrfs"] {
        match obstacle(&[kind]) {
            Some(why) => say(&format!("the access matrix was passed over on {kind}: {why}")),
            None => run(kind),
        }
    }
}

#[test]
fn every_way_to_touch_a_stub_sees_its_content() {
    on_each(|kind| {
        let matrix = Matrix::new(kind, &[]);
        assert!(matrix.recalled() >= 30, "{} ways are too few", matrix.recalled());
        matrix.all_right(|_| true, &[]);
    });
}

#[test]
fn opens_alone_carry_on_demand_access() {
    // Shortened by its name alone, a stub is an error from then on: nobody asked before.
    on_each(|kind| Matrix::new(kind, &["--opens-only"]).all_right(|_| true, &["truncate-by-name"]));
}

#[test]
fn a_worker_killed_in_the_middle_is_replaced_and_nobody_notices() {
    on_each(|kind| {
        let matrix = Matrix::new(kind, &[]);
        let mut random = Random::new(seed());
        let (done, kills) = std::thread::scope(|scope| {
            let (tell, ended) = std::sync::mpsc::channel::<()>();
            let guard = matrix.guarded.guard();
            let killer = scope.spawn(move || {
                let mut kills = 0;
                while kills < 4 * scale() {
                    let pause = Duration::from_millis(random.between(20, 250));
                    if ended.recv_timeout(pause) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                        break;
                    }
                    kills += guard.kill_workers();
                }
                kills
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                matrix.all_right(|_| true, &[]);
            }));
            drop(tell);
            (result, killer.join().expect("the killer does not panic"))
        });
        if let Err(panic) = done {
            say(&format!("after {kills} kills on {kind}"));
            std::panic::resume_unwind(panic);
        }
        assert!(kills > 0, "no worker was killed");
    });
}

#[test]
fn without_its_store_a_stub_is_an_error_in_time_and_later_its_content() {
    on_each(|kind| {
        let matrix = Matrix::new(kind, &["--deadline", "3s"]);
        matrix.guarded.store_away();
        let wrong = matrix.touch(|_| true).into_iter().filter_map(|(way, result, time)| {
            let why = match (way.needs, result) {
                (_, Err(trouble @ Trouble::Wrong(_))) => trouble.to_string(),
                (Needs::Content, Ok(())) => "it came by its content without a store".into(),
                (Needs::Name | Needs::Nothing, Err(trouble)) => format!("it needs no content: {trouble}"),
                _ if time > SLACK => format!("it took {time:?}"),
                _ => return None,
            };
            Some(format!("{}: {why}", way.name))
        });
        let wrong: Vec<_> = wrong.collect();
        assert!(wrong.is_empty(), "{kind}:\n{}\n{:#?}", wrong.join("\n"), matrix.guarded.guard().said());
        matrix.guarded.store_back();
        matrix.all_right(|way| way.needs == Needs::Content, &[]);
    });
}
