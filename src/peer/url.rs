//! Where a store is: a directory, another ddr over ssh, or plain objects over sftp.
//!
//! Promises that what is printed parses back to the same place, and that neither host, user nor path
//! can be taken for an option or for a shell's syntax by what they are handed to. Knows no network.

use std::fmt;
use std::path::PathBuf;

use crate::base::error::{Error, Result};

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Url {
    /// A directory on this machine: `/path` or `file:///path`.
    Dir(PathBuf),
    /// Another ddr: `ssh://[user@]host[:port]/path` or `[user@]host:path`.
    Ssh(Address),
    /// A machine without ddr: `sftp://[user@]host[:port]/path`.
    Sftp(Address),
}

/// A directory on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Whom to log in as; else what ssh's configuration says.
    pub user: Option<String>,
    /// Name, alias of ssh's configuration, or address; IPv6 without brackets.
    pub host: String,
    /// TCP port; else what ssh's configuration says.
    pub port: Option<u16>,
    /// Absolute, or relative to the home directory there; never empty.
    pub path: String,
}

impl Url {
    /// Reads any of the forms above. A relative path is [`Error::Invalid`]: the command line makes
    /// it absolute first.
    pub fn parse(text: &str) -> Result<Self> {
        if text.chars().any(char::is_control) {
            return Err(invalid(text, "control characters have no place in it"));
        }
        match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => Self::with_scheme(text, scheme, rest),
            _ if text.starts_with('/') => Ok(Self::Dir(text.into())),
            _ => match scp(text) {
                Some((host, path)) => Ok(Self::Ssh(short(text, host, path)?)),
                None => Err(invalid(text, "expected /path, ssh://host/path, host:path or sftp://host/path")),
            },
        }
    }

    fn with_scheme(text: &str, scheme: &str, rest: &str) -> Result<Self> {
        match scheme.to_ascii_lowercase().as_str() {
            "file" => {
                let path = rest.strip_prefix("localhost").filter(|p| p.starts_with('/')).unwrap_or(rest);
                match path.starts_with('/') {
                    true => Ok(Self::Dir(decode(text, path)?.into())),
                    false => Err(invalid(text, "a file URL has three slashes: file:///path")),
                }
            }
            "ssh" => long(text, rest).map(Self::Ssh),
            "sftp" => long(text, rest).map(Self::Sftp),
            _ => Err(Error::Unsupported(format!(
                "{text:?}: remotes are directories, ssh:// and sftp://, not {scheme}://"
            ))),
        }
    }

    /// Last component of the path: what a clone is called unless said otherwise.
    pub fn file_name(&self) -> Option<String> {
        let path = match self {
            Self::Dir(path) => return path.file_name().map(|n| n.to_string_lossy().into_owned()),
            Self::Ssh(address) | Self::Sftp(address) => &address.path,
        };
        let last = path.trim_end_matches('/').rsplit('/').next()?;
        (!matches!(last, "" | "." | "..")).then(|| last.to_string())
    }

    /// Whether a word of the command line is one of the remote forms, so that it is not a path.
    pub fn is_remote(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme))
            || (!text.starts_with('/') && scp(text).is_some())
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// `host:path` by git's rule: a colon before the first slash; IPv6 hosts stand in brackets.
fn scp(text: &str) -> Option<(&str, &str)> {
    let after = text.find('[').filter(|at| !text[..*at].contains(['/', ':']));
    let from = match after {
        Some(at) => at + text[at..].find("]:")? + 1,
        None => text.find(':')?,
    };
    (!text[..from].contains('/')).then(|| (&text[..from], &text[from + 1..]))
}

/// `[user@]host:path`; nothing in it is decoded.
fn short(text: &str, host: &str, path: &str) -> Result<Address> {
    let (user, host) = match host.rsplit_once('@') {
        Some((user, host)) => (Some(checked_user(text, user)?), host),
        None => (None, host),
    };
    let path = match path.strip_prefix('~') {
        Some(rest) => home(text, rest)?,
        None => path.to_string(),
    };
    address(text, user, host, None, path)
}

