//! System calls that read a stub.

use std::ffi::CString;
use std::fs::File;
use std::io::{IoSliceMut, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::super::trouble::{Touched, Trouble, must, same};
use super::{Needs, Place, Way, shell, write};
use crate::support::guarded::is_stub;

use Needs::{Content, Name};

pub const CALLS: &[Way] = &[
    Way::new("read", Content, |p| same(&std::fs::read(&p.file)?, &p.content)),
    Way::new("pread", Content, pread),
    Way::new("readv", Content, readv),
    Way::new("mmap-shared", Content, |p| mapped(p, libc::MAP_SHARED)),
    Way::new("mmap-private", Content, |p| mapped(p, libc::MAP_PRIVATE)),
    Way::new("exec", Content, exec).with(binary),
    Way::new("exec-script", Content, exec_script).with(script),
    Way::new("sendfile", Content, sendfile),
    Way::new("splice", Content, splice),
    Way::new("copy_file_range", Content, copy_file_range),
    Way::new("ficlone", Content, ficlone),
    Way::new("o-direct", Content, direct),
    Way::new("io_uring", Content, uring),
    Way::new("seek-data", Content, seek_data),
    Way::new("open-by-handle", Content, by_handle),
    Way::new("o-path-reopen", Content, reopened),
    Way::new("readahead", Content, readahead),
    Way::new("stat", Name, stat),
    Way::new("o-path", Name, o_path),
    Way::new("list", Name, list),
];

fn pread(p: &Place) -> Touched {
    let file = File::open(&p.file)?;
    let mut seen = vec![0; p.content.len()];
    // The end first.
    for at in (0..seen.len()).step_by(100_000).rev() {
        let end = (at + 100_000).min(seen.len());
        file.read_exact_at(&mut seen[at..end], at as u64)?;
    }
    same(&seen, &p.content)
}

fn readv(p: &Place) -> Touched {
    let mut file = File::open(&p.file)?;
    let (mut seen, mut a, mut b) = (Vec::new(), [0u8; 5000], [0u8; 70_000]);
    loop {
        let len = file.read_vectored(&mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)])?;
        if len == 0 {
            return same(&seen, &p.content);
        }
        seen.extend_from_slice(&a[..len.min(a.len())]);
        seen.extend_from_slice(&b[..len.saturating_sub(a.len())]);
    }
}

fn mapped(p: &Place, kind: i32) -> Touched {
    let file = File::open(&p.file)?;
    let len = p.content.len();
    // SAFETY: a new mapping of a file that nobody shortens; unmapped below.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, kind, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    drop(file);
    // SAFETY: mapped above with this length.
    let result = same(unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) }, &p.content);
    // SAFETY: mapped above, and nothing borrows it any more.
    unsafe { libc::munmap(at, len) };
    result
}

