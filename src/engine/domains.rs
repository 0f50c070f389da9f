//! Failure domains of stores on other machines, where several ways lead to one machine.
//!
//! Promises to err on the safe side (I1): two stores that may be on one machine count as one domain, unless
//! the user named their domains. A peer tells which machine it is; of a store over sftp only the address is
//! known. Pure but for asking which addresses a name has.

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;

use crate::peer::config::HostConfig;

/// How a machine is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Way {
    /// Its name and addresses.
    pub names: BTreeSet<String>,
    /// Where its sshd listens: behind one address may be several machines.
    pub port: u16,
    /// Whether the machine itself said which one it is.
    pub is_peer: bool,
    /// Whether the user named the domain.
    pub is_named: bool,
}

impl Way {
    /// The way that ssh takes to a host.
    pub fn to(config: &HostConfig) -> Self {
        let mut names = BTreeSet::from([config.hostname.to_ascii_lowercase()]);
        if config.proxy_jump.is_none() && config.proxy_command.is_none() {
            // A name that cannot be resolved is still a name.
            let found = (config.hostname.as_str(), config.port).to_socket_addrs();
            names.extend(found.into_iter().flatten().map(|address| address.ip().to_string()));
        }
        Self { names, port: config.port, ..Self::default() }
    }

    fn meets(&self, other: &Self) -> bool {
        !self.names.is_disjoint(&other.names)
    }
}

/// Makes one domain of those that may be one machine. Each store: its way, if it is on another machine, and
/// its domain.
pub fn unify(stores: &mut [(Option<Way>, String)]) {
    let ways: Vec<Option<Way>> = stores.iter().map(|(way, _)| way.clone()).collect();
    let told = |way: &&Way| !way.is_peer && !way.is_named;
    for (i, way) in ways.iter().enumerate().filter_map(|(i, way)| Some((i, way.as_ref().filter(told)?))) {
        let all = ways.iter().enumerate().filter_map(|(j, other)| Some((j, other.as_ref()?)));
        let others: Vec<(usize, &Way)> = all.filter(|(j, other)| *j != i && way.meets(other)).collect();
        // The same port leads to the same machine; another one to any of them.
        let same = others.iter().find(|(_, other)| other.is_peer && other.port == way.port);
        match same {
            Some((j, _)) => merge(stores, *j, i),
            None => {
                others.iter().filter(|(_, other)| !other.is_named).for_each(|(j, _)| merge(stores, *j, i))
            }
        }
    }
}

/// From now on everything in the second's domain is in the first's.
fn merge(stores: &mut [(Option<Way>, String)], first: usize, second: usize) {
    let (to, from) = (stores[first].1.clone(), stores[second].1.clone());
    let named = |way: &Option<Way>| way.as_ref().is_some_and(|way| way.is_named);
    let moved = stores.iter_mut().filter(|(way, domain)| *domain == from && !named(way));
    moved.for_each(|(_, domain)| domain.clone_from(&to));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(names: &[&str], port: u16, is_peer: bool, domain: &str) -> (Option<Way>, String) {
        let names = names.iter().map(|n| n.to_string()).collect();
        (Some(Way { names, port, is_peer, is_named: false }), domain.into())
    }

    fn domains(mut stores: Vec<(Option<Way>, String)>) -> Vec<String> {
        unify(&mut stores);
        stores.into_iter().map(|(_, domain)| domain).collect()
    }

    #[test]
    fn an_sftp_store_is_lost_together_with_the_peer_on_its_machine() {
        let peer = store(&["nas", "10.0.0.5"], 22, true, "host-1234");
        let sftp = |name: &str| store(&[name], 22, false, "host-x");
        assert_eq!(domains(vec![peer.clone(), sftp("10.0.0.5")]), ["host-1234", "host-1234"]);
        assert_eq!(domains(vec![sftp("nas"), peer.clone()]), ["host-1234", "host-1234"]);
        assert_eq!(domains(vec![peer, sftp("attic")]), ["host-1234", "host-x"]);
    }

    #[test]
    fn two_names_of_one_machine_are_one_domain() {
        let a = store(&["nas", "10.0.0.5"], 22, false, "host-nas");
        let b = store(&["nas.lan", "10.0.0.5"], 22, false, "host-nas.lan");
        let both = domains(vec![a, b]);
        assert_eq!(both[0], both[1]);
    }

    #[test]
    fn machines_behind_one_address_are_told_apart_by_their_ports_only() {
        let one = store(&["gate"], 2201, true, "host-1");
        let two = store(&["gate"], 2202, true, "host-2");
        let sftp = |port| store(&["gate"], port, false, "host-gate");
        assert_eq!(domains(vec![one.clone(), two.clone()]), ["host-1", "host-2"]);
        assert_eq!(domains(vec![one.clone(), two.clone(), sftp(2202)]), ["host-1", "host-2", "host-2"]);
        let unknown = domains(vec![one, two, sftp(2203)]);
        assert!(unknown.iter().all(|domain| *domain == unknown[0]), "{unknown:?}");
    }

    #[test]
    fn what_the_user_named_stays() {
        let peer = store(&["nas"], 22, true, "host-1");
        let mut named = store(&["nas"], 22, false, "attic");
        named.0.as_mut().expect("a way").is_named = true;
        assert_eq!(domains(vec![peer, named]), ["host-1", "attic"]);
        // A disk of this machine beside a peer of it.
        let disk = (None, "dev-1".to_string());
        let here = store(&["localhost"], 22, true, "dev-1");
        let sftp = store(&["localhost"], 22, false, "host-localhost");
        assert_eq!(domains(vec![disk, here, sftp]), ["dev-1", "dev-1", "dev-1"]);
    }
}
