//! Behaviours of the codec: bytes in, bytes out, over connections in memory.

mod requests;
mod malformed;
mod timeouts;
mod head_size;
mod targets;
mod half_close;
mod h2spec;
mod responses;
mod http2;
mod h2_malformed;
mod h2_upstreams;
mod streams;
mod unread;
mod cut;
mod trailers;
mod upgrades;
mod lifetimes;
mod floods;
mod relay;
mod sizes;
mod frames;
mod support;
