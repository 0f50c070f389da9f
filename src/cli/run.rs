//! From `main` to a command and back to an exit code.
//!
//! Promises that Ctrl-C stops at a consistent point, that a closed pipe is no error, and that every
//! error is one line with a hint.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

use super::session::Session;
use super::{Cli, dispatch};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};

/// Parses arguments, runs, reports.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.global.color {
        clap::ColorChoice::Auto => anstream::ColorChoice::Auto,
        clap::ColorChoice::Always => anstream::ColorChoice::Always,
        clap::ColorChoice::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    let cancel = Cancel::default();
    if let Err(e) = catch_signals(&cancel) {
        eprintln!("ddr: signals: {e}");
    }
    if let Err(e) = catch_full_disk() {
        eprintln!("ddr: signals: {e}");
    }
    crate::local::lease::ignore_lease_signals();
    raise_file_limit();
    let session = match Session::new(&cli.global, cancel) {
        Ok(session) => session,
        Err(e) => return report(&e),
    };
    let result = dispatch(&session, &cli.command).and_then(|()| session.problems());
    let shown = session.finish();
    match result.and(shown) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if session.is_pipe_closed(&e) => ExitCode::SUCCESS,
        Err(e) => report(&e),
    }
}

/// The first Ctrl-C asks for a stop, the second one ends the process (which is safe, too).
fn catch_signals(cancel: &Cancel) -> std::io::Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let again = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&again))?;
        signal_hook::flag::register(signal, again)?;
        signal_hook::flag::register(signal, cancel.flag())?;
    }
    Ok(())
}

/// SQLite shares an index in memory that is a file; where the disk is full (and its blocks are smaller
/// than a page) the kernel answers a write to it with a signal. Ending at once is safe: it is a crash
/// like any other, only that somebody says why.
fn catch_full_disk() -> std::io::Result<()> {
    const TEXT: &[u8] = b"ddr: no space left while writing a database
     free some space and run the same command again; it continues where it stopped
";
    // SAFETY: writes bytes that live for ever, then ends the process without running anything of it.
    let tell = || unsafe {
        libc::write(libc::STDERR_FILENO, TEXT.as_ptr().cast(), TEXT.len());
        libc::_exit(1)
    };
    // SAFETY: `write` and `_exit` are async-signal-safe; nothing else is called.
    unsafe { signal_hook::low_level::register(signal_hook::consts::SIGBUS, tell) }.map(drop)
}

/// Many files are open at once while a tree is filled.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Best effort: with fewer, work only gets slower.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn report(error: &Error) -> ExitCode {
    anstream::eprintln!(
        "{}ddr: {error}{}",
        super::output::ERROR.render(),
        super::output::ERROR.render_reset()
    );
    if let Some(hint) = error.hint() {
        anstream::eprintln!("     {hint}");
    }
    ExitCode::from(error.exit_code())
}

/// Runs `ddr-foo` with the remaining arguments in place of this process.
pub fn external(session: &Session, args: &[OsString]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let name = args.first().cloned().unwrap_or_default();
    let mut program = OsString::from("ddr-");
    program.push(&name);
    let error = std::process::Command::new(&program).args(&args[1..]).current_dir(&session.cwd).exec();
    // "Permission denied" also comes from a directory of PATH that is closed to us.
    if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) {
        return Err(Error::Invalid(format!(
            "there is no command `ddr {}`, and no {} in PATH that can be run; see `ddr help`",
            name.to_string_lossy(),
            program.to_string_lossy()
        )));
    }
    Err(Error::io("running", program, error))
}
