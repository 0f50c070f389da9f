//! Which files belong together with one that is wanted: what a person would open next.
//!
//! Promises a total order from names alone: files with the same stem first (sidecars), then numbered
//! siblings by distance, the next before the one before, then the same extension, then the rest of
//! the directory. Knows no file system.

use std::cmp::Reverse;

use crate::base::path::RelPath;

/// How a file is related to a wanted one; smaller is nearer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kinship {
    /// Same name but for the extension.
    Stem,
    /// Same name but for a number; the distance, doubled, and one more going back.
    Numbered(u64),
    /// Same extension.
    Extension,
    /// Same directory.
    Directory,
}

impl Kinship {
    /// In words.
    pub fn words(self) -> String {
        match self {
            Self::Stem => "same stem".into(),
            Self::Numbered(d) => format!("number {}{}", if d % 2 == 0 { "+" } else { "-" }, d / 2),
            Self::Extension => "same extension".into(),
            Self::Directory => "same directory".into(),
        }
    }
}

/// A file that could come along.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Its path.
    pub path: RelPath,
    /// Its size in bytes.
    pub size: u64,
    /// How near it is.
    pub kinship: Kinship,
}

/// How `other` is related to `wanted`; `None` if it is the same file or lies in another directory.
pub fn kinship(wanted: &RelPath, other: &RelPath) -> Option<Kinship> {
    let ((dir, name), (other_dir, other_name)) = (wanted.split()?, other.split()?);
    if dir != other_dir || name == other_name {
        return None;
    }
    let ((stem, ext), (other_stem, other_ext)) = (cut(name), cut(other_name));
    let alike = ext.eq_ignore_ascii_case(other_ext);
    if stem == other_stem {
        return Some(Kinship::Stem);
    }
    if let (true, Some(a), Some(b)) = (alike, number(stem), number(other_stem))
        && (a.before, a.after) == (b.before, b.after)
    {
        let distance = a.number.abs_diff(b.number).saturating_mul(2);
        return Some(Kinship::Numbered(distance.saturating_add(u64::from(b.number < a.number))));
    }
    Some(if alike { Kinship::Extension } else { Kinship::Directory })
}

/// The neighbours of `wanted` among `others`, nearest first, as far as they fit into `budget` bytes; one that
/// does not fit is passed over.
pub fn within(wanted: &[RelPath], others: Vec<(RelPath, u64)>, budget: u64) -> Vec<Neighbour> {
    let near = |(path, size): (RelPath, u64)| {
        if wanted.contains(&path) {
            return None;
        }
        let nearest = wanted.iter().filter_map(|w| Some((kinship(w, &path)?, Reverse(common(w, &path)))));
        let (kinship, common) = nearest.min()?;
        Some((common, Neighbour { path, size, kinship }))
    };
    let mut all: Vec<_> = others.into_iter().filter_map(near).collect();
    all.sort_by(|(a_common, a), (b_common, b)| {
        (a.kinship, a_common, &a.path).cmp(&(b.kinship, b_common, &b.path))
    });
    let mut left = budget;
    let fits = |neighbour: &Neighbour| match left.checked_sub(neighbour.size) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    all.into_iter().map(|(_, neighbour)| neighbour).filter(fits).collect()
}

/// Stem and extension; a leading dot begins no extension.
fn cut(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|b| *b == b'.').filter(|at| *at > 0) {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (name, b""),
    }
}

/// The last number in a name, and what is around it.
struct Number<'a> {
    before: &'a [u8],
    number: u64,
    after: &'a [u8],
}

fn number(stem: &[u8]) -> Option<Number<'_>> {
    let end = stem.iter().rposition(u8::is_ascii_digit)? + 1;
    let start = stem[..end].iter().rposition(|b| !b.is_ascii_digit()).map_or(0, |at| at + 1);
    let number = std::str::from_utf8(&stem[start..end]).ok()?.parse().ok()?;
    Some(Number { before: &stem[..start], number, after: &stem[end..] })
}

/// Bytes that two names begin with alike.
fn common(a: &RelPath, b: &RelPath) -> usize {
    a.name().iter().zip(b.name()).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(s: &str) -> RelPath {
        RelPath::new(s).expect("valid")
    }

    fn order(wanted: &str, others: &[&str]) -> Vec<String> {
        let others = others.iter().map(|o| (p(o), 1)).collect();
        within(&[p(wanted)], others, u64::MAX).into_iter().map(|n| n.path.to_string()).collect()
    }

    #[test]
    fn sidecars_then_numbers_then_extension_then_directory() {
        let others = [
            "d/notes.txt",
            "d/pano.cr3",
            "d/IMG_9.cr3",
            "d/IMG_11.cr3",
            "d/IMG_0012.CR3",
            "d/IMG_10.xmp",
            "e/IMG_10.jpg",
            "d/IMG_10.cr3",
        ];
        assert_eq!(
            order("d/IMG_10.cr3", &others),
            ["d/IMG_10.xmp", "d/IMG_11.cr3", "d/IMG_9.cr3", "d/IMG_0012.CR3", "d/pano.cr3", "d/notes.txt"]
        );
    }

    #[test]
    fn the_last_number_counts_and_what_is_around_it_must_agree() {
        assert_eq!(kinship(&p("s01e02 x.mkv"), &p("s01e03 x.mkv")), Some(Kinship::Numbered(2)));
        assert_eq!(kinship(&p("s01e02 x.mkv"), &p("s01e03 y.mkv")), Some(Kinship::Extension));
        assert_eq!(kinship(&p("s02e02.mkv"), &p("s01e02.mkv")), Some(Kinship::Extension));
        assert_eq!(kinship(&p("99999999999999999999"), &p("1")), Some(Kinship::Extension));
    }

    #[test]
    fn what_does_not_fit_is_passed_over() {
        let others = vec![(p("a2"), 5), (p("a3"), 50), (p("a4"), 6)];
        let got: Vec<_> = within(&[p("a1")], others, 12).into_iter().map(|n| n.path).collect();
        assert_eq!(got, [p("a2"), p("a4")]);
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_order_does_not_matter(
            names in prop::collection::vec("[ab][0-9]{0,2}(\\.[xy])?", 1..20), budget in 0u64..60, seed in 0usize..20,
        ) {
            let mut others: Vec<(RelPath, u64)> = names.iter().map(|n| (p(n), n.len() as u64 * 3)).collect();
            others.sort();
            others.dedup();
            let wanted = [others[seed % others.len()].0.clone()];
            let got = within(&wanted, others.clone(), budget);
            prop_assert!(got.iter().map(|n| n.size).sum::<u64>() <= budget);
            prop_assert!(got.iter().all(|n| n.path != wanted[0]));
            prop_assert!(got.windows(2).all(|w| w[0].kinship <= w[1].kinship));
            others.reverse();
            prop_assert_eq!(within(&wanted, others, budget), got);
        }
    }
}
