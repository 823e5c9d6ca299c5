//! Every wire message of Outrigger under one roof: short names for the xDS types, and our own protocols.
//!
//! No logic lives here. Crates name xDS messages as `xds::route::Route`, never by the path of the crate that
//! generates them, so that the generator can be replaced in this file alone.

pub mod xds;
