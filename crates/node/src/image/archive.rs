//! Images from files: OCI layouts, what `docker save` writes, and plain root filesystems, each as a tar.
//! Sources: OCI image specification, `image-layout.md`; Docker image specification v1.2, "Combined Image JSON + Filesystem
//! Changeset Format".

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use sandbar_core::image::ImageName;
use sandbar_tree::MemberKind;
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    ImageError, ImageView, Images,
    config::{CONFIG_MAX_BYTES, NewConfig, platform},
    failed,
    install::{Blob, LAYERS_MAX, Parts},
};
use crate::{Node, roots::Roots};

/// Files that an archive of images may have; a root filesystem has more and is known by that.
const MEMBERS_MAX: usize = 20_000;
/// Images in one archive.
const IMAGES_MAX: usize = 100;
/// Lists of manifests in each other.
const NESTED_MAX: usize = 4;
/// What an archive may be once it is not packed any more.
const PLAIN_MAX_BYTES: u64 = 64 << 30;

impl Node {
    /// A nameless file on the disk of images, for an archive on its way in.
    pub fn image_spool(&self) -> Result<File, ImageError> {
        self.inner.images.spool()
    }

    /// Makes images of an archive; `name` is for one that has no name of its own, or another than it should.
    pub async fn image_import(&self, archive: File, name: Option<ImageName>) -> Result<Vec<ImageView>, ImageError> {
        let (images, roots) = (self.inner.images.clone(), self.inner.roots.clone());
        let imported = tokio::task::spawn_blocking(move || {
            let made = images.import(archive, name, &roots);
            if made.is_err() {
                // Layers of one that was refused further up.
                images.sweep_layers(&roots);
            }
            roots.empty_trash();
            made
        });
        imported.await.unwrap_or(Err(ImageError::Stopped))
    }
}

/// One image of an archive.
struct Found {
    names: Vec<String>,
    config: Vec<u8>,
    manifest_digest: Option<String>,
    layers: Vec<Member>,
}

/// A file of the archive.
#[derive(Debug, Clone)]
struct Member {
    offset: u64,
    length: u64,
    /// What its bytes must add up to, where that was said.
    digest: Option<String>,
}

