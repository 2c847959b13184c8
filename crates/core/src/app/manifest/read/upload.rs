//! Files among the inputs: properties of the schema with `x-openpond-upload`.

use super::{
    super::{Volume, diagnostic::Code, yaml::Data},
    spot::{Out, Spot},
};
use crate::{app::artifact, limits::apps as limits};

pub const KEY: &str = "x-openpond-upload";
const TYPES_MAX: usize = 50;

/// Looks at every such key. The schema was found to be one of bounded depth.
pub fn check(spot: &Spot<'_>, out: &mut Out, volumes: &[Volume]) {
    match &spot.node.data {
        Data::Map(entries) => {
            for (key, _) in entries {
                let inner = spot.below(std::slice::from_ref(&key.text));
                if key.text == KEY { upload(&inner, out, volumes) } else { check(&inner, out, volumes) }
            }
        }
        Data::List(items) => (0..items.len()).for_each(|at| check(&spot.below(&[at.to_string()]), out, volumes)),
        Data::Null | Data::Bool(_) | Data::Int(..) | Data::Float(..) | Data::Text(_) => {}
    }
}

fn upload(spot: &Spot<'_>, out: &mut Out, volumes: &[Volume]) {
    let Some(fields) = spot.fields(out, &["targetPath", "accept", "multiple"]) else { return };
    fields.boolean("multiple", out, false);
    for spot in fields.get("accept").map(|spot| spot.list(out, TYPES_MAX)).unwrap_or_default() {
        spot.line(out, limits::APP_COMMAND_NAME_MAX_CHARS);
    }
    let Some(spot) = fields.require("targetPath", out) else { return };
    let Some(text) = spot.text(out, limits::APP_PATH_MAX_CHARS) else { return };
    match artifact::clean_path(text) {
        Err(message) => spot.wrong(out, Code::UnsafePath, message),
        Ok(path) => {
            let mut parts = path.split('/');
            if parts.next() == Some("volumes")
                && let Some(name) = parts.next()
                && !volumes.iter().any(|volume| volume.name == name)
            {
                spot.wrong(out, Code::UnknownVolume, format!("there is no volume {name:?}"));
            }
        }
    }
}
