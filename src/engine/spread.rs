//! The same small step on many files, on a few threads.
//!
//! Promises that every step was either done or not begun when the call returns, and that a request to
//! stop is heeded between two steps. Knows nothing of the steps.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::cancel::Cancel;

/// Calls `step` with the numbers below `count`, in about this order; returns what it returned, by
/// number, without those that a cancellation left out.
pub fn spread<T: Send>(count: usize, cancel: &Cancel, step: impl Fn(usize) -> T + Sync) -> Vec<(usize, T)> {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8);
    let done = Mutex::new(Vec::with_capacity(count));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !cancel.is_cancelled() {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        break;
                    }
                    let result = step(i);
                    done.lock().unwrap_or_else(|e| e.into_inner()).push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_unstable_by_key(|(i, _)| *i);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_taken_once_and_none_after_a_cancellation() {
        let cancel = Cancel::default();
        let done = spread(1000, &cancel, |i| i * 2);
        assert!(done.iter().enumerate().all(|(n, (i, twice))| n == *i && *twice == i * 2));
        assert_eq!(done.len(), 1000);
        cancel.flag().store(true, Ordering::SeqCst);
        assert!(spread(1000, &cancel, |i| i).is_empty());
    }
}
