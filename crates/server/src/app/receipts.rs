//! Receipts of runs: the key that signs them, and reading them.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::rand::{SecureRandom, SystemRandom};
use sandbar_core::{
    app::receipt::{Checkpoint, Key, Prices, PublicKey, SignedCheckpoint, sign, sign_checkpoint},
    limits::apps as apps_limits,
    roles::Permission,
};
use sandbar_store::{ReceiptPage, ReceiptRecord, ReceiptsKept, SignReceipt, SignedReceipt, StoreError};

use super::{
    App,
    apps::runs::receipt_of,
    auth::Principal,
    sandboxes::{now_ms, store_failure},
};
use crate::error::ApiError;

/// The file of the key, in the data directory: 32 bytes in hexadecimal.
const KEY_FILE: &str = "receipt.key";
/// Receipts that go in one commit.
const PRUNE_STEP: u32 = 500;

#[derive(Debug, thiserror::Error)]
pub enum ReceiptKeyError {
    #[error("cannot {what} {path}")]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no key of receipts: it has to hold 64 hexadecimal digits; what was signed with the former one is still good by its public key")]
    NoKey { path: PathBuf },
    #[error("the machine gives no random numbers")]
    NoRandom,
}

/// Signs receipts.
pub struct Receipts {
    key: Arc<Key>,
    prices: Option<Arc<Prices>>,
}

impl Receipts {
    /// Reads the key of a data directory, or makes one. Blocks for the disk.
    pub fn open(data_dir: &Path, prices: Option<Prices>) -> Result<Self, ReceiptKeyError> {
        let path = data_dir.join(KEY_FILE);
        let seed = match fs::read_to_string(&path) {
            Ok(text) => {
                let mut seed = [0; 32];
                hex::decode_to_slice(text.trim(), &mut seed).map_err(|_| ReceiptKeyError::NoKey { path: path.clone() })?;
                seed
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut seed = [0; 32];
                SystemRandom::new().fill(&mut seed).map_err(|_| ReceiptKeyError::NoRandom)?;
                write(data_dir, &path, &seed)?;
                seed
            }
            Err(source) => return Err(ReceiptKeyError::Files { what: "read", path, source }),
        };
        let key = Key::from_seed(&seed).map_err(|_| ReceiptKeyError::NoKey { path })?;
        Ok(Self { key: Arc::new(key), prices: prices.map(Arc::new) })
    }

    /// By which anybody can tell that a receipt is ours.
    pub fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    /// What runs cost; none: nothing is known of that.
    pub(crate) fn prices(&self) -> Option<Arc<Prices>> {
        self.prices.clone()
    }

    /// Signs the receipt of a run within the commit of its end.
    pub(crate) fn signer(&self) -> SignReceipt {
        let (key, prices) = (Arc::clone(&self.key), self.prices.clone());
        Box::new(move |run, place| {
            let mut receipt = receipt_of(run, place);
            receipt.price = prices.map(|prices| prices.bill(&receipt.usage));
            let signed = sign(&receipt, &key);
            let doc = serde_json::to_string(&signed).map_err(|e| StoreError::Corrupt { what: "receipt", cause: e.to_string() })?;
            Ok(SignedReceipt { id: signed.receipt.id, sha256: signed.sha256, doc })
        })
    }
}

/// Under another name first: half a key would be none.
fn write(data_dir: &Path, path: &Path, seed: &[u8; 32]) -> Result<(), ReceiptKeyError> {
    let half = data_dir.join(format!("{KEY_FILE}.new"));
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| ReceiptKeyError::Files { what, path, source }
    };
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&half).map_err(failed("make", &half))?;
    writeln!(file, "{}", hex::encode(seed)).map_err(failed("write", &half))?;
    file.sync_all().map_err(failed("write", &half))?;
    fs::rename(&half, path).map_err(failed("make", path))?;
    fs::File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(failed("write", data_dir))
}

impl App {
    /// The receipts of the team in the order of their chain, perhaps those of one app alone; and what stands for those that are not kept
    /// any longer. A page is bounded in bytes, too, so that a list that is read to its end is in no memory as a whole.
    pub(crate) async fn receipts(
        &self,
        who: &Principal,
        app: Option<&str>,
        after_seq: u64,
        limit: u32,
    ) -> Result<(ReceiptPage, Option<SignedCheckpoint>), ApiError> {
        who.require(Permission::FunctionRead)?;
        let failed = |e| store_failure("listing receipts", &e);
        let app_id = match app {
            // Receipts outlive their app: one that is gone is named by its id.
            Some(name) => Some(self.store.app_id_of(&who.team_id, name).await.map_err(failed)?.unwrap_or_else(|| name.to_owned())),
            None => None,
        };
        let page = self.store.receipts_list(&who.team_id, app_id.as_deref(), after_seq, (limit, apps_limits::RECEIPT_PAGE_MAX_BYTES)).await.map_err(failed)?;
        let checkpoint = page.gone.as_ref().map(|gone| sign_checkpoint(&Checkpoint::new(&who.team_id, gone.seq, &gone.sha256, gone.at_ms), &self.receipts.key));
        Ok((page, checkpoint))
    }

    /// A receipt of the team.
    pub(crate) async fn receipt(&self, who: &Principal, id: &str) -> Result<ReceiptRecord, ApiError> {
        who.require(Permission::FunctionRead)?;
        let found = self.store.receipt_get(&who.team_id, id).await.map_err(|e| store_failure("reading a receipt", &e))?;
        found.ok_or_else(|| ApiError::not_found("receipt", id))
    }

    /// Lets receipts go that are older, or more, than are kept.
    pub(crate) async fn prune_receipts(&self) -> Result<usize, StoreError> {
        let now_ms = now_ms();
        self.store.receipts_prune(ReceiptsKept::at(now_ms), now_ms, PRUNE_STEP).await
    }

    /// The receipt of a run of the team.
    pub(crate) async fn receipt_of_run(&self, who: &Principal, run_id: &str) -> Result<ReceiptRecord, ApiError> {
        who.require(Permission::FunctionRead)?;
        let failed = |e| store_failure("reading a receipt", &e);
        if let Some(receipt) = self.store.receipt_of_run(&who.team_id, run_id).await.map_err(failed)? {
            return Ok(receipt);
        }
        let run = self.store.app_run_get(&who.team_id, run_id).await.map_err(failed)?;
        let run = run.ok_or_else(|| ApiError::not_found("run", run_id))?;
        if run.status.is_final() {
            return Err(ApiError::new(sandbar_api::ErrorCode::NotFound, format!("the receipt of run {run_id} is not kept any longer")));
        }
        Err(ApiError::conflict(format!("run {run_id} is {}; its receipt comes with its end", run.status.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_nobody_else_to_read() {
        let dir = std::env::temp_dir().join(format!("sandbar-receipt-key-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let first = Receipts::open(&dir, None).unwrap().public_key();
        assert_eq!(fs::metadata(dir.join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Receipts::open(&dir, None).unwrap().public_key(), first);
        fs::write(dir.join(KEY_FILE), "short").unwrap();
        assert!(matches!(Receipts::open(&dir, None), Err(ReceiptKeyError::NoKey { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }
}
