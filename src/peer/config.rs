//! What ssh's own configuration says about a host, as `ssh -G HOST` prints it.
//!
//! Promises that Host, Match, Include and every default mean exactly what they mean to ssh: ssh
//! evaluates them. Only what ddr acts on is kept.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::url::Address;
use crate::base::error::{Error, Result};

/// What to do about a host whose key is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Strict {
    /// Ask on a terminal, refuse without one.
    #[default]
    Ask,
    /// Add it.
    AcceptNew,
    /// Refuse it.
    Yes,
}

/// One host's settings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostConfig {
    /// Name or address to connect to.
    pub hostname: String,
    /// TCP port.
    pub port: u16,
    /// Whom to log in as.
    pub user: String,
    /// Private keys to try, in order.
    pub identity_files: Vec<PathBuf>,
    /// Whether an agent's other keys are not to be tried.
    pub identities_only: bool,
    /// The agent's socket; `None`: no agent.
    pub agent: Option<PathBuf>,
    /// Files of known hosts: the user's (the first is added to), then the system's.
    pub known_hosts: Vec<PathBuf>,
    /// How many of `known_hosts` are the user's.
    pub own_known_hosts: usize,
    /// Under which name keys are kept, instead of the host's.
    pub host_key_alias: Option<String>,
    /// Whether names are hashed when added.
    pub hash_known_hosts: bool,
    /// What to do about unknown hosts.
    pub strict: Strict,
    /// A command whose standard streams are the connection; tokens are expanded.
    pub proxy_command: Option<String>,
    /// Hosts to go through.
    pub proxy_jump: Option<String>,
    /// How long to wait for a connection.
    pub connect_timeout: Option<Duration>,
    /// After how much silence to ask whether the other side is there.
    pub alive_interval: Option<Duration>,
    /// How many such questions may go unanswered.
    pub alive_count: u32,
    /// `inet` or `inet6` where only one is wanted.
    pub address_family: Option<String>,
    /// Allowed ciphers.
    pub ciphers: Vec<String>,
}

impl HostConfig {
    /// Asks ssh. `file` takes the place of the user's and the system's configuration.
    pub fn of(address: &Address, file: Option<&Path>) -> Result<Self> {
        let mut command = Command::new("ssh");
        command.args(options(address, file));
        command.arg("-G").arg("--").arg(&address.host);
        let output = command.output().map_err(|e| no_ssh(&e))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::Invalid(format!("ssh's configuration for {}: {}", address.host, said.trim())));
        }
        let home = std::env::home_dir().unwrap_or_default();
        let agent = std::env::var_os("SSH_AUTH_SOCK");
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout), &Local { home, agent }))
    }

    /// The allowed ciphers in ssh's order, or those with AES-GCM first: for the `ssh` program that is the
    /// fastest where the processor helps ([`has_aes`]), for libssh2, which hands it 16 bytes at a time, the
    /// slowest. `None` if ssh did not say.
    pub fn cipher_list(&self, gcm_first: bool) -> Option<String> {
        let mut ciphers = self.ciphers.clone();
        if gcm_first {
            ciphers.sort_by_key(|cipher| !cipher.contains("-gcm"));
        }
        (!ciphers.is_empty()).then(|| ciphers.join(","))
    }

    /// Under which name the host's keys are kept: `name`, or `[name]:port`.
    pub fn key_name(&self) -> String {
        let name = self.host_key_alias.as_ref().unwrap_or(&self.hostname).to_ascii_lowercase();
        match self.port {
            22 => name,
            _ if self.host_key_alias.is_some() => name,
            port => format!("[{name}]:{port}"),
        }
    }
}

/// Options of ssh for a configuration file, and for what a URL says about port and user.
pub fn options(address: &Address, file: Option<&Path>) -> Vec<OsString> {
    let file = file.map(|f| [OsString::from("-F"), f.into()]);
    let port = address.port.map(|p| ["-p".into(), p.to_string().into()]);
    let user = address.user.as_ref().map(|u| ["-l".into(), u.into()]);
    [file, port, user].into_iter().flatten().flatten().collect()
}

/// What is said when ssh cannot be started.
pub fn no_ssh(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::Unsupported(
            "other machines are reached with the help of OpenSSH's client, which is not installed (apt install openssh-client)".into(),
        ),
        _ => Error::Unsupported(format!("starting ssh: {error}")),
    }
}