impl Images {
    pub(super) fn spool(&self) -> Result<File, ImageError> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(rustix::fs::OFlags::TMPFILE.bits().cast_signed());
        options.open(&self.dir).map_err(failed("make a file in", &self.dir))
    }

    fn import(&self, archive: File, name: Option<ImageName>, roots: &Roots) -> Result<Vec<ImageView>, ImageError> {
        let archive = self.plain(archive)?;
        let members = Members::read(&archive)?;
        let found = match &members {
            Some(members) if members.has("manifest.json") => docker(members)?,
            Some(members) if members.has("index.json") => layout(members)?,
            _ => return Ok(vec![self.import_root(archive, name, roots)?]),
        };
        if found.len() > 1 && name.is_some() {
            return Err(ImageError::Refused(format!("the archive has {} images: a name can be given to one only", found.len())));
        }
        found.into_iter().map(|found| self.import_one(&archive, found, name.as_ref(), roots)).collect()
    }

    /// The archive without gzip or zstd around it.
    fn plain(&self, mut archive: File) -> Result<File, ImageError> {
        archive.rewind().map_err(failed("read", &self.dir))?;
        let mut magic = [0u8; 4];
        let read = archive.read_at(&mut magic, 0).map_err(failed("read", &self.dir))?;
        if !(magic[..read].starts_with(&[0x1f, 0x8b]) || magic[..read].starts_with(&[0x28, 0xb5, 0x2f, 0xfd])) {
            return Ok(archive);
        }
        let left = self.room()?.min(PLAIN_MAX_BYTES);
        let mut plain = self.spool()?;
        let mut from = sandbar_tree::plain(BufReader::new(archive))?.take(left + 1);
        let copied = io::copy(&mut from, &mut plain).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failed("unpack the archive in", &self.dir)(error),
            _ => ImageError::Malformed(format!("the archive cannot be read: {error}")),
        })?;
        if copied > left { Err(ImageError::NoRoom { left }) } else { Ok(plain) }
    }

    fn import_one(&self, archive: &File, found: Found, name: Option<&ImageName>, roots: &Roots) -> Result<ImageView, ImageError> {
        let names = match name {
            Some(name) => vec![name.clone()],
            None => found.names.iter().map(|name| name.parse()).collect::<Result<Vec<ImageName>, _>>()?,
        };
        let Some((first, more)) = names.split_first() else {
            return Err(ImageError::Refused("an image of the archive has no name: give it one".to_owned()));
        };
        check_names(&names, false)?;
        let config = String::from_utf8(found.config).map_err(|_| ImageError::Malformed("its configuration is no text".to_owned()))?;
        let parts = Parts { config, source: "imported".to_owned(), manifest_digest: found.manifest_digest };
        let diff_ids = parts.diff_ids()?;
        if diff_ids.len() != found.layers.len() {
            return Err(ImageError::Malformed(format!("it has {} layers and its configuration names {}", found.layers.len(), diff_ids.len())));
        }
        let (mut layers, mut holds) = (Vec::new(), Vec::new());
        for (diff_id, member) in diff_ids.iter().zip(found.layers) {
            let (layer, hold) = match self.find_layer(diff_id, &layers) {
                Some(found) => found,
                None => {
                    let file = archive.try_clone().map_err(failed("read", &self.dir))?;
                    let blob = Blob { file, offset: member.offset, length: member.length, digest: member.digest };
                    self.unpack_layer(blob, diff_id, &layers, roots, |_| Ok(()))?
                }
            };
            layers.push(layer);
            holds.push(hold);
        }
        let mut view = self.finish(parts.clone(), layers.clone(), Some(first))?;
        for name in more {
            view = self.finish(parts.clone(), layers.clone(), Some(name))?;
        }
        Ok(view)
    }

    /// A root filesystem as the only layer of an image.
    fn import_root(&self, mut archive: File, name: Option<ImageName>, roots: &Roots) -> Result<ImageView, ImageError> {
        let name = name.ok_or_else(|| ImageError::Refused("a root filesystem has no name of its own: give it one".to_owned()))?;
        check_names(std::slice::from_ref(&name), false)?;
        let length = archive.seek(SeekFrom::End(0)).map_err(failed("read", &self.dir))?;
        archive.rewind().map_err(failed("read", &self.dir))?;
        let mut hash = Sha256::new();
        io::copy(&mut BufReader::with_capacity(256 << 10, &archive), &mut hash).map_err(failed("read", &self.dir))?;
        let diff_id = format!("sha256:{}", hex::encode(hash.finalize()));
        let (layer, _hold) = match self.find_layer(&diff_id, &[]) {
            Some(found) => found,
            None => self.unpack_layer(Blob { file: archive, offset: 0, length, digest: None }, &diff_id, &[], roots, is_root)?,
        };
        let env = vec![("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned())];
        let config = NewConfig { env, working_dir: None, history: vec!["imported root filesystem".to_owned()], diff_ids: vec![diff_id] }.render();
        self.finish(Parts { config, source: "imported root filesystem".to_owned(), manifest_digest: None }, vec![layer], Some(&name))
    }
}

/// Folders of which a root has at least one.
const OF_A_ROOT: [&str; 7] = ["usr", "bin", "etc", "lib", "sbin", "opt", "app"];

/// Refuses what was unpacked and is no root.
fn is_root(layer: &Path) -> Result<(), ImageError> {
    if OF_A_ROOT.iter().any(|dir| layer.join(dir).symlink_metadata().is_ok()) {
        return Ok(());
    }
    let kinds = "an OCI layout (index.json), nor what `docker save` writes (manifest.json), nor a root filesystem (with one of /usr, /bin, /etc, /lib, /sbin, /opt, /app)";
    Err(ImageError::Refused(format!("the archive is neither {kinds}")))
}

/// Names that an image here may get; with a digest only if that was checked.
pub(super) fn check_names(names: &[ImageName], digest_checked: bool) -> Result<(), ImageError> {
    for name in names {
        if name.to_string() == super::HOST {
            return Err(ImageError::Refused("the name \"host\" is that of the built-in image".to_owned()));
        }
        if name.digest.is_some() && !digest_checked {
            return Err(ImageError::Refused(format!("{name}: a name with a digest is for what is pulled by it; leave @sha256:... out")));
        }
    }
    Ok(())
}

/// What is in an archive, by path.
struct Members<'a> {
    archive: &'a File,
    files: HashMap<String, Member>,
    links: HashMap<String, String>,
}

