//! The limit on open file descriptors.
//!
//! The soft limit is 1024 on most systems, because select(2) cannot handle higher descriptors. Outrigger does not use
//! select(2): both daemons raise the limit at start, and derive connection limits from it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The highest limit that is requested. Some systems have a hard limit a thousand times higher, which is never needed.
const MAX_LIMIT: u64 = 1 << 20;

/// Returns how many descriptors may be open.
pub fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current.unwrap_or(MAX_LIMIT);
    usize::try_from(current.min(MAX_LIMIT)).unwrap_or(usize::MAX)
}

/// Raises the soft limit up to the hard limit, and returns the result. If that fails, logs a warning and keeps the limit.
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let possible = maximum.unwrap_or(MAX_LIMIT).min(MAX_LIMIT);
    if current.is_some_and(|current| current < possible)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum })
    {
        tracing::warn!(%error, ?current, "the limit on open descriptors cannot be raised");
    }
    limit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_the_system_allows_and_no_further() {
        let before = getrlimit(Resource::Nofile);
        let low =
            Rlimit { current: Some(before.current.unwrap_or(MAX_LIMIT).min(200)), maximum: before.maximum };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(limit(), 200);
        let raised = raise_limit();
        assert_eq!(raised as u64, before.maximum.unwrap_or(MAX_LIMIT).min(MAX_LIMIT));
        assert_eq!(raise_limit(), raised);
    }
}