/// Whether the processor has instructions for AES and what GCM adds to it; a machine at the other end most
/// likely has them, too.
pub fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// What of this machine a configuration refers to.
pub struct Local {
    /// The user's home directory.
    pub home: PathBuf,
    /// The running agent's socket.
    pub agent: Option<OsString>,
}

impl HostConfig {
    /// Reads what `ssh -G` printed: one `key value` per line, keys in lower case.
    pub fn parse(text: &str, local: &Local) -> Self {
        let mut config = Self { port: 22, alive_count: 3, ..Self::default() };
        let agent = local.agent.clone().filter(|a| !a.is_empty());
        config.agent = agent.clone().map(PathBuf::from);
        let (mut own, mut global) = (Vec::new(), Vec::new());
        let mut lines: Vec<(&str, &str)> = text.lines().filter_map(|l| l.trim().split_once(' ')).collect();
        // Tokens in the others refer to these.
        lines.sort_by_key(|(key, _)| !matches!(*key, "hostname" | "port" | "user"));
        for (key, value) in lines {
            let value = value.trim();
            let given = || (value != "none").then(|| value.to_string());
            match key {
                "hostname" => config.hostname = value.to_string(),
                "port" => config.port = value.parse().unwrap_or(22),
                "user" => config.user = value.to_string(),
                "identityfile" => config.identity_files.extend(given().map(|v| config.path(&v, local))),
                "identitiesonly" => config.identities_only = is_yes(value),
                "identityagent" => config.agent = config.agent_of(value, agent.as_ref(), local),
                "userknownhostsfile" => own = config.paths(value, local),
                "globalknownhostsfile" => global = config.paths(value, local),
                "hostkeyalias" => config.host_key_alias = given(),
                "hashknownhosts" => config.hash_known_hosts = is_yes(value),
                "stricthostkeychecking" => config.strict = strict(value),
                "proxycommand" => config.proxy_command = given().map(|v| config.expand(&v, local)),
                "proxyjump" => config.proxy_jump = given(),
                "connecttimeout" => config.connect_timeout = seconds(value),
                "serveraliveinterval" => config.alive_interval = seconds(value),
                "serveralivecountmax" => config.alive_count = value.parse().unwrap_or(3),
                "ciphers" => config.ciphers = value.split(',').map(String::from).collect(),
                "addressfamily" => config.address_family = Some(value.into()).filter(|v| v != "any"),
                _ => {}
            }
        }
        config.own_known_hosts = own.len();
        config.known_hosts = own;
        config.known_hosts.extend(global);
        config
    }

    fn paths(&self, value: &str, local: &Local) -> Vec<PathBuf> {
        words(value).iter().filter(|v| *v != "none").map(|v| self.path(v, local)).collect()
    }

    fn path(&self, value: &str, local: &Local) -> PathBuf {
        let value = self.expand(value.trim_matches('"'), local);
        match value.strip_prefix("~/") {
            Some(rest) => local.home.join(rest),
            None => value.into(),
        }
    }

    fn agent_of(&self, value: &str, running: Option<&OsString>, local: &Local) -> Option<PathBuf> {
        match value {
            "none" => None,
            "SSH_AUTH_SOCK" => running.map(PathBuf::from),
            _ => match value.strip_prefix('$') {
                Some(name) => std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from),
                None => Some(self.path(value, local)),
            },
        }
    }

    /// Replaces the tokens that make sense for a file or a proxy command.
    fn expand(&self, value: &str, local: &Local) -> String {
        let mut out = String::new();
        let mut chars = value.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => match chars.next() {
                    Some('%') => out.push('%'),
                    Some('h' | 'n') => out += &self.hostname,
                    Some('p') => out += &self.port.to_string(),
                    Some('r') => out += &self.user,
                    Some('d') => out += &local.home.to_string_lossy(),
                    Some(other) => out.extend(['%', other]),
                    None => out.push('%'),
                },
                c => out.push(c),
            }
        }
        out
    }
}

fn is_yes(value: &str) -> bool {
    matches!(value, "yes" | "true")
}

/// ddr never talks to a host whose key does not match, whatever `no` permits ssh.
fn strict(value: &str) -> Strict {
    match value {
        "yes" | "true" => Strict::Yes,
        "accept-new" | "no" | "off" | "false" => Strict::AcceptNew,
        _ => Strict::Ask,
    }
}

