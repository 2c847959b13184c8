//! Files among the inputs: properties of the schema with `x-openpond-upload`.

use super::{
    super::{Volume, diagnostic::Code, yaml::Data},
    spot::{Out, Spot},
};
use crate::{
    app::{artifact, uploads::KEY, volume::VOLUMES},
    limits::apps as limits,
};

const TYPES_MAX: usize = 50;

/// Looks at every such key. The depth of a manifest is bounded.
pub fn check(spot: &Spot<'_>, out: &mut Out, volumes: &[Volume]) {
    schema(spot, out, volumes, Place::Input);
}

/// What a part of a schema says something of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The input, whole.
    Input,
    /// A property of it, or of an object in it.
    Property,
    /// Properties, by name.
    Properties,
    /// Anything else.
    Elsewhere,
}

fn schema(spot: &Spot<'_>, out: &mut Out, volumes: &[Volume], place: Place) {
    match &spot.node.data {
        Data::Map(entries) => {
            for (key, _) in entries {
                let inner = spot.below(std::slice::from_ref(&key.text));
                match (place, key.text.as_str()) {
                    (Place::Properties, _) => schema(&inner, out, volumes, Place::Property),
                    (Place::Property, KEY) => {
                        upload(&inner, out, volumes);
                        check_type(spot, out);
                    }
                    (_, KEY) => inner.wrong(out, Code::InvalidSchema, "a file is a property of the input, or of an object in it"),
                    (Place::Input | Place::Property, "properties") => schema(&inner, out, volumes, Place::Properties),
                    _ => schema(&inner, out, volumes, Place::Elsewhere),
                }
            }
        }
        Data::List(items) => (0..items.len()).for_each(|at| schema(&spot.below(&[at.to_string()]), out, volumes, Place::Elsewhere)),
        Data::Null | Data::Bool(_) | Data::Int(..) | Data::Float(..) | Data::Text(_) => {}
    }
}

/// What stands in the input is a path, or a list of them.
fn check_type(property: &Spot<'_>, out: &mut Out) {
    let Data::Map(entries) = &property.node.data else { return };
    let at = |key: &str| entries.iter().find(|(known, _)| known.text == key).map(|(_, node)| node);
    let multiple = at(KEY).is_some_and(|said| match &said.data {
        Data::Map(said) => said.iter().any(|(key, node)| key.text == "multiple" && matches!(node.data, Data::Bool(true))),
        _ => false,
    });
    let wanted = if multiple { "array" } else { "string" };
    if let Some(node) = at("type")
        && let Data::Text(kind) = &node.data
        && kind != wanted
    {
        let value = if multiple { "the list of the paths of the files" } else { "the path of the file" };
        property.below(&["type".to_owned()]).wrong(out, Code::InvalidSchema, format!("must be {wanted}: the value is {value}"));
    }
}

fn upload(spot: &Spot<'_>, out: &mut Out, volumes: &[Volume]) {
    let Some(fields) = spot.fields(out, &["targetPath", "accept", "multiple"]) else { return };
    let multiple = fields.boolean("multiple", out, false);
    for spot in fields.get("accept").map(|spot| spot.list(out, TYPES_MAX)).unwrap_or_default() {
        if let Some(entry) = spot.line(out, limits::APP_COMMAND_NAME_MAX_CHARS)
            && !(entry.starts_with('.') || entry.contains('/'))
        {
            spot.wrong(out, Code::InvalidValue, "must be the end of a name, such as .csv, or a type, such as text/csv or image/*");
        }
    }
    let Some(spot) = fields.require("targetPath", out) else { return };
    let Some(text) = spot.text(out, limits::APP_PATH_MAX_CHARS) else { return };
    match artifact::clean_path(text) {
        Err(message) => spot.wrong(out, Code::UnsafePath, message),
        Ok(path) => {
            let parts: Vec<_> = path.split('/').collect();
            let in_volume = parts[0] == VOLUMES && parts.len() > 1;
            if in_volume && !volumes.iter().any(|volume| volume.name == parts[1]) {
                spot.wrong(out, Code::UnknownVolume, format!("there is no volume {:?}", parts[1]));
            } else if !multiple && (path.is_empty() || (in_volume && parts.len() == 2)) {
                spot.wrong(out, Code::UnsafePath, "must name the file; only with multiple: true it is a folder");
            }
        }
    }
}
