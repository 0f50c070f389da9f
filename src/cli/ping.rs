//! `ddr ping`

use serde_json::json;

use super::output::{WARN, styled};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::{count, size};
use crate::engine::ping::ping;
use crate::engine::remotes::Remotes;

/// Arguments of `ddr ping`.
#[derive(clap::Args, Debug)]
pub struct PingArgs {
    /// Names of remotes (default: all)
    pub remotes: Vec<String>,
}

/// Asks each store how it is; exit code 13 if one cannot be reached.
pub fn run(session: &Session, args: &PingArgs) -> Result<()> {
    let folder = session.read()?;
    if let Some(name) = args.remotes.iter().find(|name| !folder.config.remote.contains_key(*name)) {
        return Err(Error::Missing(format!("a remote called {name} (see `ddr remote list`)")));
    }
    let wanted = |name: &str| args.remotes.is_empty() || args.remotes.iter().any(|n| n == name);
    let remotes = Remotes::open(&folder)?;
    let mut failed = None;
    for remote in remotes.online.iter().filter(|r| wanted(&r.name)) {
        let answer = match ping(&folder, remote) {
            Ok(answer) => answer,
            Err(e) => {
                tell_offline(session, &remote.name, &e)?;
                failed.get_or_insert(e);
                continue;
            }
        };
        session.out.json(&json!({
            "type": "ping", "name": remote.name, "online": true, "latency_us": answer.latency.as_micros() as u64,
            "free_bytes": answer.room, "entries_behind": answer.behind, "entries_ahead": answer.ahead,
            "gc_owner": answer.gc_owner, "domain": remote.domain,
        }))?;
        let mut text = format!("{}: answers in {:.1} ms", remote.name, answer.latency.as_secs_f64() * 1e3);
        if let Some(room) = answer.room {
            text += &format!(", {} free", size(room));
        }
        text += &match (answer.behind, answer.ahead) {
            (0, 0) => ", history level".to_string(),
            (behind, 0) => format!(", {} behind", count(behind, "change")),
            (0, ahead) => format!(", {} ahead", count(ahead, "change")),
            (behind, ahead) => {
                format!(", {} behind and {} ahead", count(behind, "change"), count(ahead, "change"))
            }
        };
        session.out.answer(text)?;
    }
    for (name, error) in remotes.offline.into_iter().filter(|(name, _)| wanted(name)) {
        tell_offline(session, &name, &error)?;
        failed.get_or_insert(error);
    }
    failed.map_or(Ok(()), Err)
}

fn tell_offline(session: &Session, name: &str, error: &Error) -> Result<()> {
    let why = match error {
        Error::Offline { why, .. } => why.clone(),
        e => e.to_string(),
    };
    session.out.json(&json!({ "type": "ping", "name": name, "online": false, "error": why }))?;
    session.out.answer(format!("{name}: {}: {why}", styled(WARN, "offline")))
}
