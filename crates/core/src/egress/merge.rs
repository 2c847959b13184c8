//! A template's policy with a sandbox's on top.
use serde_json::{Map, Value};

const RULE_LISTS: &[&str] = &["trafficRules", "protocolRules", "credentialRules"];

/// Puts `over` on `base`, both as written: its mode and other fields take the place of the template's. Of the lists of
/// rules, a rule whose name the template has takes that one's place, and all others follow after the template's, but for
/// those without a name that it has too.
/// Credential bindings do the same by `ref`. Unknown fields are kept.
pub fn merge(base: &Value, over: &Value) -> Value {
    let (Value::Object(base), Value::Object(over)) = (base, over) else {
        return if over.is_null() { base.clone() } else { over.clone() };
    };
    let mut merged = base.clone();
    for (key, value) in over.iter().filter(|(_, value)| !value.is_null()) {
        let value = match (key.as_str(), merged.get(key)) {
            ("egress", Some(Value::Object(below))) => match value {
                Value::Object(egress) => Value::Object(merge_egress(below, egress)),
                other => other.clone(),
            },
            ("credentialBindings", Some(Value::Array(below))) => merge_list(below, value, "ref"),
            // An empty mode says nothing.
            ("mode", Some(below)) if value.as_str() == Some("") => below.clone(),
            _ => value.clone(),
        };
        merged.insert(key.clone(), value);
    }
    Value::Object(merged)
}

fn merge_egress(base: &Map<String, Value>, over: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = base.clone();
    for (key, value) in over.iter().filter(|(_, value)| !value.is_null()) {
        let value = match merged.get(key) {
            Some(Value::Array(below)) if RULE_LISTS.contains(&key.as_str()) => merge_list(below, value, "name"),
            _ => value.clone(),
        };
        merged.insert(key.clone(), value);
    }
    merged
}

fn merge_list(base: &[Value], over: &Value, by: &str) -> Value {
    let Value::Array(over) = over else {
        return over.clone();
    };
    let mut merged = base.to_vec();
    for rule in over {
        let name = rule.get(by).and_then(Value::as_str).filter(|name| !name.is_empty());
        let same = name.and_then(|name| merged.iter_mut().find(|r| r.get(by).and_then(Value::as_str) == Some(name)));
        match same {
            Some(place) => *place = rule.clone(),
            // Whoever sends back what is in force changes nothing.
            None if name.is_none() && base.contains(rule) => {}
            None => merged.push(rule.clone()),
        }
    }
    Value::Array(merged)
}
