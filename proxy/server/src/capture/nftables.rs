//! A table of nftables as netlink messages: chains, and rules of matches and one verdict (linux/netfilter/nf_tables.h).
//!
//! Only what the redirection needs. A rule reads from left to right like a line of nft(8), which its methods are named after.

use std::fmt;

use ipnet::IpNet;

use super::netlink::{APPEND, Attributes, CREATE, Message};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
/// Both IPv4 and IPv6.
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NFT_REG_VERDICT: u32 = 0;
/// The register of every match: 16 bytes.
const NFT_REG_1: u32 = 1;
const NFT_META_PRIORITY: u32 = 2;
const NFT_META_OIF: u32 = 5;
const NFT_META_SKUID: u32 = 10;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_ZONE: u32 = 17;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// The index of the loopback interface in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
/// Where destinations are translated (`NF_IP_PRI_NAT_DST`).
const DSTNAT: i32 = -100;
/// Before connection tracking (`NF_IP_PRI_RAW`).
const RAW: i32 = -300;

/// Replaces the table `name`, if there is one, and commits: all of it or, after an error, nothing.
pub(super) fn replace(name: &str, chains: &[Chain], rules: Vec<Rule>) -> Vec<Message> {
    let mut messages = remove(name);
    messages.pop();
    messages.push(table(name, NFT_MSG_NEWTABLE));
    fill(name, chains, rules, &mut messages);
    messages
}

/// Adds the table `name`, which belongs to the socket that sends this: no other process can change it, and the kernel removes it
/// when the socket is closed.
pub(super) fn add_owned(name: &str, chains: &[Chain], rules: Vec<Rule>) -> Vec<Message> {
    const NFT_TABLE_F_OWNER: u32 = 1 << 1;
    let mut owned = table(name, NFT_MSG_NEWTABLE);
    owned.attributes.number(2, NFT_TABLE_F_OWNER);
    let mut messages = vec![batch(NFNL_MSG_BATCH_BEGIN), owned];
    fill(name, chains, rules, &mut messages);
    messages
}

fn fill(table: &str, chains: &[Chain], rules: Vec<Rule>, messages: &mut Vec<Message>) {
    let used = chains.iter().filter(|chain| rules.iter().any(|rule| rule.chain == chain.name));
    messages.extend(used.map(|chain| chain.message(table)));
    messages.extend(rules.into_iter().map(|rule| rule.message(table)));
    messages.push(batch(NFNL_MSG_BATCH_END));
}

/// Removes the table `name`, if there is one. It is added first, since removing a missing table is an error.
pub(super) fn remove(name: &str) -> Vec<Message> {
    vec![
        batch(NFNL_MSG_BATCH_BEGIN),
        table(name, NFT_MSG_NEWTABLE),
        table(name, NFT_MSG_DELTABLE),
        batch(NFNL_MSG_BATCH_END),
    ]
}

/// Requests the table `name`, which is an error if there is none.
pub(super) fn get(name: &str) -> Vec<Message> {
    vec![table(name, NFT_MSG_GETTABLE)]
}

/// A hook of the network stack at which a chain is run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    /// The first packet of each connection that arrives at an interface.
    Prerouting,
    /// The first packet of each connection of a local socket.
    Output,
    /// All packets of local sockets, before connection tracking.
    RawOutput,
}

/// A chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    /// Its name.
    pub(super) name: &'static str,
    /// Where it is run; a chain without a hook is run by the rules of others.
    pub(super) hook: Option<Hook>,
}

impl Chain {
    fn message(self, table: &str) -> Message {
        let mut attributes = Attributes::default();
        attributes.text(1, table).text(3, self.name);
        if let Some(hook) = self.hook {
            let (number, priority, kind) = match hook {
                Hook::Prerouting => (0, DSTNAT, "nat"),
                Hook::Output => (3, DSTNAT, "nat"),
                Hook::RawOutput => (3, RAW, "filter"),
            };
            attributes.nested(4, |hook| {
                hook.number(1, number).number(2, priority.cast_unsigned());
            });
            attributes.text(7, kind);
        }
        let purpose = format!("chain {}", self.name);
        message(NFT_MSG_NEWCHAIN, CREATE, purpose, attributes)
    }
}

/// A rule: matches, all of which a packet must pass, and a verdict.
#[derive(Debug)]
pub(super) struct Rule {
    chain: &'static str,
    text: String,
    expressions: Attributes,
}

impl Rule {
    /// Starts a rule at the end of `chain`.
    pub(super) fn of(chain: Chain) -> Self {
        Self { chain: chain.name, text: String::new(), expressions: Attributes::default() }
    }

