//! A file by its handle: the same inode reached through another mount, told apart from whatever gets its
//! number later, and asked for after its names are gone.
//!
//! Promises descriptors that give no access by themselves and raise no event, and that a file counts as
//! gone only if its file system says so. Needs CAP_DAC_READ_SEARCH; without it, or on a file system
//! without handles, there is no descriptor and nothing is known to be gone.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The kernel's `MAX_HANDLE_SZ`.
const MOST: usize = 128;

/// The kernel's `struct file_handle` with room for the longest handle.
#[repr(C)]
struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; MOST],
}

impl Handle {
    fn of(file: impl AsFd) -> Option<Self> {
        let mut handle = Self { len: MOST as u32, kind: 0, bytes: [0; MOST] };
        let (fd, mut mount) = (file.as_fd().as_raw_fd(), 0);
        let (pointer, empty) = (handle.pointer(), libc::AT_EMPTY_PATH);
        // SAFETY: an empty constant path, a struct laid out as the kernel's with its length told, an integer.
        let done = unsafe { libc::name_to_handle_at(fd, c"".as_ptr(), pointer, &raw mut mount, empty) };
        (done == 0).then_some(handle)
    }

    fn pointer(&mut self) -> *mut libc::file_handle {
        std::ptr::from_mut(self).cast()
    }

    /// Opens the inode, as a mere name, through the mount that `root` lies on.
    fn open(&mut self, root: impl AsFd) -> std::io::Result<OwnedFd> {
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        // SAFETY: a handle as the kernel lays it out.
        let fd = unsafe { libc::open_by_handle_at(root.as_fd().as_raw_fd(), self.pointer(), flags) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// What tells a file from an earlier or later one of the same number: its handle, which holds a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Birth {
    kind: i32,
    len: u8,
    bytes: [u8; Self::MOST],
}

impl Birth {
    /// As long as the handles of ext4, xfs and btrfs.
    const MOST: usize = 20;
    /// Nothing is known of it.
    pub const UNKNOWN: Self = Self { kind: 0, len: 0, bytes: [0; Self::MOST] };

    /// That of a file; unknown where its handle cannot be had or is longer than usual.
    pub fn of(file: impl AsFd) -> Self {
        let handle = Handle::of(file);
        handle
            .map_or(Self::UNKNOWN, |handle| Self::of_bytes(handle.kind, &handle.bytes[..handle.len as usize]))
    }

    /// From the parts of a handle.
    pub fn of_bytes(kind: i32, handle: &[u8]) -> Self {
        let mut birth = Self { kind, len: handle.len() as u8, ..Self::UNKNOWN };
        match birth.bytes.get_mut(..handle.len()) {
            Some(room) => room.copy_from_slice(handle),
            None => birth = Self::UNKNOWN,
        }
        birth
    }

    /// Whether the file system of `root` says that no such file is left, not even an open one.
    pub fn is_gone(&self, root: impl AsFd) -> bool {
        if self.len == 0 {
            return false;
        }
        let mut handle = Handle { len: self.len.into(), kind: self.kind, bytes: [0; MOST] };
        handle.bytes[..Self::MOST].copy_from_slice(&self.bytes);
        handle.open(root).is_err_and(|e| e.raw_os_error() == Some(libc::ESTALE))
    }
}

/// Opens the inode behind `file` through the mount that `root` lies on.
pub fn reopen(file: impl AsFd, root: &OwnedFd) -> Option<OwnedFd> {
    let found = Handle::of(&file)?.open(root).ok()?;
    // The root is the worker's word: what it leads to must be the very same file.
    let (there, here) = (rustix::fs::fstat(&found).ok()?, rustix::fs::fstat(&file).ok()?);
    ((there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_leads_to_the_same_inode() {
        let temp = tempfile::tempdir().expect("a directory");
        let path = temp.path().join("file");
        std::fs::write(&path, "x").expect("written");
        let file = std::fs::File::open(&path).expect("opened");
        let root = OwnedFd::from(std::fs::File::open(temp.path()).expect("opened"));
        // Not everybody may, and not every file system can.
        if let Some(found) = reopen(&file, &root) {
            let number = |fd: &dyn AsRawFd| {
                std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd()))
                    .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
                    .expect("there")
            };
            assert_eq!(number(&found), number(&file));
        }
    }

    #[test]
    fn only_a_file_that_nobody_can_reach_any_more_is_gone() {
        let temp = tempfile::tempdir().expect("a directory");
        let root = OwnedFd::from(std::fs::File::open(temp.path()).expect("opened"));
        let path = temp.path().join("file");
        std::fs::write(&path, "x").expect("written");
        let file = std::fs::File::open(&path).expect("opened");
        let birth = Birth::of(&file);
        assert!(!birth.is_gone(&root) && !Birth::UNKNOWN.is_gone(&root));
        std::fs::rename(&path, temp.path().join("moved")).expect("moved");
        assert!(!birth.is_gone(&root));
        let may = reopen(&file, &root).is_some();
        drop(file);
        std::fs::remove_file(temp.path().join("moved")).expect("removed");
        assert_eq!(birth.is_gone(&root), may);
    }
}
