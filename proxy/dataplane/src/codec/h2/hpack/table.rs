//! The tables of a decoder: the dynamic one behind the static one (RFC 7541 section 2.3).

use std::collections::VecDeque;

use super::field::{Field, Name};
use super::{CompressionError, TABLE_BYTES, statics};

/// The fields that a peer has told to remember.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest one first.
    fields: VecDeque<Field>,
    bytes: usize,
    limit: usize,
}

/// A field of either table.
pub(super) enum Entry<'a> {
    Static(Field),
    Dynamic(&'a Field),
}

impl Default for Table {
    fn default() -> Self {
        Self { fields: VecDeque::new(), bytes: 0, limit: TABLE_BYTES }
    }
}

impl Table {
    /// Returns the field with an index (RFC 7541 section 2.3.3).
    pub(super) fn get(&self, index: usize) -> Result<Entry<'_>, CompressionError> {
        if index <= statics::LAST {
            return statics::field(index).map(Entry::Static).ok_or(CompressionError("an index is 0"));
        }
        match self.fields.get(index - statics::LAST - 1) {
            Some(field) => Ok(Entry::Dynamic(field)),
            None => Err(CompressionError("an index is beyond the table")),
        }
    }

    /// Returns the name of the field with an index, and its length.
    pub(super) fn name(&self, index: usize) -> Result<(Name, usize), CompressionError> {
        if index <= statics::LAST {
            return statics::name(index).ok_or(CompressionError("an index is 0"));
        }
        match self.fields.get(index - statics::LAST - 1) {
            Some(field) => Ok((field.name.clone(), field.name_bytes)),
            None => Err(CompressionError("an index is beyond the table")),
        }
    }

    /// Adds a field, for which others are evicted (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(self.limit.saturating_sub(size));
        if size <= self.limit {
            self.bytes += size;
            self.fields.push_front(field);
        }
    }

    /// Applies a size update (RFC 7541 section 6.3).
    pub(super) fn resize(&mut self, limit: usize) -> Result<(), CompressionError> {
        if limit > TABLE_BYTES {
            return Err(CompressionError("the size of the table is above the limit"));
        }
        self.limit = limit;
        self.evict(limit);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn evict(&mut self, most: usize) {
        while self.bytes > most
            && let Some(field) = self.fields.pop_back()
        {
            self.bytes -= field.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::Value;
    use super::*;

    fn field(value: &str) -> Field {
        Field::new(Name::parse(b"x"), 1, value.as_bytes())
    }

    fn values(table: &Table) -> Vec<String> {
        let text = |field: &Field| match &field.value {
            Value::Text(text) => text.to_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        table.fields.iter().map(text).collect()
    }

    /// RFC 7541 section 4.4.
    #[test]
    fn fields_are_evicted_from_the_oldest() {
        let mut table = Table::default();
        table.resize(70).unwrap();
        for value in ["a", "b", "c"] {
            table.insert(field(value));
        }
        assert_eq!(values(&table), ["c", "b"]);
        table.resize(34).unwrap();
        assert_eq!(values(&table), ["c"]);
        table.insert(field("dd"));
        assert_eq!((values(&table).len(), table.bytes), (0, 0), "one that does not fit empties the table");
        assert!(table.get(62).is_err() && table.get(0).is_err() && table.resize(4097).is_err());
    }
}
