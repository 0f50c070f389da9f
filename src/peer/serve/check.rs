//! Looking into an object before others see it.
//!
//! Promises that what goes into a store's own areas has a name of theirs, and is what the name says.
//! Records inside packs are checked by whoever reads them: only they have the key. Areas that this ddr
//! does not know are left to those who do.

use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, PackId};
use crate::format::hold::Hold;
use crate::format::log;
use crate::format::mark::{Mark, Owner};
use crate::format::pack::{FOOT_LEN, Foot, HEAD_LEN, decode_table};
use crate::model::entry::Kind;
use crate::store::dir::Upload;
use crate::store::names;

/// Largest object that is read whole to be looked into.
const MAX_SMALL: u64 = 64 << 20;
/// Most entries of a log object, head and signature, as its readers bound it.
const MAX_LOG: u64 = (log::MAX_RAW + (128 << 10)) as u64;

/// Refuses a name that has no place in a store.
pub fn name(name: &str) -> Result<()> {
    let area = name.split_once('/').map_or("", |(area, _)| area);
    let fits = match area {
        "data" | "meta" => names::parse_pack(name).is_some(),
        "log" => names::parse_log(name).is_some(),
        "holds" => names::parse_hold(name).is_some(),
        "gc" => names::parse_owner(name).is_some() || names::parse_mark(name).is_some(),
        _ => true,
    };
    match fits {
        true => Ok(()),
        false => Err(Error::Invalid(format!("{name:?} cannot name an object of a store"))),
    }
}

/// Refuses an object that is not what its name says.
pub fn content(folder: FolderId, name: &str, object: &Upload) -> Result<()> {
    let bad = |why: &str| Err(Error::corrupt(name, why));
    if let Some((kind, id)) = names::parse_pack(name) {
        return pack(folder, name, kind, id, object);
    }
    let fits = if let Some((origin, from, to)) = names::parse_log(name) {
        let head = log::decode(&whole(name, object, MAX_LOG)?)?.head;
        head.folder == folder && head.origin() == origin && (head.from, head.to()) == (from, to)
    } else if let Some((origin, number)) = names::parse_hold(name) {
        let hold = Hold::decode(&whole(name, object, MAX_SMALL)?)?;
        hold.folder == folder && (hold.origin, hold.number) == (origin, number)
    } else if let Some(number) = names::parse_owner(name) {
        let owner = Owner::decode(&whole(name, object, MAX_SMALL)?)?;
        owner.folder == folder && owner.epoch == number
    } else if let Some(number) = names::parse_mark(name) {
        let mark = Mark::decode(&whole(name, object, MAX_SMALL)?)?;
        mark.folder == folder && mark.number == number
    } else {
        true
    };
    if fits { Ok(()) } else { bad("it is not what its name says") }
}

fn whole(name: &str, object: &Upload, most: u64) -> Result<Vec<u8>> {
    if object.len() > most {
        return Err(Error::corrupt(name, "too large for such an object"));
    }
    part(object, 0, object.len())
}

fn part(object: &Upload, from: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    object.read_at(&mut bytes, from)?;
    Ok(bytes)
}

/// A pack's name is the hash of its head and table; the table says what lies where.
fn pack(folder: FolderId, name: &str, kind: Kind, id: PackId, object: &Upload) -> Result<()> {
    let bad = |why: &str| Err(Error::corrupt(name, why));
    let size = object.len();
    if size < (HEAD_LEN + FOOT_LEN) as u64 {
        return bad("too short for a pack");
    }
    let foot = Foot::decode(&part(object, size - FOOT_LEN as u64, FOOT_LEN as u64)?)?;
    let trailer = foot.trailer_len();
    if trailer + HEAD_LEN as u64 > size || trailer > MAX_SMALL {
        return bad("row count does not fit its size");
    }
    let head = part(object, 0, HEAD_LEN as u64)?;
    let rows = decode_table(&head, &part(object, size - trailer, trailer)?, size, folder, id)?;
    match rows.iter().all(|row| row.kind == kind) {
        true => Ok(()),
        false => bad("it holds records that do not belong in its area"),
    }
}
