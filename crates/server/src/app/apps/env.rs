//! Variables that an app asks for: given once, sealed, and handed to its commands and to nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use sandbar_core::{
    app::{manifest::Manifest, shell::is_reserved},
    limits::deploys as limits,
    redact::Redactor,
    validate,
};
use sandbar_store::{AppEnv, AppRecord, NewAppRun};

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, store_failure, violations},
        seal::Purpose,
    },
    error::ApiError,
};

/// What an app was given of what its manifest asks for.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub env: BTreeMap<String, String>,
    /// Names of those that may not be seen.
    secret: Vec<String>,
    /// What these were before, by name: what was started then may print it still.
    former: Vec<(String, String)>,
    /// What a run was given itself for variables that may not be seen, in place of these.
    pub said: BTreeMap<String, String>,
    /// Names that are asked for and that nobody gave.
    pub missing: Vec<String>,
}

impl Given {
    /// Takes what may not be seen out of an output.
    pub fn redactor(&self) -> Redactor {
        let said = self.said.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let now = self.secret.iter().filter_map(|name| Some((name.as_str(), self.env.get(name)?.as_str())));
        Redactor::new(said.chain(now).chain(self.former.iter().map(|(name, value)| (name.as_str(), value.as_str()))))
    }
}

impl App {
    /// What was given to an app, by name, without the values.
    pub(crate) async fn app_env(&self, who: &Principal, name: &str) -> Result<(AppRecord, Vec<AppEnv>), ApiError> {
        let app = self.app(who, name).await?;
        let env = self.store.app_env(&app.id).await.map_err(|e| store_failure("reading variables", &e))?;
        Ok((app, env))
    }

