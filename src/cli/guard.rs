//! `ddr guard`

use std::path::PathBuf;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units;
use crate::engine::folder::locate;
use crate::local::guard::socket_path;
use crate::recall::guard::Options;
use crate::recall::service::{self, Charge};

/// Arguments of `ddr guard`.
#[derive(clap::Args, Debug)]
pub struct GuardArgs {
    /// Folders to guard
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// How long an opener waits at most before it gets an error, whatever a folder's `recall.deadline` says
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub deadline: String,
    /// Guard opens only, as kernels before 6.14 can
    #[arg(long)]
    pub opens_only: bool,
}

/// Guards folders until it is told to stop.
pub fn run(session: &Session, args: &GuardArgs) -> Result<()> {
    let charges = args.dirs.iter().map(|dir| {
        let peer = locate(&session.cwd.join(dir))?;
        let root = match peer.file_name().is_some_and(|name| name == ".ddr") {
            true => peer.parent().unwrap_or(&peer).to_path_buf(),
            false => return Err(Error::Invalid(format!("{} has no files to guard", dir.display()))),
        };
        Charge::new(root)
    });
    let options = Options {
        deadline: units::parse_duration(&args.deadline)?,
        accesses: !args.opens_only,
        socket: socket_path(),
    };
    service::run(charges.collect::<Result<_>>()?, options, &session.context().cancel)
}
