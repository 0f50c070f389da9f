//! A file by its handle: the same inode reached through another mount.
//!
//! Promises a descriptor that gives no access by itself and raises no event. Needs
//! CAP_DAC_READ_SEARCH; without it, or on a file system without handles, there is none.

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

/// Opens the inode behind `file` through the mount that `root` lies on.
pub fn reopen(file: impl AsFd, root: &OwnedFd) -> Option<OwnedFd> {
    let mut handle = Handle { len: MOST as u32, kind: 0, bytes: [0; MOST] };
    let pointer = std::ptr::from_mut(&mut handle).cast::<libc::file_handle>();
    let mut mount = 0;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: an empty constant path, a struct laid out as the kernel's with its length told, an integer.
    let found =
        unsafe { libc::name_to_handle_at(fd, c"".as_ptr(), pointer, &raw mut mount, libc::AT_EMPTY_PATH) };
    if found != 0 {
        return None;
    }
    // SAFETY: the handle just filled in.
    let fd = unsafe { libc::open_by_handle_at(root.as_raw_fd(), pointer, libc::O_PATH | libc::O_CLOEXEC) };
    // SAFETY: a new descriptor that nobody else owns.
    let found = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })?;
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
}
