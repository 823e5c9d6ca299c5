use proptest::prelude::*;

use super::super::encoder::{Encoder, Pseudo};
use super::super::{TABLE_BYTES, huffman};
use super::*;

const LIMIT: usize = 64 * 1024;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]).to_le_bytes()[0]).collect()
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer::encode(text.len(), 7, 0, &mut out);
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// The pseudo-fields and fields of a section as text.
fn listed(section: &Section) -> Vec<String> {
    let mut all = Vec::new();
    let mut add =
        |name: &str, value: Option<String>| all.extend(value.map(|value| format!("{name}: {value}")));
    add(":status", section.status.map(|status| status.as_str().to_owned()));
    add(":method", section.method.as_ref().map(ToString::to_string));
    add(":scheme", section.scheme.flatten().map(|scheme| scheme.as_str().to_owned()));
    add(":path", section.path.as_ref().map(ToString::to_string));
    add(":authority", section.authority.as_ref().map(ToString::to_string));
    for (name, value) in &section.fields {
        add(name.as_str(), Some(value.to_str().unwrap().to_owned()));
    }
    all
}

fn decode_all(kind: Kind, table: usize, blocks: &[(&str, &[&str], usize)]) {
    let mut decoder = Decoder::new(LIMIT);
    decoder.table.resize(table).unwrap();
    for (block, fields, held) in blocks {
        let section = decoder.decode(&bytes(block), kind).unwrap();
        assert_eq!(section.malformed, None);
        assert_eq!(listed(&section), *fields);
        assert_eq!(decoder.table.bytes(), *held);
    }
}

/// RFC 7541 appendices C.3 and C.4: requests, without and with Huffman's code.
#[test]
fn the_requests_of_the_standard_are_decoded() {
    let get = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
    let cached = [&get[..], &["cache-control: no-cache"]].concat();
    let custom = [
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ];
    decode_all(
        Kind::Request,
        TABLE_BYTES,
        &[
            ("828684410f7777772e6578616d706c652e636f6d", &get, 57),
            ("828684be58086e6f2d6361636865", &cached, 110),
            ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", &custom, 164),
        ],
    );
    decode_all(
        Kind::Request,
        TABLE_BYTES,
        &[
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", &get, 57),
            ("828684be5886a8eb10649cbf", &cached, 110),
            ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", &custom, 164),
        ],
    );
}

/// RFC 7541 appendices C.5 and C.6: responses in a table of 256 bytes, which evicts.
#[test]
fn the_responses_of_the_standard_are_decoded() {
    let (date, later) = ("date: Mon, 21 Oct 2013 20:13:21 GMT", "date: Mon, 21 Oct 2013 20:13:22 GMT");
    let location = "location: https://www.example.com";
    let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let (found, kept) = (
        [":status: 302", "cache-control: private", date, location],
        [":status: 307", "cache-control: private", date, location],
    );
    let last = [":status: 200", "cache-control: private", later, location, "content-encoding: gzip", cookie];
    decode_all(
        Kind::Response,
        256,
        &[
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54\
             6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
                &found,
                222,
            ),
            ("4803333037c1c0bf", &kept, 222),
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d\
             4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273\
             696f6e3d31",
                &last,
                215,
            ),
        ],
    );
    decode_all(
        Kind::Response,
        256,
        &[
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8\
             e9ae82ae43d3",
                &found,
                222,
            ),
            ("4883640effc1c0bf", &kept, 222),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b\
             3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                &last,
                215,
            ),
        ],
    );
}

#[test]
fn a_violation_of_the_compression_is_an_error() {
    for (block, what) in [
        ("80", "index 0"),
        ("be", "an index beyond the table"),
        ("ff8080808010", "a large index"),
        ("7f0000", "a literal whose name is beyond the table"),
        ("4005", "a literal that is cut in its name"),
        ("40016101", "a literal that is cut in its value"),
        ("4001", "a literal that is cut"),
        ("3fe21f", "a size update above the limit"),
        ("203f003f01", "three size updates"),
        ("8220", "a size update behind a field"),
        ("4082ffff0100", "a name with wrong padding"),
    ] {
        assert!(Decoder::new(LIMIT).decode(&bytes(block), Kind::Request).is_err(), "{what}");
    }
    assert!(Decoder::new(LIMIT).decode(&bytes("203fe11f828684410161"), Kind::Request).is_ok());
}

