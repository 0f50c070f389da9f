//! `ddr config`

use serde_json::json;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::engine::config;
use crate::engine::folder::{locate, lock};

/// What to do with the settings.
#[derive(clap::Subcommand, Debug)]
pub enum ConfigCommand {
    /// Print one setting
    Get {
        /// Such as stash.min_size
        key: String,
    },
    /// Change one setting; comments and order in the file stay
    Set {
        /// Such as stash.min_size
        key: String,
        /// Such as 1MiB
        value: String,
    },
    /// Remove one setting, so that its default applies
    Unset {
        /// Such as stash.min_size
        key: String,
    },
    /// Print every setting
    List,
    /// Print where the file is
    Path,
}

/// Runs one of them.
pub fn run(session: &Session, command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Set { key, value } => edit(session, key, Some(value)),
        ConfigCommand::Unset { key } => edit(session, key, None),
        ConfigCommand::Path => {
            // Without opening the folder: the file may be what keeps it from opening.
            let file = locate(&session.cwd)?.join("config.toml");
            session.out.json(&json!({ "type": "config", "path": file.display().to_string() }))?;
            session.out.answer(file.display())
        }
        ConfigCommand::List => {
            for (key, value) in values(session)? {
                session.out.json(&json!({ "type": "config", "key": key, "value": value }))?;
                session.out.answer(format!("{key} = {value}"))?;
            }
            Ok(())
        }
        ConfigCommand::Get { key } => {
            let found = values(session)?.into_iter().find(|(k, _)| k == key);
            let (_, value) = found.ok_or_else(|| Error::Missing(format!("{key} (its default applies)")))?;
            session.out.json(&json!({ "type": "config", "key": key, "value": value }))?;
            session.out.answer(value.as_str().map_or_else(|| value.to_string(), str::to_string))
        }
    }
}

fn edit(session: &Session, key: &str, value: Option<&str>) -> Result<()> {
    // Without opening the folder: the file may be what keeps it from opening.
    let dir = locate(&session.cwd)?;
    let _lock = lock(&dir, &session.context())?;
    config::edit(&dir.join("config.toml"), key, value)
}

/// The file's settings, flattened to dotted keys.
fn values(session: &Session) -> Result<Vec<(String, toml::Value)>> {
    let path = locate(&session.cwd)?.join("config.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::io("reading", path, e)),
    };
    let table: toml::Table = toml::from_str(&text)
        .map_err(|e| Error::Invalid(format!("{}: {}", path.display(), e.to_string().trim_end())))?;
    let mut out = Vec::new();
    flatten("", &toml::Value::Table(table), &mut out);
    Ok(out)
}

fn flatten(prefix: &str, value: &toml::Value, out: &mut Vec<(String, toml::Value)>) {
    let toml::Value::Table(table) = value else {
        out.push((prefix.to_string(), value.clone()));
        return;
    };
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        flatten(&name, value, out);
    }
}
