//! The immutable snapshot: built and published here; what the data path asks for.
