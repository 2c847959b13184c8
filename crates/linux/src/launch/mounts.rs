//! Mounts that need the host's rights: made here, detached, and handed to the child by file descriptor, so that no path of the
//! sandbox is ever walked with those rights.
use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, chown},
    },
    path::Path,
};

use rustix::{
    fs::{CWD, StatVfsMountFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags},
};

use super::{LaunchError, LaunchSpec, Lower, Step, attached, shift};

/// fsconfig takes strings up to this, the end included.
const OPTION_MAX_BYTES: usize = 256;

/// Detached mounts for one sandbox.
pub(super) struct Mounts {
    /// The root first, then the binds in order.
    pub fds: Vec<OwnedFd>,
    /// The shifted layers below the root, which has its own hold on them. Letting go of a detached mount waits for every
    /// processor, so that is done while the child works.
    _layers: Vec<OwnedFd>,
}

/// Gives a directory to the first id of the range. An idmapped mount of the upper layer would not do instead: overlayfs cannot make its work directory
/// by one and silently mounts read-only.
pub(super) fn give_to_range(dir: &Path, uid_base: u32) -> Result<(), LaunchError> {
    let at = |e| LaunchError::host(Step::Prepare, Some(dir.to_owned()), e);
    let metadata = fs::symlink_metadata(dir).map_err(at)?;
    if !metadata.is_dir() {
        return Err(at(io::Error::from_raw_os_error(libc::ENOTDIR)));
    }
    if metadata.uid() != uid_base || metadata.gid() != uid_base {
        chown(dir, Some(uid_base), Some(uid_base)).map_err(at)?;
    }
    Ok(())
}

/// Makes the root and all binds, with the child's user namespace for the id shift.
pub(super) fn make(spec: &LaunchSpec<'_>, ids: BorrowedFd<'_>) -> Result<Mounts, LaunchError> {
    let (root, layers) = root(spec, ids)?;
    let mut fds = vec![root];
    for bind in spec.binds {
        let tree = bind_tree(bind, ids).map_err(|e| LaunchError::host(Step::BindSource, Some(bind.source.clone()), e))?;
        fds.push(tree);
    }
    for tmpfs in spec.tmpfs {
        fds.push(memory(spec.uid_base, tmpfs.bytes).map_err(|e| LaunchError::host(Step::BindSource, Some(tmpfs.target.clone()), e))?);
    }
    Ok(Mounts { fds, _layers: layers })
}

fn root(spec: &LaunchSpec<'_>, ids: BorrowedFd<'_>) -> Result<(OwnedFd, Vec<OwnedFd>), LaunchError> {
    let mut lowers = Vec::with_capacity(spec.lowers.len());
    for lower in spec.lowers {
        lowers.push(shifted(lower, spec.uid_base, ids)?);
    }
    let failed = |e: io::Error| LaunchError::host(Step::Overlay, Some(spec.upper.to_owned()), e);
    if attached::needed() {
        return Ok((attached::overlay(spec, lowers).map_err(failed)?, Vec::new()));
    }
    let refusal = match overlay(spec, &lowers) {
        Ok(root) => return Ok((root, lowers)),
        // EINVAL: kernels before 6.15 take no detached mount as a layer.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => e,
        Err(e) => return Err(failed(e)),
    };
    // Where this fails too, the first failure was about something else, and the newer calls say more about it.
    let root = attached::overlay(spec, lowers).map_err(|e| failed(io::Error::new(e.kind(), format!("{e} (at first: {refusal})"))))?;
    attached::remember();
    Ok((root, Vec::new()))
}

fn overlay(spec: &LaunchSpec<'_>, lowers: &[OwnedFd]) -> io::Result<OwnedFd> {
    if attached::refused() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    stack(fs.as_fd(), lowers)?;
    let upper = open_dir(spec.upper)?;
    let work = open_dir(spec.work)?;
    option(fs.as_fd(), c"upperdir", format!("/proc/self/fd/{}", upper.as_raw_fd()).as_bytes())?;
    option(fs.as_fd(), c"workdir", format!("/proc/self/fd/{}", work.as_raw_fd()).as_bytes())?;
    // Package managers rename directories of lower layers; without this they get EXDEV.
    option(fs.as_fd(), c"redirect_dir", b"on")?;
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|e| explained(fs.as_fd(), e.into()))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    check_writable(mount.as_fd())?;
    Ok(mount)
}

/// Names the layers, top first.
fn stack(fs: BorrowedFd<'_>, lowers: &[OwnedFd]) -> io::Result<()> {
    let paths: Vec<String> = lowers.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    let joined = paths.join(":");
    if joined.len() < OPTION_MAX_BYTES {
        return option(fs, c"lowerdir", joined.as_bytes());
    }
    // One option per layer, which every kernel that takes detached layers knows.
    paths.iter().try_for_each(|path| option(fs, c"lowerdir+", path.as_bytes()))
}

