//! An app that is deployed and started.

use std::time::Duration;

use serde_json::{Value, json};

use crate::it::{
    harness::Sandbox,
    http::{Api, Reply, eventually},
    registry::Tar,
};

pub const WITHIN: Duration = Duration::from_secs(60);

/// An app of a team.
pub struct Demo {
    pub api: Api,
    pub name: String,
}

impl Demo {
    /// Deploys a manifest with files beside it, and returns when it is the live version.
    #[track_caller]
    pub fn deploy(api: &Api, name: &str, manifest: &str, files: &[(&str, &str)]) -> Self {
        let demo = Self { api: api.clone(), name: name.to_owned() };
        demo.redeploy(manifest, files);
        demo
    }

    #[track_caller]
    pub fn redeploy(&self, manifest: &str, files: &[(&str, &str)]) {
        let manifest = format!("schemaVersion: 1\nname: {}\n{manifest}", self.name);
        let tar = files.iter().fold(Tar::default(), |tar, (name, text)| tar.file(name, text.as_bytes()));
        let tar = tar.file("sandbar.yaml", manifest.as_bytes()).done();
        let version = self.api.send("POST", &self.path("/versions"), &tar).ok(202)["version"].clone();
        eventually("the build", WITHIN, || {
            let found = self.api.get(&self.path(&format!("/versions/{version}"))).ok(200);
            match found["state"].as_str() {
                Some("ready") => Ok(()),
                Some("failed") => panic!("{found}"),
                _ => Err(found.to_string()),
            }
        });
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/apps/{}{rest}", self.name)
    }

    pub fn try_post(&self, rest: &str, body: Value) -> Reply {
        self.api.post(&self.path(rest), body)
    }

    #[track_caller]
    pub fn post(&self, rest: &str, body: Value) -> Value {
        self.try_post(rest, body).ok(200)
    }

    /// Starts it and returns when it is ready, or is not to be.
    #[track_caller]
    pub fn start(&self) -> Value {
        self.post("/start", json!({ "wait": true }))
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.api.get(&self.path("/status")).ok(200)
    }

    /// Waits until its status is so.
    #[track_caller]
    pub fn until(&self, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, WITHIN, || {
            let status = self.status();
            if so(&status) { Ok(status) } else { Err(status.to_string()) }
        })
    }

    #[track_caller]
    pub fn until_state(&self, state: &str) -> Value {
        self.until(state, |status| status["state"] == state)
    }

    /// Its sandbox, which is left when this is dropped.
    #[track_caller]
    pub fn sandbox(&self) -> std::mem::ManuallyDrop<Sandbox> {
        let id = self.status()["sandbox"]["id"].as_str().expect("a sandbox").to_owned();
        std::mem::ManuallyDrop::new(Sandbox { api: self.api.clone(), id })
    }

    #[track_caller]
    pub fn logs(&self, source: &str) -> String {
        let mut all = String::new();
        let mut since = String::new();
        loop {
            let part = self.api.get(&self.path(&format!("/logs?source={source}&since={since}"))).ok(200);
            let text = part["output"].as_str().unwrap();
            if text.is_empty() {
                return all;
            }
            all.push_str(text);
            since = part["cursor"].as_str().unwrap().to_owned();
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.api.try_send("DELETE", &self.path(""), &[], b"");
    }
}

/// One of the services in a status.
pub fn service<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["services"].as_array().unwrap().iter().find(|service| service["name"] == name).unwrap_or(&Value::Null)
}

/// The state of the preview of a port.
pub fn preview(status: &Value, port: u16) -> &str {
    let ports = status["previews"].as_array().unwrap();
    ports.iter().find(|preview| preview["port"] == port).and_then(|preview| preview["state"].as_str()).unwrap_or_default()
}
