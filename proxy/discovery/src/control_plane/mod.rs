//! The connection to the control plane: its address, its required identity, and the certificate that we present.

pub(crate) mod channel;
pub(crate) mod failure;
pub(crate) mod trust;
pub(crate) mod certificate;