/// A layer with the ids of the sandbox.
fn shifted(lower: &Lower, uid_base: u32, ids: BorrowedFd<'_>) -> Result<OwnedFd, LaunchError> {
    let at = |e: io::Error| LaunchError::host(Step::Overlay, Some(lower.path.clone()), e);
    let tree = clone_tree(&lower.path).map_err(at)?;
    let shift = if lower.base == 0 {
        set_attributes(tree.as_fd(), libc::MOUNT_ATTR_IDMAP, Some(ids))
    } else if lower.base == uid_base {
        Ok(())
    } else {
        // Unshifted, everything in it would be nobody's: that is no layer to run on.
        let from = shift::namespace(lower.base, uid_base).map_err(at)?;
        set_attributes(tree.as_fd(), libc::MOUNT_ATTR_IDMAP, Some((*from).as_fd())).map_err(at)?;
        return Ok(tree);
    };
    match shift {
        Ok(()) => Ok(tree),
        Err(e) if cannot_shift(&e) => Ok(tree),
        Err(e) => Err(at(e)),
    }
}

/// A folder in memory of the sandbox's own, whose root is its root's.
fn memory(uid_base: u32, bytes: u64) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [(c"size", bytes.to_string()), (c"mode", "0755".to_owned()), (c"uid", uid_base.to_string()), (c"gid", uid_base.to_string())] {
        option(fs.as_fd(), key, value.as_bytes())?;
    }
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|e| explained(fs.as_fd(), e.into()))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A read-only view of layers on top of each other, as the owner of the range sees it: detached, to be walked by descriptor.
pub fn overlay_view(lowers: &[Lower], uid_base: u32) -> Result<OwnedFd, LaunchError> {
    let failed = |e: io::Error| LaunchError::host(Step::Overlay, None, e);
    // Layers that are nobody's are shifted as a launch does, by a namespace of the same shape.
    let own = shift::shared(uid_base).map_err(failed)?;
    let mut trees = Vec::with_capacity(lowers.len() + 1);
    for lower in lowers {
        trees.push(shifted(lower, uid_base, (*own).as_fd())?);
    }
    if let [only] = trees.as_slice() {
        return only.try_clone().map_err(failed);
    }
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| failed(e.into()))?;
    stack(fs.as_fd(), &trees).map_err(failed)?;
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|e| failed(explained(fs.as_fd(), e.into())))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_RDONLY;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| failed(e.into()))
}

/// Overlayfs does not fail when it cannot use its work directory; it mounts read-only.
pub(super) fn check_writable(mount: BorrowedFd<'_>) -> io::Result<()> {
    if rustix::fs::fstatvfs(mount)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the kernel mounted the overlay read-only; the work directory cannot be used"));
    }
    Ok(())
}

fn bind_tree(bind: &super::Bind, ids: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let tree = clone_tree(&bind.source)?;
    let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if bind.read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    if bind.idmap {
        // All or nothing, so a filesystem that cannot shift is told again without.
        match set_attributes(tree.as_fd(), attributes | libc::MOUNT_ATTR_IDMAP, Some(ids)) {
            Ok(()) => return Ok(tree),
            Err(e) if cannot_shift(&e) => {}
            Err(e) => return Err(e),
        }
    }
    set_attributes(tree.as_fd(), attributes, None)?;
    Ok(tree)
}

/// The filesystem does not know id shifts, or this mount is shifted already.
fn cannot_shift(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPERM | libc::ENOSYS))
}

pub(super) fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Takes a detached mount out of the group of mounts that follow each other.
pub(super) fn keep_private(tree: BorrowedFd<'_>) -> io::Result<()> {
    set_attributes(tree, 0, None)
}

/// Sets attributes of a detached mount, the id shift when `ids` is given, and keeps it private: a clone of a shared mount is shared, so without that
/// whatever the host mounts beneath the original later would appear inside.
fn set_attributes(tree: BorrowedFd<'_>, set: u64, ids: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let attr =
        libc::mount_attr { attr_set: set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: ids.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())) };
    // SAFETY: the path is an empty C string, `attr` a whole structure of the size that is given; the kernel only reads both.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, std::ptr::from_ref(&attr), size_of::<libc::mount_attr>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn option(fs: BorrowedFd<'_>, key: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    let value = CString::new(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    rustix::mount::fsconfig_set_string(fs, key, value.as_c_str()).map_err(|e| explained(fs, e.into()))
}

/// Adds what the kernel wrote into the filesystem context. The kind stays; the number is lost where there are words.
fn explained(fs: BorrowedFd<'_>, error: io::Error) -> io::Error {
    let mut text = [0u8; 512];
    match rustix::io::read(fs, &mut text) {
        Ok(n) if n > 0 => io::Error::new(error.kind(), format!("{error}: {}", String::from_utf8_lossy(&text[..n]).trim())),
        Ok(_) | Err(_) => error,
    }
}
