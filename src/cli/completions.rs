//! `ddr completions`

use clap::CommandFactory;

use super::Cli;
use super::session::Session;
use crate::base::error::Result;

/// Arguments of `ddr completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(session: &Session, args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ddr", &mut script);
    session.out.raw(&script)
}
