//! Paths relative to a folder's root: validated, byte-exact, totally ordered.
//!
//! Promises that a [`RelPath`] never escapes the root and never names ddr's own directory. Knows
//! nothing of the file system: symlinks are refused where paths are opened (`local::root`).

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::{Error, Result};

/// Longest path in bytes, and longest component, that ddr records.
pub const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// A path below the root: components joined by `/`; the root itself is the empty path.
///
/// Order is plain byte order of the joined form; scans and database cursors both use it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// The folder's root.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks and takes the joined form.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.into();
        let bad = |why: &str| Error::Invalid(format!("path {}: {why}", escape(&bytes)));
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        if bytes.len() > MAX_PATH {
            return Err(bad("longer than 4,095 bytes"));
        }
        for name in bytes.split(|b| *b == b'/') {
            check_name(name).map_err(bad)?;
        }
        if bytes.split(|b| *b == b'/').any(is_own_name) {
            return Err(bad("`.ddr` is ddr's own directory"));
        }
        Ok(Self(bytes))
    }

    /// This path with one more component.
    pub fn join(&self, name: &[u8]) -> Result<Self> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }

    /// The joined form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The joined form as a file system path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Directory part and last component; `None` for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => Some((Self(self.0[..at].to_vec()), &self.0[at + 1..])),
            None => Some((Self::root(), &self.0)),
        }
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        let at = self.0.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        &self.0[at..]
    }

    /// Whether this path is `other` or lies below it.
    pub fn is_under(&self, other: &Self) -> bool {
        other.is_root()
            || self.0 == other.0
            || (self.0.starts_with(&other.0) && self.0.get(other.0.len()) == Some(&b'/'))
    }
}

/// A component must be a plain name of at most 255 bytes.
fn check_name(name: &[u8]) -> std::result::Result<(), &'static str> {
    match name {
        b"" => Err("empty component"),
        b"." | b".." => Err("`.` and `..` are not allowed"),
        _ if name.len() > MAX_NAME => Err("component longer than 255 bytes"),
        _ if name.contains(&0) => Err("NUL byte"),
        _ => Ok(()),
    }
}

/// Whether a component names ddr's own directory, in any case (case-folding file systems exist).
pub fn is_own_name(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b".ddr")
}

/// Printable form of arbitrary bytes: control characters and invalid UTF-8 as escapes.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            if c.is_control() || turns_text(c) || c == '\\' {
                out.extend(c.escape_default())
            } else {
                out.push(c)
            }
        }
        part.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
    }
    out
}

/// The inverse of [`escape`]; `None` if a backslash begins nothing that it writes.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let (bytes, len) = match rest.chars().next()? {
            'n' => (b"\n".to_vec(), 1),
            'r' => (b"\r".to_vec(), 1),
            't' => (b"\t".to_vec(), 1),
            '\\' => (b"\\".to_vec(), 1),
            'x' => (vec![u8::from_str_radix(rest.get(1..3)?, 16).ok()?], 3),
            'u' => {
                let end = rest.find('}')?;
                let code = u32::from_str_radix(rest.get(2..end)?, 16).ok()?;
                (char::from_u32(code)?.to_string().into_bytes(), end + 1)
            }
            _ => return None,
        };
        out.extend(bytes);
        rest = &rest[len..];
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

/// Characters that break lines or turn the direction of the text around them.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str(".") } else { f.write_str(&escape(&self.0)) }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({self})")
    }
}

impl<C> minicbor::Encode<C> for RelPath {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> std::result::Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for RelPath {
    fn decode(
        d: &mut minicbor::Decoder<'b>,
        _: &mut C,
    ) -> std::result::Result<Self, minicbor::decode::Error> {
        Self::new(d.bytes()?).map_err(|_| minicbor::decode::Error::message("invalid path"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_and_own_names_are_refused() {
        for bad in ["/a", "a/", "a//b", ".", "..", "a/../b", ".ddr", "a/.DDR/b", "a\0b"] {
            assert!(RelPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(RelPath::new("a".repeat(256)).is_err());
        assert!(RelPath::new("a".repeat(255)).is_ok());
    }

    #[test]
    fn under_is_by_component() {
        let p = |s: &str| RelPath::new(s).expect("valid");
        assert!(p("a/b").is_under(&p("a")) && p("a").is_under(&p("a")) && p("a").is_under(&RelPath::root()));
        assert!(!p("ab").is_under(&p("a")));
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let odd: [&[u8]; 4] = [b"a\n\r\t\\\xff\x01", "\u{202e}\u{e9}".as_bytes(), b"\\x41", b"plain"];
        odd.iter().for_each(|bytes| assert_eq!(unescape(&escape(bytes)).as_deref(), Some(*bytes)));
        ["\\", "\\q", "\\x4", "\\xzz", "\\u{}", "\\u{d800}"]
            .iter()
            .for_each(|bad| assert_eq!(unescape(bad), None));
    }

    #[test]
    fn odd_bytes_print_as_escapes() {
        assert_eq!(RelPath::new(b"a\n\xff".to_vec()).expect("valid").to_string(), "a\\n\\xff");
        assert_eq!(RelPath::new("\u{202e}a").expect("valid").to_string(), "\\u{202e}a");
    }
}
