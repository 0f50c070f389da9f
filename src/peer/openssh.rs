//! A byte stream to the ddr on another machine, through the `ssh` program.
//!
//! Promises what [`Dial`] promises, with everything ssh can do: its own prompts, certificates, tokens,
//! passwords. Where a link is fast and cores are few it is also faster than libssh2. Knows nothing of
//! what is said.

use std::fs::File;
use std::process::Command;

use super::config::{HostConfig, has_aes, options};
use super::host::Login;
use super::proxy::undisturbed;
use super::remote::{ALIVE_EVERY, Verdict, Words, serve_command, verdict};
use super::stream::{ChildEnd, Dial, End, Stream};
use super::url::Address;
use crate::base::error::{Error, Result};

/// Runs `ssh HOST ddr serve PATH`.
pub struct OpensshDial {
    address: Address,
    program: Option<String>,
    login: Login,
}

impl OpensshDial {
    /// `program`: what to run there instead of `ddr`.
    pub fn new(address: Address, program: Option<String>, login: Login) -> Self {
        Self { address, program, login }
    }

    /// What is started here.
    fn command(&self, config: &HostConfig) -> Command {
        let mut command = undisturbed("exec ssh \"$@\"");
        command.args(options(&self.address, self.login.config_file.as_deref())).arg("-T");
        let mut option = |text: String| {
            command.arg("-o").arg(text);
        };
        if config.alive_interval.is_none() {
            option(format!("ServerAliveInterval={}", ALIVE_EVERY.as_secs()));
        }
        if let Some(ciphers) = config.cipher_list(has_aes()) {
            option(format!("Ciphers={ciphers}"));
        }
        if config.connect_timeout.is_none() {
            option("ConnectTimeout=15".into());
        }
        if self.login.accept_new {
            option("StrictHostKeyChecking=accept-new".into());
        }
        if File::open("/dev/tty").is_err() {
            option("BatchMode=yes".into());
        }
        command.arg("--").arg(&self.address.host);
        command.arg(serve_command(self.program.as_deref(), &self.address.path));
        command
    }
}

impl Dial for OpensshDial {
    fn dial(&self) -> Result<Stream> {
        let config = HostConfig::of(&self.address, self.login.config_file.as_deref())?;
        // In our process group, so that it may ask on the terminal.
        let (reader, writer, child) = ChildEnd::start(self.command(&config), self.place(), false)?;
        Ok(Stream { reader, writer, end: Box::new(SshEnd { child, place: self.place() }) })
    }

    fn place(&self) -> String {
        format!("ssh://{}", self.address)
    }
}

/// A running ssh.
struct SshEnd {
    child: ChildEnd,
    place: String,
}

impl Drop for SshEnd {
    /// Everything was answered: its own farewell would only take round trips.
    fn drop(&mut self) {
        self.child.terminate();
    }
}

impl End for SshEnd {
    fn why(&mut self) -> Option<Error> {
        let (status, said) = self.child.last_words();
        let words = Words { exit: status.and_then(|s| s.code()), said, broken: None };
        status?;
        match verdict(&words, &self.place) {
            Verdict::Error(e) => Some(e),
            Verdict::Nothing => None,
        }
    }
}
