//! The names of one directory in the order in which a scan visits them.
//!
//! A directory takes two places: its entry at `name`, its children at `name/`. That makes the
//! order of visits the byte order of joined paths. All names share one buffer, so that a directory
//! of a million files costs two allocations. Knows no file system.

use super::ignores::IGNORE_FILE;

/// How temporary files of ddr begin where a file system cannot make nameless ones.
pub const TEMP_PREFIX: &[u8] = b".ddr-tmp-";

/// One place to visit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    start: usize,
    len: u16,
    /// Whether this is the place of a directory's children.
    pub children: bool,
    barred: bool,
}

/// Names and places.
#[derive(Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    items: Vec<Item>,
    next: usize,
    /// Whether a `.ddrignore` is among them.
    pub has_rules: bool,
}

impl Names {
    /// Adds a name; in any order.
    pub fn push(&mut self, name: &[u8], is_dir: bool) {
        let item = Item { start: self.bytes.len(), len: name.len() as u16, children: false, barred: false };
        self.bytes.extend_from_slice(name);
        // Every name is followed by a slash, so that both places of a directory are slices of it.
        self.bytes.push(b'/');
        self.items.push(item);
        if is_dir {
            self.items.push(Item { children: true, ..item });
        }
        self.has_rules |= name == IGNORE_FILE;
    }

    /// Brings all places in order.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        self.items.sort_unstable_by(|a, b| key(bytes, *a).cmp(key(bytes, *b)));
    }

    /// The next place that is not barred.
    pub fn next(&mut self) -> Option<Item> {
        loop {
            let item = *self.items.get(self.next)?;
            self.next += 1;
            if !item.barred {
                return Some(item);
            }
        }
    }

    /// The name at a place.
    pub fn name(&self, item: Item) -> &[u8] {
        &self.bytes[item.start..item.start + usize::from(item.len)]
    }

    /// Forgets the place of this entry's children, if it has one.
    pub fn bar(&mut self, item: Item) {
        if let Some(at) = self.find_children(item) {
            self.items[at].barred = true;
        }
    }

    /// Makes the places fit what the entry turned out to be.
    pub fn settle(&mut self, item: Item, is_dir: bool) {
        match (self.find_children(item), is_dir) {
            (Some(at), false) => self.items[at].barred = true,
            (None, true) => {
                let place = Item { children: true, ..item };
                let wanted = key(&self.bytes, place);
                let rest = &self.items[self.next..];
                let at = self.next + rest.partition_point(|i| key(&self.bytes, *i) < wanted);
                self.items.insert(at, place);
            }
            _ => {}
        }
    }

    fn find_children(&self, item: Item) -> Option<usize> {
        // Usually the very next place; names in between continue this one with a byte below '/'.
        let name = self.name(item);
        let near = |i: &&Item| key(&self.bytes, **i).starts_with(name);
        let rest = self.items[self.next..].iter();
        let found = rest.take_while(near).position(|i| i.children && i.start == item.start);
        found.map(|at| self.next + at)
    }
}

fn key(bytes: &[u8], item: Item) -> &[u8] {
    &bytes[item.start..item.start + usize::from(item.len) + usize::from(item.children)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(names: &mut Names) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(item) = names.next() {
            let name = String::from_utf8_lossy(names.name(item)).into_owned();
            out.push(if item.children { name + "/" } else { name });
        }
        out
    }

    #[test]
    fn children_come_at_their_own_place() {
        let mut names = Names::default();
        for (name, is_dir) in [("a0", false), ("a", true), ("a-b", false), ("a!", true)] {
            names.push(name.as_bytes(), is_dir);
        }
        names.sort();
        assert_eq!(visits(&mut names), ["a", "a!", "a!/", "a-b", "a/", "a0"]);
    }

    #[test]
    fn places_follow_what_an_entry_turns_out_to_be() {
        let mut names = Names::default();
        for (name, is_dir) in [("a", false), ("a-b", true), ("b", true)] {
            names.push(name.as_bytes(), is_dir);
        }
        names.sort();
        let a = names.next().expect("a");
        names.settle(a, true);
        let ab = names.next().expect("a-b");
        names.settle(ab, false);
        assert_eq!(visits(&mut names), ["a/", "b", "b/"]);
    }
}
