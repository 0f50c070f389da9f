//! `ddr clone`

use std::path::PathBuf;

use serde_json::json;

use super::far::FarArgs;
use super::session::{Session, resolve};
use crate::base::error::{Error, Result};
use crate::base::units::{count, size};
use crate::engine::clone;
use crate::engine::config::RemoteConfig;
use crate::engine::materialise::Contents;
use crate::peer::url::Url;

/// Arguments of `ddr clone`.
#[derive(clap::Args, Debug)]
pub struct CloneArgs {
    /// The store: /path, ssh://host/path, host:path or sftp://host/path
    pub store: String,
    /// The new folder (default: the store's name, here)
    pub dir: Option<PathBuf>,
    /// What to call the store in the new folder
    #[arg(long, default_value = "origin")]
    pub name: String,
    /// Bring every file's content along, not only its name, size and date
    #[arg(long)]
    pub full: bool,
    /// Accept that store and folder lie on one disk
    #[arg(long)]
    pub same_disk: bool,
    /// How to reach another machine
    #[command(flatten)]
    pub far: FarArgs,
}

/// Makes the tree and says how much of it is local.
pub fn run(session: &Session, args: &CloneArgs) -> Result<()> {
    let store = absolute(session, &args.store)?;
    let dir = match &args.dir {
        Some(dir) => session.cwd.join(dir),
        None => {
            let name = Url::parse(&store)?.file_name();
            session.cwd.join(name.ok_or_else(|| Error::Invalid("name the new directory".into()))?)
        }
    };
    let dir = resolve(&dir);
    let remote = RemoteConfig { same_disk: args.same_disk, ..args.far.remote(store) };
    let contents = if args.full { Contents::All } else { Contents::Small };
    let (_, stats) = clone::clone(&remote, &dir, &args.name, contents, args.far.context(session))?;
    super::daemon::register(session, &resolve(&dir));
    session.out.json(&json!({
        "type": "clone", "path": dir.display().to_string(), "made": stats.made, "stubs": stats.stubs,
        "stub_bytes": stats.stub_bytes, "written_bytes": stats.written_bytes, "problems": session.terminal.problem_count(),
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

/// Relative directories count from where the user is. Links and `..` are resolved as far as there is
/// something to resolve, so that where a store lies is judged by where it really is.
pub fn absolute(session: &Session, url: &str) -> Result<String> {
    if Url::is_remote(url) {
        return Ok(url.to_string());
    }
    let path = resolve(&session.cwd.join(url));
    let text = path.to_str().map(str::to_string);
    text.ok_or_else(|| Error::Unsupported(format!("{}: not valid UTF-8", path.display())))
}
