use hickory_proto::rr::Name;
use proptest::prelude::*;

use super::*;

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version).set_dnssec_ok(true);
    message.edns = Some(edns);
    message
}

fn read(message: &Message, transport: Transport) -> Query {
    Query::read(&message.to_vec().unwrap(), transport).unwrap()
}

fn answered(message: &Message, addresses: &[IpAddr], transport: Transport) -> (usize, Message) {
    let response = read(message, transport).answer(addresses, Duration::from_secs(30));
    (response.len(), Message::from_vec(&response).unwrap())
}

const ADDRESSES: [&str; 2] = ["240.1.2.3", "fd00::1"];

fn both() -> Vec<IpAddr> {
    ADDRESSES.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn a_host_has_the_addresses_of_the_requested_family_and_no_record_of_another_type() {
    for (kind, expected) in [
        (RecordType::A, &ADDRESSES[..1]),
        (RecordType::AAAA, &ADDRESSES[1..]),
        (RecordType::ANY, &ADDRESSES[..]),
        (RecordType::HTTPS, &[]),
        (RecordType::SRV, &[]),
        (RecordType::TXT, &[]),
    ] {
        let (_, response) = answered(&question("Cart.Shop.", kind), &both(), Transport::Udp);
        assert!(response.authorities.is_empty(), "nothing for a cache to keep");
        let mut found: Vec<_> = response.answers.iter().map(|record| record.data.to_string()).collect();
        found.sort();
        assert_eq!(found, expected, "{kind}");
        assert!(response.answers.iter().all(|record| record.ttl == 30));
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert_eq!((response.metadata.id, response.edns), (7, None));
        assert_eq!(response.queries[0].name().to_ascii(), "Cart.Shop.", "as the client wrote it");
        let flags = response.metadata;
        assert_eq!(
            (flags.recursion_desired, flags.recursion_available, flags.authoritative, flags.truncation),
            (true, true, !expected.is_empty(), false)
        );
    }
}

#[test]
fn a_response_has_the_size_that_the_client_accepts() {
    let many: Vec<_> = (0..3000_u32).map(|n| IpAddr::from((10 << 24 | n).to_be_bytes())).collect();
    let query = question("db.shop.", RecordType::A);
    for (query, transport, limit, truncated) in [
        (query.clone(), Transport::Udp, 512, true),
        (with_edns(query.clone(), 100, 0), Transport::Udp, 512, true),
        (with_edns(query.clone(), 900, 0), Transport::Udp, 900, true),
        (with_edns(query.clone(), 65535, 0), Transport::Udp, 1232, true),
        (query.clone(), Transport::Tcp, 65535, false),
    ] {
        let (size, response) = answered(&query, &many, transport);
        assert!(size <= limit, "{size} of {limit}");
        assert_eq!(response.metadata.truncation, truncated);
        assert!(!response.answers.is_empty() && (response.answers.len() < 250) == truncated);
        assert_eq!(response.edns.is_some(), query.edns.is_some());
    }
}

#[test]
fn edns_is_answered_with_edns_and_an_unknown_version_is_refused() {
    let query = question("cart.", RecordType::A);
    let (_, response) = answered(&with_edns(query.clone(), 1400, 0), &both(), Transport::Udp);
    let edns = response.edns.unwrap();
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1232, true));
    let failure = read(&with_edns(query.clone(), 1400, 0), Transport::Udp).failure(ResponseCode::NXDomain);
    let failure = Message::from_vec(&failure).unwrap();
    assert!(failure.edns.is_some() && !failure.metadata.authoritative);
    assert_eq!((failure.metadata.id, failure.metadata.response_code), (7, ResponseCode::NXDomain));
    let (_, response) = answered(&with_edns(query, 1400, 1), &both(), Transport::Udp);
    // BADSIG has the same number.
    assert_eq!(u16::from(response.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert!(response.answers.is_empty());
}

#[test]
fn what_is_not_a_query_is_ignored_or_refused() {
    let query = question("cart.", RecordType::A);
    let code = |bytes: &[u8]| match Query::read(bytes, Transport::Udp).unwrap_err() {
        NotQuery::Ignored => None,
        NotQuery::Refused(response) => {
            let response = Message::from_vec(&response).unwrap();
            assert_eq!((response.metadata.id, response.metadata.message_type), (7, MessageType::Response));
            Some(response.metadata.response_code)
        }
    };
    let bytes = query.to_vec().unwrap();
    assert_eq!(code(&[]), None);
    assert_eq!(code(&bytes[..11]), None, "no header");
    let mut response = query.clone();
    response.metadata.message_type = MessageType::Response;
    assert_eq!(code(&response.to_vec().unwrap()), None);
    assert_eq!(code(&bytes[..bytes.len() - 1]), Some(ResponseCode::FormErr));
    assert_eq!(
        code(&Message::new(7, MessageType::Query, OpCode::Query).to_vec().unwrap()),
        Some(ResponseCode::FormErr)
    );
    let mut two = query.clone();
    two.add_query(query.queries[0].clone());
    assert_eq!(code(&two.to_vec().unwrap()), Some(ResponseCode::FormErr));
    assert_eq!(code(&question("shop.", RecordType::AXFR).to_vec().unwrap()), Some(ResponseCode::Refused));
    let mut notify = query.clone();
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&notify.to_vec().unwrap()), Some(ResponseCode::NotImp));
}

