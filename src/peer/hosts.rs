//! Host keys: is this the machine it was the last time?
//!
//! Promises that a key which does not match what a known_hosts file says is never accepted, and that
//! the file and line to look at are named. Which lines mean a host, hashed and wildcard names included,
//! `ssh-keygen -F` says.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::base::error::{Error, Result};

/// What a line of a known_hosts file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// A key of the host.
    Key,
    /// A key that may sign the host's key.
    Authority,
    /// A key that must not be used any more.
    Revoked,
}

/// One line about a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
    /// What it is.
    pub mark: Mark,
    /// `ssh-ed25519` and the like.
    pub kind: String,
    /// The key in base64.
    pub key: String,
}

/// A key as a host shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostKey {
    /// `ssh-ed25519` and the like.
    pub kind: String,
    /// The key in base64.
    pub key: String,
    /// `SHA256:...` as ssh prints it.
    pub fingerprint: String,
}

/// What is to be thought of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is the one we know.
    Same,
    /// Nothing is known of the host.
    Unknown,
    /// Another key is known; this line says so.
    Changed(Known),
    /// It was revoked; this line says so.
    Revoked(Known),
    /// Only an authority is known, which libssh2 cannot check.
    OnlyAuthority(Known),
}

impl HostKey {
    /// From the key as it is sent, and its SHA-256.
    pub fn new(blob: &[u8], sha256: &[u8]) -> Self {
        let fingerprint = format!("SHA256:{}", STANDARD_NO_PAD.encode(sha256));
        Self { kind: kind_of(blob), key: STANDARD.encode(blob), fingerprint }
    }
}

