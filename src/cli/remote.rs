//! `ddr remote`

use std::collections::HashMap;

use serde_json::json;

use super::far::FarArgs;
use super::output::{WARN, styled, table};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::count;
use crate::engine::config::{self, RemoteConfig, Transport};
use crate::engine::init::{AddRemote, add_remote};
use crate::engine::level::{Finding, State};
use crate::engine::lost::{self, files_of, is_here};
use crate::engine::remotes::Remotes;
use crate::engine::{behind, tiers};
use crate::model::entry::Body;
use crate::peer::url::Url;

/// What to do with remotes.
#[derive(clap::Subcommand, Debug)]
pub enum RemoteCommand {
    /// Add a store under a name
    Add {
        /// The name
        name: String,
        /// /path, ssh://host/path or host:path (a machine with ddr), sftp://host/path (one without)
        url: String,
        /// Make the store there
        #[arg(long)]
        init: bool,
        /// Accept a store on the folder's own disk: it protects against mistakes, not against losing the disk
        #[arg(long)]
        same_disk: bool,
        /// What fails together with this store (default: its device)
        #[arg(long)]
        domain: Option<String>,
        /// How to reach another machine
        #[command(flatten)]
        far: FarArgs,
    },
    /// List remotes, and whether they can be reached
    List,
    /// Change a remote's settings
    Set {
        /// The name
        name: String,
        /// Where it is now
        #[arg(long)]
        url: Option<String>,
        /// Accept that it lies on the folder's own disk
        #[arg(long)]
        same_disk: bool,
        /// What fails together with it
        #[arg(long)]
        domain: Option<String>,
        /// What carries ssh: ssh2 or openssh
        #[arg(long, value_name = "HOW")]
        transport: Option<Transport>,
        /// What to run on the other machine
        #[arg(long, value_name = "DDR")]
        program: Option<String>,
    },
    /// Declare a store gone for good: show what is short of copies, and place it anew
    Lost {
        /// The name
        name: String,
        /// Only show what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Name every file
        #[arg(short, long)]
        verbose: bool,
    },
    /// Forget a remote; the store itself stays as it is
    Remove {
        /// The name
        name: String,
        /// Even if stubs may depend on it
        #[arg(long)]
        force: bool,
    },
}

/// Runs one of them.
pub fn run(session: &Session, command: &RemoteCommand) -> Result<()> {
    match command {
        RemoteCommand::Add { name, url, init, same_disk, domain, far } => {
            let mut folder = session.write()?;
            folder.context = far.context(session);
            let url = super::clone::absolute(session, url)?;
            let remote =
                RemoteConfig { same_disk: *same_disk, domain: domain.clone(), ..far.remote(url.clone()) };
            add_remote(&mut folder, name, &remote, &AddRemote { init: *init, reading: false })?;
            if folder.history.counts()?.files > 0 {
                // What the others have, the next command that writes begins to bring.
                behind::note_behind(&mut folder.history, std::slice::from_ref(name), (0, 0))?;
            }
            session.out.json(&json!({ "type": "remote", "name": name, "url": url, "made": init }))?;
            session.out.line(format!("added remote {name}: {url}"))?;
            session.out.line("Next: ddr stash PATH places files there and frees their space here")
        }
        RemoteCommand::List => list(session),
        RemoteCommand::Set { name, url, same_disk, domain, transport, program } => {
            let folder = session.write()?;
            let file = folder.dir.join("config.toml");
            known(&folder, name)?;
            let set =
                |key: &str, value: &str| config::edit(&file, &format!("remote.{name}.{key}"), Some(value));
            if let Some(url) = url {
                let url = super::clone::absolute(session, url)?;
                Url::parse(&url)?;
                set("url", &url)?;
            }
            if *same_disk {
                set("same_disk", "true")?;
            }
            if let Some(transport) = transport {
                set("transport", transport.name())?;
            }
            for (key, value) in [("domain", domain), ("program", program)] {
                value.as_ref().map_or(Ok(()), |value| set(key, value))?;
            }
            session.out.line(format!("changed remote {name}"))
        }
        RemoteCommand::Lost { name, dry_run, verbose } => lost(session, name, *dry_run, *verbose),
        RemoteCommand::Remove { name, force } => {
            let mut folder = session.write()?;
            known(&folder, name)?;
            let stubs = folder.history.stub_count()?;
            if stubs > 0 && !force {
                return Err(Error::Refused(format!(
                    "{} here may need {name}; check them out first, or add --force",
                    crate::base::units::count(stubs, "stub")
                )));
            }
            // First, so that the next commit looks for what only that store had.
            folder.history.set_meta("unsaved", "1")?;
            config::edit_with(&folder.dir.join("config.toml"), |doc| {
                tiers::remove_store(doc, &folder.config.tier, name)?;
                if let Some(remotes) = doc.get_mut("remote").and_then(|r| r.as_table_like_mut()) {
                    remotes.remove(name);
                }
                Ok(())
            })?;
            session.out.line(format!("removed remote {name}; its store stays as it is"))
        }
    }
}

