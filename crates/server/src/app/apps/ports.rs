//! Ports of apps that others than the team may see: services of the sandbox, with a route that asks for what the manifest says.

use std::sync::Arc;

use sandbar_core::{
    app::{
        launch::Launch,
        manifest::{Access, AuthPolicy, Port},
    },
    sandbox::SandboxRecord,
};
use serde_json::{Value, json};

use crate::{app::App, error::ApiError};

impl App {
    /// Lets the gateway serve the ports of a launch that are public or have a secret of their own. All others are seen through previews.
    pub(super) async fn serve_ports(self: &Arc<Self>, record: &SandboxRecord, launch: &Launch) -> Result<(), ApiError> {
        let services = services_of(launch);
        let has = record.config.services.as_ref().and_then(Value::as_array).map(Vec::len).unwrap_or_default();
        if services.is_empty() && has == 0 {
            return Ok(());
        }
        self.serve_by(record, Value::Array(services)).await
    }
}

fn services_of(launch: &Launch) -> Vec<Value> {
    let mut seen = Vec::new();
    let mut services = Vec::new();
    for (of, port) in launch.ports() {
        let Some(auth) = auth(port) else { continue };
        if seen.contains(&port.port) {
            continue;
        }
        seen.push(port.port);
        let route = json!({ "id": "app", "path_prefix": "/", "auth": auth, "resume": port.auto_start });
        services.push(json!({
            "id": format!("port-{}", port.port),
            "display_name": port.label.clone().unwrap_or_else(|| of.to_owned()),
            "port": port.port,
            "runtime": { "type": "manual" },
            "ingress": { "public": true, "routes": [route] },
        }));
    }
    services
}

/// What a request has to show; none for a port that only the team sees.
fn auth(port: &Port) -> Option<Value> {
    match (&port.auth_policy, port.access) {
        (Some(AuthPolicy::Bearer { token_sha256 }), _) => Some(json!({ "mode": "bearer", "bearer_token_sha256": token_sha256 })),
        (Some(AuthPolicy::Header { header_name, value_sha256 }), _) => {
            Some(json!({ "mode": "header", "header_name": header_name, "header_value_sha256": value_sha256 }))
        }
        (None, Access::Public) => Some(json!({ "mode": "none" })),
        (None, Access::Private) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sandbar_core::{app::manifest::parse, validate};

    use super::*;

    #[test]
    fn only_ports_that_others_may_see_are_services_and_these_are_accepted() {
        let hash = "a".repeat(64);
        let text = format!(
            "schemaVersion: 1\nname: demo\nstart:\n  command: serve\n  ports:\n    - {{port: 3000}}\n    - {{port: 3001, access: public, label: web}}\n    - {{port: 3002, autoStart: true, authPolicy: {{type: bearer, tokenSha256: {hash}}}}}\n    - {{port: 3003, authPolicy: {{type: header, headerName: x-key, valueSha256: {hash}}}}}\n"
        );
        let parsed = parse(&text).unwrap();
        let services = services_of(&Launch::of(Arc::new(parsed.manifest), "demo", 1, &BTreeMap::new()));
        let ports: Vec<_> = services.iter().map(|service| service["port"].as_u64().unwrap()).collect();
        assert_eq!(ports, [3001, 3002, 3003]);
        assert_eq!(services[1]["ingress"]["routes"][0]["resume"], true);
        validate::services(&Value::Array(services), "services").unwrap();
    }
}