#[test]
fn a_malformed_section_leaves_the_table_in_step() {
    let mut decoder = Decoder::new(LIMIT);
    // Three fields enter the table, one of them with a name that is not allowed.
    let block = bytes("828684400158013140016101624001630164");
    let section = decoder.decode(&block, Kind::Request).unwrap();
    assert_eq!(section.malformed, Some("a field name is no token in lower case"));
    let next = decoder.decode(&bytes("828684010161bebf"), Kind::Request).unwrap();
    assert_eq!(
        (next.malformed, &next.fields["a"], &next.fields["c"]),
        (None, &"b".parse().unwrap(), &"d".parse().unwrap())
    );
    let third = decoder.decode(&bytes("828684c0"), Kind::Request).unwrap();
    assert!(third.malformed.is_some(), "the malformed field may be referred to, and is malformed still");
}

#[test]
fn each_rule_for_sections_is_checked() {
    let get = bytes("828684410161");
    let with = |name, value| [&get[..], &literal(name, value)].concat();
    for (kind, block, what) in [
        (Kind::Request, with("Upper", "1"), "a malformed name"),
        (Kind::Request, with(":path", "/b"), "two paths"),
        (Kind::Request, with(":authority", "b"), "two authorities"),
        (Kind::Request, with(":method", "GET"), "two methods"),
        (Kind::Request, with(":scheme", "http"), "two schemes"),
        (Kind::Request, with(":status", "200"), ":status in a request"),
        (Kind::Request, with(":protocol", "websocket"), ":protocol of GET"),
        (Kind::Request, [literal("a", "b"), get.clone()].concat(), "a pseudo-field behind others"),
        (Kind::Request, with("connection", "close"), "connection"),
        (Kind::Request, with("te", "gzip"), "te"),
        (Kind::Request, [with("host", "a"), literal("host", "a")].concat(), "two hosts"),
        (Kind::Request, with("content-length", "+1"), "a signed length"),
        (Kind::Request, with("content-length", ""), "an empty length"),
        (
            Kind::Request,
            [with("content-length", "1"), literal("content-length", "1")].concat(),
            "two lengths",
        ),
        (Kind::Request, bytes("8684410161"), "no method"),
        (Kind::Request, bytes("8284410161"), "no scheme"),
        (Kind::Request, bytes("8286410161"), "no path"),
        (Kind::Request, literal(":method", "CONNECT"), "CONNECT without a host"),
        (Kind::Request, [literal(":method", "CONNECT"), bytes("84410161")].concat(), "CONNECT with a path"),
        (Kind::Request, [literal(":method", "CONNECT"), bytes("86410161")].concat(), "CONNECT with a scheme"),
        (
            Kind::Request,
            [literal(":method", "CONNECT"), literal(":protocol", "websocket"), bytes("86410161")].concat(),
            "extended CONNECT without a path",
        ),
        (Kind::Response, vec![], "no status"),
        (Kind::Response, bytes("8889"), "two of them"),
        (Kind::Response, bytes("8882"), "a method in a response"),
        (Kind::Trailers, bytes("88"), "a pseudo-field among trailers"),
        (Kind::Trailers, literal("te", "gzip"), "te among trailers"),
        (Kind::Trailers, literal("transfer-encoding", "chunked"), "a field of the connection among trailers"),
    ] {
        let section = Decoder::new(LIMIT).decode(&block, kind).unwrap();
        assert!(section.malformed.is_some(), "{what}");
    }
}

#[test]
fn a_section_without_a_fault_is_complete() {
    let connect = [literal(":method", "CONNECT"), literal(":authority", "a:1")].concat();
    let section = Decoder::new(LIMIT).decode(&connect, Kind::Request).unwrap();
    assert_eq!((section.malformed, section.path), (None, None));
    let block = [
        bytes("8284410161"),
        literal(":scheme", "coap"),
        literal("cookie", "a=b"),
        literal("host", "a"),
        literal("content-length", "12"),
        literal("expect", "100-Continue"),
        literal("te", "Trailers"),
        literal("priority", "u=1, i"),
        literal("cookie", "c=d"),
    ]
    .concat();
    let section = Decoder::new(LIMIT).decode(&block, Kind::Request).unwrap();
    assert_eq!(section.malformed, None);
    assert_eq!(
        (section.scheme, section.host.unwrap(), section.cookies),
        (Some(None), "a".parse().unwrap(), 2)
    );
    assert_eq!((section.content_length, section.expects_continue), (Some(12), true));
    assert_eq!((&section.fields["te"], section.fields.len()), (&"trailers".parse().unwrap(), 6));
    assert_eq!((section.size.fields, section.size.bytes), (8, 8 * 32 + 5 + 9 + 5 + 16 + 18 + 10 + 9 + 14));
    assert_eq!(section.priority.map(|priority| (priority.urgency, priority.incremental)), Some((1, true)));
    let trailers = [literal("grpc-status", "0"), literal("content-type", "a"), literal("host", "a")].concat();
    let section = Decoder::new(LIMIT).decode(&trailers, Kind::Trailers).unwrap();
    assert_eq!((section.malformed, listed(&section)), (None, vec!["grpc-status: 0".to_owned()]));
}

