//! How many descriptors (sockets and files) the process may have open.
//!
//! The soft limit is 1024 on most systems, for the sake of programs that use select(2) on high numbers; nobody does here.
//! Both daemons raise it at start, and size what strangers may hold by what there is.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// No more is asked for: some systems' hard limit is a thousand times as high, and nobody holds as many.
const ENOUGH: u64 = 1 << 20;

/// How many descriptors may be open.
pub fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current.unwrap_or(ENOUGH);
    usize::try_from(current.min(ENOUGH)).unwrap_or(usize::MAX)
}

/// Raises the limit as far as the system lets this process, and returns what it is then. Where it cannot be raised it
/// stays as it is.
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let possible = maximum.unwrap_or(ENOUGH).min(ENOUGH);
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
            Rlimit { current: Some(before.current.unwrap_or(ENOUGH).min(200)), maximum: before.maximum };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(limit(), 200);
        let raised = raise_limit();
        assert_eq!(raised as u64, before.maximum.unwrap_or(ENOUGH).min(ENOUGH));
        assert_eq!(raise_limit(), raised);
    }
}
