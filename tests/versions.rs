//! Old versions and what they cost: holds that go, packs that are rewritten, versions that are
//! forgotten, and what was when.

mod gc;
mod holds;
mod many;
mod prune;
mod then;

use std::collections::BTreeSet;

use ddr::model::entry::Body;
use ddr::store::Bucket;
use ddr::store::dir::DirBucket;

use crate::support::shell::Shell;

/// What anybody holds in the store.
fn held(shell: &Shell) -> BTreeSet<Body> {
    let mut all = BTreeSet::new();
    ddr::store::holds::held(&store(shell), |_, body| {
        all.insert(body);
    })
    .unwrap();
    all
}

fn store(shell: &Shell) -> DirBucket {
    DirBucket::open(&shell.sandbox.store().join("store")).unwrap()
}

/// Names of the store's objects under a prefix, and their sizes.
fn objects(shell: &Shell, prefix: &str) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    store(shell)
        .list(prefix, &mut |name, size| {
            all.push((name.to_string(), size));
            Ok(())
        })
        .unwrap();
    all.sort();
    all
}

fn bytes(shell: &Shell, prefix: &str) -> u64 {
    objects(shell, prefix).iter().map(|(_, size)| size).sum()
}
