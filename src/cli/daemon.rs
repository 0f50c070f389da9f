//! `ddr daemon`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::output::{BOLD, DIM, WARN, styled};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::{Time, count, duration, size};
use crate::daemon::run::{lock_dir, run as run_daemon};
use crate::daemon::socket::{self, Answer, Ask};
use crate::daemon::state::State;
use crate::engine::folder::{Context, is_locked, locate};
use crate::engine::registry;
use crate::peer::host::Login;

/// How long a daemon that was asked to stop is waited for.
const FAREWELL: Duration = Duration::from_secs(60);

/// Arguments of `ddr daemon`.
#[derive(clap::Args, Debug)]
pub struct DaemonArgs {
    /// Stay in the foreground; it always does, a service manager or `&` does the rest
    #[arg(long)]
    pub foreground: bool,
    /// What else to do
    #[command(subcommand)]
    pub command: Option<DaemonCommand>,
}

/// What to do with the daemon, or with the list of its folders.
#[derive(clap::Subcommand, Debug)]
pub enum DaemonCommand {
    /// Have a folder served (init and clone do that by themselves)
    Add {
        /// The folder (default: the one around the working directory)
        dir: Option<PathBuf>,
    },
    /// No longer have a folder served; nothing in it changes
    Remove {
        /// The folder (default: the one around the working directory)
        dir: Option<PathBuf>,
    },
    /// List the folders that are served
    List,
    /// Show how the running daemon's folders stand
    Status,
    /// Have all folders looked at and all stores asked now
    Poke,
    /// End the running daemon when it has finished what is in hand
    Stop,
}

/// Runs the daemon, or talks to it.
pub fn run(session: &Session, args: &DaemonArgs) -> Result<()> {
    match &args.command {
        None => {
            let login = Login { config_file: session.context().login.config_file, ..Login::default() };
            run_daemon(&Context { login, ..session.context() })
        }
        Some(DaemonCommand::Add { dir }) => add(session, dir.as_deref()),
        Some(DaemonCommand::Remove { dir }) => remove(session, dir.as_deref()),
        Some(DaemonCommand::List) => list(session),
        Some(DaemonCommand::Status) => status(session),
        Some(DaemonCommand::Poke) => ask(session, Ask::Poke).map(drop),
        Some(DaemonCommand::Stop) => stop(session),
    }
}

/// Registers a new working folder; that this fails is no reason for `init` or `clone` to fail.
pub fn register(session: &Session, root: &Path) {
    if let Err(e) = registry::add(root, &session.context()) {
        use crate::base::progress::Progress;
        session.terminal.note(&format!("the daemon will not serve it: {e}"));
    }
}

fn add(session: &Session, dir: Option<&Path>) -> Result<()> {
    let peer = locate(&start(session, dir))?;
    let Some(root) = peer.parent().filter(|_| peer.ends_with(".ddr")) else {
        return Err(Error::Unsupported(format!(
            "{} is a bare peer; the daemon serves working folders only",
            peer.display()
        )));
    };
    let root = root.canonicalize().map_err(|e| Error::io("resolving", root, e))?;
    let text = match registry::add(&root, &session.context())? {
        true => "is served from now on",
        false => "is served already",
    };
    session.out.line(format!("{} {text}", root.display()))
}

fn remove(session: &Session, dir: Option<&Path>) -> Result<()> {
    let at = start(session, dir);
    // A folder that is gone can still be removed by its name.
    let root = locate(&at).ok().and_then(|peer| peer.parent().map(Path::to_path_buf)).unwrap_or(at);
    match registry::remove(&root, &session.context())? {
        true => session.out.line(format!("{} is no longer served", root.display())),
        false => Err(Error::Missing(format!("{} among the served folders", root.display()))),
    }
}

fn start(session: &Session, dir: Option<&Path>) -> PathBuf {
    super::session::resolve(&dir.map_or_else(|| session.cwd.clone(), |dir| session.cwd.join(dir)))
}

fn list(session: &Session) -> Result<()> {
    for root in registry::list(&session.context().state_dir)? {
        let there = root.join(".ddr/folder.toml").is_file();
        let path = root.display().to_string();
        session.out.json(&json!({ "type": "served", "path": path, "there": there }))?;
        let gone = if there { String::new() } else { styled(WARN, " (not there)") };
        session.out.answer(format!("{path}{gone}"))?;
    }
    Ok(())
}

fn ask(session: &Session, what: Ask) -> Result<Answer> {
    let answer = socket::ask(&session.context().state_dir, what)?;
    answer.ok_or_else(|| Error::Offline { name: "the daemon".into(), why: "it does not run".into() })
}

