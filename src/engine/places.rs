//! From a URL to the bucket there: a directory, a peer, plain objects on another machine.
//!
//! Promises that a place which is not there is `Offline` or `Missing`, never empty, and that what it
//! would be lost together with is told along. Knows no folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::config::{RemoteConfig, Transport};
use super::domains::Way;
use crate::base::error::{Error, Result};
use crate::peer::bucket::RemoteBucket;
use crate::peer::config::HostConfig;
use crate::peer::host::{Host, Login};
use crate::peer::link::Timing;
use crate::peer::machine;
use crate::peer::openssh::OpensshDial;
use crate::peer::sftp::SftpBucket;
use crate::peer::ssh::SshDial;
use crate::peer::stream::Dial;
use crate::peer::url::{Address, Url};
use crate::store::Bucket;
use crate::store::dir::DirBucket;

/// Connections to one peer at most. Each is bounded by the server's window (2 MiB) for a round trip, and
/// libssh2 by one core.
const SESSIONS: usize = 6;
/// A farther store has its windows, not its disk, as the limit.
const FAR: Duration = Duration::from_millis(10);

/// Threads that write packs to a store on another machine, each over a connection of its own: what keeps a
/// near one waiting is this machine's processors.
pub fn writers(distance: Duration) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    if distance > FAR { SESSIONS } else { cores.clamp(2, 4) }
}

/// A bucket, and what it would be lost together with.
pub struct Place {
    /// The objects.
    pub bucket: Arc<dyn Bucket>,
    /// Its failure domain, unless the user names another: the device of a directory, the host of a peer.
    pub domain: String,
    /// The number of that, if it is one of this machine.
    pub device: Option<u64>,
    /// How its machine is reached, if that is another one.
    pub way: Option<Way>,
}

/// The bucket of a remote. [`Error::Missing`] if the machine is there but holds no store.
pub fn open(name: &str, remote: &RemoteConfig, login: &Login) -> Result<Place> {
    match remote.place()? {
        Url::Dir(path) => open_dir(name, &path),
        Url::Sftp(address) => {
            let host = host(address, login);
            let domain = domain_of_host(&host)?;
            let way = Some(Way::to(host.config()?));
            let bucket = SftpBucket::open(host).map_err(|e| named(name, e))?;
            Ok(Place { bucket: Arc::new(bucket), domain, device: None, way })
        }
        Url::Ssh(address) => {
            let way = Way::to(&HostConfig::of(&address, login.config_file.as_deref())?);
            let bucket = peer(name, address, remote, login);
            let info = bucket.info()?;
            // A peer on this machine is lost with what lies beside it.
            let device = (info.host == machine::id()).then_some(info.device);
            let domain = device.map_or(info.host, domain_of);
            Ok(Place { bucket: Arc::new(bucket), domain, device, way: Some(Way { is_peer: true, ..way }) })
        }
    }
}

/// Another ddr; nothing is dialled yet.
pub fn peer(name: &str, address: Address, remote: &RemoteConfig, login: &Login) -> RemoteBucket {
    let program = remote.program.clone();
    let dial: Arc<dyn Dial> = match remote.transport {
        Transport::Ssh2 => Arc::new(SshDial::new(host(address, login), program)),
        Transport::Openssh => Arc::new(OpensshDial::new(address, program, login.clone())),
    };
    RemoteBucket::new(name, dial, None, SESSIONS, Timing::default())
}

fn host(address: Address, login: &Login) -> Arc<Host> {
    Arc::new(Host::new(address, login.clone()))
}

/// Messages call a store what the user calls it.
fn named(name: &str, error: Error) -> Error {
    match error {
        Error::Offline { name: place, why } => {
            Error::Offline { name: name.into(), why: format!("{place}: {why}") }
        }
        e => e,
    }
}

/// The bucket in a directory: that of a bare peer, or a plain store.
fn open_dir(name: &str, path: &Path) -> Result<Place> {
    let offline = |why: String| Error::Offline { name: name.into(), why };
    let inner = path.join("store");
    let place = if inner.join("folder").is_file() { inner } else { path.to_path_buf() };
    if !place.join("folder").is_file() {
        let there = std::fs::metadata(path).is_ok();
        let what = if there {
            "holds no store (is its disk mounted?)"
        } else {
            "does not exist (is its disk mounted?)"
        };
        return Err(offline(format!("{} {what}", path.display())));
    }
    let bucket = DirBucket::open(&place)?;
    let device = bucket.domain();
    Ok(Place { bucket: Arc::new(bucket), domain: domain_of(device), device: Some(device), way: None })
}

/// An empty bucket for plain objects on another machine, where nothing is yet.
pub fn make_sftp(address: Address, login: &Login) -> Result<SftpBucket> {
    let host = host(address, login);
    let place = SftpBucket::look(Arc::clone(&host));
    match place.is_empty_place()? {
        true => SftpBucket::create(host),
        false => Err(Error::Refused(format!(
            "sftp://{} is not empty; name a new directory, or add the store there without --init",
            host.address
        ))),
    }
}

/// Name of a failure domain that nobody named.
pub fn domain_of(place: u64) -> String {
    format!("dev-{place:x}")
}

fn domain_of_host(host: &Host) -> Result<String> {
    Ok(format!("host-{}", host.config()?.hostname.to_ascii_lowercase()))
}
