//! The TCP ports on which servers inside a sandbox listen, as the kernel tells them.
//!
//! Sources: proc_pid_net(5); Linux `net/ipv4/tcp_ipv4.c` (`get_tcp4_sock`) and `net/ipv6/tcp_ipv6.c`: an address is printed as hexadecimal
//! words of the machine's own byte order, and those that listen come first.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::Runtime;

/// Bytes of a table that are read; a sandbox decides how many connections it has.
const TABLE_BYTES_MAX: u64 = 1 << 20;
/// The state of a socket that listens.
const LISTENS: &str = "0A";

impl Runtime {
    /// The ports on which somebody listens that is reached from the host: on a loopback address, or on all. Blocks for the kernel.
    pub fn listening_ports(&self) -> io::Result<BTreeSet<u16>> {
        let mut ports = BTreeSet::new();
        for table in ["tcp", "tcp6"] {
            match File::open(format!("/proc/{}/net/{table}", self.pid)) {
                Ok(file) => {
                    let mut text = String::new();
                    file.take(TABLE_BYTES_MAX).read_to_string(&mut text)?;
                    ports.extend(text.lines().filter_map(listens_on));
                }
                // A machine without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // Where the host itself listens.
        ports.remove(&sandbar_linux::net::PROXY_PORT);
        // The pid may have become somebody else's.
        if self.has_ended() { Ok(BTreeSet::new()) } else { Ok(ports) }
    }
}

fn listens_on(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    let (addr, port) = local.split_once(':')?;
    let is_reached = match address(addr)?.to_canonical() {
        IpAddr::V4(addr) => addr == Ipv4Addr::LOCALHOST || addr.is_unspecified(),
        IpAddr::V6(addr) => addr == Ipv6Addr::LOCALHOST || addr.is_unspecified(),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTENS && is_reached).then_some(port)
}

fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..][..4].copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn only_who_listens_where_the_host_connects_counts() {
        for (line, port) in [
            ("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", None),
            ("   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0", Some(3000)),
            ("   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0", Some(8080)),
            ("   2: 0100007F:0BB8 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 20 4 30 10 -1", None),
            ("   3: 0200007F:0BB9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0", None),
            ("   4: 00000000000000000000000000000000:1388 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1", Some(5000)),
            ("   5: 00000000000000000000000001000000:1389 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1", Some(5001)),
            ("   6: 0000000000000000FFFF00000100007F:138A 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1", Some(5002)),
            ("   7: B80D0120000000000000000001000000:138B 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1", None),
            ("   8: nonsense:0BB8 x 0A", None),
            ("", None),
        ] {
            assert_eq!(listens_on(line), port, "{line}");
        }
    }
}
