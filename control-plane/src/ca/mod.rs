//! The certificate authority. A caller is identified by its token or certificate, never by the content of its request.
//!
//! [`service`] serves the RPC, [`caller`] identifies the caller by token or certificate, [`token_claims`] refuses what cannot be a token
//! of a pod, [`token_review`] verifies the others, [`request`] reads the CSR, [`authority`] signs with [`issuer`], [`certificate`] reads
//! and writes certificate fields, [`roots`] protects the roots that workloads trust, and [`refusal`] has every error with its status and
//! its reason in metrics.

pub(crate) mod roots;
pub(crate) mod service;
pub(crate) mod caller;
pub(crate) mod request;
pub(crate) mod authority;
pub(crate) mod refusal;
mod token_claims;
pub mod token_review;
pub mod issuer;
pub mod certificate;
