//! A full file becomes a stub, in place. With `fill` and `create` (whose items are offered here
//! too) this is the only code that frees or fills bytes of user files.
//!
//! Promises (I2, I3): only a file that still is exactly what was placed is touched; whatever stands
//! against it is found before the first byte is lost; size, times, mode, attributes and inode stay.
//! Syncs nothing: the batch's intent (`local::intent`) explains whatever a power cut leaves. Does
//! not know whether the content is safe elsewhere; the caller has proven that.

use std::fs::File;

use super::inode::Exclusive;
use super::lease::fine_ctime_on;
use super::read::read_full_at;
use super::stat::{Fingerprint, Stat};
use crate::base::error::{Error, Result};
use crate::format::stub::{HEADER_LEN, InodeMark, MIN_STUB, MarkState};

pub use super::create::{NewFile, create_dir, create_stub, create_symlink, set_dir_times};
pub use super::fill::Filling;
pub use super::inode::Target;
use super::inode::{clear_mark, punch_tail, set_mtime};

/// Makes a full file a stub. `expect` is its fingerprint when its bytes were proven to be those of
/// `target.head`; where ctime is too coarse to vouch for them, `rehash` must.
///
/// `Refused` and `Changed` leave the file as it was (its ctime may move). After any other error it may be half-way; then
/// the intent must stay open until `local::mend` has looked at it.
pub fn convert(
    target: &Target,
    expect: &Fingerprint,
    rehash: &dyn Fn(&File) -> Result<bool>,
) -> Result<Stat> {
    let mut held = target.open()?;
    check(&held, target, expect)?;
    if !fine_ctime_on(&held.file) && !rehash(&held.file)? {
        return Err(Error::Changed("it changed since it was placed".into()));
    }
    let mut first = [0u8; HEADER_LEN];
    read_full_at(&held.file, &mut first, 0).map_err(|e| Error::io("reading", &held.path, e))?;
    held.mark(&InodeMark::of(target.head, MarkState::Stub)).map_err(|e| match e.errno() {
        Some(libc::EOPNOTSUPP) => Error::Refused("its file system has no user attributes".into()),
        _ => e,
    })?;
    if let Err(e) = prepare(&mut held, target) {
        return Err(undo(&held, &first, expect, e));
    }
    if let Err(e) = punch_tail(&held.file, held.stat.size, &held.path) {
        return match e.errno() {
            // Refused as a whole, so nothing is lost yet.
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM | libc::ETXTBSY) => {
                let why = Error::Refused(format!("its file system cannot free its blocks ({e})"));
                Err(undo(&held, &first, expect, why))
            }
            _ => Err(e),
        };
    }
    held.settle(expect.mtime)
}

/// Everything that speaks against it, before anything is changed.
fn check(held: &Exclusive, target: &Target, expect: &Fingerprint) -> Result<()> {
    let refuse = |why: String| Err(Error::Refused(why));
    if held.seen != *expect {
        return Err(Error::Changed("it changed since it was placed".into()));
    }
    if target.head.size != expect.size || target.head.mtime != expect.mtime {
        return Err(Error::Changed("it is not the version that was placed".into()));
    }
    if held.stat.nlink != 1 {
        return refuse(format!("it has {} hard links", held.stat.nlink));
    }
    if held.stat.size < MIN_STUB {
        return refuse("it is too small for a stub".into());
    }
    if rustix::fs::fgetxattr(&held.file, c"security.capability", &mut [0u8; 64]).is_ok() {
        return refuse("it has file capabilities, which any writing removes".into());
    }
    Ok(())
}

/// The steps that can still be taken back.
fn prepare(held: &mut Exclusive, target: &Target) -> Result<()> {
    held.give_back()?;
    // Somebody who waits for the file now would get it with nothing lost.
    held.check_lease()?;
    // One that has been replaced may have let openers in, and does not guard what becomes a stub only now.
    target.held.map_or(Ok(()), |hold| hold.check())?;
    held.write(&target.block(), 0)
}

/// Back to the full file; says so if that fails.
fn undo(held: &Exclusive, first: &[u8; HEADER_LEN], expect: &Fingerprint, why: Error) -> Error {
    let back = || -> Result<()> {
        let mut now = [0u8; HEADER_LEN];
        read_full_at(&held.file, &mut now, 0).map_err(|e| Error::io("reading", &held.path, e))?;
        if now != *first {
            held.write(first, 0)?;
        }
        set_mtime(&held.file, expect.mtime, &held.path)?;
        clear_mark(&held.file)
    };
    match back() {
        Ok(()) => why,
        Err(e) => e,
    }
}
