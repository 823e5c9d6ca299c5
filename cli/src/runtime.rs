//! The runtime of commands that make a few requests.

/// Runs `future` on this thread.
pub(crate) fn block_on<T, E: std::fmt::Display>(
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?
        .block_on(future)
        .map_err(|error| error.to_string())
}