#[test]
fn a_response_of_a_name_server_is_passed_on_under_the_clients_id_and_truncated_if_it_is_too_large() {
    let mut query = question("www.example.com.", RecordType::TXT);
    let mut response = Message::response(99, OpCode::Query);
    response.queries = query.queries.clone();
    let small = read(&query, Transport::Udp).passed_on(response.to_vec().unwrap());
    assert_eq!(Message::from_vec(&small).unwrap().metadata.id, 7);
    let address =
        |n| Record::from_rdata(query.queries[0].name().clone(), 1, RData::from(IpAddr::from([10, 0, 0, n])));
    response.answers = (0..100).map(address).collect();
    let large = response.to_vec().unwrap();
    response.answers = (0..=255).map(address).collect();
    let huge = response.to_vec().unwrap();
    let truncated = Message::from_vec(&read(&query, Transport::Udp).passed_on(large.clone())).unwrap();
    assert_eq!((truncated.metadata.id, truncated.metadata.truncation), (7, true));
    assert_eq!((truncated.answers.len(), &truncated.queries), (0, &query.queries));
    query = with_edns(query, 4096, 0);
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(read(&query, transport).passed_on(large.clone()).len(), large.len());
    }
    query = with_edns(query, 65535, 0);
    let truncated = Message::from_vec(&read(&query, Transport::Udp).passed_on(huge.clone())).unwrap();
    assert!(huge.len() > 4096 && truncated.metadata.truncation, "{}", huge.len());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), tcp: bool) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        if let Ok(query) = Query::read(&bytes, transport) {
            query.answer(&both(), Duration::from_secs(30));
            query.passed_on(bytes);
        }
    }

    #[test]
    fn no_change_of_a_query_makes_it_panic(
        at in 0..60_usize, byte: u8, cut in 0..60_usize, size in 0..2000_u16, version in 0..3_u8,
    ) {
        let mut bytes = with_edns(question("db-0.db.shop.svc.", RecordType::A), size, version).to_vec().unwrap();
        if let Some(changed) = bytes.get_mut(at) {
            *changed = byte;
        }
        bytes.truncate(bytes.len().saturating_sub(cut % 20));
        if let Ok(query) = Query::read(&bytes, Transport::Udp) {
            let response = query.answer(&both(), Duration::from_secs(30));
            prop_assert!(response.len() <= usize::from(MAX_UDP_SIZE));
            query.passed_on(bytes);
        }
    }
}
