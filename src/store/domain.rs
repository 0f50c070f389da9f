//! What fails together: the disk under a directory.
//!
//! Promises one number for everything on one device, and for all subvolumes of one btrfs, which have
//! device numbers of their own. Partitions of one disk, or volumes of one pool of another kind, look
//! like two: there the user names the domain.

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Getter, ioctl, opcode};

const BTRFS_MAGIC: u64 = 0x9123_683E;

/// The answer of `BTRFS_IOC_FS_INFO`, as far as it is asked for.
#[repr(C)]
struct FsInfo {
    max_id: u64,
    devices: u64,
    uuid: [u8; 16],
    rest: [u64; 124],
}

const FS_INFO: rustix::ioctl::Opcode = opcode::read::<FsInfo>(0x94, 31);

/// The failure domain of an open file or directory.
pub fn of(file: impl AsFd) -> io::Result<u64> {
    let device = rustix::fs::fstat(&file)?.st_dev;
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let magic = rustix::fs::fstatfs(&file)?.f_type as u64 & 0xFFFF_FFFF;
    if magic != BTRFS_MAGIC {
        return Ok(device);
    }
    // SAFETY: the kernel fills exactly the 1,024 bytes of `FsInfo`, and any bytes are valid ones.
    let info = unsafe { ioctl(&file, Getter::<FS_INFO, FsInfo>::new()) };
    // A kernel that does not answer leaves the subvolumes apart.
    Ok(info.map_or(device, |info| info.uuid.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))))
}