    /// Matches the first packet of a TCP connection (`SYN` alone). Connection tracking may take a later packet for the first
    /// one, if the connection is older than the rules.
    pub(super) fn tcp_syn(self) -> Self {
        const FLAGS_OFFSET: u32 = 13;
        const FIN_SYN_RST_ACK: u8 = 0x17;
        const SYN: u8 = 0x02;
        self.says("tcp flags syn")
            .meta(NFT_META_L4PROTO, &[IPPROTO_TCP])
            .payload(NFT_PAYLOAD_TRANSPORT_HEADER, FLAGS_OFFSET, 1)
            .mask(&[FIN_SYN_RST_ACK])
            .equals(&[SYN])
    }

    /// Matches the destination port of TCP.
    pub(super) fn tcp_dport(self, port: u16) -> Self {
        self.says(&format!("tcp dport {port}"))
            .meta(NFT_META_L4PROTO, &[IPPROTO_TCP])
            .payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
            .equals(&port.to_be_bytes())
    }

    /// Matches the destination port of UDP.
    pub(super) fn udp_dport(self, port: u16) -> Self {
        self.says(&format!("udp dport {port}"))
            .meta(NFT_META_L4PROTO, &[IPPROTO_UDP])
            .payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
            .equals(&port.to_be_bytes())
    }

    /// Matches a destination address.
    pub(super) fn daddr(self, range: IpNet) -> Self {
        let range = range.trunc();
        let rule = self.says(&format!("daddr {range}"));
        match range {
            IpNet::V4(range) => rule
                .meta(NFT_META_NFPROTO, &[NFPROTO_IPV4])
                .payload(NFT_PAYLOAD_NETWORK_HEADER, 16, 4)
                .mask(&range.netmask().octets())
                .equals(&range.addr().octets()),
            IpNet::V6(range) => rule
                .meta(NFT_META_NFPROTO, &[NFPROTO_IPV6])
                .payload(NFT_PAYLOAD_NETWORK_HEADER, 24, 16)
                .mask(&range.netmask().octets())
                .equals(&range.addr().octets()),
        }
    }

    /// Matches a destination address of this network namespace.
    pub(super) fn fib_daddr_local(mut self) -> Self {
        const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
        const NFTA_FIB_F_DADDR: u32 = 1 << 1;
        const RTN_LOCAL: u32 = 2;
        expression(&mut self.expressions, "fib", |fib| {
            fib.number(1, NFT_REG_1).number(2, NFT_FIB_RESULT_ADDRTYPE).number(3, NFTA_FIB_F_DADDR);
        });
        self.says("fib daddr type local").equals(&RTN_LOCAL.to_ne_bytes())
    }

    /// Matches a packet that leaves through the loopback interface: its destination is an address of this network namespace.
    pub(super) fn oif_loopback(self) -> Self {
        self.says("oif lo").meta(NFT_META_OIF, &LOOPBACK_IFINDEX.to_ne_bytes())
    }

    /// Matches the user ID of the process whose socket sent the packet.
    pub(super) fn skuid(self, user: u32) -> Self {
        self.says(&format!("meta skuid {user}")).meta(NFT_META_SKUID, &user.to_ne_bytes())
    }

    /// Matches a socket that was opened in the cgroup `id` (of cgroup v2), which has `level` names in its path, or below it.
    pub(super) fn cgroup(mut self, level: u32, id: u64) -> Self {
        const NFT_SOCKET_CGROUPV2: u32 = 3;
        expression(&mut self.expressions, "socket", |socket| {
            socket.number(1, NFT_SOCKET_CGROUPV2).number(2, NFT_REG_1).number(3, level);
        });
        self.says(&format!("socket cgroupv2 level {level} {id}")).equals(&id.to_ne_bytes())
    }

    /// Matches the priority that the sending socket has (`SO_PRIORITY`).
    pub(super) fn priority(self, priority: u32) -> Self {
        self.says(&format!("meta priority {priority}")).meta(NFT_META_PRIORITY, &priority.to_ne_bytes())
    }

    /// Tracks the connection apart from those of other zones that have the same addresses and ports. Responses have no zone.
    pub(super) fn ct_original_zone_set(mut self, zone: u16) -> Self {
        const ORIGINAL: u8 = 0;
        self.load(&zone.to_ne_bytes());
        expression(&mut self.expressions, "ct", |ct| {
            ct.number(2, NFT_CT_ZONE).bytes(3, &[ORIGINAL]).number(4, NFT_REG_1);
        });
        self.says(&format!("ct original zone set {zone}"))
    }

