//! Services as clients configure them: JSON in, normalised JSON out. Keys that we do not know are refused.

mod route;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Object, Violation, env_vars, finish, is_label, shown};
use crate::{limits, service::plain_path};

/// Checks and normalises a list of services. `path` is where it stands (`config.services`).
pub fn services(value: &Value, path: &str) -> Result<Value, Vec<Violation>> {
    let Some(list) = value.as_array() else {
        return Err(vec![Violation::new(path, "must be a list")]);
    };
    let mut out = Vec::new();
    if list.len() > limits::SERVICES_MAX {
        return Err(vec![Violation::new(path, format!("has {} services; {} are the limit", list.len(), limits::SERVICES_MAX))]);
    }
    let mut ids = BTreeSet::new();
    let mut normalised = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(object) = value.as_object() else {
            out.push(Violation::new(path, "must be an object"));
            continue;
        };
        let mut checker = Checker { object: object.clone(), path, out: &mut out };
        let id = service(&mut checker);
        if let Some(id) = id
            && !ids.insert(id.clone())
        {
            checker.refuse("id", format!("{id:?} is used by another service"));
        }
        normalised.push(Value::Object(checker.object));
    }
    shadowed(&normalised, path, &mut out);
    finish(Value::Array(normalised), out)
}

/// Refuses routes that ask for another credential than one with the same prefix, which would be taken always: whoever wrote it
/// believes a door to be locked that stands open. Others with the same prefix are without effect, and allowed. Functions do not meet:
/// each is published for itself.
fn shadowed(services: &[Value], path: &str, out: &mut Vec<Violation>) {
    let mut first: BTreeMap<(String, String), (usize, &Value)> = BTreeMap::new();
    for (index, service) in services.iter().enumerate() {
        let meets = service["ingress"]["public"].as_bool() == Some(true) && service["runtime"]["type"].as_str() != Some("function");
        let place = if meets { service["port"].to_string() } else { format!("service {index}") };
        for (number, route) in service["ingress"]["routes"].as_array().into_iter().flatten().enumerate() {
            let Some(plain) = route["path_prefix"].as_str().and_then(plain_path) else { continue };
            let (at, other) = *first.entry((place.clone(), plain)).or_insert((index, route));
            if credential(other) != credential(route) {
                let (id, of) = (other["id"].as_str().unwrap_or_default(), services[at]["id"].as_str().unwrap_or_default());
                let message =
                    format!("is that of route {id:?} of service {of:?} on the same port, which would be taken always, but asks for another credential");
                out.push(Violation::new(format!("{path}[{index}].ingress.routes[{number}].path_prefix"), message));
            }
        }
    }
}

/// What a route asks for; none is the same as the mode `none`.
fn credential(route: &Value) -> Option<&Value> {
    Some(&route["auth"]).filter(|auth| auth["mode"].as_str().is_some_and(|mode| mode != "none"))
}

/// Why a normalised service cannot be published; none = it can.
pub fn publish_blockers(service: &Value) -> Vec<&'static str> {
    let mut blockers = Vec::new();
    let ingress = &service["ingress"];
    let has_routes = ingress["routes"].as_array().is_some_and(|routes| !routes.is_empty());
    if ingress["public"].as_bool() != Some(true) || !has_routes {
        blockers.push("not_public");
    }
    let runtime = &service["runtime"];
    let missing = |key: &str, blocker| if is_set(&runtime[key]) { None } else { Some(blocker) };
    let blocker = match runtime["type"].as_str() {
        None => Some("missing_runtime"),
        Some("manual") => Some("manual_runtime"),
        Some("cmd") => missing("command", "missing_command"),
        Some("warm_process") => missing("warm_process_name", "missing_warm_process_name"),
        Some("function") => missing("function", "missing_function"),
        // Validation lets no other type in.
        Some(_) => Some("missing_runtime"),
    };
    blockers.extend(blocker);
    blockers
}

/// Whether any route of these services may wake the sandbox.
pub fn wants_resume(services: Option<&Value>) -> bool {
    let services = services.and_then(Value::as_array).into_iter().flatten();
    services.flat_map(|service| service["ingress"]["routes"].as_array().into_iter().flatten()).any(|route| route["resume"].as_bool() == Some(true))
}

/// An object that is read and normalised in place, with its path and where violations go.
struct Checker<'a> {
    object: Object,
    path: String,
    out: &'a mut Vec<Violation>,
}

