//! What may not be seen of the sandboxes of an app by those who may look into sandboxes: the variables that it was given sealed, where
//! they stand in the environment of its commands and in what these print. Whoever runs commands of their own beside them, or reads their
//! files, can see them all the same; nothing here keeps them from that.

use std::collections::BTreeSet;

use sandbar_core::redact::{LineRedactor, Redactor, dropped_bytes, mark};
use sandbar_procd_api::{Context, LogLine, Output, Stream};

use super::manifest_of;
use crate::{
    app::{App, sandboxes::store_failure},
    error::ApiError,
};

/// Secrets of a sandbox of an app.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    /// Of the variables.
    names: BTreeSet<String>,
    redactor: Redactor,
}

/// Takes secrets out of what a command prints, stream by stream.
pub(crate) struct SealedOutput {
    streams: [Redactor; 3],
}

/// Lines of the log of a sandbox, without its secrets.
pub(crate) struct SealedLines {
    redactor: LineRedactor<(String, Stream)>,
    all: Redactor,
}

impl App {
    /// What may not be seen of a sandbox; none where there is nothing of that kind. One whose app was deleted is about to be ended, and
    /// nobody knows any more what its secrets are: it is not found.
    pub(crate) async fn sealed_in(&self, sandbox_id: &str) -> Result<Option<Sealed>, ApiError> {
        let failed = |e| store_failure("reading the app of the sandbox", &e);
        let Some(row) = self.store.app_sandbox_get(sandbox_id).await.map_err(failed)? else { return Ok(None) };
        let gone = || ApiError::not_found("sandbox", sandbox_id);
        let app = self.store.app_get(&row.app_id).await.map_err(failed)?.ok_or_else(gone)?;
        let version = self.store.app_version(&app.id, row.version).await.map_err(failed)?.ok_or_else(gone)?;
        let manifest = manifest_of(&version)?;
        let names: BTreeSet<String> = manifest.inputs.env.iter().filter(|asked| asked.secret).map(|asked| asked.name.clone()).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let now = self.app_given(&app, &manifest).await?.redactor().and(&self.said_in(&app.id, sandbox_id).await?);
        // What it was started with may be another by now.
        let redactor = match self.supervised(sandbox_id) {
            Some(supervised) => supervised.redactor().and(&now),
            None => now,
        };
        Ok(Some(Sealed { names, redactor }))
    }

    /// The same for the lines of its log.
    pub(crate) async fn sealed_lines(&self, sandbox_id: &str) -> Result<SealedLines, ApiError> {
        let redactor = self.sealed_in(sandbox_id).await?.unwrap_or_default().redactor;
        Ok(SealedLines { redactor: LineRedactor::new(&redactor), all: redactor })
    }
}

impl Sealed {
    /// Hides them in what is told of a context.
    pub fn context(&self, context: &mut Context) {
        let redactor = self.of(context);
        for (name, value) in &mut context.env_vars {
            *value = if self.names.contains(name) { mark(name) } else { redactor.text(value) };
        }
        for argument in context.command.iter_mut().flatten() {
            *argument = redactor.text(argument);
        }
        hide(&redactor, &mut context.output, context.running);
    }

    /// Hides them in what was printed.
    pub fn output(&self, output: &mut Output) {
        hide(&self.redactor, output, false);
    }

    /// What takes them out of the output of a context; none where it was given none of them. What people type into a terminal of
    /// theirs is echoed at once.
    pub fn output_of(&self, context: &Context) -> Option<SealedOutput> {
        let has = context.env_vars.keys().any(|name| self.names.contains(name));
        has.then(|| {
            let redactor = self.of(context);
            SealedOutput { streams: [redactor.clone(), redactor.clone(), redactor] }
        })
    }

    /// With what a context was given itself, which may be an older value.
    fn of(&self, context: &Context) -> Redactor {
        let own = context.env_vars.iter().filter(|(name, value)| self.names.contains(*name) && **value != mark(name));
        self.redactor.and(&Redactor::new(own.map(|(name, value)| (name.as_str(), value.as_str()))))
    }
}

fn hide(redactor: &Redactor, output: &mut Output, goes_on: bool) {
    for text in [&mut output.output_raw, &mut output.stdout, &mut output.stderr].into_iter().flatten() {
        *text = redactor.printed(text, goes_on);
    }
}

