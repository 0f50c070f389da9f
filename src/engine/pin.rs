//! Pinning: places whose files stay on this device.
//!
//! Promises that the user's settings keep their comments and order, and that a pin is durable before
//! it is reported. Bringing content back is `engine::checkout`'s part.

use std::path::Path;

use super::config::Config;
use super::folder::Folder;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::disk;
use crate::model::policy::pins::Pins;

/// Pins paths that are there; those that were not pinned before.
pub fn pin(folder: &mut Folder, paths: &[RelPath]) -> Result<Vec<RelPath>> {
    let mut pins = folder.config.pins()?;
    for path in paths {
        if !path.is_root() && folder.tree()?.stat(path)?.is_none() {
            return Err(Error::Missing(path.to_string()));
        }
    }
    let new: Vec<RelPath> = paths.iter().filter(|p| !pins.cover(p)).cloned().collect();
    for path in &new {
        pins.add(path.clone());
    }
    if !new.is_empty() {
        write(folder, &pins)?;
    }
    Ok(new)
}

/// Removes every pin at and below these paths; those that were removed.
pub fn unpin(folder: &mut Folder, paths: &[RelPath]) -> Result<Vec<RelPath>> {
    let mut pins = folder.config.pins()?;
    let mut gone = Vec::new();
    for path in paths {
        let found: Vec<RelPath> = pins.iter().filter(|pin| pin.is_under(path)).cloned().collect();
        if found.is_empty() {
            return Err(match pins.covering(path) {
                Some(pin) => Error::Refused(format!("{path} is pinned by {pin}; run: ddr unpin {pin}")),
                None => Error::Missing(format!("a pin at or below {path}")),
            });
        }
        for pin in &found {
            pins.remove(pin);
        }
        gone.extend(found);
    }
    write(folder, &pins)?;
    Ok(gone)
}

fn write(folder: &mut Folder, pins: &Pins) -> Result<()> {
    let file = folder.dir.join("config.toml");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::io("reading", file, e)),
    };
    let text = with_pins(&file, &text, pins)?;
    disk::replace_file(&file, text.as_bytes(), 0o600)?;
    folder.config = Config::parse(&text)?;
    Ok(())
}

/// The settings with other pins.
fn with_pins(file: &Path, text: &str, pins: &Pins) -> Result<String> {
    let mut doc: toml_edit::DocumentMut =
        text.parse().map_err(|e| Error::Invalid(format!("{}: {e}", file.display())))?;
    if pins.is_empty() {
        doc.remove("pins");
    } else {
        let list: toml_edit::Array = pins.iter().map(RelPath::to_string).collect();
        doc["pins"] = toml_edit::value(list);
    }
    let text = doc.to_string();
    Config::parse(&text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_tables_stay() {
        let p = |bytes: &[u8]| RelPath::new(bytes).expect("valid");
        let pins: Pins = [p(b"keys"), p(b"a \xff\"'")].into_iter().collect();
        let text = with_pins(Path::new("c"), "# mine\n[stash]\ncopies = 1 # one\n", &pins).expect("valid");
        assert!(text.contains("# mine") && text.contains("# one"), "{text}");
        let config = Config::parse(&text).expect("valid");
        assert_eq!((config.pins().expect("valid"), config.stash.copies), (pins, Some(1)));
        let without = with_pins(Path::new("c"), &text, &Pins::default()).expect("valid");
        assert!(!without.contains("pins"), "{without}");
    }
}
