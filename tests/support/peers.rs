//! Peers in this process: a server on a thread for each stream, and dials that lead to it.
//!
//! Promises that what is served is the real server, over a real socket. Knows no command line.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ddr::base::cancel::Cancel;
use ddr::base::error::{Error, Result};
use ddr::format::message::NewPeer;
use ddr::peer::link::Timing;
use ddr::peer::serve::{Offer, Source, serve};
use ddr::peer::stream::{Dial, End, Stream};
use ddr::store::dir::DirBucket;

/// Times that suit tests.
pub const QUICK: Timing = Timing {
    hello: Duration::from_secs(10),
    ping: Duration::from_millis(500),
    silence: Duration::from_secs(5),
    answer: Duration::from_secs(60),
    again: Duration::from_secs(20),
};

fn no_peers(_: &Path, _: &NewPeer) -> Result<()> {
    Err(Error::Refused("not here".into()))
}

/// Serves on a thread until the stream ends.
pub fn serve_on_thread(socket: UnixStream, source: Source) -> std::thread::JoinHandle<Result<()>> {
    std::thread::spawn(move || {
        let reader: OwnedFd = socket.try_clone().expect("a socket").into();
        let offer =
            Offer { source, create: &no_peers, silence: Duration::from_secs(20), cancel: Cancel::default() };
        let result = serve(reader, socket.try_clone().expect("a socket").into(), &offer);
        // The last descriptor may live on in a child of another test.
        let _ = socket.shutdown(std::net::Shutdown::Both);
        result
    })
}

/// Leads to a server for an open bucket.
pub struct BucketDial(pub Arc<DirBucket>);

/// Shuts the socket down with the stream.
pub struct Socket(pub UnixStream);

impl End for Socket {
    fn why(&mut self) -> Option<Error> {
        None
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

impl Dial for BucketDial {
    fn dial(&self) -> Result<Stream> {
        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        serve_on_thread(there, Source::Bucket(Arc::clone(&self.0)));
        let end = Box::new(Socket(here.try_clone().expect("a socket")));
        let writer = here.try_clone().expect("a socket").into();
        Ok(Stream { reader: here.into(), writer, end })
    }

    fn place(&self) -> String {
        "a thread".into()
    }
}
