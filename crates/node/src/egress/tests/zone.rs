//! A name server whose names are the test's.
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

#[derive(Clone)]
pub(super) enum Said {
    /// Addresses that hold for so many seconds.
    At(Vec<Ipv4Addr>, u32),
    Alias(&'static str),
}

#[derive(Clone)]
pub(super) struct Zone {
    pub addr: SocketAddr,
    names: Arc<Mutex<HashMap<String, Said>>>,
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Zone {
    pub async fn serve() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = UdpSocket::bind(tcp.local_addr().unwrap()).await.unwrap();
        let zone = Self { addr: socket.local_addr().unwrap(), names: Arc::default(), asked: Arc::default() };
        let shared = zone.clone();
        tokio::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut packet).await {
                socket.send_to(&shared.answer(&packet[..len]), from).await.unwrap();
            }
        });
        let shared = zone.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut packet = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut packet).await.unwrap();
                let reply = shared.answer(&packet);
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        zone
    }

    pub fn say(&self, name: &str, said: Said) {
        self.names.lock().unwrap().insert(name.to_owned(), said);
    }

    pub fn at(&self, name: &str, addr: Ipv4Addr) {
        self.say(name, Said::At(vec![addr], 60));
    }

    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let mut labels = Vec::new();
        let mut at = 12;
        while question[at] > 0 {
            let next = at + 1 + usize::from(question[at]);
            labels.push(String::from_utf8_lossy(&question[at + 1..next]).to_ascii_lowercase());
            at = next;
        }
        let mut name = labels.join(".");
        self.asked.lock().unwrap().push(name.clone());
        let is_for_v4 = question[end - 3] == 1;
        let mut records: Vec<Vec<u8>> = Vec::new();
        let names = self.names.lock().unwrap();
        loop {
            match names.get(&name) {
                Some(Said::At(addresses, ttl)) if is_for_v4 => {
                    records.extend(addresses.iter().map(|addr| record(&name, 1, *ttl, &addr.octets())));
                    break;
                }
                Some(Said::Alias(target)) => {
                    records.push(record(&name, 5, 60, &wire(target)));
                    name = (*target).to_owned();
                }
                Some(Said::At(..)) | None => break,
            }
        }
        let mut reply = question[..end].to_vec();
        reply[2] |= 0x80;
        reply[3] = if names.contains_key(&name) { 0 } else { 3 };
        reply[6..12].copy_from_slice(&[0, records.len() as u8, 0, 0, 0, 0]);
        reply.extend(records.concat());
        reply
    }
}

fn wire(name: &str) -> Vec<u8> {
    let mut wire: Vec<u8> = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    wire.push(0);
    wire
}

fn record(owner: &str, kind: u8, ttl: u32, data: &[u8]) -> Vec<u8> {
    [&wire(owner)[..], &[0, kind, 0, 1], &ttl.to_be_bytes(), &(data.len() as u16).to_be_bytes(), data].concat()
}
