//! Archives that people should not send, and those that they should. Runs as root, like the product.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Cursor, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use proptest::prelude::*;
use sandbar_tree::{
    ArchiveError, CopyOptions, Limits, Member, MemberKind, Unpacked, UnpackedLayer, adopt_folders, copy, difference, hash, measure, members, merge, pack_layer,
    pack_tar, pack_zip, sync, unpack, unpack_layer,
};

const LONG_AGO: rustix::fs::Timestamps =
    rustix::fs::Timestamps { last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 }, last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 } };
const LIMITS: Limits = Limits { entries_max: 1000, bytes_max: 1 << 20 };

/// A folder of one test, with a neighbour that must stay as it is.
struct Room(PathBuf);

impl Room {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!("sandbar-zoo-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("in")).unwrap();
        fs::write(dir.join("neighbour"), "untouched").unwrap();
        Self(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn unpack(&self, archive: &[u8]) -> Result<Unpacked, ArchiveError> {
        let result = unpack(Cursor::new(archive), &self.0.join("in"), &LIMITS);
        assert_eq!(fs::read_to_string(self.0.join("neighbour")).unwrap(), "untouched");
        let outside: Vec<_> = fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name()).filter(|name| name != "in" && name != "neighbour").collect();
        assert!(outside.is_empty(), "{outside:?}");
        result
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A tar whose names are written as they are, whatever they are.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: u8, name: &[u8], link: &[u8], mode: u32, contents: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        let raw = header.as_mut_bytes();
        raw[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        raw[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        raw[156] = kind;
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(1_000_000);
        header.set_mtime(1_700_000_000);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, contents: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), b"", 0o644, contents)
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.entry(b'2', name.as_bytes(), to.as_bytes(), 0o777, b"")
    }

    fn done(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn refusal(archive: &[u8]) -> String {
    Room::new().unpack(archive).expect_err("a refusal").to_string()
}

#[test]
fn what_is_refused_and_why() {
    let long = "n".repeat(300);
    let deep = "d/".repeat(250) + "f";
    let too_long = Tar::default().entry(b'L', b"././@LongLink", b"", 0o644, long.as_bytes()).file("x", b"").done();
    let too_deep = Tar::default().entry(b'L', b"././@LongLink", b"", 0o644, deep.as_bytes()).file("x", b"").done();
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("absolute path", Tar::default().file("/etc/x", b"").done()),
        ("\"..\" in its path", Tar::default().file("a/../../x", b"").done()),
        ("link to an absolute path", Tar::default().link("l", "/etc").done()),
        ("leads out of the archive", Tar::default().link("a/l", "../../x").done()),
        ("leads out of the archive", Tar::default().link("l", "a/../../x").done()),
        ("through a link", Tar::default().file("d/f", b"").link("l", "d").file("l/g", b"").done()),
        ("outside the archive", Tar::default().entry(b'1', b"h", b"../../neighbour", 0o644, b"").done()),
        ("did not bring before", Tar::default().entry(b'1', b"h", b"nope/x", 0o644, b"").done()),
        ("did not bring as a file", Tar::default().link("l", "f").entry(b'1', b"h", b"l", 0o644, b"").done()),
        ("devices", Tar::default().entry(b'3', b"null", b"", 0o666, b"").done()),
        ("devices", Tar::default().entry(b'4', b"sda", b"", 0o666, b"").done()),
        ("pipes", Tar::default().entry(b'6', b"pipe", b"", 0o666, b"").done()),
        ("twice", Tar::default().file("f", b"1").file("f", b"2").done()),
        ("twice", Tar::default().file("f", b"1").link("f", "g").done()),
        ("no folder", Tar::default().file("f", b"1").entry(b'5', b"f/", b"", 0o755, b"").done()),
        ("more than 255 bytes", too_long),
        ("more than 200 folders deep", too_deep),
        ("sparse", Tar::default().entry(b'S', b"s", b"", 0o644, b"").done()),
        ("more than the allowed 1048576 bytes", Tar::default().file("big", &vec![0; (1 << 20) + 1]).done()),
        ("more than the allowed 1000 entries", (0..1001).fold(Tar::default(), |tar, n| tar.file(&n.to_string(), b"")).done()),
        ("extended header has more than", Tar::default().entry(b'L', b"././@LongLink", b"", 0o644, &vec![b'a'; 2 << 20]).done()),
        ("cannot be read", b"this is no archive, but it is longer than one block of a tar would be".repeat(20)),
    ];
    for (rule, archive) in table {
        let text = refusal(&archive);
        assert!(text.contains(rule), "want {rule:?}, got {text:?}");
    }
}

#[test]
fn a_bomb_is_stopped_by_what_it_unpacks_to() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&Tar::default().file("zeros", &vec![0; 64 << 20]).done()).unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 100_000);
    assert!(refusal(&packed).contains("more than the allowed"));

    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("zeros", options).unwrap();
    zip.write_all(&vec![0; 64 << 20]).unwrap();
    assert!(refusal(&zip.finish().unwrap().into_inner()).contains("more than the allowed"));
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("../up", options).unwrap();
    assert!(refusal(&zip.finish().unwrap().into_inner()).contains("\"..\""));
}

