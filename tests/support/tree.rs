//! What a folder's tree must look like: a model that edits the tree as its user does.
//!
//! Promises that hashes come from the bytes the user wrote, never from what is on disk afterwards,
//! and that every deviation is told with its path. Directory times are not compared: they are the
//! user's own doing, and a clone makes its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ddr::format::stub::{HEADER_LEN, looks_like_stub};

use super::content::{Content, Random, name};

/// BLAKE3 of a file's bytes.
pub type Hash = blake3::Hash;

/// One path of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// A directory and its mode.
    Dir(u32),
    /// A symlink and its target.
    Link(PathBuf),
    /// A file.
    File {
        /// Size.
        size: u64,
        /// Modification time: seconds, nanoseconds.
        mtime: (i64, i64),
        /// Mode.
        mode: u32,
        /// Content.
        hash: Hash,
    },
}

/// What a file on disk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// All its bytes.
    Full,
    /// A stub header and nothing but hole.
    Stub,
}

/// Path below the root to node.
pub type Nodes = BTreeMap<PathBuf, Node>;

/// A tree and what must be in it.
pub struct Model {
    root: PathBuf,
    /// What must be there.
    pub nodes: Nodes,
}

impl Model {
    /// A new tree of about `files` files below `root`.
    pub fn grow(root: &Path, files: usize, random: &mut Random) -> Self {
        let mut model = Self { root: root.into(), nodes: Nodes::new() };
        for dir in ["a", "a/b", "empty", "dir with space"] {
            fs::create_dir_all(root.join(dir)).expect("sandbox directory");
            model.observe(Path::new(dir), None).expect("just made");
        }
        for _ in 0..files {
            model.create(random).expect("sandbox file");
        }
        std::os::unix::fs::symlink("a/b/no such target", root.join("link")).expect("sandbox symlink");
        model.observe(Path::new("link"), None).expect("just made");
        model
    }

    /// Paths of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        let is_file =
            |(path, node): (&PathBuf, &Node)| matches!(node, Node::File { .. }).then(|| path.clone());
        self.nodes.iter().filter_map(is_file).collect()
    }

    /// One of the files.
    pub fn pick(&self, random: &mut Random) -> PathBuf {
        random.pick(&self.files()).clone()
    }

    /// Takes a node as it now is on disk; a file's hash is what the user wrote.
    pub fn observe(&mut self, path: &Path, hash: Option<Hash>) -> io::Result<()> {
        let node = look(&self.root.join(path), hash)?;
        self.nodes.insert(path.into(), node);
        Ok(())
    }

    fn create(&mut self, random: &mut Random) -> io::Result<PathBuf> {
        let dir = *random.pick(&["", "a", "a/b", "dir with space"]);
        let path = Path::new(dir).join(OsStr::from_bytes(&name(random)));
        self.write(&path, random)?;
        Ok(path)
    }

    fn write(&mut self, path: &Path, random: &mut Random) -> io::Result<()> {
        let full = self.root.join(path);
        Content::random(random).write(&full)?;
        if random.below(4) == 0 {
            // Only root may write into a read-only file, and so stash it.
            let odd = if rustix::process::geteuid().is_root() { 0o400 } else { 0o664 };
            let mode = *random.pick(&[0o600, 0o644, 0o755, odd]);
            fs::set_permissions(&full, fs::Permissions::from_mode(mode))?;
        }
        if random.below(3) == 0 {
            let secs = *random.pick(&[-1_000_000_000, 0, 1_234_567_890, 1_700_000_000]);
            let nanos = random.below(1_000_000_000) as u32;
            filetime::set_file_mtime(&full, filetime::FileTime::from_unix_time(secs, nanos))?;
        }
        let hash = hash_file(&full)?;
        self.observe(path, Some(hash))
    }

    /// Does one thing a user might do; says what.
    pub fn edit(&mut self, random: &mut Random) -> io::Result<String> {
        if self.files().len() < 4 {
            return Ok(format!("create {}", self.create(random)?.display()));
        }
        let path = self.pick(random);
        let full = self.root.join(&path);
        let what = match random.below(7) {
            0 | 1 => return Ok(format!("create {}", self.create(random)?.display())),
            2 => {
                // As an editor saves: a new file over the old name, stub or not.
                fs::remove_file(&full)?;
                self.write(&path, random)?;
                "replace"
            }
            3 => {
                // As `>` does: same inode, which may be a stub.
                if fs::metadata(&full)?.mode() & 0o200 == 0 {
                    fs::set_permissions(&full, fs::Permissions::from_mode(0o644))?;
                }
                self.write(&path, random)?;
                "overwrite"
            }
            4 if state(&full)? == State::Full => {
                fs::set_permissions(&full, fs::Permissions::from_mode(0o644))?;
                let end = fs::metadata(&full)?.len();
                File::options().write(true).open(&full)?.write_all_at(b"one more line\n", end)?;
                self.observe(&path, Some(hash_file(&full)?))?;
                "append to"
            }
            5 => {
                fs::remove_file(&full)?;
                self.nodes.remove(&path);
                "delete"
            }
            _ => {
                let to = path.with_file_name(format!("moved-{}", random.below(1 << 40)));
                fs::rename(&full, self.root.join(&to))?;
                let node = self.nodes.remove(&path).expect("picked from the nodes");
                self.nodes.insert(to, node);
                "move"
            }
        };
        Ok(format!("{what} {}", path.display()))
    }

    /// Names, sizes, times and modes are right, and every file is full or a stub.
    pub fn check_listing(&self) -> Result<(), String> {
        compare(&self.nodes, &self.root, true)
    }

    /// Every byte is right and nothing is a stub.
    pub fn check_bytes(&self) -> Result<(), String> {
        compare(&self.nodes, &self.root, false)
    }
}

