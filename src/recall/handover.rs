//! What a guard leaves with the service manager, and the next one finds: the event group, and openers who came too late.
//!
//! Promises that an opener is found under the number by which the kernel knows him, or not at all, and that nothing
//! but the group stays with the manager once it was found. Decides nothing about openers.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::io::fcntl_dupfd_cloexec;
use sd_notify::NotifyState::{FdName, FdStore, FdStoreRemove};

use super::fanotify::Event;
use crate::base::error::{Error, Result};

/// How many descriptors the manager is to keep for us.
pub const MOST: usize = 1024;

/// What was found.
#[derive(Default)]
pub struct Found {
    /// The group, with all its marks.
    pub group: Option<OwnedFd>,
    /// Who waits for an answer of it.
    pub openers: Vec<Event>,
}

/// Whether there is a manager.
pub fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Whether the manager takes this file away when the service stops for good: as long as it is there, clients
/// wait for the next guard.
pub fn keeps(file: &Path) -> bool {
    std::env::var_os("RUNTIME_DIRECTORY").is_some_and(|dir| file.starts_with(dir))
}

/// Leaves the group with the manager, so that nobody is let in while this process restarts. It lets go of
/// it when the service stops for good.
pub fn leave_group(group: BorrowedFd) {
    let _ = sd_notify::notify_with_fds(&[FdStore, FdName("group")], &[group]);
}

/// Whether one more opener of a user can be left, beside those of these users: what is beyond the limit the manager
/// drops without a word. One place is the group's, and no user has all others.
pub fn has_room(left: &[u32], user: u32) -> bool {
    let his = left.iter().filter(|other| **other == user).count();
    left.len() + 1 < MOST && (user == 0 || his < MOST / 8)
}

/// Leaves an opener with the manager; his event's number stays taken until this process ends.
pub fn leave_opener(event: Event) -> std::result::Result<(), Event> {
    let name = format!("opener-{}-{}-{}", event.number, event.thread, u8::from(event.opens));
    match sd_notify::notify_with_fds(&[FdStore, FdName(&name)], &[event.file.as_fd()]) {
        Ok(()) => {
            std::mem::forget(event);
            Ok(())
        }
        Err(_) => Err(event),
    }
}

/// Takes what was left. To be called before anything else is opened.
pub fn take() -> Result<Found> {
    let fail = |e| Error::io("taking over", "what an earlier guard left", e);
    let given: Vec<(RawFd, String)> = sd_notify::listen_fds_with_names().map_err(fail)?.collect();
    let left: Vec<_> = given.iter().map(|(_, name)| opener(name)).collect();
    // Out of the way of all numbers that are to be given back.
    let taken = left.iter().flatten().map(|(number, ..)| *number).chain(given.iter().map(|(fd, _)| *fd));
    let above = taken.max().map_or(0, |most| most.saturating_add(1));
    let moved = given.iter().map(|(fd, _)| {
        // SAFETY: handed to this process by its service manager, and taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(*fd) };
        fcntl_dupfd_cloexec(fd, above).map_err(|e| fail(e.into()))
    });
    let moved = moved.collect::<Result<Vec<_>>>()?;
    let mut found = Found::default();
    for ((file, left), (_, name)) in moved.into_iter().zip(left).zip(&given) {
        let Some((number, thread, opens)) = left else {
            found.group = Some(file);
            continue;
        };
        // First of all: should this process die now, nobody is to be found twice.
        let _ = sd_notify::notify(&[FdStoreRemove, FdName(name)]);
        found.openers.push(Event { file: placed(file, number), number, thread, opens });
    }
    Ok(found)
}

/// The file under this number, so that the kernel gives no other event the same. Where something else has it, that
/// is so as well: what is open this early stays so.
fn placed(file: OwnedFd, number: RawFd) -> File {
    let there = fcntl_dupfd_cloexec(&file, number).ok().filter(|there| there.as_raw_fd() == number);
    File::from(there.unwrap_or(file))
}

/// Number, thread and kind of an opener, from the name of his descriptor.
fn opener(name: &str) -> Option<(RawFd, i32, bool)> {
    let mut parts = name.strip_prefix("opener-")?.split('-');
    let (number, thread) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((number, thread, parts.next()? == "1")).filter(|_| number >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openers_are_known_by_the_names_of_their_descriptors() {
        assert_eq!(opener("opener-17-4711-1"), Some((17, 4711, true)));
        assert_eq!(opener("opener-17-4711-0"), Some((17, 4711, false)));
        assert_eq!(["group", "stored", "opener-", "opener-x-1-1", "opener--1-1-1"].map(opener), [None; 5]);
    }

    #[test]
    fn no_more_openers_are_left_than_are_kept_and_one_user_has_a_part_of_them() {
        let left: Vec<u32> = (0..MOST as u32 - 1).map(|i| 1 + i % 8).collect();
        let room = |count: usize| [0, 1, 8, 9].map(|user| has_room(&left[..count], user));
        assert_eq!(room(MOST - 16), [true; 4]);
        assert_eq!(room(MOST - 2), [true, false, true, true], "the first has his part");
        assert_eq!(room(MOST - 1), [false; 4], "the last is the group's");
    }

    #[test]
    fn a_number_that_is_free_is_taken_and_one_that_is_not_stays() {
        let file = || OwnedFd::from(File::open("/dev/null").expect("opened"));
        let free = placed(file(), 900);
        assert_eq!(free.as_raw_fd(), 900);
        let other = file();
        let number = other.as_raw_fd();
        assert_eq!(placed(other, 900).as_raw_fd(), number);
    }
}
