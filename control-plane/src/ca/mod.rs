//! The certificate authority. A caller is identified by its token or certificate, never by the content of its request.
//!
//! [`service`] serves the RPC and identifies the caller, [`request`] reads the CSR, [`authority`] signs with [`issuer`],
//! [`certificate`] reads and writes certificate fields, [`roots`] protects the roots that workloads trust, and
//! [`refusal`] has every error with its status and its reason in metrics.

pub(crate) mod roots;
pub(crate) mod service;
pub(crate) mod request;
pub(crate) mod authority;
pub(crate) mod refusal;
pub mod issuer;
pub mod certificate;