fn binary(p: &mut Place) {
    p.content = std::fs::read("/bin/ls").unwrap();
    write(&p.file, &p.content);
    std::fs::set_permissions(&p.file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// By a shell, so that only its child waits in exec.
fn exec(p: &Place) -> Touched {
    let seen = shell(p, "exec \"$f\" -d /proc")?.stdout;
    must(seen.trim() == "/proc", &format!("the binary printed {seen:?}"))
}

fn script(p: &mut Place) {
    p.content = format!("#!/bin/sh\n{}echo right\n", "# nothing but length\n".repeat(2000)).into_bytes();
    write(&p.file, &p.content);
    std::fs::set_permissions(&p.file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

fn exec_script(p: &Place) -> Touched {
    let seen = shell(p, "exec \"$f\"")?.stdout;
    must(seen.trim() == "right", &format!("the script printed {seen:?}"))
}

fn sendfile(p: &Place) -> Touched {
    let (from, to) = (File::open(&p.file)?, File::create(&p.out)?);
    while rustix::fs::sendfile(&to, &from, None, 1 << 20)? > 0 {}
    same(&std::fs::read(&p.out)?, &p.content)
}

fn splice(p: &Place) -> Touched {
    let file = File::open(&p.file)?;
    let (reader, writer) = rustix::pipe::pipe()?;
    let mut reader = File::from(reader);
    let drained = std::thread::spawn(move || {
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).map(|_| seen)
    });
    let flags = rustix::pipe::SpliceFlags::empty();
    let moved = loop {
        match rustix::pipe::splice(&file, None, &writer, None, 64 << 10, flags) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(e) => break Err(e),
        }
    };
    drop(writer);
    let seen = drained.join().expect("a reading thread does not panic")?;
    moved?;
    same(&seen, &p.content)
}

fn copy_file_range(p: &Place) -> Touched {
    let (from, to) = (File::open(&p.file)?, File::create(&p.out)?);
    while rustix::fs::copy_file_range(&from, None, &to, None, 1 << 20)? > 0 {}
    same(&std::fs::read(&p.out)?, &p.content)
}

fn ficlone(p: &Place) -> Touched {
    let (from, to) = (File::open(&p.file)?, File::create(&p.out)?);
    rustix::fs::ioctl_ficlone(&to, &from)?;
    same(&std::fs::read(&p.out)?, &p.content)
}

fn direct(p: &Place) -> Touched {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(&p.file)?;
    const PIECE: usize = 64 << 10;
    let mut space = vec![0u8; PIECE + 4096];
    let start = space.as_ptr().align_offset(4096);
    let (mut seen, mut at) = (Vec::new(), 0u64);
    loop {
        let len = file.read_at(&mut space[start..start + PIECE], at)?;
        seen.extend_from_slice(&space[start..start + len]);
        at += len as u64;
        if len < PIECE {
            return same(&seen, &p.content);
        }
    }
}

/// Opens and reads without a system call of its own for either.
fn uring(p: &Place) -> Touched {
    use io_uring::{IoUring, opcode, types};
    let mut ring = match IoUring::new(4) {
        Ok(ring) => ring,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            crate::support::say("there is no io_uring here");
            return same(&std::fs::read(&p.file)?, &p.content);
        }
        Err(e) => return Err(e.into()),
    };
    let mut one = |entry: io_uring::squeue::Entry| -> Result<i32, Trouble> {
        // SAFETY: what the entries point to lives until the answer below.
        unsafe { ring.submission().push(&entry) }.expect("room in the ring");
        ring.submit_and_wait(1)?;
        let result = ring.completion().next().expect("an answer").result();
        if result < 0 { Err(std::io::Error::from_raw_os_error(-result).into()) } else { Ok(result) }
    };
    let name = path(&p.file);
    let fd = one(opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), name.as_ptr()).build())?;
    // SAFETY: opened above for us.
    let file = unsafe { File::from_raw_fd(fd) };
    let mut seen = vec![0u8; p.content.len()];
    let mut at = 0;
    while at < seen.len() {
        let rest = &mut seen[at..];
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), rest.as_mut_ptr(), rest.len() as u32);
        match one(read.offset(at as u64).build())? {
            0 => break,
            len => at += len as usize,
        }
    }
    seen.truncate(at);
    same(&seen, &p.content)
}

/// As programs do that copy only what is no hole.
fn seek_data(p: &Place) -> Touched {
    let mut file = File::open(&p.file)?;
    let size = file.metadata()?.len();
    let mut seen = vec![0u8; size as usize];
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start))?;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut seen[start as usize..end as usize])?;
        at = end;
    }
    same(&seen, &p.content)
}

fn by_handle(p: &Place) -> Touched {
    #[repr(C)]
    struct Handle {
        head: [u32; 2],
        bytes: [u8; 128],
    }
    let mut handle = Handle { head: [128, 0], bytes: [0; 128] };
    let (name, mut mount) = (path(&p.file), 0);
    let raw: *mut Handle = &mut handle;
    // SAFETY: room for 128 bytes, as its first number says.
    if unsafe { libc::name_to_handle_at(libc::AT_FDCWD, name.as_ptr(), raw.cast(), &mut mount, 0) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let dir = File::open(&p.dir)?;
    // SAFETY: filled in above.
    let fd =
        unsafe { libc::open_by_handle_at(dir.as_raw_fd(), raw.cast(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let mut seen = Vec::new();
    // SAFETY: opened above for us.
    unsafe { File::from_raw_fd(fd) }.read_to_end(&mut seen)?;
    same(&seen, &p.content)
}

fn reopened(p: &Place) -> Touched {
    let name = File::options().read(true).custom_flags(libc::O_PATH).open(&p.file)?;
    same(&std::fs::read(format!("/proc/self/fd/{}", name.as_fd().as_raw_fd()))?, &p.content)
}

fn readahead(p: &Place) -> Touched {
    let mut file = File::open(&p.file)?;
    // SAFETY: plain integers.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_WILLNEED) };
    let mut seen = Vec::new();
    file.read_to_end(&mut seen)?;
    same(&seen, &p.content)
}

fn stat(p: &Place) -> Touched {
    let meta = std::fs::metadata(&p.file)?;
    must(meta.len() == p.content.len() as u64 && is_stub(&p.file), "stat shows its size and leaves it a stub")
}

fn o_path(p: &Place) -> Touched {
    let file = File::options().read(true).custom_flags(libc::O_PATH).open(&p.file)?;
    let size = file.metadata()?.len();
    must(size == p.content.len() as u64 && is_stub(&p.file), "a name is opened and it stays a stub")
}

fn list(p: &Place) -> Touched {
    let seen =
        shell(p, "ls -la . && find . -size +100k && du -s . && getfattr -d data 2>/dev/null; true")?.stdout;
    must(seen.contains("./data") && is_stub(&p.file), "it is listed and stays a stub")
}

fn path(path: &Path) -> CString {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).expect("no zero in a path")
}