fn lost(session: &Session, name: &str, dry_run: bool, verbose: bool) -> Result<()> {
    let mut folder = session.write()?;
    let mut found: HashMap<Body, Finding> = HashMap::new();
    let stats = lost::lost(&mut folder, name, dry_run, &mut |finding| {
        found.insert(finding.body, finding.clone());
        super::tier::tell_finding(session, finding)
    })?;
    session.terminal.clear();
    let (mut here, mut gone) = (0u64, 0u64);
    files_of(&folder, &found, &mut |row, finding| {
        let is_lost = finding.state == State::Lost;
        here += u64::from(is_lost && is_here(row));
        gone += u64::from(is_lost && !is_here(row));
        let what = match (finding.state, is_here(row)) {
            (State::Lost, true) => "only here",
            (State::Lost, false) => "lost",
            (State::Short, _) => "short of copies",
            _ => "placed anew",
        };
        session.out.json(&json!({ "type": "file", "path": row.path.to_string(), "state": what }))?;
        if verbose || (is_lost && !is_here(row)) {
            session.out.answer(format!("{what}: {}", row.path))
        } else {
            Ok(())
        }
    })?;
    super::tier::tell_level(session, &stats.level, dry_run)?;
    let warn = |text: String| session.out.line(styled(WARN, text));
    if here > 0 {
        let verb = if dry_run { "would be" } else { "were" };
        session
            .out
            .line(format!("{} that only this tree still has {verb} placed again", count(here, "file")))?;
    }
    if gone > 0 {
        warn(format!("{}: no reachable store has the content any more", count(gone, "stub")))?;
    }
    let left = folder.config.remote.keys().filter(|n| *n != name).count() as u64;
    match dry_run {
        true => session.out.line(format!("{name} would be forgotten; {} left", count(left, "store"))),
        false => session.out.line(format!("forgot {name}; {} left", count(left, "store"))),
    }?;
    if gone > 0 { Err(Error::Problems(count(gone, "file"))) } else { Ok(()) }
}

fn known(folder: &crate::engine::folder::Folder, name: &str) -> Result<()> {
    match folder.config.remote.contains_key(name) {
        true => Ok(()),
        false => Err(Error::Missing(format!("a remote called {name} (see `ddr remote list`)"))),
    }
}

fn list(session: &Session) -> Result<()> {
    let folder = session.read()?;
    let remotes = Remotes::open(&folder)?;
    let mut rows = Vec::new();
    for (name, remote) in &folder.config.remote {
        let offline = remotes.offline.iter().find(|(n, _)| n == name).map(|(_, e)| e.to_string());
        let domain = remotes.online.iter().find(|r| r.name == *name).map(|r| r.domain.clone());
        session.out.json(&json!({
            "type": "remote", "name": name, "url": remote.url, "online": offline.is_none(), "domain": domain, "error": offline,
        }))?;
        let state = offline.map_or("online".to_string(), |_| styled(WARN, "offline"));
        rows.push(vec![name.clone(), state, remote.url.clone()]);
    }
    if rows.is_empty() {
        return session
            .out
            .line("no remotes yet; add one with: ddr remote add NAME /path/on/another/disk --init");
    }
    table(&rows, &[]).into_iter().try_for_each(|line| session.out.answer(line))
}
