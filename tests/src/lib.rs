//! The in-process harness and the behaviour tests.
