//! Questions to the user, on the terminal itself: standard input may be something else.
//!
//! Promises that a secret is not shown while it is typed, that Ctrl-C ends the wait, and that nobody is
//! asked where there is no terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::progress::Terminal;
use crate::base::cancel::Cancel;
use crate::peer::auth::Question;
use crate::peer::host::Login;

/// Names a file that takes the place of `~/.ssh/config` and `/etc/ssh/ssh_config`.
const CONFIG_FILE: &str = "DDR_SSH_CONFIG";
/// Longer answers are cut.
const MAX_ANSWER: usize = 4096;

/// How this user logs in to other machines.
pub fn login(terminal: &Arc<Terminal>, cancel: &Cancel) -> Login {
    let (terminal, cancel, one) = (Arc::clone(terminal), cancel.clone(), Mutex::new(()));
    let ask = move |question: &Question| {
        // Machines are opened side by side, but people answer one question at a time.
        let _alone = one.lock().unwrap_or_else(PoisonError::into_inner);
        terminal.clear();
        ask(question, &cancel)
    };
    let config_file = std::env::var_os(CONFIG_FILE).filter(|f| !f.is_empty()).map(PathBuf::from);
    Login { config_file, accept_new: false, ask: Arc::new(ask) }
}

fn ask(question: &Question, cancel: &Cancel) -> Option<String> {
    let mut tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    let silence = if question.secret { Some(Silence::on(&tty)?) } else { None };
    tty.write_all(question.text.as_bytes()).ok()?;
    let answer = read_line(&mut tty, cancel);
    if silence.is_some() {
        // What the user typed to end the line was not shown either.
        let _ = tty.write_all(b"\n");
    }
    answer
}

fn read_line(tty: &mut File, cancel: &Cancel) -> Option<String> {
    let mut line = Vec::new();
    let time = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    while !line.ends_with(b"\n") && line.len() < MAX_ANSWER {
        if cancel.is_cancelled() {
            return None;
        }
        let mut fds = [PollFd::new(&*tty, PollFlags::IN)];
        if !poll(&mut fds, Some(&time)).is_ok_and(|n| n > 0) {
            continue;
        }
        let mut byte = [0];
        match tty.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => line.push(byte[0]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    if line.is_empty() {
        return None;
    }
    let text = String::from_utf8(line).ok()?;
    Some(text.trim_end_matches(['\n', '\r']).to_string())
}

/// A terminal that does not show what is typed, for as long as this lives.
struct Silence {
    tty: File,
    before: Termios,
}

impl Silence {
    fn on(tty: &File) -> Option<Self> {
        let before = tcgetattr(tty).ok()?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        tcsetattr(tty, OptionalActions::Flush, &silent).ok()?;
        Some(Self { tty: tty.try_clone().ok()?, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing.
        let _ = tcsetattr(&self.tty, OptionalActions::Flush, &self.before);
    }
}
