//! The description of the API, made from the routes, and a page that shows it.

use axum::{
    http::header,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        PathItem,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::Routes;

/// The parts of the document that no route has.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sandbar",
        description = "Isolated sandboxes for untrusted code, with the Sandbox0 API.\n\nEvery reply is `{\"success\":true,\"data\":...}`, every failure `{\"success\":false,\"error\":{\"code\",\"message\",\"details\"?}}`. The same routes stand under `/compat/2026-05` for clients of that time.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    security(("bearer" = [])),
    modifiers(&Bearer),
    tags(
        (name = "sandboxes", description = "Claim, look, change, pause, end"),
        (name = "contexts", description = "Commands and REPLs inside a sandbox"),
        (name = "files", description = "Files inside a sandbox"),
        (name = "services", description = "Ports of a sandbox that are public"),
        (name = "network", description = "What a sandbox may reach"),
        (name = "credentials", description = "Secrets that sandboxes use and never see"),
        (name = "observability", description = "Output and events"),
        (name = "scripts", description = "JavaScript functions with the triggers http, event and cron, below /api/functions. Success is `{\"data\":...}`, failure `{\"error\":{\"code\",\"message\",\"details\"?}}` with codes in upper case."),
        (name = "apps", description = "Sources that are deployed, started and run"),
        (name = "templates", description = "How sandboxes are made"),
        (name = "collections", description = "Small data that scripts read"),
        (name = "quotas", description = "Limits of a team"),
        (name = "auth", description = "Logging in"),
        (name = "users", description = "Who one is"),
        (name = "teams", description = "Who works together"),
        (name = "server", description = "What this server is"),
        (name = "operations", description = "For those who run the server"),
    ),
)]
pub struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("An API key or an access token")).build());
        document.components.get_or_insert_with(Default::default).add_security_scheme("bearer", scheme);
    }
}

/// The document of these routes, in a stable order.
pub fn document(routes: Routes) -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    document.merge(routes.into_openapi());
    for (path, item) in &mut document.paths.paths {
        name_operations(path, item);
    }
    document
}

/// Handlers are named within their file; an operation's id has to be the only one: method and path.
fn name_operations(path: &str, item: &mut PathItem) {
    let path = path.trim_start_matches("/api/v1").replace(['{', '}'], "").replace(['/', '-', '.'], "_");
    let operations = [("get", &mut item.get), ("put", &mut item.put), ("post", &mut item.post), ("patch", &mut item.patch), ("delete", &mut item.delete)];
    for (method, operation) in operations {
        if let Some(operation) = operation {
            operation.operation_id = Some(format!("{method}{path}"));
        }
    }
}

/// `/openapi.json` and `/docs`
pub fn router<S: Clone + Send + Sync + 'static>(document: &utoipa::openapi::OpenApi) -> axum::Router<S> {
    let json = Bytes::from(document.to_pretty_json().unwrap_or_default());
    let serve_json = move || {
        let json = json.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], json).into_response() }
    };
    axum::Router::new().route("/openapi.json", get(serve_json)).route("/docs", get(docs))
}

async fn docs() -> Response {
    // The page loads nothing but the document, and the browser is told so.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("openapi/docs.html"))).into_response()
}
