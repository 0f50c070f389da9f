//! Classes: which files a rule is about.
//!
//! Promises that a class says the same of a file whatever else there is. Paths are bytes; patterns
//! are text and match byte by byte.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobSet, GlobSetBuilder};

use super::doc::ClassDoc;
use super::value::Pattern;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;

/// What a class looks at.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Path below the folder's root.
    pub path: &'a RelPath,
    /// Bytes of the file.
    pub size: u64,
    /// Seconds since its last use.
    pub idle: i64,
}

/// A class, ready to be asked.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name.
    pub name: String,
    glob: Option<GlobSet>,
    names: Option<GlobSet>,
    under: Vec<RelPath>,
    ext: Vec<Vec<u8>>,
    min_size: u64,
    max_size: u64,
    unused: i64,
}

impl Class {
    /// Builds its matchers.
    pub fn new(name: &str, doc: &ClassDoc) -> Result<Self> {
        let bad = |why: String| Error::Invalid(format!("class {name}: {why}"));
        let under = |text: &String| RelPath::new(text.trim_end_matches('/')).map_err(|e| bad(e.to_string()));
        Ok(Self {
            name: name.into(),
            glob: set(&doc.glob, false).map_err(|e| bad(e.to_string()))?,
            names: set(&doc.name, true).map_err(|e| bad(e.to_string()))?,
            under: doc.under.iter().map(under).collect::<Result<_>>()?,
            ext: doc.ext.iter().map(|e| e.trim_start_matches('.').as_bytes().to_vec()).collect(),
            min_size: doc.min_size.map_or(0, |b| b.0),
            max_size: doc.max_size.map_or(u64::MAX, |b| b.0),
            unused: doc.unused.map_or(i64::MIN, |a| a.secs()),
        })
    }

    /// Whether a file belongs to it.
    pub fn has(&self, file: &Look) -> bool {
        let path = file.path.as_path();
        let name = Path::new(OsStr::from_bytes(file.path.name()));
        (self.min_size..=self.max_size).contains(&file.size)
            && file.idle >= self.unused
            && (self.ext.is_empty() || self.ext.iter().any(|e| has_extension(file.path.name(), e)))
            && (self.under.is_empty() || self.under.iter().any(|dir| file.path.is_under(dir)))
            && self.names.as_ref().is_none_or(|set| set.is_match(name))
            && self.glob.as_ref().is_none_or(|set| set.is_match(path))
    }
}

fn set(patterns: &[Pattern], any_case: bool) -> Result<Option<GlobSet>, globset::Error> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        builder.add(pattern.glob(any_case)?);
    }
    builder.build().map(Some)
}

/// `tar.gz` is an extension, too; a name that is nothing but a dot and letters has none.
fn has_extension(name: &[u8], ext: &[u8]) -> bool {
    let Some(stem) = name.len().checked_sub(ext.len() + 1).filter(|n| *n > 0) else { return false };
    name[stem] == b'.' && name[stem + 1..].eq_ignore_ascii_case(ext)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(toml: &str) -> Class {
        Class::new("c", &toml::from_str(toml).expect("a class")).expect("a class")
    }

    fn has(class: &Class, path: &str) -> bool {
        let path = RelPath::new(path).expect("valid");
        class.has(&Look { path: &path, size: 1000, idle: 100 })
    }

    #[test]
    fn a_pattern_without_a_slash_is_about_the_name_at_any_depth() {
        let c = class("glob = [\"*.mp4\", \"Pictures/**/raw/*\"]");
        assert!(has(&c, "a.mp4") && has(&c, "x/y/a.mp4") && !has(&c, "a.mp4/b"));
        assert!(has(&c, "Pictures/2024/raw/1") && has(&c, "Pictures/raw/1") && !has(&c, "x/Pictures/raw/1"));
        assert!(!has(&c, "Pictures/2024/raw/x/1"));
    }

    #[test]
    fn all_that_is_given_must_hold_and_of_a_list_one() {
        let c = class("under = [\"a\", \"b/\"]\next = [\"jpg\", \".tar.gz\"]\nmin_size = \"1000\"");
        assert!(has(&c, "a/x.JPG") && has(&c, "b/c/x.tar.gz"));
        assert!(!has(&c, "ab/x.jpg") && !has(&c, "a/x.png") && !has(&c, "a/.jpg"));
        assert!(!has(&class("max_size = \"999\""), "a") && !has(&class("unused = \"101s\""), "a"));
        assert!(has(&class("unused = \"100s\""), "a") && has(&class("name = [\"THUMBS.*\"]"), "x/thumbs.db"));
    }

    #[test]
    fn names_that_are_no_text_match_as_bytes() {
        let path = RelPath::new(b"d/\xff.mp4".to_vec()).expect("valid");
        let look = Look { path: &path, size: 1, idle: 0 };
        assert!(class("glob = [\"*.mp4\"]").has(&look) && class("ext = [\"mp4\"]").has(&look));
    }
}
