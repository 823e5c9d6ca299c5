//! Where config comes from: xDS streams, cache on disk, identity, registration, DNS.

mod subscriptions;
mod warming;
mod cache;
mod references;
mod stream;
mod identity;
pub mod registration;
mod channel;
pub mod status;
mod trust;
mod certificate;
pub mod dns;
mod state_dir;
pub mod kind;
mod clock;
mod backoff;

#[cfg(test)]
mod testing;

/// What a failed call says to a person: the code, the text, and the cause under it.
fn describe(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
