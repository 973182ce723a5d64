//! The addresses of servers.
//!
//! A name is looked up whenever a connection is made. A process that is confined may lose the files that this takes: a
//! rule for /etc/hosts or /etc/resolv.conf is forgotten when another file is put in its place. The server has not moved
//! because of that, so a lookup that fails is answered with the addresses that the last one found.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::num::NonZero;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use cdi_base::workers::lock;
use lru::LruCache;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::task::JoinSet;

/// How many names are remembered: those of a store, of its credentials, and of where a server sends us.
const NAMES: NonZero<usize> = NonZero::new(64).expect("not 0");
/// The maximum number of addresses that are remembered for a name.
const ADDRESSES: usize = 64;
/// The timeout of a lookup, if an address is known.
const TIMEOUT: Duration = Duration::from_secs(5);

type Known = Mutex<LruCache<String, Vec<IpAddr>>>;
static KNOWN: LazyLock<Known> = LazyLock::new(|| Mutex::new(LruCache::new(NAMES)));

/// Looks names up as the system does, and remembers what was found.
#[derive(Debug)]
pub(super) struct Names;

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        Box::pin(async move {
            // Of a set, so that a lookup that has not begun does not begin when nobody waits for it any more.
            let mut lookup = JoinSet::new();
            let name = host.clone();
            lookup.spawn_blocking(move || look_up(&name));
            let found = match tokio::time::timeout(limit(&KNOWN, &host), lookup.join_next()).await {
                Ok(Some(Ok(found))) => found,
                Ok(_) => Err(io::Error::other("the lookup was cut off")),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            let found = or_known(&KNOWN, &host, found)?;
            Ok::<Addrs, _>(Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0))))
        })
    }
}

/// Returns the addresses of a server, starting with any of them: many readers should not all go to the same one.
fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = (host, 0).to_socket_addrs()?.map(|address| address.ip()).collect();
    if !found.is_empty() {
        let start = RandomState::new().build_hasher().finish() % found.len() as u64;
        found.rotate_left(usize::try_from(start).unwrap_or(0));
    }
    Ok(found)
}

/// Returns the timeout for looking `host` up. If no address is known there is nothing better to do than to wait: the
/// connection has a timeout of its own.
fn limit(known: &Known, host: &str) -> Duration {
    if lock(known).contains(host) { TIMEOUT } else { Duration::from_secs(3600) }
}

/// Returns the addresses that were found, and remembers them; or those that the last lookup found.
fn or_known(known: &Known, host: &str, found: io::Result<Vec<IpAddr>>) -> io::Result<Vec<IpAddr>> {
    let failed = match found {
        Ok(found) if !found.is_empty() => {
            lock(known).put(host.to_owned(), found.iter().copied().take(ADDRESSES).collect());
            return Ok(found);
        }
        Ok(_) => io::ErrorKind::NotFound.into(),
        Err(e) => e,
    };
    match lock(known).get(host) {
        Some(addresses) => {
            log::info!("{host}: {failed}; the last known addresses are used");
            Ok(addresses.clone())
        }
        None => Err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_that_fails_is_answered_with_what_is_known() {
        let known: Known = Mutex::new(LruCache::new(NAMES));
        let address = IpAddr::from([192, 0, 2, 1]);
        let failed = || Err(io::Error::other("no such name"));
        assert!(or_known(&known, "host", failed()).is_err());
        assert!(limit(&known, "host") > TIMEOUT);
        assert_eq!(or_known(&known, "host", Ok(vec![address])).unwrap(), [address]);
        assert_eq!(limit(&known, "host"), TIMEOUT);
        assert_eq!(or_known(&known, "host", failed()).unwrap(), [address]);
        assert_eq!(or_known(&known, "host", Ok(Vec::new())).unwrap(), [address]);
        assert!(or_known(&known, "other", failed()).is_err());
        // A server may send us to any number of names.
        for n in 0..1000 {
            or_known(&known, &format!("host{n}"), Ok(vec![address; 1000])).unwrap();
        }
        let known = lock(&known);
        assert!(known.len() == NAMES.get() && known.iter().all(|(_, of)| of.len() <= ADDRESSES));
    }
}
