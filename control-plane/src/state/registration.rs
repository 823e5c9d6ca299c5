//! Registrations in the store: the last state of each workload. Leases are not stored; they start again with every start
//! of the control plane, so that a long downtime removes no workload.

use redb::ReadableTable;

use super::table::REGISTRATIONS;
use super::{StateError, Store};

/// The last registration of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationRecord {
    /// The SPIFFE ID of its certificate.
    pub identity: String,
    /// The name of the instance.
    pub instance: String,
    /// Its `RegisterRequest`, encoded.
    pub request: Vec<u8>,
}

/// A change of the registrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationChange {
    /// Adds or replaces a registration.
    Put(RegistrationRecord),
    /// Removes a registration.
    Remove {
        /// The SPIFFE ID.
        identity: String,
        /// The instance.
        instance: String,
    },
}

impl Store {
    /// Applies changes in order, in one transaction.
    pub fn change_registrations(&self, changes: &[RegistrationChange]) -> Result<(), StateError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut registrations = transaction.open_table(REGISTRATIONS)?;
            for change in changes {
                match change {
                    RegistrationChange::Put(record) => {
                        let key = (record.identity.as_str(), record.instance.as_str());
                        registrations.insert(key, record.request.as_slice())?;
                    }
                    RegistrationChange::Remove { identity, instance } => {
                        registrations.remove((identity.as_str(), instance.as_str()))?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Returns all registrations, sorted by identity and instance.
    pub fn registrations(&self) -> Result<Vec<RegistrationRecord>, StateError> {
        self.read(|transaction| {
            let registrations = transaction.open_table(REGISTRATIONS)?;
            let read = registrations.iter()?.map(|entry| {
                let (key, request) = entry?;
                let (identity, instance) = key.value();
                Ok(RegistrationRecord {
                    identity: identity.into(),
                    instance: instance.into(),
                    request: request.value().into(),
                })
            });
            read.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_stay_across_a_reopening_until_removed() {
        let directory = tempfile::tempdir().unwrap();
        let record = |instance: &str, request: &[u8]| RegistrationRecord {
            identity: "spiffe://cluster.local/ns/shop/sa/cart".into(),
            instance: instance.into(),
            request: request.into(),
        };
        let put = |record: &RegistrationRecord| RegistrationChange::Put(record.clone());
        let (a, b, b2) = (record("a", b"1"), record("b", b"1"), record("b", b"2"));
        let remove = RegistrationChange::Remove { identity: a.identity.clone(), instance: "a".into() };
        Store::open(directory.path()).unwrap().change_registrations(&[put(&a), put(&b)]).unwrap();
        Store::open(directory.path()).unwrap().change_registrations(&[put(&b2), remove]).unwrap();
        assert_eq!(Store::open(directory.path()).unwrap().registrations().unwrap(), [b2]);
    }
}
