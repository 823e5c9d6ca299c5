//! The descriptors of the xDS API, which list the fields of each message.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

/// Every message of the API that is decoded.
pub static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(outrigger_proto::XDS_DESCRIPTORS).unwrap());
