//! Netlink messages with nested attributes (netlink(7)), and one exchange of a batch with the kernel.
//!
//! Called by the modules that configure nftables. An error of the kernel is returned with the description of the message that
//! it refused.

use std::io::{self, Read};

use socket2::{Domain, Protocol, Socket, Type};

/// linux/netlink.h, linux/socket.h.
const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;
const HEADER_BYTES: usize = 16;
/// Flags of a request.
pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

/// A list of attributes: the payload of a message, or of another attribute.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// Appends an attribute.
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // Attributes are far below 64 KiB: the longest has a rule's expressions.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a number, in the byte order of the network, as nf_tables wants them.
    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends a string, with its terminating zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute that contains attributes.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.list(kind, inner)
    }

    /// Appends an attribute that contains `attributes`.
    pub(super) fn list(&mut self, kind: u16, attributes: Self) -> &mut Self {
        self.bytes(kind | NLA_F_NESTED, &attributes.0)
    }
}

/// A message of a batch.
#[derive(Debug)]
pub(super) struct Message {
    /// What it does, for an error.
    pub(super) purpose: String,
    /// Subsystem and type (`nlmsg_type`).
    pub(super) kind: u16,
    /// Flags, without `REQUEST` and `ACK`.
    pub(super) flags: u16,
    /// The fixed header after the netlink header, such as `nfgenmsg`.
    pub(super) header: [u8; 4],
    /// The attributes.
    pub(super) attributes: Attributes,
}

/// An error of [`exchange`].
#[derive(Debug)]
pub(super) struct Refused {
    /// The message that the kernel refused; `None` if it has not read any.
    pub(super) purpose: Option<String>,
    /// The system error.
    pub(super) source: io::Error,
}

/// Sends `messages` in one datagram and returns the first error of the kernel. A last one that
/// commits a batch is not acknowledged; the one before it is. Returns the socket, which owns the tables that were created so.
pub(super) fn exchange(messages: &[Message]) -> Result<Socket, Refused> {
    let local = |source| Refused { purpose: None, source };
    let socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))
        .map_err(local)?;
    // The kernel answers within the call that sends the batch.
    socket.set_nonblocking(true).map_err(local)?;
    let last = messages.len().saturating_sub(2);
    let batch: Vec<_> =
        messages.iter().enumerate().flat_map(|(at, message)| encoded(message, at, at == last)).collect();
    socket.send(&batch).map_err(local)?;
    let mut acknowledged = false;
    let mut answer = vec![0; 1 << 16];
    loop {
        let length = match (&socket).read(&mut answer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && acknowledged => return Ok(socket),
            Err(error) => return Err(local(error)),
        };
        for (sequence, code) in answers(answer.get(..length).unwrap_or_default()) {
            if code != 0 {
                let purpose = messages.get(sequence).map(|message| message.purpose.clone());
                return Err(Refused { purpose, source: io::Error::from_raw_os_error(code) });
            }
            acknowledged |= sequence == last;
        }
    }
}

fn encoded(message: &Message, sequence: usize, acknowledged: bool) -> Vec<u8> {
    let length = HEADER_BYTES + message.header.len() + message.attributes.0.len();
    let flags = message.flags | REQUEST | if acknowledged { ACK } else { 0 };
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(message.kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(u32::try_from(sequence).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(message.header);
    bytes.extend(&message.attributes.0);
    bytes
}

/// Returns the sequence number and the error code (positive; 0 is an acknowledgement) of each answer in a datagram.
fn answers(mut datagram: &[u8]) -> Vec<(usize, i32)> {
    let word = |bytes: &[u8], at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let mut answers = Vec::new();
    while let (Some(length), Some(kind), Some(sequence)) =
        (word(datagram, 0), word(datagram, 4), word(datagram, 8))
    {
        if u16::from_ne_bytes([kind[0], kind[1]]) == NLMSG_ERROR
            && let Some(code) = word(datagram, HEADER_BYTES)
        {
            let sequence = usize::try_from(u32::from_ne_bytes(sequence)).unwrap_or(usize::MAX);
            answers.push((sequence, i32::from_ne_bytes(code).wrapping_neg()));
        }
        let length = usize::try_from(u32::from_ne_bytes(length)).unwrap_or(usize::MAX).max(HEADER_BYTES);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_to_four_bytes() {
        let mut attributes = Attributes::default();
        attributes.nested(4, |inner| {
            inner.text(1, "nat").bytes(2, &[7]).number(3, 1);
        });
        let [a, b, c, d] = [28, 4 | NLA_F_NESTED, 8, 1].map(u16::to_ne_bytes);
        let [e, f, g, h] = [5, 2, 8, 3].map(u16::to_ne_bytes);
        let expected = [&a[..], &b, &c, &d, b"nat\0", &e, &f, &[7, 0, 0, 0], &g, &h, &[0, 0, 0, 1]];
        assert_eq!(attributes.0, expected.concat());
    }

    #[test]
    fn answers_of_the_kernel_are_read_and_truncated_ones_ignored() {
        let answer = |sequence: u32, code: i32| {
            let mut bytes = Vec::new();
            bytes.extend(36u32.to_ne_bytes());
            bytes.extend(NLMSG_ERROR.to_ne_bytes());
            bytes.extend([0, 0]);
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(code.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes
        };
        let datagram = [answer(3, -1), answer(4, 0)].concat();
        assert_eq!(answers(&datagram), [(3, 1), (4, 0)]);
        assert_eq!(answers(&datagram[..55]), [(3, 1)]);
        assert_eq!(answers(&[0; 64]), []);
    }
}
