//! Manifests as bytes: a fixed head, then one record per run.
//!
//! Promises that decode(encode(m)) == m and that a count is checked against the input's length
//! before anything is allocated.

use super::seal::MAX_CHUNK;
use super::wire::Reader;
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::model::manifest::{Cutting, Manifest, Run};

const MAGIC: &[u8; 4] = b"ddrm";
const VERSION: u8 = 1;
const DATA: u8 = 1;
const HOLE: u8 = 2;

/// Magic, version, cutting (4 bytes), count; then runs.
pub fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + manifest.runs.len() * 37);
    out.extend_from_slice(MAGIC);
    let c = manifest.cutting;
    out.extend_from_slice(&[VERSION, 0, 0, 0, c.algorithm, c.min_log, c.avg_log, c.max_log]);
    out.extend_from_slice(&(manifest.runs.len() as u32).to_le_bytes());
    for run in &manifest.runs {
        match run {
            Run::Data { id, len } => {
                out.push(DATA);
                out.extend_from_slice(&len.to_le_bytes());
                out.extend_from_slice(&id.0);
            }
            Run::Hole { len } => {
                out.push(HOLE);
                out.extend_from_slice(&len.to_le_bytes());
            }
        }
    }
    out
}

/// Reads a manifest of a content of `size` bytes.
pub fn decode(bytes: &[u8], size: u64) -> Result<Manifest> {
    let manifest = decode_any(bytes)?;
    manifest.validate(size)?;
    Ok(manifest)
}

/// Reads a manifest whose content's size is not known; its runs may not overflow.
pub fn decode_any(bytes: &[u8]) -> Result<Manifest> {
    let mut r = Reader::new("manifest", bytes);
    if &r.array::<4>()? != MAGIC {
        return Err(Error::corrupt("manifest", "wrong magic"));
    }
    if r.u8()? != VERSION {
        return Err(Error::Unsupported("manifest of a newer format; use a newer ddr".into()));
    }
    if r.array::<3>()? != [0; 3] {
        return Err(Error::corrupt("manifest", "reserved bytes are set"));
    }
    let [algorithm, min_log, avg_log, max_log] = r.array()?;
    let cutting = Cutting { algorithm, min_log, avg_log, max_log };
    cutting.validate()?;
    let count = r.u32()? as usize;
    // Every run takes at least 9 bytes, so a false count cannot ask for more memory than the input.
    if count > r.rest().len() / 9 {
        return Err(Error::corrupt("manifest", "run count out of range"));
    }
    let mut runs = Vec::with_capacity(count);
    for _ in 0..count {
        runs.push(match r.u8()? {
            DATA => {
                let len = r.u32()?;
                if len as usize > MAX_CHUNK {
                    return Err(Error::corrupt("manifest", "chunk length out of range"));
                }
                Run::Data { len, id: RecordId(r.array()?) }
            }
            HOLE => Run::Hole { len: r.u64()? },
            _ => return Err(Error::corrupt("manifest", "unknown run")),
        });
    }
    r.end()?;
    let manifest = Manifest { cutting, runs };
    let total = manifest.runs.iter().try_fold(0u64, |sum, run| sum.checked_add(run.len()));
    total.ok_or_else(|| Error::corrupt("manifest", "size overflows"))?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run() -> impl Strategy<Value = Run> {
        prop_oneof![
            (any::<[u8; 32]>(), 1u32..=4 << 20).prop_map(|(id, len)| Run::Data { id: RecordId(id), len }),
            (1u64..1 << 40).prop_map(|len| Run::Hole { len }),
        ]
    }

    proptest! {
        #[test]
        fn manifests_round_trip(runs in prop::collection::vec(run(), 0..40)) {
            let manifest = Manifest { cutting: Cutting::default(), runs };
            prop_assert_eq!(decode(&encode(&manifest), manifest.size()).expect("own bytes"), manifest);
        }

        #[test]
        fn any_bytes_decode_or_fail_cleanly(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 1);
        }
    }
}
