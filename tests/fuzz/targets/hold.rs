//! Holds, gc owners and marks, store heads: raw bytes, and CBOR in a proper envelope.
#![no_main]

use std::fmt::Debug;

use ddr::base::error::Result;
use ddr::base::id::{OriginId, PackId, StoreId};
use ddr::base::units::Time;
use ddr::format::hold::Hold;
use ddr::format::mark::{Condemned, Instant, Mark, Owner};
use ddr::format::store::{FORMAT, StoreHead};
use ddr::format::wire;
use ddr_fuzz::{FOLDER, body, seed};
use libfuzzer_sys::fuzz_target;

const MAGICS: [&[u8; 8]; 4] = [b"ddrhold1", b"ddrown01", b"ddrmark1", b"ddrstor1"];

fuzz_target!(
    init: seed("hold", &seeds()),
    |data: &[u8]| {
        all(data);
        for magic in MAGICS {
            all(&wire::envelope(magic, data));
        }
    }
);

fn all(bytes: &[u8]) {
    again(bytes, Hold::decode, Hold::encode);
    again(bytes, Owner::decode, Owner::encode);
    again(bytes, Mark::decode, Mark::encode);
    again(bytes, StoreHead::decode, StoreHead::encode);
}

/// Whatever decodes must encode to something that decodes to the same value.
fn again<T: PartialEq + Debug>(bytes: &[u8], decode: fn(&[u8]) -> Result<T>, encode: fn(&T) -> Vec<u8>) {
    if let Ok(value) = decode(bytes) {
        assert_eq!(decode(&encode(&value)).expect("own bytes"), value);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let origin = OriginId([6; 32]);
    let at = Instant { wall: Time { secs: 1_700_000_000, nanos: 1 }, uptime: 9, boot: "boot".into() };
    let condemned = vec![Condemned { pack: PackId([1; 32]), since: at.clone() }];
    let objects = [
        Hold {
            requires: vec![],
            folder: FOLDER,
            origin,
            number: 1,
            since: None,
            adds: vec![body()],
            releases: vec![body()],
        }
        .encode(),
        // A compacted one stands for those before it.
        Hold {
            requires: vec![],
            folder: FOLDER,
            origin,
            number: 9,
            since: Some(2),
            adds: vec![body()],
            releases: vec![],
        }
        .encode(),
        Owner { requires: vec![], folder: FOLDER, origin, epoch: 1, name: "peer".into(), peer_epoch: 4 }
            .encode(),
        Mark { requires: vec![], folder: FOLDER, number: 2, owner_epoch: 1, at, condemned }.encode(),
        StoreHead {
            format: FORMAT,
            requires: vec![],
            folder: FOLDER,
            store: StoreId([2; 16]),
            key: Some([3; 32]),
            name: "docs".into(),
        }
        .encode(),
    ];
    // The body alone: it is wrapped again, and so can be changed without the hash noticing.
    objects.iter().map(|o| o[8..o.len() - 32].to_vec()).chain(objects.iter().cloned()).collect()
}
