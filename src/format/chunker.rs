//! Content-defined cut points: fastcdc v2020, normalisation level 1, power-of-two sizes.
//!
//! Promises the same cuts for the same bytes in every release (golden test; the crate is pinned).
//! Source: Xia et al., "The Design of Fast Content-Defined Chunking" (TPDS 2020).

use fastcdc::v2020::{FastCDC, Normalization};

use crate::model::manifest::Cutting;

/// Length of the first chunk of `bytes`.
///
/// `bytes` must hold at least [`Cutting::max`] bytes, or everything up to the end of the stretch
/// being cut: a shorter window would end a chunk where the window ends.
pub fn cut(cutting: &Cutting, bytes: &[u8]) -> usize {
    if bytes.len() <= cutting.min() {
        return bytes.len();
    }
    let cdc = FastCDC::with_level(bytes, cutting.min(), cutting.avg(), cutting.max(), Normalization::Level1);
    let (_, end) = cdc.cut(0, bytes.len());
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic noise, so that the golden cuts below can be recomputed anywhere.
    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(b"ddr chunker golden").finalize_xof().fill(&mut out);
        out
    }

    fn cuts(bytes: &[u8]) -> Vec<usize> {
        let (cutting, mut at, mut out) = (Cutting::default(), 0, Vec::new());
        while at < bytes.len() {
            let window = &bytes[at..bytes.len().min(at + cutting.max())];
            let len = cut(&cutting, window);
            out.push(len);
            at += len;
        }
        out
    }

    #[test]
    fn cut_points_are_frozen() {
        assert_eq!(cuts(&noise(8 << 20)), GOLDEN);
    }

    const GOLDEN: [usize; 7] = [1_265_333, 1_157_774, 1_211_401, 1_361_483, 1_680_833, 1_169_060, 542_724];

    #[test]
    fn an_insertion_moves_only_nearby_cuts() {
        let bytes = noise(16 << 20);
        let mut longer = vec![0u8];
        longer.extend_from_slice(&bytes);
        let ends = |lens: Vec<usize>, shift: usize| -> std::collections::HashSet<usize> {
            lens.iter()
                .scan(0, |at, len| {
                    *at += len;
                    Some(*at)
                })
                .map(|e| e - shift)
                .collect()
        };
        let (a, b) = (ends(cuts(&bytes), 0), ends(cuts(&longer), 1));
        assert!(a.intersection(&b).count() + 2 >= a.len(), "cuts must resynchronise");
    }
}
