//! `ctx.db`: what scripts read.

use sandbar_core::script::query::QueryText;
use sandbar_scripts::{OpError, OpResult};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::Reader;
use crate::{
    app::{App, scripts::Subject},
    error::ApiError,
    http::json,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    slug: String,
    #[serde(default)]
    query: Option<QueryText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    slug: String,
    id: String,
}

impl App {
    /// `db.list`: `{slug, query?}` → rows.
    pub(crate) async fn script_db_list(&self, team_id: &str, subject: &Subject, args: &RawValue) -> OpResult {
        let List { slug, query } = read("ctx.db.list(slug, query)", args)?;
        let found = self.list_items(Reader { team_id, subject, cause: None }, &slug, &query.unwrap_or_default(), false).await.map_err(refused)?;
        written(&found.rows)
    }

    /// `db.one`: `{slug, id}` → row or null.
    pub(crate) async fn script_db_one(&self, team_id: &str, subject: &Subject, args: &RawValue) -> OpResult {
        let One { slug, id } = read("ctx.db.one(slug, id)", args)?;
        written(&self.find_item(Reader { team_id, subject, cause: None }, &slug, &id).await.map_err(refused)?)
    }
}

fn read<T: DeserializeOwned>(what: &str, args: &RawValue) -> Result<T, OpError> {
    json::read(args.get().as_bytes()).map_err(|error| OpError::wrong(format!("{what}: {error}")))
}

fn refused(error: ApiError) -> OpError {
    match error.status() {
        401 | 403 => OpError::denied(error.message()),
        400..500 => OpError::wrong(error.message()),
        _ => OpError::internal(error.message()),
    }
}

fn written<T: serde::Serialize>(value: &T) -> OpResult {
    serde_json::value::to_raw_value(value).map_err(|error| OpError::internal(error.to_string()))
}
