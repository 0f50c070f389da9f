//! `ddr service`: units for systemd.
//!
//! Promises that a unit of somebody else under the same name is never overwritten or removed, and that
//! what is to be run afterwards is said, not done: whether services start is the user's decision.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::engine::folder::locate;
use crate::recall::handover;

/// The first line of every unit that is ours.
const MARK: &str = "# Written by `ddr service install`; `ddr service remove` takes it away.";
/// Where units of the whole system are.
const SYSTEM: &str = "/etc/systemd/system";

/// What to do with the units.
#[derive(clap::Subcommand, Debug)]
pub enum ServiceCommand {
    /// Write the unit of the daemon for this user, or with --system that of the guard
    Install(ServiceArgs),
    /// Remove it
    Remove(ServiceArgs),
}

/// Which unit.
#[derive(clap::Args, Debug)]
pub struct ServiceArgs {
    /// The unit of this user's daemon (the default)
    #[arg(long, conflicts_with = "system")]
    pub user: bool,
    /// The unit of the guard, for the whole system (needs root)
    #[arg(long)]
    pub system: bool,
    /// Only print what would be written or removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Folders that the guard is to look after
    #[arg(value_name = "DIR", conflicts_with = "user")]
    pub dirs: Vec<PathBuf>,
}

/// A unit and what belongs to it.
struct Unit {
    path: PathBuf,
    text: String,
    /// `systemctl`, as its user would call it.
    control: &'static str,
    /// With what it starts once it is enabled.
    target: &'static str,
}

impl Unit {
    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What `systemctl enable` makes.
    fn link(&self) -> PathBuf {
        self.path.with_file_name(format!("{}.wants", self.target)).join(self.name())
    }
}

/// Installs or removes.
pub fn run(session: &Session, command: &ServiceCommand) -> Result<()> {
    let (ServiceCommand::Install(args) | ServiceCommand::Remove(args)) = command;
    let program = std::env::current_exe().map_err(|e| Error::io("finding", "this program", e))?;
    let installs = matches!(command, ServiceCommand::Install(_));
    if installs && args.system == args.dirs.is_empty() {
        return Err(Error::Invalid(
            "the guard's unit needs its folders, and only that one: ddr service install --system DIR..."
                .into(),
        ));
    }
    let unit = if args.system { guard(&program, &folders(session, &args.dirs)?)? } else { daemon(&program)? };
    match command {
        ServiceCommand::Install(_) => install(session, &unit, args.dry_run),
        ServiceCommand::Remove(_) => remove(session, &unit, args.dry_run),
    }
}

fn daemon(program: &Path) -> Result<Unit> {
    let config = xdg::BaseDirectories::new().get_config_home();
    let config =
        config.ok_or_else(|| Error::Invalid("no config directory: set HOME or XDG_CONFIG_HOME".into()))?;
    let path = config.join("systemd/user/ddr.service");
    let text = daemon_text(&quoted(program)?);
    Ok(Unit { path, text, control: "systemctl --user", target: "default.target" })
}

/// The roots of folders, as words of a command.
fn folders(session: &Session, dirs: &[PathBuf]) -> Result<Vec<String>> {
    let word = |dir: &PathBuf| {
        let full = session.cwd.join(dir).canonicalize().map_err(|e| Error::io("finding", dir, e))?;
        let peer = locate(&full)?;
        quoted(if peer.ends_with(".ddr") { peer.parent().unwrap_or(&peer) } else { &peer })
    };
    dirs.iter().map(word).collect()
}

fn guard(program: &Path, folders: &[String]) -> Result<Unit> {
    let path = Path::new(SYSTEM).join("ddr-guard.service");
    let text = guard_text(&quoted(program)?, &folders.join(" "));
    Ok(Unit { path, text, control: "systemctl", target: "multi-user.target" })
}

