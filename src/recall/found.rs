//! Files that are to be guarded, as a worker finds them, and whether somebody has them open for writing.
//!
//! Promises to open nothing that need not be, and that a file counts as quiet only where the kernel's lease
//! says so.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::format::stub::{MarkState, XATTR, looks_like_stub};
use crate::local::inspect::{first_block, marked};
use crate::local::lease::{Lease, LeaseKind};
use crate::local::root::{Access, Root};

/// A file that is to be guarded.
pub struct Found {
    /// Opened as a mere name, which needs no permission.
    pub name: OwnedFd,
    /// Open for reading, if we may, and if that had to be looked at.
    pub file: Option<File>,
    /// A worker or a command may have left it half filled or half freed; or has it in hand, and nobody else may open it.
    pub is_left: bool,
}

impl Found {
    /// Opens what is, or may be, a stub of ours; nobody else's files are ours to have guarded.
    ///
    /// What its mark tells is not opened, but at first: whoever watches the tree would take that for use.
    pub fn open(tree: &Root, path: &RelPath, first: bool, is_left: bool) -> Result<Option<Self>> {
        let Some(name) = unless_short(tree.open_name(path))? else { return Ok(None) };
        let Ok(stat) = rustix::fs::fstat(&name) else { return Ok(None) };
        let us = rustix::process::geteuid();
        if !us.is_root() && stat.st_uid != us.as_raw() {
            return Ok(None);
        }
        // The mark lies in the inode, the header in a block of its own: that may have to come from the disk.
        if (is_left || !first) && has_mark(&name) {
            return Ok(Some(Self { name, file: None, is_left }));
        }
        let file = unless_short(tree.open_file(path, Access::Read))?;
        let is_stub = |file: &File| {
            marked(file).is_ok_and(|mark| mark.is_some())
                || first_block(file).map_or(true, |block| looks_like_stub(&block))
        };
        Ok(file.as_ref().is_none_or(is_stub).then_some(Self { name, file, is_left }))
    }
}

/// `None` for what is gone, or not ours to read. That we have no descriptors left says nothing of the file.
fn unless_short<T>(opened: Result<T>) -> Result<Option<T>> {
    match opened {
        Err(e) if matches!(e.errno(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => Err(e),
        opened => Ok(opened.ok()),
    }
}

/// Whether a file has the mark of a stub: nobody frees or fills anything before that.
pub fn is_marked(tree: &Root, path: &RelPath) -> bool {
    tree.open_name(path).is_ok_and(|name| has_mark(&name))
}

/// Whether a file that is open as a mere name has the mark of a stub.
fn has_mark(name: &OwnedFd) -> bool {
    let mut mark = [0u8; 64];
    rustix::fs::getxattr(format!("/proc/self/fd/{}", name.as_raw_fd()), XATTR, &mut mark).is_ok()
}

/// The file, open for reading; it comes as a mere name where the opener's mount would not do.
pub fn readable(file: OwnedFd) -> File {
    let is_name = rustix::fs::fcntl_getfl(&file).is_ok_and(|flags| flags.contains(OFlags::PATH));
    let open = || {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
    };
    match is_name.then(open) {
        Some(Ok(opened)) => File::from(opened),
        // What cannot be read is refused when it is looked at.
        _ => File::from(file),
    }
}

/// Whether it is a stub that nobody is filling.
fn is_at_rest(file: &File) -> bool {
    match marked(file) {
        Ok(Some(mark)) => mark.state == MarkState::Stub,
        _ => first_block(file).is_ok_and(|block| looks_like_stub(&block)),
    }
}

/// A look at who has a file open for writing, begun before it is guarded.
///
/// Afterwards would be too late: the kernel counts a writer before it lets him wait for us. One that comes
/// before the mark is refused us, or asks for the lease back; one that comes after it waits elsewhere.
pub struct Look {
    file: Arc<File>,
    lease: Option<Lease>,
}

impl Look {
    /// Begins it.
    pub fn begin(file: File) -> Self {
        let file = Arc::new(file);
        Self { lease: Lease::take(&file, LeaseKind::Read).ok(), file }
    }

    /// Whether somebody may write who did not wait. One that was brought back since it was found, or is just
    /// now, is no stub, and everybody may have it open.
    pub fn is_loud(&self) -> bool {
        !self.lease.as_ref().is_some_and(Lease::holds) && is_at_rest(&self.file)
    }
}
