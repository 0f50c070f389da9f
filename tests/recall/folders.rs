//! Several folders, of one user and of two, under one guard: what happens to one is nothing to the other.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::users::{OTHER, OWNER, Owned};
use crate::support::content::noise;
use crate::support::guarded::{is_stub, kill, wait_until};

const SIZE: u64 = 300_000;

struct Two {
    owned: Owned,
    /// Each with whom it belongs to.
    folders: [(PathBuf, u32); 2],
}

impl Two {
    /// Two guarded folders with six stubs each.
    fn new(users: [u32; 2]) -> Option<Self> {
        let mut owned = Owned::new()?;
        let folders =
            [("first", users[0]), ("second", users[1])].map(|(name, user)| (owned.add(name, user), user));
        Some(Self::of(owned, folders))
    }

    /// A folder and its clone, of one user, on one disk or on two.
    fn cloned(far: bool) -> Option<Self> {
        let mut owned = Owned::new()?;
        let first = owned.add("first", OWNER);
        owned.run_in(&first, OWNER, "echo something > note && \"$ddr\" commit").expect(&[0]).unwrap();
        let place = if far { owned.guarded.far.clone() } else { owned.guarded.sandbox.root().into() };
        let second = owned.add_clone("first", place.join("second"), OWNER);
        Some(Self::of(owned, [(first, OWNER), (second, OWNER)]))
    }

    fn of(mut owned: Owned, folders: [(PathBuf, u32); 2]) -> Self {
        owned.start();
        let two = Self { owned, folders };
        two.stash();
        two
    }

    fn stash(&self) {
        for (at, (folder, user)) in self.folders.iter().enumerate() {
            for i in 0..6 {
                let path = folder.join(i.to_string());
                std::fs::write(&path, content(at, i)).unwrap();
                std::os::unix::fs::chown(&path, Some(*user), Some(*user)).unwrap();
            }
            self.owned.run_in(folder, *user, "\"$ddr\" stash .").expect(&[0]).unwrap();
            assert!((0..6).all(|i| is_stub(&folder.join(i.to_string()))));
        }
    }

    /// The worker of a folder.
    fn worker(&self, at: usize) -> Option<i32> {
        let serves = |id: &i32| {
            let words = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            words
                .split(|byte| *byte == 0)
                .any(|word| word == self.folders[at].0.as_os_str().as_encoded_bytes())
        };
        self.owned.guarded.guard().workers().into_iter().find(serves)
    }

    fn path(&self, at: usize, i: u64) -> PathBuf {
        self.folders[at].0.join(i.to_string())
    }

    fn right(&self, at: usize, i: u64) {
        let seen = std::fs::read(self.path(at, i));
        assert!(seen.as_ref().is_ok_and(|seen| *seen == content(at, i)), "{i} of {at}: {:?}", seen.err());
    }
}

fn content(at: usize, i: u64) -> Vec<u8> {
    noise(at as u64 * 100 + i, SIZE)
}

fn open(path: &Path) -> std::thread::JoinHandle<std::io::Result<Vec<u8>>> {
    let path = path.to_path_buf();
    std::thread::spawn(move || std::fs::read(path))
}

fn apart(two: Option<Two>) {
    let Some(two) = two else { return };
    for at in 0..2 {
        two.right(at, 0);
    }
    let other = two.worker(1).expect("a worker");
    // One that does not answer.
    let sick = two.worker(0).expect("a worker");
    kill(sick, libc::SIGSTOP);
    let waits = open(&two.path(0, 1));
    let start = Instant::now();
    two.right(1, 1);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!waits.is_finished());
    // One that is killed is replaced, and whoever waits for it is served by the next.
    kill(sick, libc::SIGKILL);
    two.right(1, 2);
    assert!(waits.join().unwrap().unwrap() == content(0, 1));
    wait_until("it has a worker again", || two.worker(0).is_some_and(|id| id != sick));
    assert_eq!(two.worker(1), Some(other), "the other one never noticed");
    for i in 0..6 {
        two.right(0, i);
        two.right(1, i);
    }
    // A folder whose worker cannot live is without one; the other goes on.
    std::thread::sleep(Duration::from_secs(1));
    two.stash();
    std::fs::rename(two.folders[0].0.join(".ddr/keys"), two.folders[0].0.join(".ddr/away")).unwrap();
    kill(two.worker(0).expect("a worker"), libc::SIGKILL);
    let waits = open(&two.path(0, 3));
    (0..6).for_each(|i| two.right(1, i));
    assert!(!waits.is_finished() && is_stub(&two.path(0, 3)));
    std::fs::rename(two.folders[0].0.join(".ddr/away"), two.folders[0].0.join(".ddr/keys")).unwrap();
    assert!(waits.join().unwrap().unwrap() == content(0, 3));
    assert_eq!(two.worker(1), Some(other));
}

#[test]
fn two_folders_of_one_user_are_guarded_apart() {
    apart(Two::new([OWNER, OWNER]));
}

#[test]
fn folders_of_two_users_are_guarded_apart() {
    apart(Two::new([OWNER, OTHER]));
}

#[test]
fn a_folder_and_its_clone_beside_it_are_guarded_apart() {
    apart(Two::cloned(false));
}

#[test]
fn a_folder_and_its_clone_on_another_disk_are_guarded_apart() {
    apart(Two::cloned(true));
}

#[test]
fn what_is_stashed_by_way_of_a_mount_of_ones_own_is_filled_where_it_lies() {
    let Some(two) = Two::cloned(false) else { return };
    for at in 0..2 {
        two.right(at, 0);
        // Not all may be closed yet that the worker filled.
        std::thread::sleep(Duration::from_millis(700));
        let other = two.owned.guarded.beside();
        two.owned.stash_bound(&two.folders[at].0, &other, OWNER, "0");
        assert!(is_stub(&two.path(at, 0)));
        let sick = two.worker(1 - at).expect("a worker");
        kill(sick, libc::SIGSTOP);
        let waits = open(&two.path(at, 0));
        let start = Instant::now();
        while !waits.is_finished() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let done = waits.is_finished();
        kill(sick, libc::SIGCONT);
        assert!(done, "{at}: the other clone's worker is asked");
        assert!(waits.join().unwrap().unwrap() == content(at, 0));
    }
}