    /// Verdict: the connection stays as it is.
    pub(super) fn accept(self) -> Self {
        const NF_ACCEPT: i32 = 1;
        self.says("accept").verdict(NF_ACCEPT, None)
    }

    /// Verdict: the rules of another chain decide.
    pub(super) fn goto(self, chain: Chain) -> Self {
        const NFT_GOTO: i32 = -4;
        self.says(&format!("goto {}", chain.name)).verdict(NFT_GOTO, Some(chain.name))
    }

    /// Verdict: the connection goes to a port of this network namespace: at the address of the interface where it arrived,
    /// or at the loopback address if a local socket opened it.
    pub(super) fn redirect(mut self, port: u16) -> Self {
        self.load(&port.to_be_bytes());
        expression(&mut self.expressions, "redir", |redirect| {
            redirect.number(1, NFT_REG_1);
        });
        self.says(&format!("redirect to :{port}"))
    }

    /// Loads bytes of our own.
    fn load(&mut self, value: &[u8]) {
        expression(&mut self.expressions, "immediate", |immediate| {
            immediate.number(1, NFT_REG_1).nested(2, |data| {
                data.bytes(1, value);
            });
        });
    }

    fn verdict(mut self, code: i32, chain: Option<&str>) -> Self {
        expression(&mut self.expressions, "immediate", |immediate| {
            immediate.number(1, NFT_REG_VERDICT).nested(2, |data| {
                data.nested(2, |verdict| {
                    verdict.number(1, code.cast_unsigned());
                    if let Some(chain) = chain {
                        verdict.text(2, chain);
                    }
                });
            });
        });
        self
    }

    /// Loads a fact of the packet and compares it. Numbers are in the byte order of the machine.
    fn meta(mut self, key: u32, value: &[u8]) -> Self {
        expression(&mut self.expressions, "meta", |meta| {
            meta.number(1, NFT_REG_1).number(2, key);
        });
        self.equals(value)
    }

    /// Loads bytes of a header.
    fn payload(mut self, base: u32, offset: u32, length: u32) -> Self {
        expression(&mut self.expressions, "payload", |payload| {
            payload.number(1, NFT_REG_1).number(2, base).number(3, offset).number(4, length);
        });
        self
    }

    /// Clears the bits of the loaded bytes that are not in `mask`.
    fn mask(mut self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        expression(&mut self.expressions, "bitwise", |bitwise| {
            bitwise.number(1, NFT_REG_1).number(2, NFT_REG_1).number(3, length);
            bitwise.nested(4, |data| {
                data.bytes(1, mask);
            });
            bitwise.nested(5, |data| {
                data.bytes(1, &vec![0; mask.len()]);
            });
        });
        self
    }

    /// Ends the rule for packets whose loaded bytes differ from `value`.
    fn equals(mut self, value: &[u8]) -> Self {
        const NFT_CMP_EQ: u32 = 0;
        expression(&mut self.expressions, "cmp", |cmp| {
            cmp.number(1, NFT_REG_1).number(2, NFT_CMP_EQ).nested(3, |data| {
                data.bytes(1, value);
            });
        });
        self
    }

    fn says(mut self, text: &str) -> Self {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(text);
        self
    }

    fn message(self, table: &str) -> Message {
        let purpose = format!("rule `{}` of chain {}", self.text, self.chain);
        let mut attributes = Attributes::default();
        attributes.text(1, table).text(2, self.chain).list(4, self.expressions);
        message(NFT_MSG_NEWRULE, CREATE | APPEND, purpose, attributes)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.chain, self.text)
    }
}

/// Appends an expression to the list of a rule.
fn expression(list: &mut Attributes, name: &str, fill: impl FnOnce(&mut Attributes)) {
    list.nested(1, |element| {
        element.text(1, name).nested(2, fill);
    });
}

fn table(name: &str, kind: u16) -> Message {
    let mut attributes = Attributes::default();
    attributes.text(1, name);
    let flags = if kind == NFT_MSG_NEWTABLE { CREATE } else { 0 };
    message(kind, flags, format!("table inet {name}"), attributes)
}

fn message(kind: u16, flags: u16, purpose: String, attributes: Attributes) -> Message {
    Message {
        purpose,
        kind: NFNL_SUBSYS_NFTABLES << 8 | kind,
        flags,
        header: [NFPROTO_INET, 0, 0, 0],
        attributes,
    }
}

/// The begin or the end of a batch, all or nothing of which is applied.
fn batch(kind: u16) -> Message {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    let attributes = Attributes::default();
    Message { purpose: "batch".into(), kind, flags: 0, header: [0, 0, high, low], attributes }
}
