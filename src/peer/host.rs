//! Reaching a host over ssh: connection, its key, our key.
//!
//! Promises sessions only with the host that known_hosts names, set up within half a minute or not at
//! all. One [`Host`] makes as many sessions as wanted and asks the user at most once. Knows nothing of
//! what a session is used for.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ssh2::{HashType, MethodType, Session};

use super::auth::{self, Ask, Question, Secrets};
use super::config::{HostConfig, Strict};
use super::hosts::{self, HostKey, Known, Verdict};
use super::proxy::{self, Proxy};
use super::url::Address;
use crate::base::error::{Error, Result};

/// How long connecting may take, unless ssh's configuration says otherwise.
const CONNECT: Duration = Duration::from_secs(15);
/// How long one step of a handshake may take; ssh's time for connecting counts for it, too, but a slow
/// machine needs a little.
const STEP: Duration = Duration::from_secs(30);
const LEAST_STEP: Duration = Duration::from_secs(2);

/// How the user lets us log in.
#[derive(Clone)]
pub struct Login {
    /// Takes the place of the user's and the system's configuration of ssh.
    pub config_file: Option<PathBuf>,
    /// Whether an unknown host's key is taken without asking.
    pub accept_new: bool,
    /// Asks the user.
    pub ask: Ask,
}

impl Default for Login {
    /// With nobody to ask.
    fn default() -> Self {
        Self { config_file: None, accept_new: false, ask: Arc::new(|_| None) }
    }
}

/// One host, as whom we log in, and what the user has answered about it.
pub struct Host {
    /// What the URL says.
    pub address: Address,
    login: Login,
    secrets: Secrets,
    config: OnceLock<HostConfig>,
    /// The key that was found to be right; later sessions must show the same.
    key: Mutex<Option<HostKey>>,
}

/// A session that is logged in.
pub struct Connection {
    /// libssh2's session, in blocking mode.
    pub session: Session,
    /// The socket under it.
    pub socket: Arc<OwnedFd>,
    /// Ends after the session.
    pub proxy: Option<Proxy>,
}

/// libssh2 wants to own something with a descriptor; ours is shared with whoever polls it.
struct Socket(Arc<OwnedFd>);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Host {
    /// Connects to nothing yet.
    pub fn new(address: Address, login: Login) -> Self {
        let (secrets, config, key) = Default::default();
        Self { address, login, secrets, config, key }
    }

