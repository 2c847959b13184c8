//! Templates: built in for everybody, or a team's own.

use rusqlite::{OptionalExtension, Row};
use sandbar_api::template::{TemplateCreation, TemplateSpec};
use sandbar_core::{
    credential::{self, Binding},
    limits,
    sandbox::Base,
};

use crate::{Store, StoreError, credentials};

/// Stands in for the team of what is built in.
const BUILT_IN: &str = "";

/// A template's row.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateRecord {
    pub id: String,
    /// None = built in, for all teams.
    pub team_id: Option<String>,
    pub user_id: Option<String>,
    pub spec: TemplateSpec,
    /// The files of a template that was made from a sandbox.
    pub base: Option<Base>,
    pub creation: Option<TemplateCreation>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    /// Guards updates; 1 for a new one.
    pub version: i64,
}

const COLUMNS: &str = "id, team_id, user_id, spec, created_at_ms, updated_at_ms, version, base, creation";

impl Store {
    /// The team's own template of that id, else the built-in one.
    pub async fn template_get(&self, team_id: &str, id: &str) -> Result<Option<TemplateRecord>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .read("read a template", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM template WHERE id = ?1 AND team_id IN (?2, '') ORDER BY team_id DESC LIMIT 1");
                c.prepare_cached(&sql)?.query_row((id, team_id), |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// What a team can claim from: its own templates and the built-in ones it has not replaced, by id.
    pub async fn templates_list(&self, team_id: &str) -> Result<Vec<TemplateRecord>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list templates", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM template t WHERE team_id = ?1 OR (team_id = '' AND NOT EXISTS (SELECT 1 FROM template own WHERE own.team_id = ?1 AND own.id = t.id)) ORDER BY id");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map([team_id], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Every template of every team: what pools are kept for.
    pub async fn templates_all(&self) -> Result<Vec<TemplateRecord>, StoreError> {
        self.engine
            .read("read all templates", |c| {
                let mut statement = c.prepare(&format!("SELECT {COLUMNS} FROM template ORDER BY team_id, id"))?;
                let rows = statement.query_map([], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Stores a new template. A team may have a limited number.
    pub async fn template_insert(&self, template: &TemplateRecord) -> Result<(), StoreError> {
        let template = template.clone();
        self.engine
            .write("insert a template", move |c| {
                let team = template.team_id.as_deref().unwrap_or(BUILT_IN);
                let count: usize = c.prepare_cached("SELECT count(*) FROM template WHERE team_id = ?1")?.query_row([team], |row| row.get(0))?;
                if count >= limits::TEMPLATES_PER_TEAM_MAX {
                    return Err(StoreError::TooMany { what: "templates of this team", max: limits::TEMPLATES_PER_TEAM_MAX });
                }
                let spec = spec_text(&template.spec)?;
                let credentials = credentials::checked(c, team, &bindings(&template.spec), &[])?;
                let sql = format!("INSERT INTO template ({COLUMNS}, credentials) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");
                c.prepare_cached(&sql)?
                    .execute((
                        &template.id,
                        team,
                        &template.user_id,
                        spec,
                        template.created_at_ms,
                        template.updated_at_ms,
                        template.version,
                        json(template.base.as_ref())?,
                        json(template.creation.as_ref())?,
                        credentials,
                    ))
                    .map_err(crate::error::taken("template"))?;
                Ok(())
            })
            .await
    }

    /// Stores a changed spec. Returns the record as stored.
    pub async fn template_update(&self, template: &TemplateRecord, seen_version: i64) -> Result<TemplateRecord, StoreError> {
        let mut template = template.clone();
        template.version = seen_version + 1;
        self.engine
            .write("update a template", move |c| {
                let team = template.team_id.as_deref().unwrap_or(BUILT_IN);
                let stored: Option<String> = c
                    .prepare_cached("SELECT spec FROM template WHERE team_id = ?1 AND id = ?2")?
                    .query_row((team, &template.id), |row| row.get(0))
                    .optional()?;
                let before = parsed::<TemplateSpec>(stored)?.map(|spec| bindings(&spec)).unwrap_or_default();
                let credentials = credentials::checked(c, team, &bindings(&template.spec), &before)?;
                let sql = "UPDATE template SET spec = ?3, updated_at_ms = ?4, version = ?5, base = ?7, creation = ?8, credentials = ?9
                    WHERE team_id = ?1 AND id = ?2 AND version = ?6";
                let changed = c.prepare_cached(sql)?.execute((
                    team,
                    &template.id,
                    spec_text(&template.spec)?,
                    template.updated_at_ms,
                    template.version,
                    seen_version,
                    json(template.base.as_ref())?,
                    json(template.creation.as_ref())?,
                    credentials,
                ))?;
                if changed == 0 {
                    let exists = c.prepare_cached("SELECT 1 FROM template WHERE team_id = ?1 AND id = ?2")?.exists((team, &template.id))?;
                    let id = template.id.clone();
                    return Err(if exists { StoreError::Stale { what: "template", id } } else { StoreError::NotFound { what: "template", id } });
                }
                Ok(template)
            })
            .await
    }

    /// Puts a built-in template as this version of the program has it. What is the same is not touched.
    pub async fn template_put_built_in(&self, id: &str, spec: &TemplateSpec, now_ms: i64) -> Result<(), StoreError> {
        let (id, spec) = (id.to_owned(), spec.clone());
        self.engine
            .write("put a built-in template", move |c| {
                let sql = "INSERT INTO template (id, team_id, user_id, spec, created_at_ms, updated_at_ms, version) VALUES (?1, '', NULL, ?2, ?3, ?3, 1)
                    ON CONFLICT (team_id, id) DO UPDATE SET spec = excluded.spec, updated_at_ms = excluded.updated_at_ms, version = version + 1 WHERE spec <> excluded.spec";
                c.prepare_cached(sql)?.execute((id, spec_text(&spec)?, now_ms))?;
                Ok(())
            })
            .await
    }

    /// Deletes a team's own template and returns the files it named. Sandboxes keep the copy that they were claimed with.
    pub async fn template_delete(&self, team_id: &str, id: &str) -> Result<Option<Base>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .write("delete a template", move |c| {
                let sql = "DELETE FROM template WHERE team_id = ?1 AND id = ?2 AND team_id <> '' RETURNING base";
                let gone: Option<Option<String>> = c.prepare_cached(sql)?.query_row((team_id, &id), |row| row.get(0)).optional()?;
                parsed(gone.ok_or(StoreError::NotFound { what: "template", id })?)
            })
            .await
    }
}

fn bindings(spec: &TemplateSpec) -> Vec<Binding> {
    credential::bindings(spec.network.as_ref(), None)
}

fn spec_text(spec: &TemplateSpec) -> Result<String, StoreError> {
    serde_json::to_string(spec).map_err(|e| StoreError::corrupt("template", &e))
}

fn json(value: Option<&impl serde::Serialize>) -> Result<Option<String>, StoreError> {
    value.map(serde_json::to_string).transpose().map_err(|e| StoreError::corrupt("template", &e))
}

fn parsed<T: serde::de::DeserializeOwned>(text: Option<String>) -> Result<Option<T>, StoreError> {
    text.map(|text| serde_json::from_str(&text)).transpose().map_err(|e| StoreError::corrupt("template", &e))
}

fn record(row: &Row<'_>) -> Result<TemplateRecord, StoreError> {
    let spec: String = row.get(3)?;
    let team: String = row.get(1)?;
    Ok(TemplateRecord {
        id: row.get(0)?,
        team_id: Some(team).filter(|team| team != BUILT_IN),
        user_id: row.get(2)?,
        spec: serde_json::from_str(&spec).map_err(|e| StoreError::corrupt("template", &e))?,
        created_at_ms: row.get(4)?,
        updated_at_ms: row.get(5)?,
        version: row.get(6)?,
        base: parsed(row.get(7)?)?,
        creation: parsed(row.get(8)?)?,
    })
}