fn seconds(value: &str) -> Option<Duration> {
    value.parse().ok().filter(|s| *s > 0).map(Duration::from_secs)
}

/// Words separated by spaces, where quotes keep one together.
fn words(value: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => all.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    all.push(word);
    all.retain(|w| !w.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Local {
        Local { home: "/home/ann".into(), agent: Some("/tmp/agent".into()) }
    }

    #[test]
    fn what_ssh_prints_is_understood() {
        let text = "user ann\nhostname nas.example\nport 2222\naddressfamily inet\nidentitiesonly yes\n\
            stricthostkeychecking accept-new\nhashknownhosts yes\nidentityfile ~/.ssh/id_ed25519\n\
            identityfile /keys/%r@%h\nuserknownhostsfile /home/ann/.ssh/known_hosts \"/a b/hosts\"\n\
            globalknownhostsfile /etc/ssh/ssh_known_hosts\nproxyjump none\nserveraliveinterval 15\n\
            serveralivecountmax 5\nconnecttimeout none\nunheardof of\nlone\n";
        let config = HostConfig::parse(text, &local());
        assert_eq!(
            (config.hostname.as_str(), config.port, config.user.as_str()),
            ("nas.example", 2222, "ann")
        );
        assert_eq!(
            config.identity_files,
            [PathBuf::from("/home/ann/.ssh/id_ed25519"), "/keys/ann@nas.example".into()]
        );
        assert_eq!(config.known_hosts.len(), 3);
        assert_eq!((config.own_known_hosts, &config.known_hosts[1]), (2, &PathBuf::from("/a b/hosts")));
        assert!(config.identities_only && config.hash_known_hosts && config.proxy_jump.is_none());
        assert_eq!(config.strict, Strict::AcceptNew);
        assert_eq!((config.alive_interval, config.alive_count), (Some(Duration::from_secs(15)), 5));
        assert_eq!((config.connect_timeout, config.address_family.as_deref()), (None, Some("inet")));
        assert_eq!(config.agent, Some("/tmp/agent".into()));
        assert_eq!(config.key_name(), "[nas.example]:2222");
    }

    #[test]
    fn allowed_ciphers_are_only_ever_put_in_order() {
        let config =
            HostConfig::parse("ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com\n", &local());
        let [slow, fast] = [false, true].map(|aes| config.cipher_list(aes).expect("some are allowed"));
        assert_eq!(slow, "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com");
        assert_eq!(fast, "aes256-gcm@openssh.com,chacha20-poly1305@openssh.com");
        assert_eq!(HostConfig::parse("hostname nas\n", &local()).cipher_list(true), None);
    }

    #[test]
    fn defaults_are_those_of_ssh() {
        let config = HostConfig::parse("hostname NAS\n", &local());
        assert_eq!((config.port, config.alive_count, config.strict), (22, 3, Strict::Ask));
        assert_eq!(config.key_name(), "nas");
    }

    #[test]
    fn proxies_agents_and_aliases() {
        let text =
            "proxycommand nc -X %% %h %p\nhostname nas\nport 23\nhostkeyalias Disk\nidentityagent none\n";
        let config = HostConfig::parse(text, &local());
        assert_eq!(config.proxy_command.as_deref(), Some("nc -X % nas 23"));
        assert_eq!((config.key_name().as_str(), config.agent), ("disk", None));
        let agent = |value: &str| HostConfig::parse(&format!("identityagent {value}\n"), &local()).agent;
        assert_eq!(agent("SSH_AUTH_SOCK"), Some("/tmp/agent".into()));
        assert_eq!(agent("~/agent"), Some("/home/ann/agent".into()));
        assert_eq!(agent("$NO_SUCH_VARIABLE_HERE"), None);
    }

    #[test]
    fn strictness_never_means_ignoring_a_changed_key() {
        let strict =
            |value: &str| HostConfig::parse(&format!("stricthostkeychecking {value}\n"), &local()).strict;
        assert_eq!([strict("true"), strict("yes"), strict("ask")], [Strict::Yes, Strict::Yes, Strict::Ask]);
        assert_eq!([strict("no"), strict("false"), strict("off")], [Strict::AcceptNew; 3]);
    }
}
