//! One file per policy: compiled config, decode from xDS, state, verbs, tests.
