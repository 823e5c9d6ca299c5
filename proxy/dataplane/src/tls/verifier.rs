//! Verifies a peer by its SPIFFE identity: chain against the roots of its own trust domain, then the identity itself.
