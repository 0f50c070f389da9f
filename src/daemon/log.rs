//! The daemon's log: lines in a file that is rotated, or on stderr under systemd, which keeps them.
//!
//! Promises that all files together stay below a bound, and that a full disk costs lines, never work.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::base::error::{Error, Result};

/// A file is put aside when it has reached so many bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Files that were put aside and are kept.
const KEPT: u32 = 4;

/// Where lines go.
pub struct Log {
    file: Option<Mutex<Rotated>>,
    stderr: bool,
}

struct Rotated {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Log {
    /// Under systemd its journal; else a file in `dir`, and the terminal if there is one.
    pub fn open(dir: &Path) -> Result<Self> {
        if std::env::var_os("JOURNAL_STREAM").is_some() {
            return Ok(Self { file: None, stderr: true });
        }
        let file = Some(Mutex::new(Rotated::open(dir.join("daemon.log"))?));
        Ok(Self { file, stderr: std::io::stderr().is_terminal() })
    }

    /// One line about a folder, or about the daemon itself.
    pub fn line(&self, about: &str, text: &str) {
        let text = text.replace('\n', " | ");
        if self.stderr {
            // Nobody may be there to read it.
            let _ = writeln!(std::io::stderr(), "{about}: {text}");
        }
        if let Some(file) = &self.file {
            let when = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S");
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write(&format!("{when} {about}: {text}\n"));
        }
    }
}

impl Rotated {
    fn open(path: PathBuf) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
        }
        let file = File::options().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(|e| Error::io("opening", &path, e))?;
        let len = file.metadata().map_err(|e| Error::io("inspecting", &path, e))?.len();
        Ok(Self { path, file, len })
    }

    /// What cannot be written is lost: there is nowhere to say so.
    fn write(&mut self, line: &str) {
        if self.len + line.len() as u64 > MAX_BYTES {
            self.rotate();
        }
        if self.file.write_all(line.as_bytes()).is_ok() {
            self.len += line.len() as u64;
        }
    }

    fn rotate(&mut self) {
        let name = |n: u32| match n {
            0 => self.path.clone(),
            n => self.path.with_extension(format!("log.{n}")),
        };
        for n in (0..KEPT).rev() {
            // One that is not there yet stays so.
            let _ = std::fs::rename(name(n), name(n + 1));
        }
        if let Ok(fresh) = Self::open(self.path.clone()) {
            *self = fresh;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_rotated_and_few() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut log = Rotated::open(dir.path().join("daemon.log")).expect("open");
        let line = "x".repeat(64 << 10);
        for _ in 0..200 {
            log.write(&line);
        }
        let sizes: Vec<u64> = std::fs::read_dir(dir.path())
            .expect("list")
            .map(|e| e.expect("entry").metadata().expect("stat").len())
            .collect();
        assert_eq!(sizes.len(), 1 + KEPT as usize);
        assert!(sizes.iter().all(|len| *len <= MAX_BYTES), "{sizes:?}");
    }
}
