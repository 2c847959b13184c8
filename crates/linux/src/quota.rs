//! How much disk a directory uses and may use.
use std::{
    collections::HashSet,
    ffi::{CString, OsStr},
    fs, io,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

/// How the limit of a directory is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskLimit {
    /// The kernel refuses writes beyond it: ext4 or xfs with project quotas switched on.
    ProjectQuota {
        /// The block device that carries the quota.
        device: PathBuf,
        /// Which of the two dialects it speaks.
        xfs: bool,
    },
    /// Somebody has to look ([`usage_bytes`]) and act. Also on btrfs, whose quota groups need one subvolume for each directory.
    Watcher,
}

/// A directory whose limit could not be set.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// The directory could not be given its project id.
    #[error("could not set the project id of {path}: {source}", path = path.display())]
    Project {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The limit was refused.
    #[error("could not set the disk limit on {path}: {source}", path = path.display())]
    Limit {
        /// The device.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

// From linux/quota.h and linux/dqblk_xfs.h.
const PRJQUOTA: i32 = 2;
const Q_GETINFO: i32 = 0x80_0005;
const Q_SETQUOTA: i32 = 0x80_0008;
const QIF_LIMITS: u32 = 1 | 2;
const Q_XSETQLIM: i32 = 0x5804;
const Q_XGETQSTAT: i32 = 0x5805;
const XFS_PROJECT_ENFORCED: u16 = 1 << 5;
const FS_DQUOT_VERSION: i8 = 1;
const FS_PROJ_QUOTA: i8 = 2;
const FS_DQ_LIMITS: u16 = 0b1111;
/// The unit of ext4's limits.
const QUOTA_BLOCK_BYTES: u64 = 1024;
/// What a file costs at least, however empty: a filesystem has only so many, and they are everybody's.
const FILE_BYTES_MIN: u64 = 4096;
/// Length of a path relative to a base; with one name more it is below the kernel's limit of 4096.
const WAY_BYTES_MAX: usize = 3072;
/// How many bases may follow one another, each an open file.
const BASES_MAX: u32 = 32;
/// The unit of xfs's limits, and of `st_blocks`.
const BASIC_BLOCK_BYTES: u64 = 512;

// From linux/fs.h.
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct IfDqblk {
    bhardlimit: u64,
    bsoftlimit: u64,
    curspace: u64,
    ihardlimit: u64,
    isoftlimit: u64,
    curinodes: u64,
    btime: u64,
    itime: u64,
    valid: u32,
}

/// `struct fs_disk_quota`, as far as it is written here; the rest stays zero.
#[repr(C)]
#[derive(Default)]
struct FsDiskQuota {
    version: i8,
    flags: i8,
    fieldmask: u16,
    id: u32,
    blk_hardlimit: u64,
    blk_softlimit: u64,
    ino_hardlimit: u64,
    ino_softlimit: u64,
    rest: [u64; 9],
}

/// What the filesystem of this directory offers. Anything unclear is [`DiskLimit::Watcher`].
pub fn kind(dir: &Path) -> DiskLimit {
    let Some((device, filesystem)) = fs::read_to_string("/proc/self/mountinfo").ok().and_then(|text| {
        let dev = fs::metadata(dir).ok()?.dev();
        find_mount(&text, libc::major(dev), libc::minor(dev))
    }) else {
        return DiskLimit::Watcher;
    };
    let xfs = filesystem == "xfs";
    let on = match filesystem.as_str() {
        "xfs" => {
            // struct fs_quota_stat is 80 bytes: version, then the flags.
            let mut state = [0u16; 40];
            quotactl(Q_XGETQSTAT, &device, 0, &mut state).is_ok() && state[1] & XFS_PROJECT_ENFORCED != 0
        }
        // struct if_dqinfo is 24 bytes.
        "ext4" => quotactl(Q_GETINFO, &device, 0, &mut [0u64; 3]).is_ok(),
        _ => false,
    };
    if on { DiskLimit::ProjectQuota { device, xfs } } else { DiskLimit::Watcher }
}

/// Limits a directory, and what will be made in it, to `bytes` and to one file for every 4 KiB of them; `id` names it and must be its own on this filesystem. Best done while it is empty.
/// Says whether the kernel holds the limit: `false` means that the caller has to watch.
///
/// # Errors
/// When the filesystem has project quotas but refuses this one.
pub fn apply(dir: &Path, id: u32, bytes: u64) -> Result<bool, QuotaError> {
    let DiskLimit::ProjectQuota { device, xfs } = kind(dir) else {
        return Ok(false);
    };
    set_project(dir, id).map_err(|source| QuotaError::Project { path: dir.to_owned(), source })?;
    let files = bytes.div_ceil(FILE_BYTES_MIN);
    let set = if xfs {
        let limit = bytes.div_ceil(BASIC_BLOCK_BYTES);
        let mut quota = FsDiskQuota {
            version: FS_DQUOT_VERSION,
            flags: FS_PROJ_QUOTA,
            fieldmask: FS_DQ_LIMITS,
            id,
            blk_hardlimit: limit,
            blk_softlimit: limit,
            ino_hardlimit: files,
            ino_softlimit: files,
            ..FsDiskQuota::default()
        };
        quotactl(Q_XSETQLIM, &device, id, &mut quota)
    } else {
        let limit = bytes.div_ceil(QUOTA_BLOCK_BYTES);
        let mut quota = IfDqblk { bhardlimit: limit, bsoftlimit: limit, ihardlimit: files, isoftlimit: files, valid: QIF_LIMITS, ..IfDqblk::default() };
        quotactl(Q_SETQUOTA, &device, id, &mut quota)
    };
    set.map_err(|source| QuotaError::Limit { path: device, source })?;
    Ok(true)
}

/// Bytes on disk below a directory: blocks, not lengths, 4 KiB at least for each file, and each file once however many names it has. Links are not followed, other
/// filesystems not entered, and what vanishes meanwhile is left out. `u64::MAX` when directories lie deeper than anyone but an attacker puts them.
///
/// # Errors
/// When the directory itself cannot be read.
pub fn usage_bytes(dir: &Path) -> io::Result<u64> {
    use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
    const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);
    let top = rustix::fs::open(dir, FLAGS, Mode::empty())?;
    let mut bytes = blocks_of(&rustix::fs::fstat(&top)?);
    let mut seen = HashSet::new();
    // Directories still to be read, each as a base, how many bases there are above it, and the way from there. A stack of our own, since how deep they
    // are is the sandbox's choice; and a new base now and then, since no single path reaches the deepest.
    let mut waiting = vec![(Rc::new(top), 0, PathBuf::from("."))];
    while let Some((base, bases, way)) = waiting.pop() {
        let opened = rustix::fs::openat2(&*base, &way, FLAGS, Mode::empty(), BENEATH);
        // Gone meanwhile.
        let Ok(here) = opened.map(Rc::new) else { continue };
        let Ok(mut entries) = Dir::read_from(&*here) else { continue };
        let (base, bases, way) = if way.as_os_str().len() > WAY_BYTES_MAX { (here.clone(), bases + 1, PathBuf::from(".")) } else { (base, bases, way) };
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Of the entry itself, not of what it may point to.
            let Ok(stat) = rustix::fs::statat(&*here, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                if bases >= BASES_MAX {
                    return Ok(u64::MAX);
                }
                waiting.push((base.clone(), bases, way.join(OsStr::from_bytes(name.to_bytes()))));
            } else if stat.st_nlink > 1 && !seen.insert(stat.st_ino) {
                continue;
            }
            bytes += blocks_of(&stat).max(FILE_BYTES_MIN);
        }
    }
    Ok(bytes)
}