    /// Keeps values in place of the former ones of their names; null forgets one. What runs keeps what it was started with.
    pub(crate) async fn put_app_env(self: &Arc<Self>, who: &Principal, name: &str, values: BTreeMap<String, Option<String>>) -> Result<(), ApiError> {
        let app = self.app(who, name).await?;
        if let Some(wrong) = values.keys().find(|name| !is_name(name)) {
            let text = "must begin with a letter or _, and have only letters, digits and _";
            return Err(violations(vec![validate::Violation::new(format!("env.{}", crate::http::params::shown(wrong)), text)]));
        }
        if let Some(ours) = values.keys().find(|name| is_reserved(name)) {
            return Err(violations(vec![validate::Violation::new(format!("env.{ours}"), "is set by the server for every command")]));
        }
        let plain: BTreeMap<String, String> = values.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_default())).collect();
        validate::env_vars(&plain, "env").map_err(violations)?;
        let mut sealed = Vec::with_capacity(values.len());
        for (name, value) in values {
            let value = match value {
                None => None,
                Some(value) if value.len() > limits::APP_ENV_VALUE_MAX_BYTES => {
                    let text = format!("has more than {} bytes", limits::APP_ENV_VALUE_MAX_BYTES);
                    return Err(violations(vec![validate::Violation::new(format!("env.{name}"), text)]));
                }
                Some(value) => {
                    let purpose = Purpose::AppEnv { app_id: &app.id, name: &name };
                    Some(self.scripts.seal.seal(purpose, &value).map_err(|e| ApiError::internal("sealing a variable", &e))?)
                }
            };
            sealed.push((name, value));
        }
        self.check_room()?;
        self.store.app_env_put(&app.id, sealed, now_ms()).await.map_err(|e| store_failure("keeping variables", &e))?;
        self.app_env_changed();
        self.renew_app(app.id.clone());
        tracing::info!(action = "env", team = app.team_id, app = app.id, by = who.user_id, "variables of an app were set");
        Ok(())
    }

    /// Changes whenever variables of some app do.
    pub(crate) fn app_env_epoch(&self) -> u64 {
        self.apps.env_epoch.load(Ordering::Acquire)
    }

    /// What an app was given of what its manifest asks for, for its commands.
    pub(crate) async fn app_given(&self, app: &AppRecord, manifest: &Manifest) -> Result<Given, ApiError> {
        let mut given = Given::default();
        if manifest.inputs.env.is_empty() {
            return Ok(given);
        }
        let mut known: BTreeMap<String, AppEnv> =
            self.store.app_env(&app.id).await.map_err(|e| store_failure("reading variables", &e))?.into_iter().map(|env| (env.name.clone(), env)).collect();
        for asked in &manifest.inputs.env {
            let Some(found) = known.remove(&asked.name) else {
                if asked.required {
                    given.missing.push(asked.name.clone());
                }
                continue;
            };
            let opened = self.scripts.seal.unseal(Purpose::AppEnv { app_id: &app.id, name: &asked.name }, &found.sealed);
            let value = opened.map_err(|error| {
                tracing::error!(%error, app = app.id, variable = asked.name, "a variable of an app is of no use");
                ApiError::conflict(format!("variable {} of app {:?} cannot be opened; set it anew", asked.name, app.name))
            })?;
            if asked.secret {
                given.secret.push(asked.name.clone());
            }
            given.env.insert(asked.name.clone(), value);
        }
        given.former = self.app_formerly_given(app, manifest).await?;
        Ok(given)
    }

    /// Seals what a run says itself for variables of its app that are secret: it is no more to be seen than what the app was given for them.
    pub(super) fn seal_said(&self, run: &mut NewAppRun, manifest: &Manifest, said: &BTreeMap<String, String>) -> Result<(), ApiError> {
        for asked in manifest.inputs.env.iter().filter(|asked| asked.secret && !is_reserved(&asked.name)) {
            let Some(value) = said.get(&asked.name) else { continue };
            let purpose = Purpose::AppEnv { app_id: &run.app_id, name: &asked.name };
            let sealed = self.scripts.seal.seal(purpose, value).map_err(|e| ApiError::internal("sealing a variable of a run", &e))?;
            run.doc.env.remove(&asked.name);
            run.doc.sealed_env.insert(asked.name.clone(), sealed);
        }
        Ok(())
    }

    /// What was sealed of a run. One that cannot be opened is an error (409).
    pub(super) fn unseal_said(&self, app_id: &str, sealed: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ApiError> {
        let opened = sealed.iter().map(|(name, sealed)| {
            let opened = self.scripts.seal.unseal(Purpose::AppEnv { app_id, name }, sealed);
            let value = opened.map_err(|error| {
                tracing::error!(%error, app = app_id, variable = name, "a variable that a run was given is of no use");
                ApiError::conflict(format!("variable {name} that the run was given cannot be opened any more"))
            })?;
            Ok((name.clone(), value))
        });
        opened.collect()
    }

    /// What the runs of a sandbox of an app were given themselves for variables that may not be seen.
    pub(super) async fn said_in(&self, app_id: &str, sandbox_id: &str) -> Result<Redactor, ApiError> {
        let sealed = self.store.app_runs_sealed(app_id, sandbox_id).await.map_err(|e| store_failure("reading runs of the sandbox", &e))?;
        let mut all = BTreeSet::new();
        for sealed in sealed {
            // What cannot be opened could not be given to a command either.
            all.extend(self.unseal_said(app_id, &sealed).unwrap_or_default());
        }
        Ok(Redactor::new(all.iter().map(|(name, value)| (name.as_str(), value.as_str()))))
    }

    /// A run is about to be given values of its own: who follows what its sandbox prints has to know of them first.
    pub(super) fn app_env_changed(&self) {
        self.apps.env_epoch.fetch_add(1, Ordering::Release);
    }

    /// What may not be seen of what an app was given before.
    async fn app_formerly_given(&self, app: &AppRecord, manifest: &Manifest) -> Result<Vec<(String, String)>, ApiError> {
        let secret = |name: &String| manifest.inputs.env.iter().any(|asked| asked.secret && asked.name == *name);
        let former = self.store.app_env_former(&app.id).await.map_err(|e| store_failure("reading former variables", &e))?;
        let opened = former.into_iter().filter(|(name, _)| secret(name)).filter_map(|(name, sealed)| {
            let opened = self.scripts.seal.unseal(Purpose::AppEnv { app_id: &app.id, name: &name }, &sealed);
            let value = opened.inspect_err(|error| tracing::warn!(%error, app = app.id, variable = name, "a former variable of an app cannot be opened"));
            Some((name, value.ok()?))
        });
        Ok(opened.collect())
    }

    /// The same for what cannot do without: a variable that is required and that nobody gave is a conflict (409).
    pub(crate) async fn app_given_all(&self, app: &AppRecord, manifest: &Manifest) -> Result<Given, ApiError> {
        let given = self.app_given(app, manifest).await?;
        if given.missing.is_empty() {
            return Ok(given);
        }
        let (names, first) = (given.missing.join(", "), &given.missing[0]);
        let text = format!("app {:?} needs variables that nobody gave it: {names}; `sandbar app env {} {first}=VALUE` gives one", app.name, app.name);
        Err(ApiError::conflict(text).with_details(serde_json::json!({ "missing_env": given.missing })))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
