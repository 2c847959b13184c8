#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

/// RFC 9001, appendix A.
const ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
const CRYPTO_FRAME: &str = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff";

fn hello() -> Vec<u8> {
    hex::decode(CRYPTO_FRAME).unwrap().split_off(4)
}

fn crypto(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![6];
    for number in [offset, bytes.len()] {
        frame.extend_from_slice(&(0x4000 | number as u16).to_be_bytes());
    }
    frame.extend_from_slice(bytes);
    frame
}

/// A protected packet as a client sends it, of as many bytes as a datagram needs.
fn packet(version: Version, id: &[u8], keys_id: &[u8], number: u32, frames: &[u8], padded: usize) -> Vec<u8> {
    let number_at = 1 + 4 + 1 + id.len() + 1 + 1 + 2;
    let mut payload = frames.to_vec();
    payload.resize(payload.len().max((padded).saturating_sub(number_at + 4 + TAG_BYTES)).max(4), 0);
    let (number_bytes, wire) = match version {
        Version::V1 => ([0, 0, 0, 1], version.initial_type()),
        Version::V2 => ([0x6b, 0x33, 0x43, 0xcf], version.initial_type()),
    };
    let mut bytes = vec![LONG_HEADER | FIXED_BIT | wire << 4 | 3];
    bytes.extend_from_slice(&number_bytes);
    bytes.push(id.len() as u8);
    bytes.extend_from_slice(id);
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&(0x4000 | (4 + payload.len() + TAG_BYTES) as u16).to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    let keys = Keys::new(version, keys_id).unwrap();
    let mut nonce = keys.iv;
    for (byte, number) in nonce[NONCE_LEN - 4..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= number;
    }
    keys.payload.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&bytes), &mut payload).unwrap();
    let mask = keys.header.new_mask(&payload[..SAMPLE_BYTES]).unwrap();
    bytes[0] ^= mask[0] & 0x0f;
    for (byte, mask) in bytes[number_at..].iter_mut().zip(&mask[1..]) {
        *byte ^= mask;
    }
    bytes.extend_from_slice(&payload);
    bytes
}

fn v1(number: u32, frames: &[u8]) -> Vec<u8> {
    packet(Version::V1, &ID, &ID, number, frames, 1200)
}

/// The two datagrams with which a client of this name begins a connection.
pub(in crate::egress) fn begin(name: &str) -> [Vec<u8>; 2] {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    // No session, one cipher suite, no compression.
    body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
    let len = name.len() as u8;
    let mut extension = vec![0, 0, 0, len + 5, 0, len + 3, 0, 0, len];
    extension.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&(extension.len() as u16).to_be_bytes());
    body.extend_from_slice(&extension);
    let hello = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let id: [u8; 8] = std::array::from_fn(|at| name.as_bytes()[at % name.len()]);
    let (first, second) = hello.split_at(20);
    [packet(Version::V1, &id, &id, 0, &crypto(0, first), 1200), packet(Version::V1, &id, &id, 1, &crypto(20, second), 1200)]
}

#[test]
fn the_packet_of_the_specification() {
    let datagram = v1(2, &hex::decode(CRYPTO_FRAME).unwrap());
    assert_eq!(datagram.len(), 1200);
    let begin = "c000000001088394c8f03e5157080000449e7b9aec34";
    assert_eq!(hex::encode(&datagram[..begin.len() / 2]), begin);
    assert_eq!(Reader::default().read(&datagram), Step::Hello(hello()));
    let keys = Prk::new_less_safe(HKDF_SHA256, &expand::<32>(&Salt::new(HKDF_SHA256, &Version::V1.salt()).extract(&ID), "client in").unwrap());
    assert_eq!(hex::encode(expand::<16>(&keys, "quic key").unwrap()), "1f369613dd76d5467730efcbe3b1a22d");
    assert_eq!(hex::encode(expand::<12>(&keys, "quic iv").unwrap()), "fa044b2f42a3fd3b46fb255c");
    // RFC 9369, appendix A.
    let keys = Prk::new_less_safe(HKDF_SHA256, &expand::<32>(&Salt::new(HKDF_SHA256, &Version::V2.salt()).extract(&ID), "client in").unwrap());
    assert_eq!(hex::encode(expand::<16>(&keys, "quicv2 key").unwrap()), "8b1a0bc121284290a29e0971b5cd045d");
    let datagram = packet(Version::V2, &ID, &ID, 0, &crypto(0, &hello()), 1200);
    assert_eq!(Reader::default().read(&datagram), Step::Hello(hello()));
}

