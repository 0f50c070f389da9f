//! ProxyJump and ProxyCommand: a command whose standard streams are the connection.
//!
//! Promises that the command ends with its [`Proxy`]. Ctrl-C does not reach it: ddr ends the
//! conversation in order first.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to end by itself once its connection is closed.
const LEAVE: Duration = Duration::from_millis(500);

/// A running proxy.
pub struct Proxy(Child);

/// `ssh -W HOST:PORT` on the last of the hosts to go through; the others are for it to go through.
pub fn jump(jump: &str, host: &str, port: u16, file: Option<&Path>) -> Command {
    let (through, last) = match jump.rsplit_once(',') {
        Some((through, last)) => (Some(through), last),
        None => (None, jump),
    };
    let last = last.strip_prefix("ssh://").unwrap_or(last);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let mut command = undisturbed("exec ssh \"$@\"");
    if let Some(file) = file {
        command.arg("-F").arg(file);
    }
    if let Some(through) = through {
        command.arg("-J").arg(through);
    }
    command.arg("-W").arg(format!("{host}:{port}")).arg("--").arg(format!("ssh://{last}"));
    command
}

/// A proxy command, whose tokens are expanded already.
pub fn command(text: &str) -> Command {
    undisturbed(&format!("exec {text}"))
}

/// A shell that runs this script without hearing of Ctrl-C.
pub fn undisturbed(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("trap '' INT; {script}")).arg("sh");
    command
}

/// Starts it with one end of a socket pair as its streams; the other end is the connection.
pub fn start(mut command: Command) -> io::Result<(OwnedFd, Proxy)> {
    let (ours, theirs) = UnixStream::pair()?;
    let output = theirs.try_clone()?;
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(OwnedFd::from(output)));
    let child = command.stderr(Stdio::inherit()).spawn()?;
    // The command keeps open what would tell us that it ended.
    drop(command);
    Ok((ours.into(), Proxy(child)))
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let until = Instant::now() + LEAVE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        // It may have ended just now, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_proxy_is_a_connection_and_ends_with_it() {
        let (socket, proxy) = start(command("cat")).expect("sh runs");
        let mut stream = UnixStream::from(socket);
        stream.write_all(b"there and back").expect("a socket");
        let mut text = [0; 14];
        stream.read_exact(&mut text).expect("a socket");
        assert_eq!(&text, b"there and back");
        drop(stream);
        let since = Instant::now();
        drop(proxy);
        assert!(since.elapsed() < LEAVE);
        let (socket, _proxy) = start(command("false")).expect("sh runs");
        assert_eq!(UnixStream::from(socket).read(&mut text).expect("a socket"), 0);
    }

    #[test]
    fn several_jumps_go_through_each_other() {
        let args = |text: &str, host: &str| {
            let command = jump(text, host, 22, None);
            let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
            args[3..].join(" ")
        };
        assert!(args("gate", "nas").ends_with("-W nas:22 -- ssh://gate"));
        assert!(args("a,ann@b:23", "::1").ends_with("-J a -W [::1]:22 -- ssh://ann@b:23"));
    }
}
