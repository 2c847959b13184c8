//! Public keys of people. A key opens the sandboxes of the team that it was given for, as long as its owner may write them
//! and the API key that added it is good: what leaks or ends leaves no way in behind.

use sandbar_api::ErrorCode;
use sandbar_core::{limits, roles::Permission, validate};
use sandbar_ssh::PublicKey;
use sandbar_store::{SshKey, SshKeyHolder};
use uuid::Uuid;

use super::{Auth, Principal, lacks, refused};
use crate::{app::sandboxes::violations, error::ApiError, http::time::now_ms};

impl Auth {
    /// Gives a user's key to the team that the request is for. Who may not write sandboxes cannot give themselves a way in.
    pub async fn add_ssh_key(&self, who: &Principal, name: &str, public_key: &str) -> Result<SshKey, ApiError> {
        may_have(who)?;
        let mut wrong = validate::name(name, "name");
        let parsed = if public_key.len() > limits::SSH_KEY_MAX_BYTES {
            Err(format!("is longer than {} bytes", limits::SSH_KEY_MAX_BYTES))
        } else {
            PublicKey::from_line(public_key).map_err(|error| error.to_string())
        };
        let (key, comment) = match parsed {
            Ok((key, comment)) if wrong.is_empty() => (key, comment),
            Ok(_) => return Err(violations(wrong)),
            Err(text) => {
                wrong.push(validate::Violation::new("public_key", text));
                return Err(violations(wrong));
            }
        };
        let now = now_ms();
        let key = SshKey {
            id: Uuid::new_v4().to_string(),
            team_id: who.team_id.clone(),
            user_id: who.user_id.clone(),
            api_key_id: who.key_id.clone(),
            name: name.trim().to_owned(),
            public_key: key.line(),
            key_type: key.kind().to_owned(),
            fingerprint: key.fingerprint(),
            comment: comment.map(|comment| comment.chars().take(limits::NAME_MAX_CHARS).collect()),
            created_at_ms: now,
            updated_at_ms: now,
        };
        self.store.ssh_key_insert(&key).await.map_err(|e| refused("storing the SSH key", &e))?;
        tracing::info!(team = key.team_id, user = key.user_id, key = key.id, fingerprint = key.fingerprint, api_key = key.api_key_id, "an SSH key was added");
        Ok(key)
    }

    /// One's own keys for the team.
    pub async fn list_ssh_keys(&self, who: &Principal) -> Result<Vec<SshKey>, ApiError> {
        in_team(who)?;
        self.store.ssh_keys_list(&who.team_id, &who.user_id).await.map_err(|e| refused("listing SSH keys", &e))
    }

    /// Everybody's keys for the team, for its admins.
    pub async fn list_team_ssh_keys(&self, who: &Principal) -> Result<Vec<SshKey>, ApiError> {
        in_team(who)?;
        who.require(Permission::TeamAdmin)?;
        self.store.ssh_keys_of_team(&who.team_id).await.map_err(|e| refused("listing SSH keys", &e))
    }

    /// Deletes one's own key; an admin of the team anybody's.
    pub async fn delete_ssh_key(&self, who: &Principal, id: &str) -> Result<(), ApiError> {
        in_team(who)?;
        let owner = (!who.permissions.has(Permission::TeamAdmin)).then_some(&*who.user_id);
        let done = self.store.ssh_key_delete(&who.team_id, owner, id).await;
        self.verified.revoked();
        done.map_err(|e| refused("deleting the SSH key", &e))?;
        tracing::info!(team = who.team_id, by = who.user_id, key = id, "an SSH key was deleted");
        Ok(())
    }

    /// Who of a team comes with this key, if they may write sandboxes now, and which of the keys it is.
    pub async fn ssh_principal(&self, team_id: &str, fingerprint: &str) -> Result<Option<(Principal, String)>, ApiError> {
        let holders = self.store.ssh_key_holders(team_id, fingerprint, now_ms()).await.map_err(|e| refused("reading SSH keys", &e))?;
        let found = holders.into_iter().find(|holder| holder.role.permissions().has(Permission::SandboxWrite));
        Ok(found.map(|SshKeyHolder { id, user_id, role }| {
            let permissions = role.permissions();
            (Principal { team_id: team_id.to_owned(), user_id, key_id: None, permissions, roles: vec![role], login: None, token: None }, id)
        }))
    }
}

fn in_team(who: &Principal) -> Result<(), ApiError> {
    if who.team_id.is_empty() {
        return Err(ApiError::new(ErrorCode::Forbidden, "you are in no team; SSH keys are for the sandboxes of a team"));
    }
    Ok(())
}

fn may_have(who: &Principal) -> Result<(), ApiError> {
    in_team(who)?;
    if who.permissions.has(Permission::SandboxWrite) { Ok(()) } else { Err(lacks(Permission::SandboxWrite)) }
}
