//! Ways to touch a stub: each with its own files, each saying what came of it.

mod calls;
mod changes;
mod programs;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::trouble::{Touched, Trouble};
use crate::support::content::{noise, text};
use crate::support::{Output, Running, own_files};

pub use calls::CALLS;
pub use changes::CHANGES;
pub use programs::PROGRAMS;

/// Where one way plays.
pub struct Place {
    /// Its directory in the folder.
    pub dir: PathBuf,
    /// The stub.
    pub file: PathBuf,
    /// What the stub stands for.
    pub content: Vec<u8>,
    /// A path outside the folder on the same file system; its directory is there.
    pub out: PathBuf,
    /// A path on another file system; its directory is there.
    pub far: PathBuf,
}

/// What a way needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// The content: without a store it fails.
    Content,
    /// Only the name: it works without a store and brings nothing back.
    Name,
    /// Only the name, but it changes the content: a truncating open, for instance.
    Nothing,
}

/// One way to touch a stub.
pub struct Way {
    /// What it is called.
    pub name: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// A program that must be installed.
    pub program: Option<&'static str>,
    /// Writes the file before it is stashed.
    pub prepare: fn(&mut Place),
    /// Touches the stub.
    pub touch: fn(&Place) -> Touched,
}

impl Way {
    /// With a file of bytes that do not compress.
    pub const fn new(name: &'static str, needs: Needs, touch: fn(&Place) -> Touched) -> Self {
        Self { name, needs, program: None, prepare: plain, touch }
    }

    /// By a program.
    pub const fn by(self, program: &'static str) -> Self {
        Self { program: Some(program), ..self }
    }

    /// With other files.
    pub const fn with(self, prepare: fn(&mut Place)) -> Self {
        Self { prepare, ..self }
    }

    /// Why it cannot be tried on such a file system here.
    pub fn obstacle(&self, kind: &str) -> Option<String> {
        if self.name == "ficlone" && kind == "ext4" {
            return Some("ext4 cannot share blocks".into());
        }
        let program = self.program?;
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        (!found).then(|| format!("{program} is not installed"))
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Way> {
    CALLS.iter().chain(CHANGES).chain(PROGRAMS)
}

fn plain(place: &mut Place) {
    // Several chunks, and an end that is no whole block.
    place.content = noise(place.file.as_os_str().len() as u64, 700_001);
    write(&place.file, &place.content);
}

fn lines(place: &mut Place) {
    place.content = text(7, 400_003);
    write(&place.file, &place.content);
}

fn write(path: &std::path::Path, bytes: &[u8]) {
    let ours = own_files();
    std::fs::write(path, bytes).unwrap();
    drop(ours);
}

/// Runs a line of shell in the way's directory, with `$f`, `$out` and `$far`.
fn shell(place: &Place, line: &str) -> Result<Output, Trouble> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).current_dir(&place.dir);
    command.env("f", &place.file).env("out", &place.out).env("far", &place.far);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@example.org");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::spawn(command, line.into()).wait().expect(&[0]).map_err(Trouble::Failed)
}
