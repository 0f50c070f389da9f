//! `ddr guard`

use std::path::PathBuf;

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::units;
use crate::engine::folder::locate;
use crate::local::guard::socket_path;
use crate::recall::guard::{Limits, Options};
use crate::recall::handover;
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
    /// Connections that one user may have at a time; these limits are not for root
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub user_connections: usize,
    /// Files of one user that are guarded at most
    #[arg(long, default_value_t = 4_000_000, value_name = "N")]
    pub user_stubs: usize,
    /// Files that one user may wait for, and as many that he may hold while they change [default: an eighth
    /// of the descriptors that the guard may have]
    #[arg(long, value_name = "N")]
    pub user_files: Option<usize>,
    /// Guard opens only, as kernels before 6.14 can
    #[arg(long)]
    pub opens_only: bool,
}

/// Guards folders until it is told to stop.
pub fn run(session: &Session, args: &GuardArgs) -> Result<()> {
    let charges = args.dirs.iter().map(|dir| {
        let dir = session.cwd.join(dir);
        let charge = locate(&dir).and_then(|peer| match peer.parent().filter(|_| peer.ends_with(".ddr")) {
            Some(root) => Charge::new(root.to_path_buf()),
            None => Err(Error::Invalid(format!("{} has no files to guard", dir.display()))),
        });
        match charge {
            // Its disk may come later, or its owner may have spoiled it: no other folder is to go without guard for that.
            Err(_) if handover::is_managed() => Ok(Charge::awaited(dir)),
            charge => charge,
        }
    });
    let options = Options {
        deadline: units::parse_duration(&args.deadline)?,
        accesses: !args.opens_only,
        socket: socket_path(),
        limits: Limits {
            connections: args.user_connections,
            stubs: args.user_stubs,
            files: args.user_files.unwrap_or_else(share_of_descriptors),
        },
    };
    service::run(charges.collect::<Result<_>>()?, options, &session.context().cancel)
}

fn share_of_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| limit as usize / 8)
}
