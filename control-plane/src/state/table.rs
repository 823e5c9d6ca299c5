//! The tables of the store, and its format version.
//!
//! Records are JSON: people can read them, and newer versions need no migration as long as fields are only added.

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StateError;

/// Single values: the format version, the CA, the name of this control plane.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Join tokens by the SHA-256 of their text.
pub(super) const TOKENS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("tokens");
/// Registrations by SPIFFE ID and instance.
pub(super) const REGISTRATIONS: TableDefinition<'_, (&str, &str), &[u8]> =
    TableDefinition::new("registrations");
/// Configuration changes by their number, counted from 1.
pub(super) const HISTORY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("history");

/// The format version. It is incremented when an older version cannot read the tables.
const FORMAT: u32 = 1;

/// Creates the tables. Returns an error if a newer version wrote the store.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), StateError> {
    let mut meta = transaction.open_table(META)?;
    let found = meta.get("format")?.map(|text| decode::<u32>("the format", text.value())).transpose()?;
    match found {
        Some(found) if found > FORMAT => return Err(StateError::Newer { found, known: FORMAT }),
        Some(_) => {}
        None => {
            meta.insert("format", encode(&FORMAT)?.as_slice())?;
        }
    }
    transaction.open_table(TOKENS)?;
    transaction.open_table(REGISTRATIONS)?;
    transaction.open_table(HISTORY)?;
    Ok(())
}

/// Returns true if all tables exist, in the current format.
pub(super) fn is_prepared(transaction: &ReadTransaction) -> Result<bool, StateError> {
    let there = |opened: Result<(), TableError>| match opened {
        Ok(()) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(StateError::from(error)),
    };
    let tables = [
        transaction.open_table(META).map(drop),
        transaction.open_table(TOKENS).map(drop),
        transaction.open_table(REGISTRATIONS).map(drop),
        transaction.open_table(HISTORY).map(drop),
    ];
    for table in tables {
        if !there(table)? {
            return Ok(false);
        }
    }
    let format = transaction.open_table(META)?.get("format")?.map(|text| decode("the format", text.value()));
    Ok(format.transpose()? == Some(FORMAT))
}

/// Writes a value, to test the disk.
pub(super) fn touch(transaction: &WriteTransaction) -> Result<(), StateError> {
    let mut meta = transaction.open_table(META)?;
    let turn = meta.get(TOUCHED)?.map_or(0, |value| value.value().first().copied().unwrap_or(0));
    meta.insert(TOUCHED, [turn.wrapping_add(1)].as_slice())?;
    Ok(())
}

/// The key that [`touch`] changes.
const TOUCHED: &str = "touched";

pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(record).map_err(|error| StateError::Damaged(error.to_string()))
}

pub(super) fn decode<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(text).map_err(|error| StateError::Damaged(format!("{what}: {error}")))
}