/// Reads a node; a file's bytes are hashed unless the hash is given.
fn look(path: &Path, hash: Option<Hash>) -> io::Result<Node> {
    let meta = fs::symlink_metadata(path)?;
    Ok(match meta.file_type() {
        t if t.is_dir() => Node::Dir(meta.mode() & 0o7777),
        t if t.is_symlink() => Node::Link(fs::read_link(path)?),
        _ => Node::File {
            size: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            mode: meta.mode() & 0o7777,
            hash: hash.map_or_else(|| hash_file(path), Ok)?,
        },
    })
}

/// BLAKE3 of a file.
pub fn hash_file(path: &Path) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}

/// Stub or full; stub bytes with anything behind them are an error.
pub fn state(path: &Path) -> io::Result<State> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    (&mut file).take(HEADER_LEN as u64).read_to_end(&mut head)?;
    if !looks_like_stub(&head) {
        return Ok(State::Full);
    }
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    let clean = head.len() == HEADER_LEN && rest.iter().all(|b| *b == 0);
    let kept = file.metadata()?.blocks() * 512;
    if clean && kept <= 16 << 10 {
        Ok(State::Stub)
    } else {
        let why = format!("stub header, {} bytes behind it, {kept} bytes on disk", rest.len());
        Err(io::Error::other(why))
    }
}

/// Every path below a root, ddr's own directory excepted, parents first.
pub fn walk(root: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut todo, mut out) = (vec![PathBuf::new()], Vec::new());
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            if path == Path::new(".ddr") {
                continue;
            }
            if entry.file_type()?.is_dir() {
                todo.push(path.clone());
            }
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

/// All nodes of a tree.
pub fn read(root: &Path) -> io::Result<Nodes> {
    walk(root)?.into_iter().map(|path| look(&root.join(&path), None).map(|node| (path, node))).collect()
}

fn compare(expected: &Nodes, root: &Path, stubs_allowed: bool) -> Result<(), String> {
    let mut wrong = Vec::new();
    let found = walk(root).map_err(|e| format!("{}: {e}", root.display()))?;
    for path in found.iter().filter(|p| !expected.contains_key(*p)) {
        wrong.push(format!("{path:?} is there and should not be"));
    }
    for (path, node) in expected {
        wrong.extend(deviation(&root.join(path), node, stubs_allowed).map(|why| format!("{path:?}: {why}")));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn deviation(path: &Path, expected: &Node, stubs_allowed: bool) -> Option<String> {
    let Node::File { hash, .. } = expected else {
        return match look(path, None) {
            Ok(found) if found == *expected => None,
            Ok(found) => Some(format!("{found:?} instead of {expected:?}")),
            Err(e) => Some(e.to_string()),
        };
    };
    // Facts first, with the expected hash filled in; the bytes after.
    match look(path, Some(*hash)) {
        Ok(found) if found == *expected => {}
        Ok(found) => return Some(format!("{found:?} instead of {expected:?}")),
        Err(e) => return Some(e.to_string()),
    }
    match state(path) {
        Ok(State::Stub) => (!stubs_allowed).then(|| "still a stub".into()),
        Ok(State::Full) => match hash_file(path) {
            Ok(found) if found == *hash => None,
            Ok(found) => Some(format!("holds {found} instead of {hash}")),
            Err(e) => Some(e.to_string()),
        },
        Err(e) => Some(e.to_string()),
    }
}

#[test]
fn a_model_matches_its_own_tree_and_sees_every_change() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let mut random = Random::new(3);
    let mut model = Model::grow(temp.path(), 12, &mut random);
    for _ in 0..60 {
        model.edit(&mut random).expect("edit");
        model.check_bytes().expect("own tree");
    }
    assert_eq!(read(temp.path()).expect("readable"), model.nodes);
    let big = |p: &PathBuf| matches!(model.nodes[p], Node::File { size, mode, .. } if size > 20_000 && mode & 0o200 > 0);
    let victim = temp.path().join(model.files().into_iter().find(big).expect("a file that can be stashed"));
    let before = fs::metadata(&victim).expect("there").modified().expect("mtime");
    let file = File::options().write(true).open(&victim).expect("writable");
    file.write_all_at(b"\0\0\0\0", 9_000).expect("write");
    file.set_modified(before).expect("utimens");
    assert!(model.check_bytes().expect_err("changed bytes").contains("holds"));
    file.write_all_at(ddr::format::stub::FIRST_LINE, 0).expect("write");
    file.set_modified(before).expect("utimens");
    assert!(model.check_listing().expect_err("half a stub").contains("stub header"));
    fs::remove_file(&victim).expect("unlink");
    assert!(model.check_listing().is_err());
}
