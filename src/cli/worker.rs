//! `ddr worker`

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::engine::config::{Config, RecallConfig};
use crate::engine::folder::locate;
use crate::model::manners::{BurstLimit, Manners, Rule};
use crate::recall::worker::{Settings, work};

/// Arguments of `ddr worker`.
#[derive(clap::Args, Debug)]
pub struct WorkerArgs {
    /// The folder
    pub dir: PathBuf,
}

/// Fills stubs for the guard on standard input.
pub fn run(session: &Session, args: &WorkerArgs) -> Result<()> {
    // The guard ends it, by hanging up: whoever waits is to be served until then.
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: ignoring a signal runs nothing.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // The guard starts it under another name.
    let _ = rustix::thread::set_name(c"ddr");
    let dir = locate(&session.cwd.join(&args.dir))?;
    let config = Config::load(&dir.join("config.toml"))?;
    let socket =
        std::io::stdin().as_fd().try_clone_to_owned().map_err(|e| Error::io("opening", "the guard", e))?;
    work(&dir, socket, session.context(), settings(&config.recall)?)
}

fn settings(config: &RecallConfig) -> Result<Settings> {
    let rules = config
        .rule
        .iter()
        .map(|rule| Ok(Rule { program: rule.glob()?, user: rule.user, action: rule.action }));
    let limit = BurstLimit { stubs: config.burst(), within: Duration::from_secs(60) };
    Ok(Settings {
        parallel: config.parallel.unwrap_or(4),
        slow: config.slow()?,
        deadline: config.deadline()?,
        ahead: config.ahead()?,
        manners: Manners::new(rules.collect::<Result<_>>()?, limit),
    })
}
