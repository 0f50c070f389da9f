//! A byte stream to another ddr, and how to get one.
//!
//! Promises that dropping a [`Stream`] ends its transport and whatever that started. Knows nothing of
//! what is said over it.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::error::{Error, Result};

/// How long a command may take to end after its input was closed.
const LEAVE: Duration = Duration::from_secs(2);
/// How long [`End::why`] waits for an exit status that is on its way.
const VERDICT: Duration = Duration::from_secs(1);
/// Lines of a command's standard error that are kept.
const LAST_LINES: usize = 10;
/// Longer lines are cut.
const LINE_BYTES: u64 = 500;

/// Two directions and what lies behind them.
///
/// Both ends may be pipes or sockets (also one socket twice); they are switched to non-blocking, so
/// nobody else may use the same open file. The user closes `writer` when there is nothing more to say,
/// and reads `reader` to its end.
pub struct Stream {
    /// What the other side says.
    pub reader: OwnedFd,
    /// What is said to it.
    pub writer: OwnedFd,
    /// The transport.
    pub end: Box<dyn End>,
}

/// The far end of a stream: a process, a session. Dropping it ends the transport: both
/// directions then close, even if it hangs.
pub trait End: Send {
    /// Why the stream ended, for the user; asked after `reader` ended or failed. May wait a second
    /// for an exit status. `None` if nothing is known. [`Error::Offline`] means that dialling again
    /// may help; any other error is final (no such program, a changed host key, no access).
    fn why(&mut self) -> Option<Error>;
}

/// Makes streams to one place: the first, and a new one after each cut.
pub trait Dial: Send + Sync {
    /// A new stream, ready for the first byte of the protocol, within half a minute.
    /// [`Error::Offline`] means that trying again later may help; any other error is final.
    fn dial(&self) -> Result<Stream>;

    /// What messages call the place: a URL, or what was typed.
    fn place(&self) -> String;
}

/// Runs a command that speaks the protocol on its standard input and output, such as `ddr serve PATH`.
///
/// The command is a group of its own, so that Ctrl-C on the terminal reaches only this process, which then
/// ends the conversation in order.
pub struct ChildDial {
    program: Vec<std::ffi::OsString>,
    environment: Vec<(String, String)>,
}

impl ChildDial {
    /// Program and arguments.
    pub fn new<S: Into<std::ffi::OsString>>(program: impl IntoIterator<Item = S>) -> Self {
        Self { program: program.into_iter().map(Into::into).collect(), environment: Vec::new() }
    }

    /// Sets a variable in the command's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

impl Dial for ChildDial {
    fn dial(&self) -> Result<Stream> {
        use std::os::unix::process::CommandExt;
        let (program, args) =
            self.program.split_first().ok_or_else(|| Error::Invalid("no command to run".into()))?;
        let mut command = Command::new(program);
        command.args(args).envs(self.environment.iter().map(|(k, v)| (k, v))).process_group(0);
        let (reader, writer, end) = ChildEnd::start(command, self.place(), true)?;
        Ok(Stream { reader, writer, end: Box::new(end) })
    }

    fn place(&self) -> String {
        let words: Vec<_> = self.program.iter().map(|w| w.to_string_lossy()).collect();
        words.join(" ")
    }
}

/// Keeps the last lines of what a command says on standard error.
fn listen(stderr: impl Read + Send + 'static, said: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut input = BufReader::new(stderr);
        let mut line = Vec::new();
        // Whatever is wrong with the pipe: there is nothing more to hear.
        while let Ok(n) = (&mut input).take(LINE_BYTES).read_until(b'\n', &mut line)
            && n > 0
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            line.clear();
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if !text.is_empty() {
                said.push(text);
            }
            if said.len() > LAST_LINES {
                said.remove(0);
            }
        }
    })
}

/// A running command.
pub struct ChildEnd {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    listener: Option<JoinHandle<()>>,
    place: String,
    group: bool,
}

impl ChildEnd {
    /// Starts a command: its output, its input, and itself. `group`: it leads a process group of its
    /// own, which ends as a whole.
    pub fn start(mut command: Command, place: String, group: bool) -> Result<(OwnedFd, OwnedFd, Self)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.get_program().to_os_string();
        let mut child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::Missing(format!("the program {}", program.display())),
            _ => Error::io("running", program, e),
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::Invalid(format!("{place}: it has no pipes")));
        };
        let said = Arc::new(Mutex::new(Vec::new()));
        let listener = Some(listen(stderr, Arc::clone(&said)));
        Ok((stdout.into(), stdin.into(), Self { child, said, listener, place, group }))
    }

    /// Its exit status and the last lines of its standard error, once it has ended. Waits a second for
    /// that.
    pub fn last_words(&mut self) -> (Option<std::process::ExitStatus>, Vec<String>) {
        let status = self.wait(VERDICT);
        // Its last words are in the pipe; a grandchild that still holds it must not keep us.
        if status.is_some() {
            let until = Instant::now() + VERDICT;
            while self.listener.as_ref().is_some_and(|l| !l.is_finished()) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        (status, self.said.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Asks it to end at once.
    pub fn terminate(&mut self) {
        // One that has ended already, and was waited for, has no id any more.
        if let (Ok(None), Some(pid)) =
            (self.child.try_wait(), rustix::process::Pid::from_raw(self.child.id() as i32))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Its exit status, if it ends within some time.
    fn wait(&mut self, time: Duration) -> Option<std::process::ExitStatus> {
        let until = Instant::now() + time;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }
}

impl End for ChildEnd {
    fn why(&mut self) -> Option<Error> {
        let (status, said) = self.last_words();
        let said = said.join("; ");
        let ended = status.map(|s| s.to_string());
        let why = match (said.is_empty(), ended) {
            (false, _) => said,
            (true, Some(ended)) => format!("the command ended ({ended})"),
            (true, None) => return None,
        };
        Some(Error::Offline { name: self.place.clone(), why })
    }
}

impl Drop for ChildEnd {
    fn drop(&mut self) {
        if self.wait(LEAVE).is_none() {
            // It may have ended just now, which is what is wanted. What it started is of its group.
            if let Some(group) = rustix::process::Pid::from_raw(self.child.id() as i32).filter(|_| self.group)
            {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn shell(script: &str) -> ChildDial {
        ChildDial::new(["sh", "-c", script])
    }

    #[test]
    fn a_command_is_a_stream_and_ends_with_it() {
        let Stream { reader, writer, end } = shell("cat").dial().expect("cat runs");
        let (mut reader, mut writer) = (std::fs::File::from(reader), std::fs::File::from(writer));
        writer.write_all(b"there and back").expect("a pipe");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("a pipe");
        assert_eq!(text, "there and back");
        drop(end);
    }

    #[test]
    fn its_last_words_say_why_it_ended() {
        let mut stream = shell("echo no such folder >&2; exit 3").dial().expect("sh runs");
        let why = stream.end.why().expect("it ended").to_string();
        assert!(why.contains("no such folder"), "{why}");
        let mut silent = shell("exit 3").dial().expect("sh runs");
        assert!(silent.end.why().expect("it ended").to_string().contains('3'));
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let stream = shell("trap '' TERM; while :; do sleep 0.1; done").dial().expect("sh runs");
        let since = Instant::now();
        drop(stream);
        assert!(since.elapsed() < LEAVE + Duration::from_secs(2));
    }

    #[test]
    fn a_missing_program_is_final() {
        let result = ChildDial::new(["/no/such/program"]).dial().map(drop);
        assert!(matches!(result, Err(Error::Missing(_))));
    }
}