impl<'a> Members<'a> {
    /// `None` for what is a root filesystem, by what is in it or by how much that is.
    fn read(archive: &'a File) -> Result<Option<Self>, ImageError> {
        let mut members = Self { archive, files: HashMap::new(), links: HashMap::new() };
        let mut is_root = false;
        sandbar_tree::members(archive, |member| {
            let path = plain_path(&String::from_utf8_lossy(&member.path));
            let first = path.split('/').next().unwrap_or_default();
            is_root |= OF_A_ROOT.contains(&first) || members.files.len() + members.links.len() > MEMBERS_MAX;
            match member.kind {
                MemberKind::File { offset, length } => drop(members.files.insert(path, Member { offset, length, digest: None })),
                MemberKind::Symlink(to) => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
                    members.links.insert(path, plain_path(&format!("{folder}/{}", String::from_utf8_lossy(&to))));
                }
                MemberKind::HardLink(to) => drop(members.links.insert(path, plain_path(&String::from_utf8_lossy(&to)))),
                MemberKind::Other => {}
            }
            !is_root
        })?;
        Ok(Some(members).filter(|_| !is_root))
    }

    fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    fn get(&self, path: &str) -> Result<Member, ImageError> {
        let mut path = plain_path(path);
        // Older tools write layers once and link to them.
        for _ in 0..NESTED_MAX {
            match (self.files.get(&path), self.links.get(&path)) {
                (Some(member), _) => return Ok(member.clone()),
                (None, Some(to)) => path.clone_from(to),
                (None, None) => break,
            }
        }
        Err(ImageError::Malformed(format!("the archive has no {path:?}")))
    }

    fn text(&self, member: &Member) -> Result<Vec<u8>, ImageError> {
        if member.length > CONFIG_MAX_BYTES {
            return Err(ImageError::Malformed(format!("a manifest or configuration of {} bytes; at most {CONFIG_MAX_BYTES} are possible", member.length)));
        }
        let mut bytes = vec![0u8; usize::try_from(member.length).unwrap_or(0)];
        self.archive.read_exact_at(&mut bytes, member.offset).map_err(|error| ImageError::Malformed(format!("the archive cannot be read: {error}")))?;
        if let Some(expected) = &member.digest {
            let digest = super::config::digest_of(&bytes);
            if digest != *expected {
                return Err(ImageError::Malformed(format!("{expected} has other contents, with the digest {digest}")));
            }
        }
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&self, member: &Member) -> Result<T, ImageError> {
        serde_json::from_slice(&self.text(member)?).map_err(|error| ImageError::Malformed(format!("a manifest cannot be read: {error}")))
    }

    /// A part of an OCI layout by its digest.
    fn blob(&self, descriptor: &Descriptor) -> Result<Member, ImageError> {
        if !sandbar_core::image::is_digest(&descriptor.digest) {
            return Err(ImageError::Malformed(format!("{:?} is no digest; sha256 is known", descriptor.digest)));
        }
        let member = self.get(&format!("blobs/sha256/{}", super::hex_of(&descriptor.digest)))?;
        Ok(Member { digest: Some(descriptor.digest.clone()), ..member })
    }
}

