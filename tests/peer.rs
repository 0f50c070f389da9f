//! Another ddr over a byte stream: what both sides promise, over good lines, bad lines and none.

mod child;
mod cuts;
mod golden;
mod hostile;
mod rates;
mod served;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ddr::base::error::{Error, Result};
use ddr::peer::bucket::RemoteBucket;
use ddr::peer::serve::Source;
use ddr::peer::stream::{Dial, Stream};
use ddr::store::dir::DirBucket;

use crate::support::peers::{QUICK, Socket, serve_on_thread};
use crate::support::proxy::Line;

/// Leads over a line to a server for an open bucket.
struct LineDial {
    bucket: Arc<DirBucket>,
    line: Arc<Line>,
}

impl Dial for LineDial {
    fn dial(&self) -> Result<Stream> {
        let pair = || UnixStream::pair().map_err(|e| Error::io("opening", "a socket", e));
        let ((here, near), (far, there)) = (pair()?, pair()?);
        serve_on_thread(there, Source::Bucket(Arc::clone(&self.bucket)));
        self.line.join(OwnedFd::from(near), OwnedFd::from(far));
        let end = Box::new(Socket(here.try_clone().unwrap()));
        Ok(Stream { reader: here.try_clone().unwrap().into(), writer: here.into(), end })
    }

    fn place(&self) -> String {
        "a line".into()
    }
}

/// A bucket, and the same from behind a line.
struct Far {
    near: Arc<DirBucket>,
    far: RemoteBucket,
    line: Arc<Line>,
    dirs: tempfile::TempDir,
}

fn far(line: Line, sessions: usize) -> Far {
    let dirs = tempfile::tempdir().unwrap();
    let near = Arc::new(DirBucket::create(&dirs.path().join("store")).unwrap());
    let line = Arc::new(line);
    let dial = LineDial { bucket: Arc::clone(&near), line: Arc::clone(&line) };
    let far = RemoteBucket::new("nas", Arc::new(dial), None, sessions, QUICK);
    Far { near, far, line, dirs }
}

/// Bytes that do not compress, unlike those of any other seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
