//! The connection to the control plane: who it must be, and with which certificate it is made.

pub(crate) mod channel;
pub(crate) mod trust;
pub(crate) mod certificate;
