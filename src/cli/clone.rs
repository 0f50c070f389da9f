//! `ddr clone`

use std::path::PathBuf;

use serde_json::json;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units::{count, size};
use crate::engine::clone;

/// Arguments of `ddr clone`.
#[derive(clap::Args, Debug)]
pub struct CloneArgs {
    /// The store: /path or file:///path
    pub store: String,
    /// The new folder (default: the store's name, here)
    pub dir: Option<PathBuf>,
    /// What to call the store in the new folder
    #[arg(long, default_value = "origin")]
    pub name: String,
    /// Accept that store and folder lie on one disk
    #[arg(long)]
    pub same_disk: bool,
}

/// Makes the tree and says how much of it is local.
pub fn run(session: &Session, args: &CloneArgs) -> Result<()> {
    let store = absolute(session, &args.store);
    let dir = match &args.dir {
        Some(dir) => session.cwd.join(dir),
        None => {
            let name = std::path::Path::new(&store).file_name();
            session.cwd.join(name.ok_or_else(|| Error::Invalid("name the new directory".into()))?)
        }
    };
    let (_, stats) = clone::clone(&store, &dir, &args.name, args.same_disk, session.context())?;
    session.out.json(&json!({
        "type": "clone", "path": dir.display().to_string(), "made": stats.made, "stubs": stats.stubs,
        "stub_bytes": stats.stub_bytes, "written_bytes": stats.written_bytes, "problems": stats.problems,
    }))?;
    session.out.line(format!(
        "cloned into {}: {}, of them {} ({}); {} written",
        dir.display(),
        count(stats.made, "path"),
        count(stats.stubs, "stub"),
        size(stats.stub_bytes),
        size(stats.written_bytes)
    ))?;
    if stats.stubs > 0 {
        session.out.line("Next: ddr checkout PATH brings content back")?;
    }
    Ok(())
}

/// Relative directories count from where the user is.
pub fn absolute(session: &Session, url: &str) -> String {
    if url.contains("://") || url.starts_with('/') || is_host_path(url) {
        return url.to_string();
    }
    session.cwd.join(url).display().to_string()
}

/// `host:path`, by git's rule: no slash before the first colon.
fn is_host_path(url: &str) -> bool {
    url.split_once(':').is_some_and(|(host, _)| !host.contains('/'))
}
