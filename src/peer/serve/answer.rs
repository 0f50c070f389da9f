//! Doing what a request asks for.
//!
//! Promises that an object appears only if its bytes are those that were announced, and are what its
//! name says; that what came of a large one before a cut is kept for the next attempt; and that `Done`
//! means durable.

use std::time::{Duration, Instant};

use super::incoming::Incoming;
use super::store::Served;
use super::window::Window;
use super::{Active, Session, WINDOW, check, lock};
use crate::base::error::{Error, Result};
use crate::format::frame::MAX_PAYLOAD;
use crate::format::message::{Answer, Listed, NewObject, Request, page_cost};
use crate::store::dir::{Object, Upload};
use crate::store::{Bucket, names};

/// Smaller objects are not kept unfinished: sending them again costs less.
const WORTH_KEEPING: u64 = 256 << 10;
/// Credit is given back in pieces of this size.
const GRANT: u64 = WINDOW / 8;
/// Bytes of names in a page.
const PAGE: usize = 32 << 10;
/// Answers of up to this size need not queue.
const SMALL: u64 = 64 << 10;
/// How long to wait for an earlier attempt to end before its bytes are given up.
const BUSY: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const READ: usize = MAX_PAYLOAD;

impl Session<'_> {
    /// Does one request; returns its last answer.
    pub(super) fn work(&self, id: u32, request: Request, active: &Active) -> Result<Answer> {
        match (request, active) {
            (Request::Info, _) => Ok(Answer::Info(self.served()?.info()?)),
            (Request::Create(new), _) => self.create(&new).map(|()| Answer::Done),
            (Request::Put { objects, again }, Active::Put(incoming)) => {
                let served = self.served()?;
                Put { session: self, id, served: &served, incoming }.run(&objects, again)?;
                Ok(Answer::Done)
            }
            (Request::Get { name, from, to }, Active::Other(wanted)) => self.get(id, &name, from, to, wanted),
            (Request::List { prefix, after }, Active::Other(window)) => {
                self.list(id, &prefix, after.as_deref().unwrap_or_default(), window)
            }
            (Request::Delete { name }, _) => self.delete(&name),
            _ => Err(Error::Invalid("no request that can be done".into())),
        }
    }

    fn send(&self, id: u32, answer: &Answer) -> Result<()> {
        self.answer(id, answer).map_err(|_| Error::Interrupted)
    }

    fn get(&self, id: u32, name: &str, from: u64, to: u64, wanted: &Window) -> Result<Answer> {
        let object = self.served()?.bucket.object(name)?;
        let end = to.min(object.size);
        self.send(id, &Answer::Size(object.size))?;
        let _pass = (end.saturating_sub(from) > SMALL).then(|| self.bulk.pass());
        let mut bytes = lock(&self.spare).pop().unwrap_or_default();
        let mut at = from;
        let mut result = Ok(());
        while at < end && result.is_ok() {
            result = self.send_part(id, &object, at, end, &mut bytes, wanted);
            at += bytes.len() as u64;
        }
        self.give_back(bytes);
        result.map(|()| Answer::Done)
    }

    fn send_part(
        &self,
        id: u32,
        object: &Object,
        at: u64,
        end: u64,
        bytes: &mut Vec<u8>,
        wanted: &Window,
    ) -> Result<()> {
        bytes.clear();
        if wanted.is_closed() {
            return Err(Error::Interrupted);
        }
        object.read(at, (end - at).min(READ as u64) as usize, bytes)?;
        if bytes.is_empty() {
            return Err(Error::corrupt("object", "it became shorter while it was read"));
        }
        self.writer.data(id, &[bytes]).map_err(|_| Error::Interrupted)
    }

    fn list(&self, id: u32, prefix: &str, after: &str, window: &Window) -> Result<Answer> {
        if let Some(dir) = prefix.strip_suffix('/') {
            names::check(dir)?;
        } else if !prefix.is_empty() {
            return Err(Error::Invalid(format!("{prefix:?} is no prefix of names")));
        }
        let (mut page, mut size) = (Vec::new(), 0);
        let flush = |page: &mut Vec<Listed>| {
            let bytes = Answer::Page(std::mem::take(page)).encode();
            window.take(page_cost(bytes.len()))?;
            self.writer.message(id, &bytes).map_err(|_| Error::Interrupted)
        };
        self.served()?.bucket.list_after(prefix, after, &mut |name, bytes| {
            size += name.len() + 16;
            page.push(Listed { name: name.into(), size: bytes });
            if size >= PAGE {
                size = 0;
                flush(&mut page)?;
            }
            Ok(())
        })?;
        if !page.is_empty() {
            flush(&mut page)?;
        }
        Ok(Answer::Done)
    }

    fn delete(&self, name: &str) -> Result<Answer> {
        let served = self.served()?;
        if name == names::FOLDER && served.head().is_some() {
            return Err(Error::Refused("without its `folder` object a store is none".into()));
        }
        served.bucket.delete(name).map(|()| Answer::Done)
    }
}

/// Under which unfinished bytes of an object are found again.
fn mark(object: &NewObject) -> [u8; 32] {
    let mut mark = blake3::Hasher::new();
    mark.update(&object.hash).update(&object.size.to_le_bytes()).update(object.name.as_bytes());
    *mark.finalize().as_bytes()
}

/// One put at work.
struct Put<'a> {
    session: &'a Session<'a>,
    id: u32,
    served: &'a Served,
    incoming: &'a Incoming,
}

/// An object that is coming.
enum Coming {
    /// It is there already, and the same.
    There,
    /// Its bytes so far.
    Upload(Upload, Box<blake3::Hasher>),
}

