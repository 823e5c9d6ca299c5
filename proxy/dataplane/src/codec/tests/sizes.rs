//! What one connection takes while it has no request, in bytes. A request's future is measured where it is made.

use std::rc::Rc;

use bytes::Bytes;
use outrigger_core::drain::Drain;
use tokio::io::duplex;

use crate::codec::limits::Limits;
use crate::codec::{h1, h2};
use crate::socket::stream::Stream;

fn stream() -> Stream {
    Stream::Memory(duplex(1).0)
}

#[test]
fn an_http1_connection_fits_in_one_and_a_half_kib() {
    let (limits, guard) = (Rc::<Limits>::default(), Drain::new().guard());
    let task = h1::server::serve(stream(), Bytes::new(), limits, guard, |_, _, _| async {}, |_| {});
    let size = size_of_val(&task) + size_of::<h1::Session>();
    assert!(size <= 1536, "it takes {size} bytes");
}

#[test]
fn an_http2_connection_fits_in_four_kib() {
    let (limits, guard) = (Rc::<Limits>::default(), Drain::new().guard());
    let task = h2::server::serve(stream(), Bytes::new(), limits, guard, |_, _, _| async {}, |_| {});
    let size = size_of_val(&task);
    assert!(size <= 4096, "it takes {size} bytes");
}