fn blocks_of(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BASIC_BLOCK_BYTES
}

/// Source and type of the mount whose device number this is.
fn find_mount(mountinfo: &str, major: u32, minor: u32) -> Option<(PathBuf, String)> {
    let wanted = format!("{major}:{minor}");
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        if mount.split(' ').nth(2)? != wanted {
            return None;
        }
        let mut fields = filesystem.split(' ');
        let kind = fields.next()?.to_owned();
        Some((PathBuf::from(fields.next()?), kind))
    })
}

fn set_project(dir: &Path, id: u32) -> io::Result<()> {
    let file = fs::File::open(dir)?;
    let mut attributes = FsXattr::default();
    // SAFETY: the request writes one fsxattr to a live, mutable one.
    if unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, std::ptr::from_mut(&mut attributes)) } != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.projid = id;
    attributes.xflags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the request reads one fsxattr.
    if unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, std::ptr::from_ref(&attributes)) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `data` is the structure that belongs to the command.
fn quotactl<T>(command: i32, device: &Path, id: u32, data: &mut T) -> io::Result<()> {
    let device = CString::new(device.as_os_str().as_bytes())?;
    let command = (command << 8) | PRJQUOTA;
    // SAFETY: the device is a C string; each caller gives a structure at least as large as its command's.
    let result = unsafe { libc::quotactl(command, device.as_ptr(), id as i32, std::ptr::from_mut(data).cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(size_of::<IfDqblk>(), 72);
        assert_eq!(size_of::<FsDiskQuota>(), 112);
    }

    #[test]
    fn hard_links_count_once_and_links_are_not_followed() {
        let dir = std::env::temp_dir().join(format!("sandbar-usage-{}", std::process::id()));
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/big"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(dir.join("a/b/big"), dir.join("again")).unwrap();
        std::os::unix::fs::symlink("/usr", dir.join("elsewhere")).unwrap();
        // Blocks are given when the data reaches the disk.
        fs::File::open(dir.join("again")).unwrap().sync_all().unwrap();
        let bytes = usage_bytes(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert!((1 << 20..(1 << 20) + 64 * 1024).contains(&bytes), "{bytes}");
        assert!(usage_bytes(&dir).is_err());
    }

    #[test]
    fn nothing_lies_too_deep_to_be_counted() {
        use rustix::fs::{CWD, Mode, OFlags};
        let dir = std::env::temp_dir().join(format!("sandbar-deep-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let name = "d".repeat(200);
        let mut at = rustix::fs::openat(CWD, &dir, OFlags::PATH, Mode::empty()).unwrap();
        for depth in 0..1000 {
            if depth == 100 {
                let flags = OFlags::CREATE | OFlags::WRONLY;
                let file = fs::File::from(rustix::fs::openat(&at, "big", flags, Mode::RWXU).unwrap());
                io::Write::write_all(&mut &file, &vec![1; 8 << 20]).unwrap();
                file.sync_all().unwrap();
                let bytes = usage_bytes(&dir).unwrap();
                assert!((8 << 20..(10 << 20)).contains(&bytes), "{bytes}");
            }
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &name, OFlags::PATH, Mode::empty()).unwrap();
        }
        assert_eq!(usage_bytes(&dir).unwrap(), u64::MAX);
        assert!(std::process::Command::new("rm").arg("-rf").arg(&dir).status().unwrap().success());
    }

    #[test]
    fn empty_files_cost_something() {
        let dir = std::env::temp_dir().join(format!("sandbar-empty-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for n in 0..100 {
            fs::write(dir.join(n.to_string()), "").unwrap();
        }
        let bytes = usage_bytes(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert!(bytes >= 100 * FILE_BYTES_MIN, "{bytes}");
    }

    #[test]
    fn the_mount_of_a_device_is_found() {
        let text = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,prjquota\n23 22 0:5 / /proc rw - proc proc rw\n";
        assert_eq!(find_mount(text, 254, 0), Some((PathBuf::from("/dev/vda"), "ext4".to_owned())));
        assert_eq!(find_mount(text, 9, 9), None);
    }
}