/// What follows `ssh://`.
fn long(text: &str, rest: &str) -> Result<Address> {
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(checked_user(text, &decode(text, user)?)?), place),
        None => (None, authority),
    };
    let (host, port) = split_port(text, place)?;
    let path = match path.strip_prefix("/~") {
        Some(rest) => home(text, &decode(text, rest)?)?,
        None => decode(text, path)?,
    };
    address(text, user, host, port, path)
}

/// `host`, `host:22`, `[::1]` or `[::1]:22`.
fn split_port<'a>(text: &str, place: &'a str) -> Result<(&'a str, Option<u16>)> {
    let end = if place.starts_with('[') { place.find(']').map_or(place.len(), |at| at + 1) } else { 0 };
    let Some(colon) = place[end..].rfind(':').map(|at| end + at) else { return Ok((place, None)) };
    let (host, port) = (&place[..colon], &place[colon + 1..]);
    if port.is_empty() {
        return Ok((host, None));
    }
    match port.parse() {
        Ok(port) if port > 0 && place[colon + 1..].bytes().all(|b| b.is_ascii_digit()) => {
            Ok((host, Some(port)))
        }
        _ => Err(invalid(text, &format!("{port:?} is no port"))),
    }
}

/// What follows `~`: our own home only, since whose `~name` is only the other machine knows.
fn home(text: &str, rest: &str) -> Result<String> {
    match rest.strip_prefix('/') {
        Some(path) => Ok(path.trim_start_matches('/').to_string()),
        None if rest.is_empty() => Ok(String::new()),
        None => Err(invalid(text, "another user's home (~name) is not known here; write its path")),
    }
    .map(|path| if path.is_empty() { ".".into() } else { path })
}

fn address(text: &str, user: Option<String>, host: &str, port: Option<u16>, path: String) -> Result<Address> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = match bare {
        Some(v6) => v6.contains(':') && v6.chars().all(|c| ok(c) || c == ':' || c == '%'),
        None => host.chars().all(ok),
    };
    let host = bare.unwrap_or(host);
    if host.is_empty() || !good || host.starts_with(['-', '.']) {
        return Err(invalid(text, &format!("{host:?} is no host name")));
    }
    if path.trim_matches('/').is_empty() {
        return Err(invalid(text, "name a directory after the host"));
    }
    Ok(Address { user, host: host.to_string(), port, path })
}

fn checked_user(text: &str, user: &str) -> Result<String> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || "'`\"\\;&<>|(){}$/%".contains(c);
    if user.contains(':') {
        return Err(invalid(text, "passwords do not belong into URLs; use a key or an agent"));
    }
    if user.is_empty() || user.starts_with('-') || user.chars().any(bad) {
        return Err(invalid(text, &format!("{user:?} is no user name")));
    }
    Ok(user.to_string())
}

/// Replaces `%20` and the like.
fn decode(text: &str, part: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(invalid(text, "a % in a URL is written %25")),
        }
    }
    match String::from_utf8(bytes) {
        Ok(decoded) if !decoded.chars().any(char::is_control) => Ok(decoded),
        _ => Err(invalid(text, "what it decodes to is not printable UTF-8")),
    }
}