    /// What ssh's configuration says; asked once.
    pub fn config(&self) -> Result<&HostConfig> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let config = HostConfig::of(&self.address, self.login.config_file.as_deref())?;
        Ok(self.config.get_or_init(|| config))
    }

    /// A new session, logged in. [`Error::Offline`] if the host cannot be reached or lets us not in;
    /// [`Error::Refused`] if its key is not the one we know.
    pub fn connect(&self) -> Result<Connection> {
        let config = self.config()?;
        let (socket, proxy) = self.reach(config)?;
        let socket = Arc::new(socket);
        let fail = |doing: &str, e: ssh2::Error| self.offline(format!("{doing}: {}", e.message()));
        let mut session = Session::new().map_err(|e| fail("starting a session", e))?;
        session.set_timeout(config.connect_timeout.unwrap_or(STEP).max(LEAST_STEP).as_millis() as u32);
        session.set_tcp_stream(Socket(Arc::clone(&socket)));
        // Whoever comes while the first is at it waits, so that the user is asked once.
        let mut first = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let known = first.clone();
        if known.is_some() {
            drop(first);
            self.greet(&mut session, config, known.as_ref(), proxy.is_some())?;
            return Ok(Connection { session, socket, proxy });
        }
        *first = Some(self.greet(&mut session, config, None, proxy.is_some())?);
        Ok(Connection { session, socket, proxy })
    }

    /// Handshake, their key, our key. `right`: what their key was before.
    fn greet(
        &self,
        session: &mut Session,
        config: &HostConfig,
        right: Option<&HostKey>,
        proxied: bool,
    ) -> Result<HostKey> {
        let fail = |doing: &str, e: ssh2::Error| self.offline(format!("{doing}: {}", e.message()));
        let known = match right {
            Some(_) => Vec::new(),
            None => hosts::look_up(&config.known_hosts, &config.key_name())?,
        };
        let wanted = right.map_or_else(|| hosts::preference(&known), |k| algorithms(&k.kind));
        session.method_pref(MethodType::HostKey, &wanted).map_err(|e| fail("host key algorithms", e))?;
        if let Some(ciphers) = config.cipher_list(false) {
            for way in [MethodType::CryptCs, MethodType::CryptSc] {
                session.method_pref(way, &ciphers).map_err(|e| fail("ciphers", e))?;
            }
        }
        let doing = if proxied { "no ssh handshake through its proxy" } else { "no ssh handshake" };
        session.handshake().map_err(|e| fail(doing, e))?;
        let shown = shown(session).ok_or_else(|| self.offline("it shows no host key".into()))?;
        match right {
            Some(right) if *right == shown => {}
            Some(_) => {
                return Err(Error::Refused(format!(
                    "{} shows another host key than before",
                    self.address.host
                )));
            }
            None => self.check(config, &known, &shown)?,
        }
        auth::log_in(session, config, &self.login.ask, &self.secrets)
            .map_err(|why| self.offline(format!("{}@{}: {why}", config.user, config.hostname)))?;
        Ok(shown)
    }

    fn offline(&self, why: String) -> Error {
        Error::Offline { name: self.address.host.clone(), why }
    }

    /// A connected socket, directly or through a proxy.
    fn reach(&self, config: &HostConfig) -> Result<(OwnedFd, Option<Proxy>)> {
        let file = self.login.config_file.as_deref();
        let through = match (&config.proxy_jump, &config.proxy_command) {
            (Some(jump), _) => Some(proxy::jump(jump, &config.hostname, config.port, file)),
            (None, Some(command)) => Some(proxy::command(command)),
            (None, None) => None,
        };
        if let Some(command) = through {
            let (socket, proxy) =
                proxy::start(command).map_err(|e| self.offline(format!("its proxy: {e}")))?;
            return Ok((socket, Some(proxy)));
        }
        let place = || format!("{} port {}", config.hostname, config.port);
        let found = (config.hostname.as_str(), config.port).to_socket_addrs();
        let found = found.map_err(|e| self.offline(format!("{}: {e}", config.hostname)))?;
        let wanted = |a: &SocketAddr| match config.address_family.as_deref() {
            Some("inet") => a.is_ipv4(),
            Some("inet6") => a.is_ipv6(),
            _ => true,
        };
        let mut why = format!("{} has no address", config.hostname);
        for address in found.filter(wanted) {
            match TcpStream::connect_timeout(&address, config.connect_timeout.unwrap_or(CONNECT)) {
                Ok(stream) => {
                    // Small requests must not wait for each other; it works without, too, only slower.
                    let _ = stream.set_nodelay(true);
                    return Ok((stream.into(), None));
                }
                Err(e) => why = format!("connecting to {}: {e}", place()),
            }
        }
        Err(self.offline(why))
    }

    /// Whether this is the host we know, or one the user wants to know.
    fn check(&self, config: &HostConfig, known: &[Known], shown: &HostKey) -> Result<()> {
        let name = config.key_name();
        let at = |k: &Known| format!("{}, line {}", k.file.display(), k.line);
        let refuse = |why: String| Err(Error::Refused(why));
        match hosts::judge(known, shown) {
            Verdict::Same => Ok(()),
            Verdict::Unknown => self.meet(config, &name, shown),
            Verdict::Changed(line) => refuse(format!(
                "the host key of {name} is not the one we know: somebody may be listening in, or the machine was set up anew. \
                 It shows {} {}; {} says otherwise. If you know why it changed, run: ssh-keygen -f {} -R '{name}'",
                shown.kind,
                shown.fingerprint,
                at(&line),
                line.file.display()
            )),
            Verdict::Revoked(line) => {
                refuse(format!("the host key of {name}, {}, was revoked ({})", shown.fingerprint, at(&line)))
            }
            Verdict::OnlyAuthority(line) => Err(Error::Unsupported(format!(
                "{name} is known only by a certificate authority ({}), which ddr cannot check by itself; \
                 let ssh do it: set transport = \"openssh\"",
                at(&line)
            ))),
        }
    }

    /// An unknown host.
    fn meet(&self, config: &HostConfig, name: &str, shown: &HostKey) -> Result<()> {
        let key = format!("{} {}", shown.kind, shown.fingerprint);
        let accepted = match (self.login.accept_new, config.strict) {
            (true, _) | (_, Strict::AcceptNew) => true,
            (_, Strict::Yes) => false,
            (_, Strict::Ask) => {
                let text = format!(
                    "The host {name} is not known yet. It shows the key {key}.\n\
                     Type yes if that is its key, to trust it from now on: "
                );
                (self.login.ask)(&Question { text, secret: false }).is_some_and(|a| a.trim() == "yes")
            }
        };
        if !accepted {
            return Err(Error::Refused(format!(
                "the host {name} is not known, and nobody said that its key {key} is right; \
                 compare it with `ssh-keygen -lf` on that machine, then add --accept-new (or run ssh {} once)",
                self.address.host
            )));
        }
        match config
            .known_hosts
            .first()
            .filter(|f| config.own_known_hosts > 0 && (f.is_file() || !f.exists()))
        {
            Some(file) => hosts::add(file, name, shown, config.hash_known_hosts),
            None => Ok(()),
        }
    }
}

/// What asks a host for a key of this type.
fn algorithms(kind: &str) -> String {
    match kind {
        "ssh-rsa" => "rsa-sha2-512,rsa-sha2-256".into(),
        kind => kind.into(),
    }
}

fn shown(session: &Session) -> Option<HostKey> {
    let (blob, _) = session.host_key()?;
    Some(HostKey::new(blob, session.host_key_hash(HashType::Sha256)?))
}
