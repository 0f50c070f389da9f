//! Options of every command that names a store on another machine.

use super::session::Session;
use crate::engine::config::{RemoteConfig, Transport};
use crate::engine::folder::Context;

/// How to reach another machine.
#[derive(clap::Args, Debug)]
pub struct FarArgs {
    /// What carries ssh: ssh2 (in this process) or openssh (the ssh program) [default: ssh2]
    #[arg(long, value_name = "HOW", default_value_t, hide_default_value = true)]
    pub transport: Transport,
    /// What to run on the other machine (default: ddr)
    #[arg(long, value_name = "DDR")]
    pub program: Option<String>,
    /// Take the host key of a machine that is not known yet without asking
    #[arg(long)]
    pub accept_new: bool,
}

impl FarArgs {
    /// The settings of a remote at this URL.
    pub fn remote(&self, url: String) -> RemoteConfig {
        RemoteConfig {
            url,
            transport: self.transport,
            program: self.program.clone(),
            ..RemoteConfig::default()
        }
    }

    /// What the engine is told.
    pub fn context(&self, session: &Session) -> Context {
        let mut context = session.context();
        context.login.accept_new = self.accept_new;
        context
    }
}
