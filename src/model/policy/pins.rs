//! Pins: places whose files always stay on this device.
//!
//! A pin names a place, not a file: it holds for what is there, for what will be made there, and for
//! everything below. What is moved out of it is no longer pinned.

use std::collections::BTreeSet;

use crate::base::path::RelPath;

/// The pinned places of a folder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pins(BTreeSet<RelPath>);

impl Pins {
    /// The pin that covers a path: its own, or that of the nearest directory above.
    pub fn covering(&self, path: &RelPath) -> Option<&RelPath> {
        if self.0.is_empty() {
            return None;
        }
        let mut at = Some(path.clone());
        while let Some(here) = at {
            if let Some(pin) = self.0.get(&here) {
                return Some(pin);
            }
            at = here.split().map(|(parent, _)| parent);
        }
        None
    }

    /// Whether a path is pinned.
    pub fn cover(&self, path: &RelPath) -> bool {
        self.covering(path).is_some()
    }

    /// Whether anything below a path is pinned by a pin of its own.
    pub fn below(&self, path: &RelPath) -> impl Iterator<Item = &RelPath> {
        self.0.iter().filter(move |pin| *pin != path && pin.is_under(path))
    }

    /// Adds one; `false` if it was there.
    pub fn add(&mut self, path: RelPath) -> bool {
        self.0.insert(path)
    }

    /// Removes one; `false` if there is none for exactly this path.
    pub fn remove(&mut self, path: &RelPath) -> bool {
        self.0.remove(path)
    }

    /// All of them, in path order.
    pub fn iter(&self) -> impl Iterator<Item = &RelPath> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<RelPath> for Pins {
    fn from_iter<I: IntoIterator<Item = RelPath>>(paths: I) -> Self {
        Self(paths.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_holds_for_its_place_and_everything_below() {
        let p = |s: &str| RelPath::new(s).expect("valid");
        let mut pins: Pins = [p("a/b"), p("c.txt")].into_iter().collect();
        assert!(pins.cover(&p("a/b")) && pins.cover(&p("a/b/c/d")) && pins.cover(&p("c.txt")));
        assert!(!pins.cover(&p("a")) && !pins.cover(&p("a/bc")) && !pins.cover(&p("c")));
        assert_eq!(pins.below(&p("a")).count(), 1);
        assert!(pins.remove(&p("a/b")) && !pins.remove(&p("a/b")) && !pins.cover(&p("a/b/c")));
        pins.add(RelPath::root());
        assert!(pins.cover(&p("anything")));
    }
}