impl SealedOutput {
    /// What may be seen of a piece.
    pub fn push(&mut self, stream: Stream, piece: &str) -> String {
        let redactor = &mut self.streams[lane(stream)];
        let bytes = if dropped_bytes(piece).is_some() {
            let mut bytes = redactor.cut();
            bytes.extend_from_slice(piece.as_bytes());
            bytes
        } else {
            redactor.push(piece.as_bytes())
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What was held back: nothing follows.
    pub fn finish(&mut self) -> Vec<(Stream, String)> {
        let all = [Stream::Stdout, Stream::Stderr, Stream::Pty];
        let rest = all.map(|stream| (stream, String::from_utf8_lossy(&self.streams[lane(stream)].finish()).into_owned()));
        rest.into_iter().filter(|(_, text)| !text.is_empty()).collect()
    }
}

fn lane(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
        Stream::Pty => 2,
    }
}

impl SealedLines {
    /// Of these secrets.
    pub fn of(redactor: &Redactor) -> Self {
        Self { redactor: LineRedactor::new(redactor), all: redactor.clone() }
    }

    /// Takes them out. Lines have to come in their order, and all of them.
    pub fn hide(&mut self, mut lines: Vec<LogLine>) -> Vec<LogLine> {
        for line in &mut lines {
            line.m = self.redactor.line((line.c.clone(), line.s), &line.m, line.more);
        }
        lines
    }

    /// From here on with those of another, too: values may have been changed.
    pub fn renew(&mut self, other: &Self) {
        self.all = self.all.and(&other.all);
        self.redactor.renew(&self.all);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sealed() -> Sealed {
        Sealed { names: ["TOKEN".to_owned()].into(), redactor: Redactor::new([("TOKEN", "n3w-s3cr3t")]) }
    }

    fn context(env: &[(&str, &str)], printed: &str) -> Context {
        let env_vars: BTreeMap<String, String> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let whole = serde_json::json!({
            "id": "ctx-1", "type": "cmd", "alias": null, "command": ["sh", "-c", "echo 0ld-s3cr3t"], "cwd": "/", "env_vars": env_vars, "running": true, "paused": false, "pid": 1,
            "created_ms": 1, "state": "running", "output_raw": printed,
        });
        serde_json::from_value(whole).expect("a context")
    }

    #[test]
    fn contexts_show_neither_the_value_that_is_nor_the_one_that_was() {
        let mut shown = context(&[("TOKEN", "0ld-s3cr3t"), ("URL", "https://x:n3w-s3cr3t@y"), ("PLAIN", "yes")], "a 0ld-s3cr3t b n3w-s3");
        sealed().context(&mut shown);
        let env: Vec<&str> = shown.env_vars.values().map(String::as_str).collect();
        assert_eq!(env, ["yes", "[secret TOKEN]", "https://x:[secret TOKEN]@y"]);
        assert_eq!(shown.command.as_ref().and_then(|command| command.last()).map(String::as_str), Some("echo [secret TOKEN]"));
        assert_eq!(shown.output.output_raw.as_deref(), Some("a [secret TOKEN] b [secret TOKEN]"));
    }

    #[test]
    fn outputs_of_commands_that_were_given_none_are_passed_on_at_once() {
        assert!(sealed().output_of(&context(&[("PLAIN", "yes")], "")).is_none());
        let mut output = sealed().output_of(&context(&[("TOKEN", "n3w-s3cr3t")], "")).expect("a redactor");
        assert_eq!(output.push(Stream::Stdout, "a n3w-"), "a ");
        assert_eq!(output.push(Stream::Stderr, "s3cr3t"), "s3cr3t", "streams are apart");
        assert_eq!(output.push(Stream::Stdout, "s3cr3t b n3"), "[secret TOKEN] b ");
        let drop = "[sandbar: 7 bytes of earlier output dropped]\n";
        assert_eq!(output.push(Stream::Stdout, drop), format!("n3{drop}"));
        assert_eq!(output.push(Stream::Stdout, "-s3cr3t c"), "[secret TOKEN] c");
        assert!(output.finish().is_empty());
    }
}
