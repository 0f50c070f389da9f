//! How much room a folder's budget has left, between two looks at the whole tree.
//!
//! The daemon says what the tree took when it was looked at, and how full its disk was then; what the disk
//! has taken or got back since is added or taken off, whoever did it. Promises a guess that costs nothing,
//! and that without it, or with one that cannot be read, there is no limit. It is too high where others
//! write, and too low where they delete: that hides as much of the tree's growth until the next look, which
//! comes soon after the tree has changed. Never to count what was got back would be no better: what was
//! just stashed would seem to be there still, and who recalls would wait for room that there is.

use std::path::Path;

use super::policy::facts::disk_room;

/// Where it is said, in the peer's directory.
const NAME: &str = "room";

/// What a look at the whole tree told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// Bytes that the tree's files took.
    pub tree: u64,
    /// Bytes that were in use on its disk.
    pub disk: u64,
}

impl Measured {
    /// What the tree's files take now, if nobody else writes to the disk or deletes there.
    pub fn now(&self, disk: u64) -> u64 {
        self.tree.saturating_add(disk).saturating_sub(self.disk)
    }
}

/// Bytes in use on the disk of a path.
pub fn disk_used(path: &Path) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|fs| disk_room(&fs).used)
}

/// Says it for others; best effort.
pub fn tell(dir: &Path, measured: Measured, most: u64) {
    let _ = std::fs::write(dir.join(NAME), format!("{} {} {most}\n", measured.tree, measured.disk));
}

/// There is no limit, or nobody who keeps it any more.
pub fn forget(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(NAME));
}

/// Whether so many bytes more fit into the budget, if there is one.
pub fn fits(dir: &Path, bytes: u64) -> bool {
    let text = std::fs::read_to_string(dir.join(NAME)).unwrap_or_default();
    disk_used(dir).is_none_or(|disk| fits_by(&text, disk, bytes))
}

fn fits_by(text: &str, disk: u64, bytes: u64) -> bool {
    let numbers: Vec<u64> = text.split_whitespace().map_while(|n| n.parse().ok()).collect();
    match numbers[..] {
        // A last line that is cut short would be another number.
        [tree, then, most] if text.ends_with('\n') => {
            // What alone is larger never fits: it is not kept waiting.
            bytes > most || Measured { tree, disk: then }.now(disk).saturating_add(bytes) <= most
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_took_since_counts_and_an_odd_word_is_no_limit() {
        let fits = |text, disk, bytes| fits_by(text, disk, bytes);
        assert!(fits("70 1000 100\n", 1000, 30) && !fits("70 1000 100\n", 1000, 31));
        assert!(!fits("70 1000 100\n", 1020, 30) && fits("70 1000 100\n", 960, 70));
        assert!(fits("70 1000 100\n", 1020, 101), "it never fits");
        for odd in ["", "70 1000 10", "70 x 100\n", "1 2 3 4\n"] {
            assert!(fits(odd, 5000, 1 << 40), "{odd}");
        }
    }
}
