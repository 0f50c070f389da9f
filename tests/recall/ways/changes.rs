//! System calls that write into a stub, or move it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};

use rustix::fs::FallocateFlags;

use super::super::trouble::{Touched, Trouble, must, same};
use super::{Needs, Place, Way, shell};
use crate::support::guarded::is_stub;

use Needs::{Content, Name, Nothing};

pub const CHANGES: &[Way] = &[
    Way::new("append", Content, append),
    Way::new("pwrite", Content, pwrite),
    Way::new("mmap-write", Content, mapped),
    Way::new("truncate-shorter", Content, |p| resized(p, 300_000)),
    Way::new("truncate-longer", Content, |p| resized(p, 900_000)),
    Way::new("truncate-by-name", Content, by_name),
    Way::new("fallocate-punch", Content, punched),
    Way::new("fallocate-longer", Content, longer),
    Way::new("o-trunc", Nothing, truncated),
    Way::new("shell-redirect", Nothing, redirected),
    Way::new("replace", Nothing, replaced),
    Way::new("link-read", Content, link_read),
    Way::new("rename-read", Content, rename_read),
    Way::new("unlink-open", Content, unlink_open),
    Way::new("link", Name, link),
    Way::new("rename", Name, rename),
    Way::new("chmod", Name, chmod),
    Way::new("chmod-000-read", Content, chmod_read),
    Way::new("unlink", Name, unlink),
];

fn append(p: &Place) -> Touched {
    File::options().append(true).open(&p.file)?.write_all(b"tail")?;
    same(&std::fs::read(&p.file)?, &[&p.content[..], b"tail"].concat())
}

fn pwrite(p: &Place) -> Touched {
    File::options().write(true).open(&p.file)?.write_all_at(b"middle", 333_333)?;
    let mut want = p.content.clone();
    want[333_333..333_339].copy_from_slice(b"middle");
    same(&std::fs::read(&p.file)?, &want)
}

fn mapped(p: &Place) -> Touched {
    use std::os::fd::AsRawFd;
    let file = File::options().read(true).write(true).open(&p.file)?;
    let (len, bits) = (p.content.len(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping of a file that nobody shortens; unmapped below.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, bits, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: inside of what was mapped; unmapped once.
    unsafe {
        at.cast::<u8>().add(500_000).write(b'!');
        libc::munmap(at, len);
    }
    let mut want = p.content.clone();
    want[500_000] = b'!';
    same(&std::fs::read(&p.file)?, &want)
}

fn resized(p: &Place, size: usize) -> Touched {
    File::options().write(true).open(&p.file)?.set_len(size as u64)?;
    let mut want = p.content.clone();
    want.resize(size, 0);
    same(&std::fs::read(&p.file)?, &want)
}

/// truncate(2) opens nothing. Where accesses are not guarded, what is left is an error, never zeros.
fn by_name(p: &Place) -> Touched {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(p.file.as_os_str().as_bytes()).expect("no zero in a path");
    // SAFETY: a name that outlives the call.
    if unsafe { libc::truncate(name.as_ptr(), 500_000) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let seen = std::fs::read(&p.file).map_err(|e| Trouble::Failed(format!("shortened by name: {e}")))?;
    same(&seen, &p.content[..500_000])
}

fn punched(p: &Place) -> Touched {
    let file = File::options().write(true).open(&p.file)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 100_000, 100_000)?;
    drop(file);
    let mut want = p.content.clone();
    want[100_000..200_000].fill(0);
    same(&std::fs::read(&p.file)?, &want)
}

fn longer(p: &Place) -> Touched {
    let file = File::options().write(true).open(&p.file)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 700_000, 100_000)?;
    drop(file);
    let mut want = p.content.clone();
    want.resize(800_000, 0);
    same(&std::fs::read(&p.file)?, &want)
}

fn truncated(p: &Place) -> Touched {
    File::options().write(true).truncate(true).open(&p.file)?.write_all(b"all new")?;
    same(&std::fs::read(&p.file)?, b"all new")
}

fn redirected(p: &Place) -> Touched {
    shell(p, "echo new > \"$f\"")?;
    same(&std::fs::read(&p.file)?, b"new\n")
}

fn replaced(p: &Place) -> Touched {
    std::fs::write(&p.out, b"another")?;
    std::fs::rename(&p.out, &p.file)?;
    same(&std::fs::read(&p.file)?, b"another")
}

fn link_read(p: &Place) -> Touched {
    // Again after a failure, the other name is there already.
    let _ = std::fs::remove_file(&p.out);
    std::fs::hard_link(&p.file, &p.out)?;
    same(&std::fs::read(&p.out)?, &p.content)
}

fn rename_read(p: &Place) -> Touched {
    std::fs::rename(&p.file, &p.out)?;
    let seen = std::fs::read(&p.out);
    std::fs::rename(&p.out, &p.file)?;
    same(&seen?, &p.content)
}

/// Its last name is gone while somebody is let in by what is left of it.
fn unlink_open(p: &Place) -> Touched {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::hard_link(&p.file, &p.out)?;
    let name = File::options().read(true).custom_flags(libc::O_PATH).open(&p.out)?;
    std::fs::remove_file(&p.out)?;
    same(&std::fs::read(format!("/proc/self/fd/{}", name.as_raw_fd()))?, &p.content)
}

fn link(p: &Place) -> Touched {
    std::fs::hard_link(&p.file, &p.out)?;
    let stays = is_stub(&p.out);
    std::fs::remove_file(&p.out)?;
    must(stays && is_stub(&p.file), "a link leaves it a stub")
}

fn rename(p: &Place) -> Touched {
    let to = p.dir.join("renamed");
    std::fs::rename(&p.file, &to)?;
    let stays = is_stub(&to);
    std::fs::rename(&to, &p.file)?;
    must(stays, "a renamed stub is a stub")
}

fn chmod(p: &Place) -> Touched {
    std::fs::set_permissions(&p.file, PermissionsExt::from_mode(0o640))?;
    must(is_stub(&p.file), "its mode is changed and it stays a stub")
}

fn chmod_read(p: &Place) -> Touched {
    std::fs::set_permissions(&p.file, PermissionsExt::from_mode(0o0))?;
    same(&std::fs::read(&p.file)?, &p.content)?;
    let mode = std::fs::metadata(&p.file)?.permissions().mode() & 0o7777;
    must(mode == 0, &format!("its mode stays (it is {mode:o})"))
}

fn unlink(p: &Place) -> Touched {
    std::fs::rename(&p.file, p.dir.join("gone"))?;
    std::fs::remove_file(p.dir.join("gone"))?;
    must(!p.file.exists(), "it is removed")
}
