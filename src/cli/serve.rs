//! `ddr serve`

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::session::Session;
use crate::base::error::{Error, Result};
use crate::engine::init;
use crate::format::key::FolderKey;
use crate::format::message::NewPeer;
use crate::peer::serve::{Offer, SILENCE, Source, serve};

/// Arguments of `ddr serve`.
#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    /// The bare peer or store
    pub path: PathBuf,
}

/// Serves the store at a path to the ddr on standard input and output.
pub fn run(session: &Session, args: &ServeArgs) -> Result<()> {
    let (input, output) = (std::io::stdin(), std::io::stdout());
    if input.is_terminal() || output.is_terminal() {
        return Err(Error::Invalid(
            "`ddr serve` talks to another ddr, which starts it by itself: ddr remote add NAME ssh://HOST/PATH"
                .into(),
        ));
    }
    let own = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|e| Error::io("opening", "the stream", e))
    };
    let offer = Offer {
        source: Source::Peer(session.cwd.join(&args.path)),
        create: &create,
        silence: SILENCE,
        cancel: session.context().cancel,
    };
    serve(own(input.as_fd())?, own(output.as_fd())?, &offer)
}

/// Makes the bare peer that the other side asks for.
fn create(path: &Path, new: &NewPeer) -> Result<()> {
    init::make_bare(path, Some(&new.name), (new.folder, FolderKey(new.key)))
}
