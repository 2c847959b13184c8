use std::io::Cursor;

use super::*;
use wire::{Attributes, Fields, Packet, Status, kind};

/// A deterministic stream of numbers.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn init() -> Vec<u8> {
    let mut packet = Vec::new();
    Packet::begin(&mut packet, kind::INIT).u32(3).end();
    packet
}

fn asked(requests: &[u8]) -> io::Result<Vec<(u8, Vec<u8>)>> {
    let mut answers = Vec::new();
    serve(Cursor::new([init(), requests.to_vec()].concat()), &mut answers)?;
    let (mut packets, mut rest) = (Vec::new(), &answers[..]);
    while let Some(length) = whole(rest)? {
        packets.push((rest[4], rest[5..4 + length].to_vec()));
        rest = &rest[4 + length..];
    }
    assert!(rest.is_empty(), "answers are whole packets");
    assert_eq!(packets.remove(0).0, kind::VERSION);
    Ok(packets)
}

fn status(answer: &(u8, Vec<u8>)) -> u32 {
    assert_eq!(answer.0, kind::STATUS, "{answer:?}");
    u32::from_be_bytes(answer.1[4..8].try_into().unwrap())
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("procd-sftp-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> Vec<u8> {
        self.0.join(name).into_os_string().into_encoded_bytes()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn attributes_come_back() {
    let mut rng = Rng(7);
    for _ in 0..1000 {
        let n = rng.next();
        let pair = (n as u32, (n >> 32) as u32);
        let attributes = Attributes {
            size: (n & 1 != 0).then_some(n),
            owner: (n & 2 != 0).then_some(pair),
            mode: (n & 4 != 0).then_some(n as u32),
            times: (n & 8 != 0).then_some(pair),
        };
        let mut packet = Vec::new();
        Packet::begin(&mut packet, kind::ATTRS).attributes(&attributes).end();
        assert_eq!(Fields(&packet[5..]).attributes(), Ok(attributes));
    }
}

#[test]
fn a_file_is_written_in_any_order_and_read() {
    let folder = Folder::new("file");
    let mut requests = Vec::new();
    let mode = Attributes { mode: Some(0o640), ..Attributes::default() };
    Packet::begin(&mut requests, kind::OPEN).u32(1).string(&folder.path("a")).u32(1 | 2 | 8 | 16).attributes(&mode).end();
    let handle = 0_u32.to_be_bytes();
    Packet::begin(&mut requests, kind::WRITE).u32(2).string(&handle).u64(3).string(b"lo").end();
    Packet::begin(&mut requests, kind::WRITE).u32(3).string(&handle).u64(0).string(b"hel").end();
    let times = Attributes { times: Some((100, 200)), mode: Some(0o600), ..Attributes::default() };
    Packet::begin(&mut requests, kind::FSETSTAT).u32(4).string(&handle).attributes(&times).end();
    Packet::begin(&mut requests, kind::READ).u32(5).string(&handle).u64(1).u32(100).end();
    Packet::begin(&mut requests, kind::READ).u32(6).string(&handle).u64(5).u32(100).end();
    Packet::begin(&mut requests, kind::CLOSE).u32(7).string(&handle).end();
    Packet::begin(&mut requests, kind::CLOSE).u32(8).string(&handle).end();
    Packet::begin(&mut requests, kind::STAT).u32(9).string(&folder.path("a")).end();
    Packet::begin(&mut requests, kind::STAT).u32(10).string(&folder.path("b")).end();
    Packet::begin(&mut requests, kind::OPENDIR).u32(11).string(&folder.path("")).end();
    Packet::begin(&mut requests, kind::READDIR).u32(12).string(&1_u32.to_be_bytes()).end();
    Packet::begin(&mut requests, kind::READDIR).u32(13).string(&1_u32.to_be_bytes()).end();
    Packet::begin(&mut requests, 99).u32(14).end();
    let answers = asked(&requests).unwrap();
    assert_eq!(answers.len(), 14);
    assert_eq!(answers[0].0, kind::HANDLE);
    for at in [1, 2, 3, 6] {
        assert_eq!(status(&answers[at]), Status::Ok as u32, "{at}");
    }
    assert_eq!((answers[4].0, &answers[4].1[8..]), (kind::DATA, &b"ello"[..]));
    assert_eq!(status(&answers[5]), Status::Eof as u32);
    assert_eq!(status(&answers[7]), Status::Failure as u32);
    let found = Fields(&answers[8].1[4..]).attributes().unwrap();
    assert_eq!((found.size, found.mode), (Some(5), Some(0o100_600)));
    // Reading may have changed the other one.
    assert_eq!(found.times.map(|(_, changed)| changed), Some(200));
    assert_eq!(status(&answers[9]), Status::NoSuchFile as u32);
    assert_eq!((answers[11].0, &answers[11].1[4..13]), (kind::NAME, &[0, 0, 0, 1, 0, 0, 0, 1, b'a'][..]));
    assert_eq!(status(&answers[12]), Status::Eof as u32);
    assert_eq!(status(&answers[13]), Status::Unsupported as u32);
}

#[test]
fn no_bytes_do_harm() {
    // Where nothing can be found or made, whatever the paths say.
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let mut requests = Vec::new();
        for _ in 0..rng.next() % 4 {
            let kinds = [3, 4, 5, 6, 7, 8, 10, 12, 16, 17, 19, 200];
            let number = kinds[rng.next() as usize % kinds.len()];
            let mut body = vec![number];
            body.extend_from_slice(&(rng.next() as u32).to_be_bytes());
            for _ in 0..rng.next() % 40 {
                body.push(if rng.next() % 3 == 0 { 0 } else { rng.next() as u8 });
            }
            // No file is made: the flag for it is left out by cutting what would hold it.
            if number == 3 {
                body.truncate(9);
            }
            requests.extend_from_slice(&(body.len() as u32).to_be_bytes());
            requests.extend_from_slice(&body);
        }
        asked(&requests).unwrap();
    }
    for wrong in [vec![0, 0, 0, 0], vec![255; 8], vec![0, 4, 0, 1, 3]] {
        assert!(asked(&wrong).is_err(), "{wrong:?}");
    }
    let mut answers = Vec::new();
    assert!(serve(Cursor::new(vec![0, 0, 0, 5, 1, 0, 0, 0, 2]), &mut answers).is_err(), "a version that is too old");
}
