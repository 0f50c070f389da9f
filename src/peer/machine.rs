//! Which machine this is.
//!
//! Promises that all processes of a machine give the same answer. Machines copied from one image may
//! look like one; that errs on the safe side: their stores count as one failure domain.

const CONTEXT: &str = "ddr 2026-11 machine id";

/// A name for the machine that stays; it does not reveal the system's own id.
pub fn id() -> String {
    let read = |path: &str| std::fs::read(path).ok().filter(|bytes| !bytes.is_empty());
    let machine = read("/etc/machine-id").or_else(|| read("/var/lib/dbus/machine-id")).unwrap_or_default();
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&machine);
    hasher.update(rustix::system::uname().nodename().to_bytes());
    format!("host-{}", &hasher.finalize().to_hex()[..16])
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_is_itself() {
        assert_eq!(super::id(), super::id());
        assert_eq!(super::id().len(), 21);
    }
}