#[test]
fn a_cut_or_changed_archive_is_refused() {
    let whole = Tar::default().file("a", &[7; 5000]).file("b", b"x").done();
    for end in [100, 600, 3000, 5200] {
        assert!(Room::new().unpack(&whole[..end]).is_err(), "cut at {end}");
    }
    let mut changed = whole.clone();
    changed[10] ^= 1;
    assert!(refusal(&changed).contains("cannot be read"));
}

#[test]
fn what_is_unpacked_and_how() {
    let room = Room::new();
    let archive = Tar::default()
        .entry(b'5', b"d/", b"", 0o750, b"")
        .entry(b'0', b"d/setuid", b"", 0o6755, b"x")
        .entry(b'0', b"d/\xff\xfe", b"", 0o600, b"raw name")
        .entry(b'1', b"hard", b"d/setuid", 0o644, b"")
        .link("d/l", "../hard")
        .file("./dot/./x", b"dot")
        .file("holes", &vec![0; 500_000])
        .done();
    let done = room.unpack(&archive).unwrap();
    assert_eq!(done.files, 7);
    let top = room.0.join("in");
    let setuid = fs::metadata(top.join("d/setuid")).unwrap();
    assert_eq!((setuid.mode() & 0o7777, setuid.uid(), setuid.gid(), setuid.nlink(), setuid.mtime()), (0o755, 1000, 0, 2, 1_700_000_000));
    assert_eq!(fs::metadata(top.join("d")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(fs::metadata(top.join("d")).unwrap().mtime(), 1_700_000_000, "what came into it later does not count");
    assert_eq!(fs::read(top.join("d").join(std::ffi::OsStr::from_bytes(b"\xff\xfe"))).unwrap(), b"raw name");
    assert_eq!(fs::read_link(top.join("d/l")).unwrap(), Path::new("../hard"));
    assert_eq!(fs::read(top.join("dot/x")).unwrap(), b"dot");
    let holes = fs::metadata(top.join("holes")).unwrap();
    assert_eq!((holes.len(), holes.blocks()), (500_000, 0));
}

/// A tree with a bit of everything.
fn furnish(top: &Path) {
    fs::create_dir_all(top.join("a/b")).unwrap();
    fs::write(top.join("a/f"), b"contents").unwrap();
    fs::write(top.join("a/b/empty"), b"").unwrap();
    fs::hard_link(top.join("a/f"), top.join("hard")).unwrap();
    symlink("a/f", top.join("soft")).unwrap();
    fs::set_permissions(top.join("a/b"), fs::Permissions::from_mode(0o2711)).unwrap();
    std::os::unix::fs::lchown(top.join("soft"), Some(5), Some(6)).unwrap();
    std::os::unix::fs::chown(top.join("a/f"), Some(1000), Some(70_000)).unwrap();
    rustix::fs::setxattr(top.join("a/f"), c"user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(top.join("a"), c"trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, top.join("gone"), rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty(), 0).unwrap();
    for (name, kind) in [("pipe", rustix::fs::FileType::Fifo), ("socket", rustix::fs::FileType::Socket)] {
        rustix::fs::mknodat(rustix::fs::CWD, top.join(name), kind, rustix::fs::Mode::empty(), 0).unwrap();
        fs::set_permissions(top.join(name), fs::Permissions::from_mode(0o622)).unwrap();
        std::os::unix::fs::chown(top.join(name), Some(7), Some(8)).unwrap();
    }
    fs::hard_link(top.join("pipe"), top.join("a/pipe")).unwrap();
    let sparse = fs::File::create(top.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    fs::write(top.join("n\u{e9}w \n"), b"odd name").unwrap();
}

#[test]
fn a_copy_is_the_same_tree_in_another_range() {
    let room = Room::new();
    let (from, to) = (room.at("from"), room.at("to"));
    furnish(&from);
    let copied = copy(&from, &to, &CopyOptions { from_base: 0, to_base: 1_000_000, bytes_max: None }).unwrap();
    assert_eq!(copied.bytes, 16, "holes are not copied");
    let file = fs::metadata(to.join("a/f")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.nlink()), (1_001_000, 1_000_000, 2), "an id beyond the range becomes its root");
    assert_eq!(fs::metadata(to.join("sparse")).unwrap().blocks(), 0);
    assert_eq!(fs::symlink_metadata(to.join("gone")).unwrap().rdev(), 0);
    let mut value = [0u8; 4];
    assert_eq!(rustix::fs::getxattr(to.join("a"), c"trusted.overlay.opaque", &mut value).unwrap(), 1);
    // The one owner that was out of range aside.
    std::os::unix::fs::chown(from.join("a/f"), Some(1000), Some(0)).unwrap();
    assert_eq!(hash(&from, 0).unwrap(), hash(&to, 1_000_000).unwrap());
    assert_eq!(measure(&from).unwrap().inodes, measure(&to).unwrap().inodes);
    let small = CopyOptions { bytes_max: Some(10), ..CopyOptions::default() };
    assert!(copy(&from, &room.at("small"), &small).is_err());
}

#[test]
fn what_was_packed_unpacks_to_the_same() {
    let room = Room::new();
    let from = room.at("from");
    furnish(&from);
    for not_packed in ["gone", "pipe", "a/pipe", "socket"] {
        fs::remove_file(from.join(not_packed)).unwrap();
    }
    std::os::unix::fs::chown(from.join("a/f"), Some(1000), Some(7)).unwrap();
    fs::set_permissions(from.join("a/b"), fs::Permissions::from_mode(0o711)).unwrap();
    rustix::fs::removexattr(from.join("a/f"), c"user.k").unwrap();
    let long = "x".repeat(200);
    fs::write(from.join(&long), b"long name").unwrap();
    let mut packed = Vec::new();
    pack_tar(&from, &mut packed).unwrap();
    let to = room.at("to");
    unpack(Cursor::new(&packed), &to, &Limits { entries_max: 100, bytes_max: 100 << 20 }).unwrap();
    assert_eq!(hash(&from, 0).unwrap(), hash(&to, 0).unwrap());
    let mut again = Vec::new();
    pack_tar(&to, &mut again).unwrap();
    assert_eq!(packed.len(), again.len());

    let mut zipped = Vec::new();
    pack_zip(&from, &mut zipped).unwrap();
    let unzipped = room.at("unzipped");
    unpack(Cursor::new(&zipped), &unzipped, &Limits { entries_max: 100, bytes_max: 100 << 20 }).unwrap();
    assert_eq!(fs::read(unzipped.join("a/f")).unwrap(), b"contents");
    assert_eq!(fs::read_link(unzipped.join("soft")).unwrap(), Path::new("a/f"));
    assert_eq!(fs::metadata(unzipped.join("a/b")).unwrap().mode() & 0o777, 0o711);
}

#[test]
fn a_difference_on_top_of_the_one_makes_the_other() {
    let room = Room::new();
    let (below, now, layer) = (room.at("below"), room.at("now"), room.at("layer"));
    for name in ["same", "changed", "gone", "to-dir"] {
        fs::write(below.join(name), name).unwrap();
    }
    fs::create_dir_all(below.join("d/deep")).unwrap();
    fs::create_dir_all(below.join("to-file")).unwrap();
    fs::write(below.join("to-file/x"), "x").unwrap();
    // The same inodes, as an overlay shows what was not changed.
    for name in ["same", "changed", "gone", "to-dir"] {
        fs::hard_link(below.join(name), now.join(name)).unwrap();
    }
    fs::create_dir_all(now.join("d/deep")).unwrap();
    for top in [&below, &now] {
        fs::create_dir(top.join("named")).unwrap();
        rustix::fs::utimensat(rustix::fs::CWD, top.join("named"), &LONG_AGO, rustix::fs::AtFlags::empty()).unwrap();
    }
    rustix::fs::setxattr(now.join("named"), c"user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    fs::remove_file(now.join("changed")).unwrap();
    fs::write(now.join("changed"), "other").unwrap();
    fs::remove_file(now.join("gone")).unwrap();
    fs::remove_file(now.join("to-dir")).unwrap();
    fs::create_dir(now.join("to-dir")).unwrap();
    fs::write(now.join("to-file"), "file").unwrap();
    fs::write(now.join("d/deep/new"), "new").unwrap();
    difference(&below, &now, &layer, 0, 0).unwrap();
    let names: Vec<String> = fs::read_dir(&layer).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.contains(&"same".to_owned()), "{names:?}");
    assert_eq!(fs::symlink_metadata(layer.join("gone")).unwrap().rdev(), 0);
    assert_eq!(fs::read_to_string(layer.join("changed")).unwrap(), "other");
    assert_eq!(fs::read_to_string(layer.join("d/deep/new")).unwrap(), "new");
    assert!(fs::metadata(layer.join("to-file")).unwrap().is_file());
    let mut value = [0u8; 4];
    assert_eq!(rustix::fs::getxattr(layer.join("to-dir"), c"trusted.overlay.opaque", &mut value).unwrap(), 1);
    assert_eq!(rustix::fs::getxattr(layer.join("named"), c"user.k", &mut value).unwrap(), 1, "a folder of which only an attribute changed");
}

#[test]
fn a_merge_joins_folders_and_follows_no_link() {
    let room = Room::new();
    let (from, to) = (room.at("from"), room.at("to"));
    fs::create_dir_all(from.join("d")).unwrap();
    fs::write(from.join("d/new"), "new").unwrap();
    fs::create_dir_all(to.join("sub/d")).unwrap();
    fs::write(to.join("sub/d/old"), "old").unwrap();
    merge(&from, &to, "/sub").unwrap();
    assert_eq!(fs::read_to_string(to.join("sub/d/new")).unwrap(), "new");
    assert_eq!(fs::read_to_string(to.join("sub/d/old")).unwrap(), "old");
    symlink(room.0.join("in"), to.join("out")).unwrap();
    fs::write(from.join("f"), "f").unwrap();
    assert!(merge(&from, &to, "out").is_err());
    assert!(merge(&from, &to, "../in").is_err());
    assert!(fs::read_dir(room.0.join("in")).unwrap().next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_reach_outside(mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), names in prop::collection::vec("[./a-c]{1,12}", 1..6)) {
        let mut tar = Tar::default();
        for (n, name) in names.iter().enumerate() {
            tar = match n % 3 {
                0 => tar.file(name, b"x"),
                1 => tar.link(name, &names[0]),
                _ => tar.entry(b'1', name.as_bytes(), names[0].as_bytes(), 0o644, b""),
            };
        }
        let mut bytes = tar.done();
        // What is as it was made, too.
        let _ = Room::new().unpack(&bytes);
        for (at, byte) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Room::new().unpack(&bytes);
        let room = Room::new();
        let _ = layer(&room, &bytes);
        assert_eq!(fs::read_to_string(room.0.join("neighbour")).unwrap(), "untouched");
    }
}

/// The archive as a layer in a folder of its own.
fn layer(room: &Room, archive: &[u8]) -> Result<(UnpackedLayer, PathBuf), ArchiveError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let into = room.at(&format!("layer-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    unpack_layer(archive, &into, &LIMITS).map(|done| (done, into))
}

#[test]
fn a_layer_says_what_lies_below_no_more() {
    let room = Room::new();
    let archive = Tar::default()
        .entry(b'5', b"./", b"", 0o755, b"")
        .file("etc/.wh.gone", b"")
        .entry(b'5', b"all/", b"", 0o755, b"")
        .file("all/.wh..wh..opq", b"")
        .file("all/own", b"own")
        // Gone below, and here anew: in either order.
        .file(".wh.before", b"")
        .entry(b'5', b"before/", b"", 0o700, b"")
        .entry(b'5', b"after/", b"", 0o755, b"")
        .file(".wh.after", b"")
        .file("file", b"1")
        .file(".wh.file", b"")
        .file(".wh..wh.plnk", b"a note of a filesystem")
        // Anew by what is in it alone, and a device that takes no whiteout away.
        .file(".wh.again", b"")
        .file("again/f", b"")
        .file(".wh.null", b"")
        .entry(b'3', b"null", b"", 0o666, b"")
        .done();
    let (_, top) = layer(&room, &archive).unwrap();
    let opaque = |name: &str| {
        let mut value = [0u8; 4];
        rustix::fs::getxattr(top.join(name), c"trusted.overlay.opaque", &mut value).is_ok_and(|length| &value[..length] == b"y")
    };
    let gone = fs::symlink_metadata(top.join("etc/gone")).unwrap();
    assert_eq!((gone.rdev(), gone.mode() & 0o170_000), (0, 0o020_000));
    assert!(opaque("all") && opaque("before") && opaque("after") && opaque("again") && !opaque("etc"));
    assert_eq!(fs::symlink_metadata(top.join("null")).unwrap().rdev(), 0);
    assert_eq!(fs::metadata(top.join("before")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_to_string(top.join("all/own")).unwrap(), "own");
    assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "1");
    assert!(!top.join("all/.wh..wh..opq").exists() && !top.join(".wh.before").exists());
}

#[test]
fn a_layer_keeps_what_an_image_needs_and_still_leads_nowhere() {
    let room = Room::new();
    let archive = Tar::default()
        .entry(b'0', b"bin/su", b"", 0o4755, b"x")
        .link("absolute", "/etc/passwd")
        .link("out", "../../../etc")
        .entry(b'1', b"again", b"absolute", 0o777, b"")
        .entry(b'3', b"dev/null", b"", 0o666, b"")
        .entry(b'6', b"dev/pipe", b"", 0o666, b"")
        .file("/rooted", b"r")
        .file("twice", b"1")
        .file("twice", b"2")
        .done();
    let (done, top) = layer(&room, &archive).unwrap();
    assert_eq!(done.unpacked.left_out, 2);
    assert_eq!(done.diff_sha256, hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&archive)));
    assert_eq!(fs::metadata(top.join("bin/su")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::read_link(top.join("again")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_to_string(top.join("twice")).unwrap(), "2");
    assert_eq!(fs::read_to_string(top.join("rooted")).unwrap(), "r");
    assert!(!top.join("dev/null").exists());
    // Packed in other ways it is the same layer.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&archive).unwrap();
    assert_eq!(layer(&room, &packed.finish().unwrap()).unwrap().0, done);
    assert_eq!(layer(&room, &zstd::encode_all(&archive[..], 1).unwrap()).unwrap().0, done);

    let table = [
        ("through a link", Tar::default().link("out", "/tmp").file("out/x", b"").done()),
        ("\"..\" in its path", Tar::default().file("../x", b"").done()),
        ("\"..\" in its path", Tar::default().file("a/../../.wh.x", b"").done()),
        ("through a link", Tar::default().link("out", "/tmp").file("out/.wh.x", b"").done()),
        ("outside the archive", Tar::default().entry(b'1', b"h", b"../../neighbour", 0o644, b"").done()),
        ("did not bring before", Tar::default().entry(b'1', b"h", b"nope/x", 0o644, b"").done()),
        ("takes nothing away that has a name", Tar::default().file(".wh...", b"").done()),
        ("takes nothing away that has a name", Tar::default().file("d/.wh...", b"").done()),
        ("takes nothing away that has a name", Tar::default().file(".wh..", b"").done()),
        ("takes nothing away that has a name", Tar::default().file("d/.wh.", b"").done()),
        ("takes the place of a folder", Tar::default().file("d/f", b"").file("d", b"").done()),
        ("more than the allowed 1048576 bytes", Tar::default().file("big", &vec![0; (1 << 20) + 1]).done()),
        ("cannot be read", archive[..700].to_vec()),
    ];
    for (rule, archive) in table {
        let text = layer(&room, &archive).expect_err("a refusal").to_string();
        assert!(text.contains(rule), "want {rule:?}, got {text:?}");
    }
    assert_eq!(fs::read_to_string(room.0.join("neighbour")).unwrap(), "untouched");
}

#[test]
fn a_packed_layer_unpacks_to_the_same() {
    let room = Room::new();
    let from = room.at("from");
    furnish(&from);
    std::os::unix::fs::chown(from.join("a/f"), Some(1000), Some(7)).unwrap();
    for not_packed in ["pipe", "a/pipe", "socket"] {
        fs::remove_file(from.join(not_packed)).unwrap();
    }
    fs::hard_link(from.join("soft"), from.join("soft-too")).unwrap();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    rustix::fs::setxattr(from.join("a/f"), c"security.capability", capability, rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(from.join("a"), c"trusted.other", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    fs::set_permissions(from.join("a/b"), fs::Permissions::from_mode(0o6711)).unwrap();
    let long = "x".repeat(200);
    fs::write(from.join(&long), b"long name").unwrap();
    rustix::fs::setxattr(from.join(&long), c"user.k", b"raw \xff\n=", rustix::fs::XattrFlags::empty()).unwrap();
    let mut packed = Vec::new();
    pack_layer(&from, &mut packed).unwrap();
    let to = room.at("to");
    let limits = Limits { entries_max: 100, bytes_max: 100 << 20 };
    unpack_layer(&packed[..], &to, &limits).unwrap();
    sync(&to).unwrap();
    assert_eq!(hash(&from, 0).unwrap(), hash(&to, 0).unwrap());
    let mut value = [0u8; 64];
    let length = rustix::fs::getxattr(to.join("a/f"), c"security.capability", &mut value).unwrap();
    assert_eq!(&value[..length], capability);
    assert!(rustix::fs::getxattr(to.join("a"), c"trusted.other", &mut value).is_err(), "attributes of the host are not taken");
    assert_eq!(rustix::fs::getxattr(to.join("a"), c"trusted.overlay.opaque", &mut value).unwrap(), 1);
    assert_eq!(fs::metadata(to.join("a/f")).unwrap().mtime(), fs::metadata(from.join("a/f")).unwrap().mtime());
    let mut again = Vec::new();
    pack_layer(&to, &mut again).unwrap();
    assert!(packed == again, "the same tree packs to the same bytes");
}

#[test]
fn folders_that_no_entry_names_are_what_they_are_below() {
    let room = Room::new();
    let base =
        Tar::default().entry(b'5', b"tmp/", b"", 0o1777, b"").entry(b'5', b"a/", b"", 0o700, b"").entry(b'5', b"a/b/", b"", 0o711, b"").link("bin", "usr/bin");
    let (_, base) = layer(&room, &base.done()).unwrap();
    let (_, hiding) = layer(&room, &Tar::default().file("a/.wh.b", b"").done()).unwrap();
    let upper = Tar::default().file("tmp/x", b"").file("a/b/c/y", b"").entry(b'5', b"named/", b"", 0o750, b"").file("named/z", b"").done();
    let (done, top) = layer(&room, &upper).unwrap();
    assert_eq!(done.implicit, ["a", "a/b", "a/b/c", "tmp"].map(PathBuf::from));
    let mode = |top: &Path, path: &str| fs::metadata(top.join(path)).unwrap().mode() & 0o7777;
    assert!(adopt_folders(&top, &done.implicit, std::slice::from_ref(&base)).unwrap());
    assert_eq!(["tmp", "a", "a/b", "a/b/c", "named"].map(|path| mode(&top, path)), [0o1777, 0o700, 0o711, 0o755, 0o750]);
    assert_eq!(fs::metadata(top.join("tmp")).unwrap().uid(), 1000);
    // What a layer between hides is not asked.
    let (done, top) = layer(&room, &upper).unwrap();
    adopt_folders(&top, &done.implicit, &[hiding, base.clone()]).unwrap();
    assert_eq!(mode(&top, "a/b"), 0o755);
    let (done, top) = layer(&room, &Tar::default().file("bin/tool", b"").done()).unwrap();
    assert!(adopt_folders(&top, &done.implicit, &[base]).unwrap_err().to_string().contains("a link or file in a layer below"));
}

#[test]
fn members_are_listed_without_being_read() {
    let room = Room::new();
    let long = "l".repeat(200);
    let archive =
        Tar::default().file("a", b"12345").entry(b'L', b"././@LongLink", b"", 0o644, long.as_bytes()).link("x", "to").entry(b'1', b"h", b"a", 0, b"").done();
    let list = |bytes: &[u8]| {
        fs::write(room.0.join("in/archive"), bytes).unwrap();
        let mut found = Vec::new();
        members(&fs::File::open(room.0.join("in/archive")).unwrap(), |member| {
            found.push(member);
            true
        })
        .map(|()| found)
    };
    let found = list(&archive).unwrap();
    assert_eq!(found[0], Member { path: b"a".to_vec(), kind: MemberKind::File { offset: 512, length: 5 } });
    assert_eq!(found[1], Member { path: long.into_bytes(), kind: MemberKind::Symlink(b"to".to_vec()) });
    assert_eq!(found[2].kind, MemberKind::HardLink(b"a".to_vec()));
    assert!(list(&archive[..514]).unwrap_err().to_string().contains("cannot be read"));
    let bomb = Tar::default().entry(b'L', b"././@LongLink", b"", 0o644, &vec![b'a'; 2 << 20]).file("x", b"").done();
    assert!(list(&bomb).unwrap_err().to_string().contains("more than 1048576 bytes"));
}
