//! Behaviours of the codec: bytes in, bytes out, over connections in memory.

mod requests;
mod head_size;
mod targets;
mod responses;
mod http2;
mod upgrades;
mod lifetimes;
mod floods;
mod relay;
mod support;
