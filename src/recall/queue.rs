//! Stubs that wait to be filled: one job per file however many open it, small ones first.
//!
//! Promises that no job is overtaken for longer than [`PATIENCE`], and that at most one thread has a
//! file in hand. Fills nothing itself.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::desk::Inode;

/// How long small files may go before an older one.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A file to be filled, and who waits for it.
#[derive(Debug)]
pub struct Job {
    /// The file, open for reading.
    pub file: File,
    /// Its size.
    pub size: u64,
    /// Not before this.
    pub from: Instant,
    /// Whether whoever asked so far is no sign of use.
    pub cold: bool,
    since: Instant,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<Inode, Job>,
    /// Everybody who waits for a file, in hand or not.
    tickets: HashMap<Inode, Vec<u64>>,
    closed: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// Somebody waits for a file from now on; it may be filled from `from` on.
    pub fn push(&self, inode: Inode, ticket: u64, file: File, size: u64, from: Instant, cold: bool) {
        let mut state = self.lock();
        let tickets = state.tickets.entry(inode).or_default();
        let first = tickets.is_empty();
        if !tickets.contains(&ticket) {
            tickets.push(ticket);
        }
        if first {
            state.waiting.insert(inode, Job { file, size, from, cold, since: Instant::now() });
        } else if let Some(job) = state.waiting.get_mut(&inode) {
            // Who may have it at once makes it come at once for everybody.
            job.from = job.from.min(from);
            job.cold &= cold;
        }
        self.changed.notify_one();
    }

    /// The next file; waits for one. `None` once closed.
    pub fn take(&self) -> Option<(Inode, Job)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let ready = state.waiting.iter().filter(|(_, job)| job.from <= now);
            let next = ready.min_by_key(|(_, job)| {
                let patient = now.duration_since(job.since) < PATIENCE;
                (patient, if patient { job.size } else { 0 }, job.since)
            });
            if let Some(inode) = next.map(|(inode, _)| *inode) {
                return state.waiting.remove(&inode).map(|job| (inode, job));
            }
            let soonest = state.waiting.values().map(|job| job.from - now).min();
            let pause = soonest.unwrap_or(Duration::from_secs(3600));
            state = self.changed.wait_timeout(state, pause).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Whether nobody waits for a file that is not in hand.
    pub fn is_idle(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// A file is done with: who waited for it.
    pub fn done(&self, inode: Inode) -> Vec<u64> {
        self.lock().tickets.remove(&inode).unwrap_or_default()
    }

    /// Who waits for a file now.
    pub fn tickets(&self, inode: Inode) -> Vec<u64> {
        self.lock().tickets.get(&inode).cloned().unwrap_or_default()
    }

    /// Whether nothing is taken any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Nothing is taken any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &Queue, inode: u64, ticket: u64, size: u64) {
        let file = File::open("/dev/null").expect("a file");
        queue.push((0, inode), ticket, file, size, Instant::now(), false);
    }

    #[test]
    fn openers_of_one_file_are_one_job() {
        let queue = Queue::default();
        push(&queue, 1, 10, 5);
        push(&queue, 1, 11, 5);
        assert_eq!(queue.take().map(|(inode, _)| inode), Some((0, 1)));
        push(&queue, 1, 12, 5);
        assert_eq!(queue.done((0, 1)), [10, 11, 12]);
        assert!(queue.lock().waiting.is_empty());
    }

    #[test]
    fn small_ones_overtake_large_ones() {
        let queue = Queue::default();
        push(&queue, 1, 10, 500);
        push(&queue, 2, 11, 5);
        assert_eq!(queue.take().map(|(inode, _)| inode), Some((0, 2)));
        assert_eq!(queue.take().map(|(inode, _)| inode), Some((0, 1)));
    }

    #[test]
    fn a_slowed_job_comes_later() {
        let queue = Queue::default();
        let file = File::open("/dev/null").expect("a file");
        let start = Instant::now();
        queue.push((0, 1), 10, file, 1, start + Duration::from_millis(50), false);
        assert!(queue.take().is_some() && start.elapsed() >= Duration::from_millis(50));
    }
}