impl Checker<'_> {
    fn refuse(&mut self, field: &str, message: impl Into<String>) {
        self.out.push(Violation::new(format!("{}.{field}", self.path), message));
    }

    /// The value of a field; null counts as absent and is removed.
    fn take_present(&mut self, field: &str) -> Option<Value> {
        self.object.remove(field).filter(|value| !value.is_null())
    }

    fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.object.insert(field.to_owned(), value.into());
    }

    /// An optional text of at most `max` bytes. "" counts as absent.
    fn text(&mut self, field: &str, max: usize) -> Option<String> {
        match self.take_present(field)? {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) if text.len() > max => {
                self.refuse(field, format!("is longer than {max} bytes"));
                None
            }
            Value::String(text) if text.contains('\0') => {
                self.refuse(field, "must not hold a NUL byte");
                None
            }
            Value::String(text) => {
                self.set(field, text.clone());
                Some(text)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.refuse(field, "must be a text");
                None
            }
        }
    }

    /// A required boolean.
    fn flag(&mut self, field: &str) -> Option<bool> {
        let value = self.take_present(field);
        match value {
            Some(Value::Bool(flag)) => {
                self.set(field, flag);
                Some(flag)
            }
            None => {
                self.refuse(field, "is required");
                None
            }
            Some(_) => {
                self.refuse(field, "must be true or false");
                None
            }
        }
    }

    /// An optional whole number within bounds.
    fn integer(&mut self, field: &str, min: i64, max: i64) -> Option<i64> {
        let value = self.take_present(field)?;
        match value.as_i64() {
            Some(number) if (min..=max).contains(&number) => {
                self.set(field, number);
                Some(number)
            }
            Some(_) | None => {
                self.refuse(field, format!("must be a whole number from {min} to {max}"));
                None
            }
        }
    }

    /// An optional list of texts, each at most `item_max` bytes.
    fn texts(&mut self, field: &str, count_max: usize, item_max: usize) -> Option<Vec<String>> {
        let value = self.take_present(field)?;
        let texts: Option<Vec<String>> = value.as_array().and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        let Some(texts) = texts else {
            self.refuse(field, "must be a list of texts");
            return None;
        };
        if texts.len() > count_max {
            self.refuse(field, format!("has {} values; {count_max} are the limit", texts.len()));
            return None;
        }
        if texts.iter().any(|text| text.len() > item_max || text.contains('\0')) {
            self.refuse(field, format!("holds a value with a NUL byte or of more than {item_max} bytes"));
            return None;
        }
        self.set(field, texts.clone());
        Some(texts)
    }

    /// An optional object, checked by `check` at its own path.
    fn object(&mut self, field: &str, check: impl FnOnce(&mut Checker<'_>)) -> bool {
        let Some(value) = self.take_present(field) else { return false };
        let Value::Object(object) = value else {
            self.refuse(field, "must be an object");
            return false;
        };
        let mut inner = Checker { object, path: format!("{}.{field}", self.path), out: self.out };
        check(&mut inner);
        let object = inner.object;
        self.set(field, object);
        true
    }

    /// Refuses every other key: what is misspelt must not be taken for left out, least of all a credential.
    fn only(&mut self, known: &[&str]) {
        let unknown: Vec<String> = self.object.keys().filter(|key| !known.contains(&key.as_str())).cloned().collect();
        for key in unknown {
            let message = format!("is no key here; there are {}", known.join(", "));
            self.refuse(&shown(&key), message);
        }
    }

    /// An optional path that gets its leading slash.
    fn url_path(&mut self, field: &str) -> Option<String> {
        let text = self.text(field, limits::PATH_MAX_BYTES)?;
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#')) {
            self.refuse(field, "must be a path without spaces, query or fragment");
            return None;
        }
        let text = if text.starts_with('/') { text } else { format!("/{text}") };
        self.set(field, text.clone());
        Some(text)
    }

    /// A required id: trimmed, lower-cased, a DNS label.
    fn id(&mut self) -> Option<String> {
        let value = self.take_present("id");
        let Some(Value::String(text)) = value else {
            self.refuse("id", if value.is_none() { "is required" } else { "must be a text" });
            return None;
        };
        let id = text.trim().to_ascii_lowercase();
        if id.is_empty() {
            self.refuse("id", "is required");
            return None;
        }
        if !is_label(&id) {
            self.refuse("id", format!("{:?} must be 1 to {} letters, digits and inner hyphens", shown(&id), limits::LABEL_MAX_CHARS));
            return None;
        }
        self.set("id", id.clone());
        Some(id)
    }
}

/// Returns the service's id when it is good.
fn service(s: &mut Checker<'_>) -> Option<String> {
    // What a reply showed of it may come back.
    for shown in ["publishable", "publish_blockers", "public_url"] {
        s.object.remove(shown);
    }
    s.only(&["id", "display_name", "port", "runtime", "ingress", "health_check"]);
    let id = s.id();
    s.text("display_name", limits::TEXT_MAX_CHARS);
    let mut is_function = false;
    s.object("runtime", |runtime| is_function = check_runtime(runtime) == Some("function"));
    port(s, is_function);
    s.object("health_check", |health| {
        health.only(&["path"]);
        health.url_path("path");
    });
    let service_id = id.clone();
    let has_ingress = s.object("ingress", |ingress| check_ingress(ingress, service_id.as_deref()));
    if !has_ingress && !s.out.iter().any(|v| v.path == format!("{}.ingress", s.path)) {
        s.refuse("ingress", "is required");
    }
    id
}

