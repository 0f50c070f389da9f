//! Proving to a host who we are: keys of an agent, then key files.
//!
//! Promises to try keys in ssh's order, to ask for a passphrase only on a terminal and only where a
//! file needs one, and to say which keys were tried when none was accepted. Knows no passwords: a
//! server that wants one is for `transport = "openssh"`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ssh2::{PublicKey, Session};

use super::config::HostConfig;
use super::hosts::kind_of;

/// Passphrases that may be wrong before we give up.
const TRIES: usize = 3;

/// Something only the user can answer.
#[derive(Clone, Debug)]
pub struct Question {
    /// What is asked.
    pub text: String,
    /// Whether the answer must not be shown.
    pub secret: bool,
}

/// Asks the user; `None` where nobody is there to answer.
pub type Ask = Arc<dyn Fn(&Question) -> Option<String> + Send + Sync>;

/// Passphrases the user has given, so that further sessions need not ask again.
pub type Secrets = Mutex<HashMap<PathBuf, String>>;

/// Logs in; on failure, what was tried and why it did not do.
pub fn log_in(session: &Session, config: &HostConfig, ask: &Ask, secrets: &Secrets) -> Result<(), String> {
    let methods = session.auth_methods(&config.user).unwrap_or_default().to_string();
    if session.authenticated() {
        return Ok(());
    }
    if !methods.is_empty() && !methods.split(',').any(|m| m == "publickey") {
        return Err(format!(
            "it accepts no keys, only {methods}; with transport = \"openssh\" ssh asks for those"
        ));
    }
    let mut keys = Keys { session, config, ask, secrets, tried: Vec::new(), offered: HashSet::new() };
    if keys.agent() || keys.files() {
        return Ok(());
    }
    match keys.tried.is_empty() {
        true => Err("there is no key to log in with: no agent, and none of the key files exists; make one with ssh-keygen".into()),
        false => Err(format!("none of our keys is accepted (tried {})", keys.tried.join(", "))),
    }
}

/// One log-in under way.
struct Keys<'a> {
    session: &'a Session,
    config: &'a HostConfig,
    ask: &'a Ask,
    secrets: &'a Secrets,
    /// For the message if nothing helps.
    tried: Vec<String>,
    /// Public keys in base64 that were offered already.
    offered: HashSet<String>,
}

impl Keys<'_> {
    /// Keys the agent holds: those named in the configuration first, the others unless forbidden.
    fn agent(&mut self) -> bool {
        let Some(socket) = &self.config.agent else { return false };
        // An agent that is gone is as good as none.
        let Ok(mut agent) = self.session.agent() else { return false };
        if agent.set_identity_path(socket).is_err()
            || agent.connect().is_err()
            || agent.list_identities().is_err()
        {
            return false;
        }
        let named: Vec<String> = self.config.identity_files.iter().filter_map(|f| public_half(f)).collect();
        let place = |key: &PublicKey| named.iter().position(|n| *n == STANDARD.encode(key.blob()));
        let mut identities = agent.identities().unwrap_or_default();
        // libssh2 cannot sign with keys that live in hardware tokens.
        identities.retain(|k| !kind_of(k.blob()).starts_with("sk-"));
        identities.retain(|k| !self.config.identities_only || place(k).is_some());
        identities.sort_by_key(|k| place(k).unwrap_or(usize::MAX));
        for key in identities {
            self.offered.insert(STANDARD.encode(key.blob()));
            if agent.userauth(&self.config.user, &key).is_ok() {
                return true;
            }
            self.tried.push(format!("{} of the agent", key.comment()));
        }
        false
    }

    fn files(&mut self) -> bool {
        for file in self.config.identity_files.iter().filter(|f| f.is_file()) {
            if public_half(file).is_some_and(|key| self.offered.contains(&key)) {
                continue;
            }
            if self.file(file) {
                return true;
            }
        }
        false
    }

    fn file(&mut self, file: &Path) -> bool {
        let name = file.display();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) => {
                self.tried.push(format!("{name}, which cannot be read: {e}"));
                return false;
            }
        };
        let log_in = |secret: Option<&str>| {
            self.session.userauth_pubkey_file(&self.config.user, None, file, secret).is_ok()
        };
        if !is_encrypted(&text) {
            let done = log_in(None);
            self.tried.push(name.to_string());
            return done;
        }
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.get(file).is_some_and(|secret| log_in(Some(secret))) {
            return true;
        }
        for _ in 0..TRIES {
            let question = Question { text: format!("Passphrase for {name}: "), secret: true };
            let Some(secret) = (self.ask)(&question) else {
                self.tried.push(format!("{name}, which needs a passphrase: run ssh-add {name} first"));
                return false;
            };
            if log_in(Some(&secret)) {
                secrets.insert(file.into(), secret);
                return true;
            }
        }
        self.tried.push(format!("{name} with {TRIES} passphrases"));
        false
    }
}

/// The key in `FILE.pub`, in base64.
fn public_half(file: &Path) -> Option<String> {
    let mut name = file.as_os_str().to_os_string();
    name.push(".pub");
    let text = std::fs::read_to_string(name).ok()?;
    text.split_whitespace().nth(1).map(str::to_string)
}

/// Whether a private key needs a passphrase. The newer format says so in its first bytes: magic, then
/// the cipher's name, which is `none` for a key in the clear.
fn is_encrypted(text: &str) -> bool {
    const CLEAR: &str = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU";
    match text.contains("BEGIN OPENSSH PRIVATE KEY") {
        true => !text.lines().any(|line| line.starts_with(CLEAR)),
        false => text.contains("ENCRYPTED"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_need_a_passphrase_are_recognised() {
        let dir = tempfile::tempdir().expect("tempdir");
        let make = |name: &str, more: &[&str]| {
            let file = dir.path().join(name);
            let mut command = std::process::Command::new("ssh-keygen");
            let made = command.args(["-q", "-t", "ed25519", "-f"]).arg(&file).args(more).status();
            made.is_ok_and(|s| s.success()).then(|| (std::fs::read_to_string(&file).expect("made"), file))
        };
        let Some((clear, file)) = make("clear", &["-N", ""]) else {
            eprintln!("skipped: no ssh-keygen");
            return;
        };
        let (locked, _) = make("locked", &["-N", "secret"]).expect("made");
        assert!(!is_encrypted(&clear) && is_encrypted(&locked));
        assert!(is_encrypted("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"));
        assert!(!is_encrypted("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n"));
        let half = public_half(&file).expect("made with it");
        assert_eq!(kind_of(&STANDARD.decode(half).expect("base64")), "ssh-ed25519");
        assert_eq!(public_half(&dir.path().join("none")), None);
    }
}
