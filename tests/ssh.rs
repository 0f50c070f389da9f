//! Stores on other machines, over a real OpenSSH server.

mod lines;
mod login;
mod peer;
mod sftp;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use ddr::peer::host::{Host, Login};
use ddr::peer::url::Address;

use crate::support::shell::Shell;
use crate::support::sshd::Sshd;

/// A server that the conformance tests share; it ends with this process.
pub fn shared() -> Option<&'static Sshd> {
    static SERVER: OnceLock<Option<(tempfile::TempDir, Sshd)>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Sshd::start(dir.path()).map(|sshd| (dir, sshd))
    });
    server.as_ref().map(|(_, sshd)| sshd)
}

/// A directory on a server, for a program that nobody can be asked by.
pub fn host(sshd: &Sshd, path: &Path) -> Arc<Host> {
    let path = path.to_str().expect("a plain path").to_string();
    let address = Address { user: None, host: "nas".into(), port: None, path };
    let login = Login { config_file: Some(sshd.config()), ..Login::default() };
    Arc::new(Host::new(address, login))
}

/// The sample tree, and a server that this machine can reach as `nas`.
fn with_server() -> Option<(Shell, Sshd)> {
    let shell = Shell::with_files();
    let sshd = Sshd::start(&shell.sandbox.root().join("ssh"))?;
    shell.ok("ddr init");
    Some((shell, sshd))
}
