//! Room on the disk that holds the data. Sandboxes may fill it to the last byte; what frees it must still be possible.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path};

/// What needs lasting room is refused while less than this is free, so that what is left is for what ends and deletes.
pub const FLOOR_BYTES: u64 = 16 << 20;
/// A start needs a little room, for the database's shared memory among others. It is kept in a file that a start on a
/// full disk gives up.
const RESERVE_BYTES: u64 = 1 << 20;
const RESERVE: &str = "reserve";

/// What somebody without privileges could still write.
pub fn free_bytes(data_dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(data_dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Gives the reserve up, if the disk is full. Returns whether it was.
pub fn give_up_reserve(data_dir: &Path) -> io::Result<bool> {
    let is_full = free_bytes(data_dir)? < RESERVE_BYTES;
    if is_full {
        match fs::remove_file(data_dir.join(RESERVE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(is_full)
}

/// Makes the reserve, unless it is there or there is no room for it.
pub fn keep_reserve(data_dir: &Path) -> io::Result<()> {
    let path = data_dir.join(RESERVE);
    if path.exists() || free_bytes(data_dir)? < FLOOR_BYTES {
        return Ok(());
    }
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
    let filled = match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES) {
        // Not every filesystem can.
        Err(rustix::io::Errno::OPNOTSUPP) => io::Write::write_all(&mut &file, &vec![0; RESERVE_BYTES as usize]),
        done => done.map_err(Into::into),
    };
    // Half of it would be taken for all of it.
    filled.inspect_err(|_| drop(fs::remove_file(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_stays_while_there_is_room() {
        let dir = std::env::temp_dir().join(crate::random_id("sandbar-room-"));
        fs::create_dir_all(&dir).unwrap();
        for _ in 0..2 {
            keep_reserve(&dir).unwrap();
            assert_eq!(fs::metadata(dir.join(RESERVE)).unwrap().len(), RESERVE_BYTES);
            assert!(!give_up_reserve(&dir).unwrap());
        }
        assert!(free_bytes(&dir.join("no")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