/// `./a//b/../c` as `a/c`.
fn plain_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker(members: &Members<'_>) -> Result<Vec<Found>, ImageError> {
    let images: Vec<DockerImage> = members.json(&members.get("manifest.json")?)?;
    if images.is_empty() || images.len() > IMAGES_MAX {
        return Err(ImageError::Malformed(format!("the archive has {} images; 1 to {IMAGES_MAX} are possible", images.len())));
    }
    let found = |image: DockerImage| {
        if image.layers.len() > LAYERS_MAX {
            return Err(ImageError::Malformed(format!("it has {} layers; at most {LAYERS_MAX} are possible", image.layers.len())));
        }
        Ok(Found {
            names: image.repo_tags.unwrap_or_default(),
            config: members.text(&members.get(&image.config)?)?,
            manifest_digest: None,
            layers: image.layers.iter().map(|layer| members.get(layer)).collect::<Result<_, _>>()?,
        })
    };
    images.into_iter().map(found).collect()
}

#[derive(Clone, Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// A manifest, or a list of such.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

fn layout(members: &Members<'_>) -> Result<Vec<Found>, ImageError> {
    let index: Manifest = members.json(&members.get("index.json")?)?;
    let listed = index.manifests.unwrap_or_default();
    // Entries for other machines, and notes about an image beside it, are passed over.
    let ours: Vec<_> = listed.iter().filter(|entry| is_ours(entry)).collect();
    if ours.is_empty() || ours.len() > IMAGES_MAX {
        return Err(ImageError::Malformed(format!("the archive has {} images for this machine; 1 to {IMAGES_MAX} are possible", ours.len())));
    }
    let mut by_manifest: Vec<Found> = Vec::new();
    for entry in ours {
        let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"].iter().filter_map(|key| entry.annotations.get(*key));
        // A bare tag, as some tools write there, names no image.
        let name = names.into_iter().find(|name| name.contains([':', '/']) || name.parse::<ImageName>().is_ok_and(|_| !is_bare_tag(name))).cloned();
        let found = manifest(members, entry, 0)?;
        match by_manifest.iter_mut().find(|known| known.manifest_digest == found.manifest_digest) {
            Some(known) => known.names.extend(name),
            None => by_manifest.push(Found { names: name.into_iter().collect(), ..found }),
        }
    }
    Ok(by_manifest)
}

fn is_bare_tag(name: &str) -> bool {
    name == "latest" || name.starts_with(|c: char| c.is_ascii_digit())
}

fn is_ours(entry: &Descriptor) -> bool {
    let (os, architecture) = platform();
    let attached = entry.annotations.contains_key("vnd.docker.reference.type");
    !attached && entry.platform.as_ref().is_none_or(|platform| platform.os == os && platform.architecture == architecture)
}

fn manifest(members: &Members<'_>, entry: &Descriptor, depth: usize) -> Result<Found, ImageError> {
    let read: Manifest = members.json(&members.blob(entry)?)?;
    if let Some(inner) = read.manifests {
        let ours = inner.iter().find(|entry| is_ours(entry)).ok_or_else(|| ImageError::Malformed("it has no image for this machine".to_owned()))?;
        if depth >= NESTED_MAX {
            return Err(ImageError::Malformed("its lists of manifests are nested too deeply".to_owned()));
        }
        return manifest(members, ours, depth + 1);
    }
    let config = read.config.ok_or_else(|| ImageError::Malformed("its manifest names no configuration".to_owned()))?;
    if read.layers.len() > LAYERS_MAX {
        return Err(ImageError::Malformed(format!("it has {} layers; at most {LAYERS_MAX} are possible", read.layers.len())));
    }
    Ok(Found {
        names: Vec::new(),
        config: members.text(&members.blob(&config)?)?,
        manifest_digest: Some(entry.digest.clone()),
        layers: read.layers.iter().map(|layer| members.blob(layer)).collect::<Result<_, _>>()?,
    })
}