fn invalid(text: &str, why: &str) -> Error {
    Error::Invalid(format!("{text:?} is no place for a store: {why}"))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "{}", path.display()),
            Self::Ssh(address) => write!(f, "ssh://{address}"),
            Self::Sftp(address) => write!(f, "sftp://{address}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => write!(f, "{}", self.host)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        let path = self.path.replace('%', "%25");
        match path.strip_prefix('/') {
            // Else it would read as a home directory.
            Some(rest) if rest.starts_with('~') => write!(f, "/%7E{}", &rest[1..]),
            Some(_) => write!(f, "{path}"),
            None => write!(f, "/~/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(user: Option<&str>, host: &str, port: Option<u16>, path: &str) -> Address {
        Address { user: user.map(Into::into), host: host.into(), port, path: path.into() }
    }

    #[test]
    fn every_form_is_understood() {
        let is = |text: &str, url: Url| assert_eq!(Url::parse(text).expect(text), url);
        is("/mnt/disk 2/a:b", Url::Dir("/mnt/disk 2/a:b".into()));
        is("file:///mnt/a%20b", Url::Dir("/mnt/a b".into()));
        is("file://localhost/mnt", Url::Dir("/mnt".into()));
        is("ssh://nas/srv/docs", Url::Ssh(at(None, "nas", None, "/srv/docs")));
        is("SSH://ann@nas:2222/srv", Url::Ssh(at(Some("ann"), "nas", Some(2222), "/srv")));
        is("ssh://nas:/srv", Url::Ssh(at(None, "nas", None, "/srv")));
        is("ssh://nas/~/docs", Url::Ssh(at(None, "nas", None, "docs")));
        is("ssh://nas/~", Url::Ssh(at(None, "nas", None, ".")));
        is("ssh://[::1]:22/x", Url::Ssh(at(None, "::1", Some(22), "/x")));
        is("ssh://[fe80::1%eth0]/x", Url::Ssh(at(None, "fe80::1%eth0", None, "/x")));
        is("sftp://ann@nas/a%25b", Url::Sftp(at(Some("ann"), "nas", None, "/a%b")));
        is("nas:docs", Url::Ssh(at(None, "nas", None, "docs")));
        is("nas:~/docs", Url::Ssh(at(None, "nas", None, "docs")));
        is("ann@x.org@nas:/a b:c", Url::Ssh(at(Some("ann@x.org"), "nas", None, "/a b:c")));
        is("ann@[::1]:/x", Url::Ssh(at(Some("ann"), "::1", None, "/x")));
        is("nas:-x", Url::Ssh(at(None, "nas", None, "-x")));
    }

    #[test]
    fn what_could_be_an_option_or_a_command_is_refused() {
        for bad in [
            "",
            "docs",
            "./docs",
            "nas:",
            "nas:/",
            "ssh://nas",
            "ssh://nas/",
            "ssh:///x",
            "ssh://-oProxyCommand=x/y",
            "-oProxyCommand=x:y",
            "ssh://nas:0/x",
            "ssh://nas:70000/x",
            "ssh://nas:+5/x",
            "ssh://-l@nas/x",
            "-l@nas:x",
            "ssh://a;b@nas/x",
            "ssh://a:secret@nas/x",
            "ssh://n$(x)/y",
            "ssh://[nas]/x",
            "ssh://::1/x",
            "ssh://nas/~ann/x",
            "nas:~ann/x",
            "nas:a\nb",
            "ssh://nas/a%0ab",
            "ssh://nas/a%zz",
            "ssh://nas/a%4",
            "ssh://nas/%ff",
            "s3://bucket/x",
            "file://other/x",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_component_names_a_clone() {
        let name = |text: &str| Url::parse(text).expect(text).file_name();
        assert_eq!(name("nas:a/docs/").as_deref(), Some("docs"));
        assert_eq!(name("/mnt/docs").as_deref(), Some("docs"));
        assert_eq!(name("ssh://nas/~"), None);
    }

    #[test]
    fn a_word_with_a_colon_after_a_slash_is_a_path() {
        assert!(Url::is_remote("nas:x") && Url::is_remote("sftp://nas/x") && Url::is_remote("[::1]:x"));
        assert!(!Url::is_remote("./nas:x") && !Url::is_remote("/a://b") && !Url::is_remote("docs"));
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(
            user in proptest::option::of("[a-z_][a-z0-9_.@+-]{0,8}"),
            v6 in any::<bool>(),
            host in "[a-z0-9][a-zA-Z0-9._-]{0,12}",
            port in proptest::option::of(1u16..),
            path in "/?[^\\p{C}/~][^\\p{C}]{0,20}|/~[^\\p{C}]{0,5}",
            sftp in any::<bool>(),
        ) {
            let host = if v6 { format!("fe80::{}", host.len()) } else { host };
            let address = Address { user, host, port, path };
            let url = if sftp { Url::Sftp(address) } else { Url::Ssh(address) };
            prop_assert_eq!(Url::parse(&url.to_string()).expect("printed"), url);
        }

        #[test]
        fn nothing_that_parses_begins_with_a_dash(text in "\\PC{0,40}") {
            if let Ok(Url::Ssh(a) | Url::Sftp(a)) = Url::parse(&text) {
                prop_assert!(!a.host.starts_with('-'));
                prop_assert!(!a.user.is_some_and(|u| u.starts_with('-')));
            }
        }
    }
}