#[test]
fn a_hello_in_pieces_and_out_of_order() {
    let hello = hello();
    let (first, rest) = hello.split_at(50);
    let (second, third) = rest.split_at(70);
    let mut reader = Reader::default();
    assert_eq!(reader.read(&v1(1, &crypto(120, third))), Step::More);
    assert!(reader.is_waiting());
    assert_eq!(reader.read(&v1(0, &[&[1][..], &crypto(0, first)].concat())), Step::More);
    assert_eq!(reader.read(&v1(0, &crypto(0, first))), Step::More, "again");
    assert_eq!(reader.read(&v1(2, &crypto(50, second))), Step::Hello(hello.clone()));
    assert!(!reader.is_waiting());
    // What follows is of the same connection, also when the server has named it.
    assert_eq!(reader.read(&v1(3, &[2, 0x40, 2, 0, 0, 0])), Step::Pass);
    assert_eq!(reader.read(&packet(Version::V1, b"server", &ID, 4, &[1], 1200)), Step::Pass);
    // A second one is told, too.
    assert_eq!(reader.read(&packet(Version::V1, b"second id", b"second id", 0, &crypto(0, &hello), 1200)), Step::Hello(hello));
}

#[test]
fn what_a_server_could_read_otherwise_is_not_believed() {
    let hello = hello();
    let mut other = hello.clone();
    other[100] ^= 1;
    let mut reader = Reader::default();
    assert_eq!(reader.read(&v1(0, &crypto(0, &hello))), Step::Hello(hello.clone()));
    assert_eq!(reader.read(&v1(1, &crypto(0, &other))), Step::Hidden, "another hello of the same connection");
    assert_eq!(reader.read(&packet(Version::V1, b"server", &ID, 2, &crypto(0, &other), 1200)), Step::Hidden, "by the server's id");
    let two = [crypto(0, &hello), crypto(0, &other)].concat();
    assert_eq!(Reader::default().read(&v1(0, &two)), Step::Hidden);
    let small = packet(Version::V1, &ID, &ID, 0, &crypto(0, &hello), 1100);
    assert_eq!(Reader::default().read(&small), Step::Drop, "a server does not read it");
    let alien = packet(Version::V1, b"server", &ID, 0, &crypto(0, &hello), 1200);
    assert_eq!(Reader::default().read(&alien), Step::Drop, "no key opens it");
    assert_eq!(Reader::default().read(&v1(0, &crypto(8000, &hello))), Step::Hidden, "too long");
    assert_eq!(Reader::default().read(&v1(0, &[0x08, 0, 0])), Step::Hidden, "a frame that has no place there");
    let mut unknown = v1(0, &crypto(0, &hello));
    unknown[4] = 9;
    assert_eq!(Reader::default().read(&unknown), Step::Hidden, "an unknown version");
    let mut two = packet(Version::V1, &ID, &ID, 0, &crypto(0, &hello), 600);
    two.extend_from_slice(&packet(Version::V1, b"second id", b"second id", 0, &[1], 700));
    assert_eq!(Reader::default().read(&two), Step::Hidden, "two connections in one datagram");
    for pass in [&b""[..], b"hello", &[0x40; 1300], &[0; 1300]] {
        assert_eq!(Reader::default().read(pass), Step::Pass);
    }
}

#[test]
fn packet_numbers_are_made_whole() {
    // RFC 9000, A.3.
    assert_eq!(whole_number(Some(0xa82f_30ea), 0x9b32, 2), 0xa82f_9b32);
    assert_eq!(whole_number(None, 200, 1), 200);
    assert_eq!(whole_number(Some(255), 0, 1), 256);
    assert_eq!(whole_number(Some(256), 255, 1), 255);
}

proptest! {
    #[test]
    fn junk_is_read_without_harm(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1400), 1..4),
        frames in proptest::collection::vec(any::<u8>(), 0..200),
        flips in proptest::collection::vec((0usize..1200, any::<u8>()), 0..4),
    ) {
        let mut reader = Reader::default();
        for mut datagram in datagrams {
            reader.read(&datagram);
            // As long as an Initial has to be, with the header of one.
            datagram.resize(1300, 0);
            datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            reader.read(&datagram);
        }
        let mut datagram = v1(0, &frames);
        reader.read(&datagram);
        for (at, with) in flips {
            datagram[at] ^= with;
        }
        reader.read(&datagram);
    }

    #[test]
    fn any_cut_of_a_hello_is_put_together(cuts in proptest::collection::btree_set(1usize..240, 0..6)) {
        let hello = hello();
        let mut edges = vec![0];
        edges.extend(cuts.into_iter().filter(|cut| *cut < hello.len()));
        edges.push(hello.len());
        let mut reader = Reader::default();
        let mut last = Step::Pass;
        for (number, edge) in edges.windows(2).enumerate() {
            last = reader.read(&v1(number as u32, &crypto(edge[0], &hello[edge[0]..edge[1]])));
        }
        prop_assert_eq!(last, Step::Hello(hello));
    }
}
