//! `sandbar app init`: a manifest that is right, to be changed.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::Path,
};

use anyhow::{Context, bail};
use sandbar_core::app::manifest::{FILE_NAMES, name_of_folder};
use serde_json::json;

use crate::{
    cli::{InitArgs, InitTemplate, Output},
    output,
};

/// Where a folder gives no name.
const NAME_DEFAULT: &str = "my-app";

pub fn run(form: Output, args: &InitArgs) -> anyhow::Result<u8> {
    let dir = &args.dir;
    let shown = |path: &Path| output::printable(&path.display().to_string());
    fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", shown(dir)))?;
    if let Some(name) = FILE_NAMES.into_iter().find(|name| dir.join(name).symlink_metadata().is_ok()) {
        bail!("{} is there already", shown(&dir.join(name)));
    }
    let template = args.template.unwrap_or_else(|| guess(dir));
    let folder = dir.canonicalize().ok().and_then(|dir| name_of_folder(&dir.file_name()?.to_string_lossy()));
    let file = dir.join(FILE_NAMES[0]);
    let opened = OpenOptions::new().write(true).create_new(true).open(&file);
    let mut opened = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!("{} is there already", shown(&file)),
        opened => opened.with_context(|| format!("{} cannot be written", shown(&file)))?,
    };
    opened.write_all(text(template, folder.as_deref().unwrap_or(NAME_DEFAULT)).as_bytes()).with_context(|| format!("{} cannot be written", shown(&file)))?;
    match form {
        Output::Json => output::json(&json!({"file": file, "template": name(template)})),
        Output::Table => output::line(&format!("{} is written; `sandbar app validate {}` looks at it", shown(&file), shown(dir))),
    }
    Ok(0)
}

/// What the files of a folder look like.
fn guess(dir: &Path) -> InitTemplate {
    let has = |names: &[&str]| names.iter().any(|name| dir.join(name).exists());
    if has(&["package.json"]) {
        InitTemplate::Node
    } else if has(&["requirements.txt", "pyproject.toml", "app.py", "main.py"]) {
        InitTemplate::Python
    } else if has(&["index.html"]) {
        InitTemplate::Static
    } else {
        InitTemplate::Jobs
    }
}

fn name(template: InitTemplate) -> &'static str {
    match template {
        InitTemplate::Node => "node",
        InitTemplate::Python => "python",
        InitTemplate::Static => "static",
        InitTemplate::Jobs => "jobs",
    }
}

fn text(template: InitTemplate, name: &str) -> String {
    let text = match template {
        InitTemplate::Node => include_str!("init/node.yaml"),
        InitTemplate::Python => include_str!("init/python.yaml"),
        InitTemplate::Static => include_str!("init/static.yaml"),
        InitTemplate::Jobs => include_str!("init/jobs.yaml"),
    };
    text.replace("NAME", name)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use sandbar_core::app::manifest::parse;

    use super::*;

    #[test]
    fn every_template_is_right() {
        for template in InitTemplate::value_variants() {
            let text = text(*template, "shop");
            let parsed = parse(&text).unwrap_or_else(|wrong| panic!("{}: {wrong:#?}", name(*template)));
            assert_eq!(parsed.manifest.name.as_deref(), Some("shop"), "{}", name(*template));
        }
    }

    #[test]
    fn a_manifest_is_never_overwritten() {
        let dir = std::env::temp_dir().join(format!("sandbar-app-init-{}", std::process::id()));
        let args = InitArgs { dir: dir.join("My Shop"), template: None };
        fs::create_dir_all(&args.dir).unwrap();
        fs::write(args.dir.join("index.html"), "x").unwrap();
        assert_eq!(run(Output::Table, &args).unwrap(), 0);
        let file = args.dir.join("sandbar.yaml");
        let written = fs::read_to_string(&file).unwrap();
        assert!(written.contains("name: my-shop\n") && written.contains("http.server"), "{written}");
        assert!(run(Output::Table, &args).unwrap_err().to_string().contains("is there already"));
        fs::rename(&file, args.dir.join("openpond.yml")).unwrap();
        assert!(run(Output::Table, &args).unwrap_err().to_string().contains("openpond.yml is there already"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