/// The type a public key names itself as: a length of four bytes, then text.
pub fn kind_of(blob: &[u8]) -> String {
    let len = blob.first_chunk().map_or(0, |b| u32::from_be_bytes(*b) as usize);
    let name = blob.get(4..).and_then(|rest| rest.get(..len)).unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// Every line about `name` (as [`super::config::HostConfig::key_name`] gives it).
pub fn look_up(files: &[PathBuf], name: &str) -> Result<Vec<Known>> {
    let mut all = Vec::new();
    for file in files.iter().filter(|f| f.is_file()) {
        let mut command = Command::new("ssh-keygen");
        command.arg("-F").arg(name).arg("-f").arg(file);
        let output = command.output().map_err(|e| super::config::no_ssh(&e))?;
        // It also fails where nothing is found; but silently.
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && !said.trim().is_empty() {
            return Err(Error::Invalid(format!("{}: {}", file.display(), said.trim())));
        }
        all.extend(parse(&String::from_utf8_lossy(&output.stdout), file));
    }
    Ok(all)
}

/// What `ssh-keygen -F` prints: `# Host NAME found: line N [CA|REVOKED]`, then that line.
fn parse(text: &str, file: &Path) -> Vec<Known> {
    let mut all = Vec::new();
    let mut place = None;
    for line in text.lines() {
        if let Some(about) = line.strip_prefix("# Host ") {
            place = about.rsplit_once("found: line ").and_then(|(_, rest)| place_of(rest));
            continue;
        }
        let mut words = line.split_whitespace().filter(|w| !w.starts_with('@'));
        if let (Some((number, mark)), Some(_), Some(kind), Some(key)) =
            (place.take(), words.next(), words.next(), words.next())
        {
            let (file, kind, key) = (file.to_path_buf(), kind.to_string(), key.to_string());
            all.push(Known { file, line: number, mark, kind, key });
        }
    }
    all
}

fn place_of(text: &str) -> Option<(u32, Mark)> {
    let mut words = text.split_whitespace();
    let line = words.next()?.parse().ok()?;
    let mark = match words.next() {
        Some("CA") => Mark::Authority,
        Some("REVOKED") => Mark::Revoked,
        _ => Mark::Key,
    };
    Some((line, mark))
}

/// Compares what a host shows with what is known.
pub fn judge(known: &[Known], shown: &HostKey) -> Verdict {
    let same = |k: &&Known| k.key == shown.key;
    if let Some(line) = known.iter().filter(same).find(|k| k.mark == Mark::Revoked) {
        return Verdict::Revoked(line.clone());
    }
    let keys = || known.iter().filter(|k| k.mark == Mark::Key);
    if keys().any(|k| k.key == shown.key) {
        return Verdict::Same;
    }
    // A line with a key of the same type says most clearly what changed.
    if let Some(line) = keys().find(|k| k.kind == shown.kind).or_else(|| keys().next()) {
        return Verdict::Changed(line.clone());
    }
    match known.iter().find(|k| k.mark == Mark::Authority) {
        Some(line) => Verdict::OnlyAuthority(line.clone()),
        None => Verdict::Unknown,
    }
}

/// Algorithms to ask the host for: first those whose keys are known, so that a host which has several
/// shows the one we can compare.
pub fn preference(known: &[Known]) -> String {
    const ALL: [&str; 6] = [
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ];
    let is_known = |algorithm: &str| {
        let kind = if algorithm.starts_with("rsa-") { "ssh-rsa" } else { algorithm };
        known.iter().any(|k| k.mark == Mark::Key && k.kind == kind)
    };
    let (mut first, rest): (Vec<_>, Vec<_>) = ALL.into_iter().partition(|a| is_known(a));
    first.extend(rest);
    first.join(",")
}

/// Adds a key to a known_hosts file, made with its directory if there is none.
pub fn add(file: &Path, name: &str, key: &HostKey, hash: bool) -> Result<()> {
    let fail = |e| Error::io("adding a host key to", file, e);
    let mut line = format!("{name} {} {}\n", key.kind, key.key);
    if hash && let Some(hashed) = hashed(&line) {
        line = hashed;
    }
    if let Some(dir) = file.parent() {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    }
    // The last line may have been left without its end.
    let open_end = std::fs::read(file).is_ok_and(|bytes| bytes.last().is_some_and(|b| *b != b'\n'));
    if open_end {
        line.insert(0, '\n');
    }
    let mut out = std::fs::OpenOptions::new().append(true).create(true).open(file).map_err(fail)?;
    out.write_all(line.as_bytes()).map_err(fail)?;
    out.sync_all().map_err(fail)
}

/// The line with its name hashed, if ssh-keygen does it.
fn hashed(line: &str) -> Option<String> {
    let file = std::env::temp_dir().join(format!("ddr-known-host-{:016x}", crate::store::names::fresh()));
    let done = std::fs::write(&file, line).is_ok()
        && Command::new("ssh-keygen")
            .arg("-H")
            .arg("-f")
            .arg(&file)
            .output()
            .is_ok_and(|o| o.status.success());
    let text = done.then(|| std::fs::read_to_string(&file).ok()).flatten();
    // What remains of these is nothing secret.
    let _ = std::fs::remove_file(file.with_extension("old"));
    let _ = std::fs::remove_file(&file);
    text.filter(|t| t.starts_with("|1|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: &str, key: &str) -> HostKey {
        HostKey { kind: kind.into(), key: key.into(), fingerprint: String::new() }
    }

    fn lines() -> Vec<Known> {
        let text = "# Host nas found: line 2 \nnas,10.0.0.1 ssh-ed25519 AAAA comment\n\
            # Host nas found: line 7 REVOKED\n@revoked nas ssh-rsa BBBB\n\
            # Host nas found: line 9 CA\n@cert-authority *.x ssh-ed25519 CCCC\n\
            # Host nas found: line 11 \n|1|salt=|hash= ssh-rsa DDDD\nrubbish\n# Host nas found: line x\n";
        parse(text, Path::new("/h"))
    }

    #[test]
    fn lines_are_read_with_their_numbers_and_marks() {
        let places: Vec<_> = lines().iter().map(|k| (k.line, k.mark, k.key.clone())).collect();
        assert_eq!(
            places,
            [
                (2, Mark::Key, "AAAA".to_string()),
                (7, Mark::Revoked, "BBBB".into()),
                (9, Mark::Authority, "CCCC".into()),
                (11, Mark::Key, "DDDD".into())
            ]
        );
    }

    #[test]
    fn a_key_is_the_same_changed_revoked_or_unknown() {
        let known = lines();
        assert_eq!(judge(&known, &shown("ssh-ed25519", "AAAA")), Verdict::Same);
        assert_eq!(judge(&known, &shown("ssh-rsa", "BBBB")), Verdict::Revoked(known[1].clone()));
        assert_eq!(judge(&known, &shown("ssh-rsa", "EEEE")), Verdict::Changed(known[3].clone()));
        // An authority's own key proves nothing about the host.
        assert_eq!(judge(&known, &shown("ssh-ed25519", "CCCC")), Verdict::Changed(known[0].clone()));
        // A new type of key is no proof that the machine is the same.
        assert_eq!(judge(&known[..1], &shown("ssh-rsa", "EEEE")), Verdict::Changed(known[0].clone()));
        assert_eq!(judge(&known[2..3], &shown("ssh-rsa", "E")), Verdict::OnlyAuthority(known[2].clone()));
        assert_eq!(judge(&known[1..2], &shown("ssh-rsa", "E")), Verdict::Unknown);
    }

    #[test]
    fn known_types_are_asked_for_first() {
        assert!(preference(&lines()[3..]).starts_with("rsa-sha2-512,rsa-sha2-256,ssh-ed25519,"));
        assert!(preference(&[]).starts_with("ssh-ed25519,"));
    }

    #[test]
    fn added_lines_are_found_again_by_name_hashed_or_not() {
        if Command::new("ssh-keygen").arg("-?").output().is_err() {
            eprintln!("skipped: no ssh-keygen");
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("ssh/known_hosts");
        let blob = [&[0, 0, 0, 11][..], b"ssh-ed25519", &[0, 0, 0, 32], &[7; 32]].concat();
        let key = HostKey::new(&blob, &[1; 32]);
        assert_eq!((key.kind.as_str(), &key.fingerprint[..7]), ("ssh-ed25519", "SHA256:"));
        std::fs::create_dir(dir.path().join("ssh")).expect("tempdir");
        std::fs::write(&file, "# no end of line").expect("tempdir");
        add(&file, "[10.0.0.1]:2222", &key, true).expect("added");
        add(&file, "nas", &key, false).expect("added");
        let files = [dir.path().join("none"), file.clone()];
        for (name, line) in [("[10.0.0.1]:2222", 2), ("nas", 3)] {
            let known = look_up(&files, name).expect(name);
            assert_eq!(known.iter().map(|k| k.line).collect::<Vec<_>>(), [line], "{name}");
            assert_eq!(judge(&known, &key), Verdict::Same);
        }
        let text = std::fs::read_to_string(&file).expect("written");
        assert!(text.contains("|1|") && !text.contains("10.0.0.1"), "{text}");
        assert_eq!(look_up(&files, "10.0.0.1").expect("none"), []);
    }
}
