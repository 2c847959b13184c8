//! Collections: what the items of a team are made of, and who may do what with them. For the team's admins.

use std::sync::Arc;

use sandbar_core::{
    roles::Permission,
    script::access::Rule,
    script::collection::{self, CollectionRecord, CollectionSpec, Field},
};
use sandbar_store::StoreError;

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{store_failure, violations},
    },
    error::ApiError,
    http::{params::shown, time::now_ms},
};

/// What of a collection is to be another. None = keep.
#[derive(Debug, Clone, Default)]
pub struct CollectionChange {
    pub name: Option<Option<String>>,
    pub description: Option<Option<String>>,
    pub fields: Option<Vec<Field>>,
    pub permissions: Option<Vec<Rule>>,
    pub owner_scoped: Option<bool>,
}

/// Writes of a row that somebody else changes all the time are given up after so many.
pub(super) const TRIES: usize = 5;

impl App {
    /// The team's collections by slug.
    pub async fn collections(&self, who: &Principal) -> Result<Vec<CollectionRecord>, ApiError> {
        who.require(Permission::TeamAdmin)?;
        self.store.collections_list(&who.team_id).await.map_err(|e| store_failure("listing collections", &e))
    }

    pub async fn collection(&self, who: &Principal, slug: &str) -> Result<CollectionRecord, ApiError> {
        who.require(Permission::TeamAdmin)?;
        self.collection_of(&who.team_id, slug).await
    }

    pub async fn create_collection(&self, who: &Principal, slug: String, spec: CollectionSpec) -> Result<CollectionRecord, ApiError> {
        who.require(Permission::TeamAdmin)?;
        self.check_room()?;
        if !collection::is_slug(&slug) {
            return Err(ApiError::bad_request(format!("slug: {}", collection::slug_rule())));
        }
        spec.check().map_err(violations)?;
        let now = now_ms();
        let made = CollectionRecord {
            id: uuid::Uuid::new_v4().to_string(),
            team_id: who.team_id.clone(),
            slug,
            spec,
            items: 0,
            item_bytes: 0,
            created_at_ms: now,
            updated_at_ms: now,
            generation: 1,
        };
        self.store.collection_insert(&made).await.map_err(|error| match error {
            StoreError::Exists { .. } => ApiError::conflict(format!("collection {:?} exists already; change it with PATCH", made.slug)),
            error => store_failure("saving the collection", &error),
        })?;
        tracing::info!(team = made.team_id, collection = made.slug, user = who.user_id, "a collection was made");
        Ok(made)
    }

    /// Changes a collection. Items that do not fit the change refuse it; values of fields that are gone go with them.
    pub async fn update_collection(&self, who: &Principal, slug: &str, change: CollectionChange) -> Result<CollectionRecord, ApiError> {
        who.require(Permission::TeamAdmin)?;
        self.check_room()?;
        for _ in 0..TRIES {
            let mut next = self.collection_of(&who.team_id, slug).await?;
            let spec = &mut next.spec;
            let change = change.clone();
            spec.name = change.name.unwrap_or(spec.name.take());
            spec.description = change.description.unwrap_or(spec.description.take());
            spec.owner_scoped = change.owner_scoped.unwrap_or(spec.owner_scoped);
            if let Some(fields) = change.fields {
                spec.fields = fields;
            }
            if let Some(permissions) = change.permissions {
                spec.permissions = permissions;
            }
            spec.check().map_err(violations)?;
            match self.store.collection_update(&next, now_ms()).await {
                Err(StoreError::Stale { .. }) => {}
                Err(error) => return Err(store_failure("saving the collection", &error)),
                Ok(changed) => {
                    tracing::info!(team = changed.team_id, collection = changed.slug, user = who.user_id, "a collection was changed");
                    return Ok(changed);
                }
            }
        }
        Err(changing("collection"))
    }

    /// Deletes a collection; with `force` also when there are items, which tell nobody that they go.
    pub async fn delete_collection(self: &Arc<Self>, who: &Principal, slug: &str, force: bool) -> Result<(), ApiError> {
        who.require(Permission::TeamAdmin)?;
        let slug = slug.to_owned();
        self.whole(who, "deleting the collection", |app, who| async move {
            let mut gone = false;
            while !gone {
                gone = app.store.collection_delete(&who.team_id, &slug, force).await.map_err(|error| match error {
                    StoreError::NotFound { .. } => unknown(&slug),
                    StoreError::InUse { by, .. } => {
                        let count = by.first().map_or(0, |(_, count)| *count);
                        ApiError::conflict(format!("collection {:?} has {count} items; delete them first, or the collection with ?force=true", slug))
                    }
                    error => store_failure("deleting the collection", &error),
                })?;
            }
            tracing::info!(team = who.team_id, collection = slug, user = who.user_id, "a collection was deleted");
            Ok(())
        })
        .await
    }

    pub(super) async fn collection_of(&self, team_id: &str, slug: &str) -> Result<CollectionRecord, ApiError> {
        // No other text is asked for.
        if !collection::is_slug(slug) {
            return Err(unknown(slug));
        }
        let found = self.store.collection_get(team_id, slug).await.map_err(|e| store_failure("reading the collection", &e))?;
        found.ok_or_else(|| unknown(slug))
    }
}

pub(super) fn unknown(slug: &str) -> ApiError {
    ApiError::new(sandbar_api::ErrorCode::NotFound, format!("Collection {} not found", shown(slug)))
}

pub(crate) fn changing(what: &str) -> ApiError {
    ApiError::conflict(format!("the {what} is being changed by others all the time; try again"))
}
