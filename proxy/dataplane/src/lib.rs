//! What a request goes through, in order: socket, tls, codec, http, tcp, upstream.