#[test]
fn what_is_above_the_limit_is_dropped_and_the_table_stays_in_step() {
    let mut decoder = Decoder::new(200);
    let large = [bytes("828684410161"), [&[0x40, 1, b'a', 100][..], &[b'x'; 100]].concat()].concat();
    let section = decoder.decode(&large, Kind::Request).unwrap();
    assert_eq!((section.too_large, section.fields.len()), (true, 0));
    let next = decoder.decode(&bytes("be"), Kind::Trailers).unwrap();
    assert_eq!((next.too_large, next.fields["a"].len()), (false, 100));
}

#[test]
fn a_value_that_must_not_be_indexed_stays_so() {
    for (first, sensitive) in [(0x10, true), (0, false)] {
        let block = [&[first], &literal("a", "b")[1..]].concat();
        let section = Decoder::new(LIMIT).decode(&block, Kind::Trailers).unwrap();
        assert_eq!(section.fields["a"].is_sensitive(), sensitive);
    }
}

#[test]
fn huffman_coded_literals_are_decoded() {
    let mut block = vec![0];
    for text in ["x-long", &"value ".repeat(1000)[..5999]] {
        let coded = huffman::encode(text.as_bytes());
        integer::encode(coded.len(), 7, 0x80, &mut block);
        block.extend_from_slice(&coded);
    }
    let mut decoder = Decoder::new(LIMIT);
    let section = decoder.decode(&block, Kind::Trailers).unwrap();
    assert_eq!((section.fields["x-long"].len(), decoder.scratch.capacity()), (5999, 0));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_the_table_stays_bounded(
        blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..6),
    ) {
        let mut decoder = Decoder::new(LIMIT);
        for block in blocks {
            if decoder.decode(&block, Kind::Request).is_err() {
                break;
            }
            prop_assert!(decoder.table.bytes() <= TABLE_BYTES);
        }
    }

    #[test]
    fn a_section_that_is_understood_is_passed_on_as_the_same_section(
        blocks in proptest::collection::vec(
            (0..3_u8, proptest::collection::vec(prop_oneof![Just(0x82), Just(0x84), Just(0x86), Just(0x88), Just(0xbe),
                Just(0x40), Just(0x01), Just(b'a'), any::<u8>()], 0..20)),
            0..6,
        ),
    ) {
        let framed = |(kind, block): &(u8, Vec<u8>)| [&[*kind, block.len() as u8][..], block].concat();
        let bytes: Vec<u8> = blocks.iter().flat_map(framed).collect();
        crate::codec::h2::properties::field_blocks(&bytes);
    }

    /// Sections through an encoder and a decoder, with sizes of the table that change in between.
    #[test]
    fn what_is_encoded_is_decoded(
        sections in proptest::collection::vec(
            (
                proptest::collection::vec(("[a-d]{1,2}", "[x-z]{0,3}|[a-z]{300}"), 0..12),
                proptest::option::of(proptest::collection::vec(0_u32..6000, 1..3)),
            ),
            1..30,
        ),
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(LIMIT));
        for (fields, sizes) in sections {
            for size in sizes.unwrap_or_default() {
                encoder.set_table_size(size);
            }
            let mut map = http::HeaderMap::new();
            for (name, value) in &fields {
                let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
                map.append(name, value.parse().unwrap());
            }
            let mut block = Vec::new();
            encoder.encode(Pseudo::None, &map, &mut block);
            let section = decoder.decode(&block, Kind::Trailers).unwrap();
            prop_assert_eq!(section.malformed, None);
            prop_assert_eq!(section.fields, map);
            prop_assert_eq!(section.size.fields, fields.len());
            prop_assert_eq!(decoder.table.bytes(), encoder.table_bytes());
        }
    }
}

#[test]
fn fields_above_their_number_are_not_kept() {
    let mut decoder = Decoder::new(LIMIT).with_most_fields(3);
    // `:method`, `:scheme`, `:path`, `:authority`, which counts as `host`, and a field that is in the table from here on.
    let first = [&[0x82, 0x86, 0x84, 0x01, 1, b'a'][..], &[0x40, 1, b'x', 0]].concat();
    for (more, too_large) in [(0, false), (1, false), (2, true), (100, true)] {
        let section = decoder.decode(&[&first[..], &vec![0xbe; more]].concat(), Kind::Request).unwrap();
        assert_eq!((section.too_large, section.malformed), (too_large, None), "{more}");
        assert_eq!(section.fields.len(), (1 + more).min(2));
        assert!(section.method.is_some() && section.path.is_some());
    }
}
