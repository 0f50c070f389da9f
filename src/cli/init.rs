//! `ddr init`

use std::path::PathBuf;

use serde_json::json;

use super::session::Session;
use crate::base::error::Result;
use crate::engine::init;

/// Arguments of `ddr init`.
#[derive(clap::Args, Debug)]
pub struct InitArgs {
    /// The directory (default: here)
    pub dir: Option<PathBuf>,
    /// Make a peer without a working tree: only history and a store
    #[arg(long)]
    pub bare: bool,
    /// Name of this peer, shown in histories (default: the directory's name)
    #[arg(long)]
    pub name: Option<String>,
}

/// Makes the folder and says what to do next.
pub fn run(session: &Session, args: &InitArgs) -> Result<()> {
    let dir = args.dir.as_ref().map_or_else(|| session.cwd.clone(), |dir| session.cwd.join(dir));
    let dir = super::session::resolve(&dir);
    let id = init::init(&dir, args.bare, args.name.as_deref())?;
    if !args.bare {
        super::daemon::register(session, &super::session::resolve(&dir));
    }
    session
        .out
        .json(&json!({ "type": "init", "folder": id.to_string(), "path": dir.display().to_string() }))?;
    session.out.line(format!("ddr looks after {} now (folder {})", dir.display(), id.short()))?;
    if !args.bare {
        session.out.line("Next: ddr remote add disk2 /path/on/another/disk --init")?;
    }
    Ok(())
}
