//! The daemon's socket: one line asked, one JSON line answered.
//!
//! Promises that only the daemon's own user is answered, and that one who sends too much, too slowly or
//! nothing at all is cut off. Knows no folder.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::State;
use crate::base::error::{Error, Result};
use crate::disk;

/// A question is not longer.
const MAX_ASK: u64 = 4096;
/// An answer is not longer.
const MAX_ANSWER: u64 = 4 << 20;
/// Nobody is waited for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where the name of a socket must fit in.
const MAX_NAME: usize = 107;

/// What can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// How the folders stand.
    Status,
    /// Look at everything now.
    Poke,
    /// End.
    Stop,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The daemon's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started, in seconds since 1970.
    pub since: i64,
    /// Its folders.
    pub folders: Vec<State>,
}

/// Where the socket is: with what ends when the user logs out, else with the daemon's state.
pub fn path(state_dir: &Path) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|dir| dir.is_absolute() && dir.is_dir());
    runtime.map_or_else(|| state_dir.to_path_buf(), |dir| dir.join("ddr")).join("daemon.sock")
}

/// Where the daemon says that it listens, for commands whose environment is another.
fn note(state_dir: &Path) -> PathBuf {
    state_dir.join("daemon/socket")
}

/// Listens. The caller holds the daemon's lock: a socket that is there is a dead daemon's.
pub fn listen(path: &Path, state_dir: &Path) -> Result<UnixListener> {
    if path.as_os_str().as_bytes().len() > MAX_NAME {
        let why = format!("{}: too long for a socket; set XDG_RUNTIME_DIR to a short one", path.display());
        return Err(Error::Unsupported(why));
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("removing", path, e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|e| Error::io("listening at", path, e))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).map_err(|e| Error::io("protecting", path, e))?;
    listener.set_nonblocking(true).map_err(|e| Error::io("listening at", path, e))?;
    disk::replace_file(&note(state_dir), path.as_os_str().as_bytes(), 0o600)?;
    Ok(listener)
}

/// Takes one connection, if there is one, and answers it.
pub fn serve(listener: &UnixListener, answer: impl FnOnce(Ask) -> Answer) {
    let Ok((stream, _)) = listener.accept() else { return };
    // Whoever asks wrongly, or goes away, gets nothing; that is all there is to it.
    let _ = serve_one(&stream, answer);
}

fn serve_one(stream: &UnixStream, answer: impl FnOnce(Ask) -> Answer) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let me = rustix::process::geteuid();
    if peer.uid != me && !peer.uid.is_root() {
        return Ok(());
    }
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ASK)).read_line(&mut line)?;
    let ask: Ask = serde_json::from_str(line.trim_end())?;
    let mut text = serde_json::to_string(&answer(ask))?;
    text.push('\n');
    let mut stream = stream;
    stream.write_all(text.as_bytes())
}

/// Asks the daemon; `None` if none runs.
pub fn ask(state_dir: &Path, ask: Ask) -> Result<Option<Answer>> {
    let Ok(noted) = std::fs::read(note(state_dir)) else { return Ok(None) };
    let path = PathBuf::from(OsStr::from_bytes(&noted));
    let Ok(mut stream) = UnixStream::connect(&path) else { return Ok(None) };
    let fail = |e: std::io::Error| Error::io("asking the daemon at", &path, e);
    // It answers between two looks at its folders.
    stream.set_read_timeout(Some(PATIENCE * 2)).map_err(fail)?;
    let line = format!("{}\n", serde_json::to_string(&ask).map_err(|e| Error::Invalid(e.to_string()))?);
    stream.write_all(line.as_bytes()).map_err(fail)?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text).map_err(fail)?;
    let odd = |e: serde_json::Error| Error::Unsupported(format!("the daemon is of another version: {e}"));
    serde_json::from_str(&text).map(Some).map_err(odd)
}