fn stop(session: &Session) -> Result<()> {
    let pid = ask(session, Ask::Stop)?.pid;
    let (dir, since) = (lock_dir(&session.context().state_dir), Instant::now());
    while is_locked(&dir) {
        session.context().cancel.check()?;
        if since.elapsed() > FAREWELL {
            return Err(Error::Locked(format!("the daemon (pid {pid}), which still works")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    session.out.line(format!("the daemon (pid {pid}) has stopped"))
}

fn status(session: &Session) -> Result<()> {
    let answer = ask(session, Ask::Status)?;
    session.out.json(&json!({
        "type": "daemon", "pid": answer.pid, "version": answer.version, "since": answer.since,
        "folders": answer.folders.len(),
    }))?;
    let since = Time { secs: answer.since, nanos: 0 };
    session.out.line(format!("daemon: pid {}, since {since}", answer.pid))?;
    for state in &answer.folders {
        session.out.line(styled(BOLD, &state.folder))?;
        tell(session, &answer, state)?;
    }
    Ok(())
}

/// What the daemon says of one folder, for `ddr status`; nothing if none runs.
pub fn section(session: &Session, root: &Path) -> Result<()> {
    // One that does not answer is not what this is about.
    let asked = socket::ask(&session.context().state_dir, Ask::Status);
    let Ok(Some(answer)) = asked else { return Ok(()) };
    let root = root.display().to_string();
    match answer.folders.iter().find(|state| state.folder == root) {
        Some(state) => tell(session, &answer, state),
        None => {
            session.out.json(&json!({ "type": "served", "path": root, "served": false }))?;
            session
                .out
                .line(styled(DIM, "the daemon does not serve this folder; to change that: ddr daemon add"))
        }
    }
}

fn tell(session: &Session, answer: &Answer, state: &State) -> Result<()> {
    session.out.json(&json!({
        "type": "served", "path": state.folder, "served": true, "pid": answer.pid, "offline": state.offline,
        "doing": state.doing, "pending": state.pending, "watched": state.watched, "unwatched": state.unwatched,
        "last_commit": state.last_commit.map(|c| c.0), "last_policy": state.last_policy.map(|p| p.0),
        "next": state.next.as_ref().map(|n| n.0.clone()), "next_at": state.next.as_ref().map(|n| n.1),
        "away": state.away.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(),
        "problems": state.problems.iter().collect::<Vec<_>>(),
    }))?;
    for line in lines(state, Time::now()) {
        session.out.line(line)?;
    }
    Ok(())
}

/// A folder's state in words.
fn lines(state: &State, now: Time) -> Vec<String> {
    if let Some(why) = &state.offline {
        return vec![format!("daemon: {}: {why}", styled(WARN, "waits"))];
    }
    let ago = |at: i64| format!("{} ago", duration(span(now.secs - at)));
    let mut parts = Vec::new();
    parts.extend(state.doing.as_ref().map(|what| format!("at work ({what})")));
    parts.push(match state.pending {
        Some(0) => "nothing waits".into(),
        Some(n) => format!("{} waiting to settle", count(n as u64, "change")),
        None => "the tree is to be compared".into(),
    });
    parts.extend(state.last_commit.map(|(at, n)| format!("committed {} {}", count(n, "path"), ago(at))));
    parts.extend(state.last_policy.map(|(at, files, bytes)| match files {
        0 => format!("policy {}", ago(at)),
        n => format!("policy {} ({}, {})", ago(at), count(n, "file"), size(bytes)),
    }));
    parts.extend(
        state.next.as_ref().map(|(what, at)| format!("next: {what} in {}", duration(span(at - now.secs)))),
    );
    let mut out = vec![format!("daemon: {}", parts.join(", "))];
    let warn = |text: String| format!("daemon: {}", styled(WARN, text));
    let watched = count(state.watched, "directory");
    out.extend(
        state.unwatched.as_ref().map(|why| {
            warn(format!("only {watched} watched ({why}); changes elsewhere are found by looking"))
        }),
    );
    out.extend(state.away.iter().map(|(name, why)| warn(format!("{name} is away: {why}"))));
    out.extend(state.problems.iter().take(3).map(|problem| warn(problem.clone())));
    if state.problems.len() > 3 {
        out.push(warn(format!("and {} more", count(state.problems.len() as u64 - 3, "problem"))));
    }
    out
}

fn span(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(state: &State) -> Vec<String> {
        let now = Time { secs: 10_000, nanos: 0 };
        lines(state, now).iter().map(|l| anstream::adapter::strip_str(l).to_string()).collect()
    }

    #[test]
    fn a_state_reads_as_a_line_and_warnings() {
        let state = State {
            pending: Some(3),
            last_commit: Some((9_940, 1)),
            last_policy: Some((9_000, 2, 4096)),
            next: Some(("contact stores".into(), 10_090)),
            watched: 4,
            unwatched: Some("the system allows no more".into()),
            away: vec![("nas".into(), "no route".into())],
            ..State::default()
        };
        assert_eq!(
            plain(&state),
            [
                "daemon: 3 changes waiting to settle, committed 1 path 60s ago, policy 16m ago (2 files, 4.0 KiB), next: contact stores in 90s",
                "daemon: only 4 directories watched (the system allows no more); changes elsewhere are found by looking",
                "daemon: nas is away: no route",
            ]
        );
        let gone = State { offline: Some("no such directory".into()), ..State::default() };
        assert_eq!(plain(&gone), ["daemon: waits: no such directory"]);
    }
}
