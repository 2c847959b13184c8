#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn question(name: &str, kind: u16, edns: bool) -> Vec<u8> {
    let mut packet = header(7, FLAG_RECURSION_DESIRED, 1, 0, u16::from(edns));
    packet.extend(wire(name));
    packet.extend(kind.to_be_bytes());
    packet.extend(CLASS_IN.to_be_bytes());
    if edns {
        write_opt(&mut packet, EDNS_DNSSEC_OK);
    }
    packet
}

#[test]
fn a_question_goes_up_and_its_answer_comes_down() {
    let query = Query::parse(&question("WWW.Example.com", TYPE_A, true)).unwrap();
    assert_eq!(query.name(), "www.example.com");
    assert_eq!(query.udp_bytes_max(), 1232);
    let unchecked = Query { flags: query.flags | FLAG_CHECKING_DISABLED | FLAG_AUTHENTIC, ..query.clone() };
    assert_eq!(unchecked.upstream(99)[3], FLAG_AUTHENTIC as u8, "a name server that checks does so whoever asks");
    let up = Query::parse(&query.upstream(99)).unwrap();
    assert_eq!((up.name(), up.kind(), up.id, up.edns), (query.name(), query.kind(), 99, Some((UDP_BYTES, EDNS_DNSSEC_OK))));
    let addrs: [IpAddr; 2] = ["1.2.3.4".parse().unwrap(), "2600::1".parse().unwrap()];
    let down = up.reply(Rcode::NoError, &addrs);
    assert_eq!(query.read_answer(99, &down).unwrap().addresses, addrs);
    assert_eq!(query.read_answer(98, &down), None, "another id");
    let other = Query::parse(&question("www.example.org", TYPE_A, true)).unwrap();
    assert_eq!(other.read_answer(99, &down), None, "another question");
    let mut longer = down.clone();
    longer.push(0);
    assert_eq!(query.read_answer(99, &longer), None, "bytes after the end");
    assert_eq!(&query.adopt(down)[..2], 7u16.to_be_bytes());
    assert!(query.truncated()[2] & 2 != 0);
}

#[test]
fn bad_questions() {
    assert_eq!(Query::parse(&[]), Err(None));
    assert_eq!(Query::parse(&header(1, FLAG_RESPONSE, 1, 0, 0)), Err(None));
    let rcode = |packet: &[u8]| Query::parse(packet).unwrap_err().map(|reply| reply[3] & 15);
    assert_eq!(rcode(&header(1, 0x2800, 1, 0, 0)), Some(4));
    assert_eq!(rcode(&header(1, 0, 2, 0, 0)), Some(1));
    assert_eq!(rcode(&question("x.test", 252, false)), Some(4));
    // Names that loop, point forward, or are too long.
    for name in [vec![0xc0, 12], vec![0xc0, 14], vec![1, b'a', 0xc0, 12], vec![64], [vec![63; 64 * 5], vec![0]].concat()] {
        let mut packet = header(1, 0, 1, 0, 0);
        packet.extend(name);
        packet.extend([0, 1, 0, 1]);
        assert_eq!(rcode(&packet), Some(1));
    }
}

proptest! {
    #[test]
    fn no_packet_panics(packet in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..60, flip in 0usize..60, to in any::<u8>()) {
        let _ = Query::parse(&packet);
        let query = Query::parse(&question("a.bc.test", TYPE_A, true)).unwrap();
        let _ = query.read_answer(7, &packet);
        let mut answer = query.reply(Rcode::NoError, &["1.2.3.4".parse().unwrap()]);
        if let Some(byte) = answer.get_mut(flip) {
            *byte = to;
        }
        answer.truncate(answer.len().saturating_sub(cut));
        let _ = query.read_answer(7, &answer);
    }

    #[test]
    fn questions_round_trip(labels in prop::collection::vec("[A-Za-z0-9_-]{1,20}", 1..6), kind in 1u16..200, edns in any::<bool>()) {
        let name = labels.join(".");
        let query = Query::parse(&question(&name, kind, edns)).unwrap();
        prop_assert_eq!(query.name(), name.to_ascii_lowercase());
        let again = Query::parse(&query.upstream(7)).unwrap();
        prop_assert_eq!(again.wire_name, query.wire_name);
    }
}
