//! The binary outrigger-proxy: sockets, threads, admin, telemetry, shutdown.
