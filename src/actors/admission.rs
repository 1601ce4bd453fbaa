//! How many connections may be open, in all and from one address. Asked once per connection, at the door,
//! by all worker threads; never on the way of a message.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts open connections against `limits.connections` and `limits.connections_per_address`; 0 = no limit.
#[derive(Debug)]
pub struct Admission {
    connections_max: usize,
    per_address_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why nobody more is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The node is full.
    Full,
    /// This address has as many as it may have.
    Address,
}

/// A place that is held; given back when dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    /// Nobody is in yet.
    pub fn new(connections_max: usize, per_address_max: usize) -> Arc<Admission> {
        Arc::new(Admission { connections_max, per_address_max, open: Mutex::default() })
    }

    /// Takes a place for a connection from `address`.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, NoPlace> {
        // Counting cannot panic halfway, so a poisoned lock still guards true numbers.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if self.connections_max > 0 && open.all >= self.connections_max {
            return Err(NoPlace::Full);
        }
        let here = open.by_address.get(&address).copied().unwrap_or(0);
        if self.per_address_max > 0 && here >= self.per_address_max {
            return Err(NoPlace::Address);
        }
        open.all += 1;
        open.by_address.insert(address, here + 1);
        Ok(Place { admission: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Entry::Occupied(mut entry) = open.by_address.entry(self.address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let admission = Admission::new(3, 2);
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = admission.enter(one).unwrap();
        let _second = admission.enter(one).unwrap();
        assert_eq!(admission.enter(one).unwrap_err(), NoPlace::Address);
        let _third = admission.enter(two).unwrap();
        assert_eq!(admission.enter(two).unwrap_err(), NoPlace::Full);
        drop(first);
        assert!(admission.enter(one).is_ok());
    }

    #[test]
    fn zero_means_no_limit() {
        let admission = Admission::new(0, 0);
        let places: Vec<_> =
            (0..5_000).map(|_| admission.enter(IpAddr::from([10, 0, 0, 1])).unwrap()).collect();
        assert_eq!(places.len(), 5_000);
    }
}