fn port(s: &mut Checker<'_>, is_function: bool) {
    let reserved = i64::from(limits::FUNCTION_SERVICE_PORT);
    if is_function {
        let given = s.take_present("port");
        match given.as_ref().map(Value::as_i64) {
            None | Some(Some(0)) => {}
            Some(Some(port)) if port == reserved => {}
            Some(_) => s.refuse("port", format!("must be left out or be {reserved} for a function")),
        }
        s.set("port", reserved);
        return;
    }
    if s.object.get("port").is_none_or(Value::is_null) {
        s.refuse("port", "is required");
        return;
    }
    if s.integer("port", 1, i64::from(u16::MAX)) == Some(reserved) {
        s.refuse("port", format!("{reserved} is reserved for functions"));
    }
}

/// Returns the runtime's type when it is good.
fn check_runtime(r: &mut Checker<'_>) -> Option<&'static str> {
    r.only(&["type", "command", "cwd", "env_vars", "warm_process_name", "function"]);
    let value = r.take_present("type");
    let kind = match value.as_ref().map(Value::as_str) {
        Some(Some("" | "manual")) => "manual",
        Some(Some("cmd")) => "cmd",
        Some(Some("warm_process")) => "warm_process",
        Some(Some("function")) => "function",
        Some(Some(_) | None) => {
            r.refuse("type", "must be cmd, manual, warm_process or function");
            return None;
        }
        None => {
            r.refuse("type", "is required");
            return None;
        }
    };
    r.set("type", kind);
    let command = r.texts("command", limits::COMMAND_ARGS_MAX, limits::COMMAND_MAX_BYTES).unwrap_or_default();
    if command.iter().map(String::len).sum::<usize>() > limits::COMMAND_MAX_BYTES {
        r.refuse("command", format!("is longer than {} bytes", limits::COMMAND_MAX_BYTES));
    }
    if kind == "cmd" && command.first().is_none_or(|program| program.trim().is_empty()) {
        r.refuse("command", "is required for a cmd runtime");
    }
    r.text("cwd", limits::PATH_MAX_BYTES);
    environment(r);
    r.text("warm_process_name", limits::NAME_MAX_CHARS);
    let has_function = r.object("function", check_function);
    if kind == "function" && !has_function {
        r.refuse("function", "is required for a function runtime");
    }
    Some(kind)
}

fn environment(r: &mut Checker<'_>) {
    let Some(value) = r.take_present("env_vars") else { return };
    let vars: Option<BTreeMap<String, String>> = value.as_object().and_then(|map| map.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect());
    let Some(vars) = vars else {
        r.refuse("env_vars", "must be an object of texts");
        return;
    };
    match env_vars(&vars, &format!("{}.env_vars", r.path)) {
        Ok(vars) => r.set("env_vars", json!(vars)),
        Err(violations) => r.out.extend(violations),
    }
}

fn check_function(f: &mut Checker<'_>) {
    f.only(&["runtime", "handler", "max_concurrency", "source"]);
    match f.text("runtime", limits::NAME_MAX_CHARS).as_deref() {
        Some("python") => {}
        Some(_) => f.refuse("runtime", "must be python"),
        None => f.refuse("runtime", "is required"),
    }
    if f.text("handler", limits::NAME_MAX_CHARS).is_none() {
        f.set("handler", "handler");
    }
    f.integer("max_concurrency", 0, limits::FUNCTION_CONCURRENCY_MAX);
    let has_source = f.object("source", |source| {
        source.only(&["type", "code"]);
        match source.text("type", limits::NAME_MAX_CHARS).as_deref() {
            Some("inline") => {}
            Some(_) => source.refuse("type", "must be inline"),
            None => source.refuse("type", "is required"),
        }
        if source.text("code", limits::FUNCTION_CODE_MAX_BYTES).is_none() && !source.out.iter().any(|v| v.path == format!("{}.code", source.path)) {
            source.refuse("code", "is required");
        }
    });
    if !has_source {
        f.refuse("source", "is required");
    }
}

fn check_ingress(i: &mut Checker<'_>, service_id: Option<&str>) {
    i.only(&["public", "routes"]);
    let public = i.flag("public");
    let mut routes = match i.take_present("routes") {
        None => Vec::new(),
        Some(Value::Array(routes)) => routes,
        Some(_) => {
            i.refuse("routes", "must be a list");
            return;
        }
    };
    if routes.len() > limits::ROUTES_PER_SERVICE_MAX {
        i.refuse("routes", format!("has {} routes; {} are the limit", routes.len(), limits::ROUTES_PER_SERVICE_MAX));
        return;
    }
    if let (Some(true), true, Some(id)) = (public, routes.is_empty(), service_id) {
        routes.push(json!({"id": id, "path_prefix": "/", "resume": false}));
    }
    let mut ids = BTreeSet::new();
    let mut normalised = Vec::with_capacity(routes.len());
    for (index, route) in routes.into_iter().enumerate() {
        let path = format!("{}.routes[{index}]", i.path);
        let Value::Object(object) = route else {
            i.out.push(Violation::new(path, "must be an object"));
            continue;
        };
        let mut checker = Checker { object, path, out: i.out };
        let id = route::check(&mut checker);
        if let Some(id) = id
            && !ids.insert(id.clone())
        {
            checker.refuse("id", format!("{id:?} is used by another route"));
        }
        normalised.push(Value::Object(checker.object));
    }
    i.set("routes", normalised);
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}
