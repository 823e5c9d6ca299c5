//! The certificate authority: who asks is known from a token or a certificate, never from what they ask for.
//!
//! [`service`] takes the RPC and settles the identity, [`request`] reads the CSR, [`authority`] signs, [`issuer`]
//! says with what; [`roots`] is what workloads were told to trust. What may go wrong for a caller is in [`refusal`], with its status and its name in the metrics.

pub(crate) mod roots;
pub(crate) mod service;
pub(crate) mod request;
pub(crate) mod authority;
pub(crate) mod refusal;
pub mod issuer;
pub mod certificate;
