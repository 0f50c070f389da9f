//! The devices that files lie on: which may be asked for something while everybody waits for the answer.
//!
//! Promises to ask no file system about a file before it is known to be one that answers: a server may be gone,
//! and what a user mounts himself (FUSE) answers when he likes.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Stat, StatxFlags, major, makedev, minor};

use super::desk::Inode;

/// Which file that is.
pub fn inode_of(stat: &Stat) -> Inode {
    (stat.st_dev, stat.st_ino)
}

/// The device that a file lies on, as the kernel knows it.
pub fn device_of(file: impl AsFd) -> Option<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(file, c"", flags, StatxFlags::empty()).ok()?;
    Some(makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

/// Whether a file lies on a file system that needs nobody to answer. Not to be asked while anybody waits.
pub fn is_local(file: impl AsFd) -> bool {
    // ext4, xfs, btrfs, f2fs, bcachefs, zfs, tmpfs.
    const KINDS: [u32; 7] =
        [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0xCA45_1A4E, 0x2FC1_2FC1, 0x0102_1994];
    rustix::fs::fstatfs(file).is_ok_and(|stat| KINDS.contains(&(stat.f_type as u32)))
}

/// The directory at a path, unless a user has mounted it himself. Not to be asked while anybody waits.
pub fn root_at(path: &Path) -> Option<Inode> {
    let stat = rustix::fs::stat(path).ok()?;
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    (!is_users_own(&String::from_utf8_lossy(&mounts), stat.st_dev)).then_some(inode_of(&stat))
}

/// Whether a user, rather than root, serves this device: FUSE notes in a mount's options who made it.
fn is_users_own(mounts: &str, device: u64) -> bool {
    let number = format!("{}:{}", major(device), minor(device));
    let his = |option: &str| option.strip_prefix("user_id=").is_some_and(|user| user != "0");
    mounts
        .lines()
        .filter(|line| line.split(' ').nth(2) == Some(&number))
        .filter_map(|line| line.rsplit(' ').next())
        .any(|options| options.split(',').any(his))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_told_as_anybody_else_tells_it() {
        let file = std::fs::File::open("/proc/self").expect("opened");
        assert_eq!(device_of(&file), rustix::fs::fstat(&file).ok().map(|stat| stat.st_dev));
        assert_eq!(root_at(Path::new("/proc/self/none")), None);
    }

    #[test]
    fn what_a_user_has_mounted_is_told_from_what_root_has() {
        let mounts = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
            23 22 0:50 / /a rw - fuse.mergerfs 1:2 rw,user_id=0,group_id=0,allow_other\n\
            24 22 0:51 / /user_id=7 rw - virtiofs host rw\n\
            25 22 0:52 / /b rw shared:2 - fuse.sshfs x rw,user_id=1000,group_id=1000,allow_other\n";
        let his = |major, minor| is_users_own(mounts, makedev(major, minor));
        assert_eq!([his(8, 1), his(0, 50), his(0, 51), his(0, 52)], [false, false, false, true]);
    }
}