impl Put<'_> {
    fn run(&self, objects: &[NewObject], again: bool) -> Result<()> {
        let head = self.served.head();
        for object in objects {
            names::check(&object.name)?;
            if head.is_some() {
                check::name(&object.name)?;
            }
        }
        self.served.bucket.make_way(objects.iter().map(|o| (o.name.as_str(), o.size)))?;
        let mut coming = Vec::with_capacity(objects.len());
        for object in objects {
            coming.push(self.begin(object, again)?);
        }
        if again {
            let held = |(coming, object): (&Coming, &NewObject)| match coming {
                Coming::There => object.size,
                Coming::Upload(upload, _) => upload.len(),
            };
            let held: Vec<u64> = coming.iter().zip(objects).map(held).collect();
            self.incoming.expect(objects.iter().zip(&held).map(|(o, held)| o.size - held).collect());
            self.session.send(self.id, &Answer::Held(held))?;
        }
        let mut owed = 0;
        let mut ready = Vec::with_capacity(objects.len());
        for (object, coming) in objects.iter().zip(coming) {
            let Coming::Upload(upload, hasher) = coming else { continue };
            let upload = self.receive(object, upload, hasher, &mut owed)?;
            if let Some(head) = &head {
                let _alone = lock(&self.session.checking);
                if let Err(e) = check::content(head.folder, &object.name, &upload) {
                    upload.discard();
                    return Err(e);
                }
            }
            ready.push((object.name.clone(), upload));
        }
        if ready.is_empty() { Ok(()) } else { self.publish(objects, ready, again) }
    }

    /// Opens what there is of an object.
    fn begin(&self, object: &NewObject, again: bool) -> Result<Coming> {
        if self.is_there(object, again)? {
            return Ok(Coming::There);
        }
        let mut upload = self.open(object)?;
        // Whoever was at it before us may have finished meanwhile.
        match self.is_there(object, again) {
            Ok(false) => {}
            there => {
                upload.discard();
                return there.map(|_| Coming::There);
            }
        }
        if !again || upload.len() > object.size {
            upload.restart()?;
        }
        let mut hasher = blake3::Hasher::new();
        let mut bytes = lock(&self.session.spare).pop().unwrap_or_default();
        let mut at = 0;
        while at < upload.len() {
            bytes.resize((upload.len() - at).min(READ as u64) as usize, 0);
            upload.read_at(&mut bytes, at)?;
            hasher.update(&bytes);
            at += bytes.len() as u64;
        }
        self.session.give_back(bytes);
        Ok(Coming::Upload(upload, Box::new(hasher)))
    }

    /// Whether an object of that name is there and durable; `Refused` unless it may be, and is the same.
    fn is_there(&self, object: &NewObject, again: bool) -> Result<bool> {
        match self.served.bucket.object(&object.name) {
            Err(Error::Missing(_)) => Ok(false),
            Err(e) => Err(e),
            Ok(there) if again && there.size == object.size && self.hash(&there)? == object.hash => {
                // Whoever put it may not have got as far as this.
                there.sync()?;
                self.served.bucket.sync_names(&object.name)?;
                Ok(true)
            }
            Ok(_) => Err(Error::Refused(format!("{} exists already", object.name))),
        }
    }

    /// An earlier attempt's bytes, or none.
    fn open(&self, object: &NewObject) -> Result<Upload> {
        if object.size >= WORTH_KEEPING {
            let mark = mark(object);
            let until = Instant::now() + BUSY;
            // Whoever is at it may be a process whose stream was just cut, too.
            while !self.incoming.is_closed() {
                if let Some(upload) = self.served.bucket.resume(&mark)? {
                    return Ok(upload);
                }
                if Instant::now() > until {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.served.bucket.upload()
    }

    /// Makes what has come objects. If one is there by now, it may be what an earlier attempt put.
    fn publish(&self, objects: &[NewObject], ready: Vec<(String, Upload)>, again: bool) -> Result<()> {
        match self.served.bucket.publish(ready) {
            Err(Error::Refused(_)) if again => {
                for object in objects {
                    if !self.is_there(object, again)? {
                        // Its bytes are gone with the refusal: they are asked for once more.
                        return Err(Error::Locked(format!("an earlier attempt to put {}", object.name)));
                    }
                }
                Ok(())
            }
            done => done,
        }
    }

    fn hash(&self, object: &Object) -> Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        let (mut bytes, mut at) = (Vec::new(), 0);
        while at < object.size {
            bytes.clear();
            object.read(at, READ, &mut bytes)?;
            if bytes.is_empty() {
                break;
            }
            hasher.update(&bytes);
            at += bytes.len() as u64;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Takes what is still to come of an object.
    fn receive(
        &self,
        object: &NewObject,
        mut upload: Upload,
        mut hasher: Box<blake3::Hasher>,
        owed: &mut u64,
    ) -> Result<Upload> {
        while upload.len() < object.size {
            let bytes = self.incoming.next()?;
            hasher.update(&bytes);
            match upload.append(&[&bytes]) {
                Err(e @ Error::NoSpace(_)) => {
                    // Kept for another attempt, it would keep the disk full.
                    upload.discard();
                    return Err(e);
                }
                appended => appended?,
            }
            *owed += bytes.len() as u64;
            self.session.give_back(bytes);
            if *owed >= GRANT {
                self.incoming.grant(*owed);
                // If nobody hears it, what is here is kept all the same.
                let _ = self.session.send(self.id, &Answer::Credit(*owed));
                *owed = 0;
            }
        }
        if *hasher.finalize().as_bytes() != object.hash {
            upload.discard();
            return Err(Error::corrupt(&object.name, "what arrived is not what was announced"));
        }
        Ok(upload)
    }
}
