//! Images into files: an OCI layout that has what `docker load` reads too, as one tar.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::fs::FileExt,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{ImageError, Images, LayerRecord, config::digest_of, failed};
use crate::Node;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

impl Node {
    /// Writes an image that is called `name` to `out`. Blocks as long as that takes.
    ///
    /// Layers are packed anew, so their digests may be others than those that it came with; what they unpack to is the same.
    pub fn image_export(&self, content: &str, name: &str, out: impl Write) -> Result<(), ImageError> {
        self.inner.images.export(content, name, out)
    }

    /// Refuses what cannot be exported, before anything is sent.
    pub fn image_check_export(&self, name: &str) -> Result<String, ImageError> {
        let content = self.inner.images.resolve(name)?;
        let shared = "lies on the built-in image, which is this machine's own /usr and cannot be exported";
        if content == super::HOST || self.inner.images.view(&content)?.record.on_host {
            return Err(ImageError::Refused(format!("image {name:?} {shared}")));
        }
        Ok(content)
    }
}

impl Images {
    fn export(&self, content: &str, name: &str, out: impl Write) -> Result<(), ImageError> {
        let record = self.view(content)?.record;
        let _hold = self.hold(record.layers.iter().map(LayerRecord::folder));
        let wrote = |error: io::Error| failed("write the archive of", &self.dir)(error);
        let mut tar = tar::Builder::new(out);
        member(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(wrote)?;
        let (mut digests, mut descriptors) = (Vec::new(), Vec::new());
        for layer in &record.layers {
            // What comes before a member in a tar is its length, so it is packed to a file first.
            let mut packed = Spool { file: self.spool_file()?, hash: Sha256::new(), bytes: 0 };
            sandbar_tree::pack_layer(&self.layer(layer.folder()), io::BufWriter::with_capacity(256 << 10, &mut packed))?;
            let digest = format!("sha256:{}", hex::encode(packed.hash.finalize()));
            if !digests.contains(&digest) {
                let mut header = header(packed.bytes);
                packed.file.rewind().map_err(wrote)?;
                tar.append_data(&mut header, blob_path(&digest), packed.file.take(packed.bytes)).map_err(wrote)?;
            }
            descriptors.push(json!({ "mediaType": LAYER_TYPE, "digest": digest, "size": packed.bytes }));
            digests.push(digest);
        }
        let config = with_layers(&record.config, &digests)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": CONFIG_TYPE, "digest": digest_of(config.as_bytes()), "size": config.len() }, "layers": descriptors,
        })
        .to_string();
        for text in [&config, &manifest] {
            member(&mut tar, &blob_path(&digest_of(text.as_bytes())), text.as_bytes()).map_err(wrote)?;
        }
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST_TYPE, "digest": digest_of(manifest.as_bytes()), "size": manifest.len(),
                "annotations": { "org.opencontainers.image.ref.name": name, "io.containerd.image.name": name },
            }],
        });
        member(&mut tar, "index.json", index.to_string().as_bytes()).map_err(wrote)?;
        let paths: Vec<String> = digests.iter().map(|digest| blob_path(digest)).collect();
        let docker = json!([{ "Config": blob_path(&digest_of(config.as_bytes())), "RepoTags": [name], "Layers": paths }]);
        member(&mut tar, "manifest.json", docker.to_string().as_bytes()).map_err(wrote)?;
        tar.into_inner().and_then(|mut out| out.flush()).map_err(wrote)
    }

    fn spool_file(&self) -> Result<File, ImageError> {
        self.room()?;
        self.spool()
    }
}

/// The configuration with the digests that its layers have now.
fn with_layers(config: &str, digests: &[String]) -> Result<String, ImageError> {
    let unreadable = |error: serde_json::Error| ImageError::Malformed(format!("its configuration cannot be read: {error}"));
    let mut config: Value = serde_json::from_str(config).map_err(unreadable)?;
    config["rootfs"] = json!({ "type": "layers", "diff_ids": digests });
    Ok(config.to_string())
}

fn blob_path(digest: &str) -> String {
    format!("blobs/sha256/{}", super::hex_of(digest))
}

fn header(bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(bytes);
    header
}

fn member(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), path, bytes)
}

/// Adds up what is written.
struct Spool {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Write for &mut Spool {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(buffer, self.bytes)?;
        self.hash.update(buffer);
        self.bytes += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