/// The user's daemon. It may take its time to stop: what is in hand is finished.
fn daemon_text(program: &str) -> String {
    format!(
        "{MARK}
[Unit]
Description=ddr daemon: commits, stashes and brings stores level

[Service]
Type=notify
ExecStart={program} daemon
Restart=on-failure
RestartSec=10
WatchdogSec=120
TimeoutStopSec=120
Nice=5
IOSchedulingClass=idle
UMask=0077

[Install]
WantedBy=default.target
"
    )
}

/// The guard. Its event group stays with systemd while it is restarted, so that nobody is let in meanwhile, and
/// is released when it is stopped. It is there before anybody logs in, and ends for good where nothing mends by
/// itself (wrong words, no permission). Workers that a killed guard left are killed: nobody would answer them.
fn guard_text(program: &str, folders: &str) -> String {
    let most = handover::MOST;
    format!(
        "{MARK}
[Unit]
Description=ddr guard: opening a stub brings its content back
After=local-fs.target
Before=systemd-user-sessions.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={program} guard {folders}
Restart=always
RestartSec=100ms
RestartPreventExitStatus=2 4
KillMode=mixed
RuntimeDirectory=ddr
RuntimeDirectoryPreserve=restart
FileDescriptorStoreMax={most}
FileDescriptorStorePreserve=restart
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
"
    )
}

/// A program's path as a word of `ExecStart=`.
fn quoted(program: &Path) -> Result<String> {
    let text = program.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| Error::Unsupported(format!("{:?} cannot stand in a unit", program)))?;
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(if escaped.contains([' ', '"', '\'', '\\', ';']) { format!("\"{escaped}\"") } else { escaped })
}

fn install(session: &Session, unit: &Unit, dry_run: bool) -> Result<()> {
    let path = unit.path.display().to_string();
    if dry_run {
        session.out.json(&json!({ "type": "unit", "path": path, "text": unit.text }))?;
        return session.out.answer(format!("# {path}\n{}", unit.text.trim_end()));
    }
    refuse_foreign(&unit.path)?;
    if let Some(dir) = unit.path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
    }
    crate::disk::replace_file(&unit.path, unit.text.as_bytes(), 0o644)?;
    session.out.json(&json!({ "type": "unit", "path": path, "installed": true }))?;
    session.out.line(format!("wrote {path}"))?;
    session.out.line(format!(
        "Next: {0} daemon-reload && {0} enable --now {1}",
        unit.control,
        unit.name()
    ))?;
    if unit.control.ends_with("--user") {
        session.out.line("so that it also runs while you are not logged in: loginctl enable-linger")?;
    }
    Ok(())
}

fn remove(session: &Session, unit: &Unit, dry_run: bool) -> Result<()> {
    let path = unit.path.display().to_string();
    if !unit.path.exists() {
        return Err(Error::Missing(path));
    }
    refuse_foreign(&unit.path)?;
    if dry_run {
        return session.out.answer(format!("would remove {path}"));
    }
    let link = unit.link();
    if link.is_symlink() {
        std::fs::remove_file(&link).map_err(|e| Error::io("removing", &link, e))?;
    }
    std::fs::remove_file(&unit.path).map_err(|e| Error::io("removing", &unit.path, e))?;
    session.out.json(&json!({ "type": "unit", "path": path, "installed": false }))?;
    session.out.line(format!("removed {path}"))?;
    session.out.line(format!("if it runs: {0} stop {1} && {0} daemon-reload", unit.control, unit.name()))
}

/// A unit that ddr did not write is somebody's own.
fn refuse_foreign(path: &Path) -> Result<()> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.starts_with(MARK) => Err(Error::Refused(format!(
            "{} was not written by ddr service; move it away first",
            path.display()
        ))),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("reading", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_quoted_as_systemd_reads_them() {
        let quoted = |text: &str| quoted(Path::new(text)).expect("valid");
        assert_eq!(quoted("/usr/bin/ddr"), "/usr/bin/ddr");
        assert_eq!(quoted("/opt/my tools/100%/ddr"), "\"/opt/my tools/100%%/ddr\"");
        assert_eq!(quoted("/a\"b\\c"), "\"/a\\\"b\\\\c\"");
        assert!(super::quoted(Path::new("/a\nb")).is_err());
    }
}
