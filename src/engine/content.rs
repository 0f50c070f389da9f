//! Reading one content at any offset, verified, from whichever store has it.
//!
//! Promises only bytes that were decoded and hashed; keeps one decoded chunk in memory. For whole
//! trees `engine::fetch` is the fast way.

use std::sync::Arc;

use super::remotes::Remotes;
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::format::key::Keys;
use crate::format::seal::Opener;
use crate::model::entry::{Body, Kind};
use crate::model::manifest::Run;

/// A content opened for reading.
pub struct Content<'a> {
    remotes: &'a Remotes,
    opener: Opener,
    runs: Vec<(u64, Run)>,
    size: u64,
    held: Option<(RecordId, Arc<Vec<u8>>)>,
}

impl<'a> Content<'a> {
    /// Reads the manifest, where there is one.
    pub fn open(remotes: &'a Remotes, keys: &Keys, body: Option<Body>, size: u64) -> Result<Self> {
        let mut opener = Opener::new(keys)?;
        let runs = match body {
            None => vec![],
            Some(Body { kind: Kind::Chunk, id }) => {
                let len =
                    u32::try_from(size).map_err(|_| Error::corrupt("content", "one chunk over 4 GiB"))?;
                vec![Run::Data { id, len }]
            }
            Some(body) => remotes.manifest(body, size, &mut opener)?.runs,
        };
        let mut at = 0;
        let runs = runs
            .into_iter()
            .map(|run| {
                at += run.len();
                (at - run.len(), run)
            })
            .collect();
        Ok(Self { remotes, opener, runs, size, held: None })
    }

    /// The runs with their offsets.
    pub fn runs(&self) -> &[(u64, Run)] {
        &self.runs
    }

    /// Fills `buffer` with the bytes at `offset`, which must lie within the content.
    pub fn read(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        if offset + buffer.len() as u64 > self.size {
            return Err(Error::Invalid("read beyond the end of a content".into()));
        }
        while !buffer.is_empty() {
            let at = self.runs.partition_point(|(start, _)| *start <= offset) - 1;
            let (start, run) = self.runs[at];
            let skip = offset - start;
            let n = (run.len() - skip).min(buffer.len() as u64) as usize;
            let (head, rest) = buffer.split_at_mut(n);
            match run {
                Run::Hole { .. } => head.fill(0),
                Run::Data { id, len } => {
                    let bytes = self.chunk(id)?;
                    if bytes.len() != len as usize {
                        return Err(Error::corrupt("manifest", "a chunk's length differs from its run"));
                    }
                    head.copy_from_slice(&bytes[skip as usize..skip as usize + n]);
                }
            }
            offset += n as u64;
            buffer = rest;
        }
        Ok(())
    }

    fn chunk(&mut self, id: RecordId) -> Result<Arc<Vec<u8>>> {
        if let Some((held, bytes)) = &self.held
            && *held == id
        {
            return Ok(Arc::clone(bytes));
        }
        let bytes = self.remotes.read(id, &mut self.opener)?;
        self.held = Some((id, Arc::clone(&bytes)));
        Ok(bytes)
    }
}
