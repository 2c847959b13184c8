//! `ctx.email.send`: mail of scripts, by the operator's SMTP server, or into a folder where none is set.

use std::{
    collections::HashMap,
    path::Path,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, Mailboxes, MultiPart, SinglePart, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use sandbar_core::{
    limits,
    script::mail::{SmtpConfig, SmtpTls},
};
use sandbar_node::error_text;
use sandbar_scripts::{OpError, OpResult};
use sandbar_store::ScriptRecord;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    outbox::{About, Outbox},
    reach::{Asker, Places},
};
use crate::{
    app::{App, sandboxes::now_ms},
    config::Config,
    http::json,
};

#[cfg(test)]
mod tests;

/// Of what an SMTP server says.
const REASON_MAX_CHARS: usize = 300;
const HOUR_MS: i64 = 3_600_000;
/// Teams that are remembered though their hour is over.
const TEAMS_MAX: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum MailError {
    #[error("mail_from {0:?} is no address, as in USER@HOST or NAME <USER@HOST>")]
    From(String),
    #[error("the SMTP server {0} cannot be spoken to")]
    Transport(String, #[source] lettre::transport::smtp::Error),
}

/// How mail leaves.
pub(crate) struct Mailer {
    from: Mailbox,
    transport: Option<AsyncSmtpTransport<Tokio1Executor>>,
    places: Places,
    pub(crate) outbox: Outbox,
    hourly: Hourly,
}

/// Mails of each team since its hour began.
#[derive(Default)]
struct Hourly(Mutex<HashMap<String, (i64, u32)>>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Args {
    to: People,
    /// The address of `mail_from`, perhaps with another name.
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    cc: Option<People>,
    #[serde(default, alias = "reply_to")]
    reply_to: Option<String>,
    subject: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    html: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum People {
    One(String),
    Many(Vec<String>),
}

/// Sends for a script.
pub(crate) async fn send(app: &App, script: &ScriptRecord, run_id: &str, args: &RawValue) -> OpResult {
    let asker = Asker { team_id: &script.team_id, script: Some(script), run_id, depth: 0, secret: None };
    let mailer = &app.reach.mailer;
    if mailer.transport.is_none() && app.check_room().is_err() {
        return Err(OpError::internal("the email could not be kept: the server's disk is full"));
    }
    mailer.send(asker, args).await
}

impl Mailer {
    pub(crate) fn open(config: &Config, data_dir: &Path) -> Result<Self, MailError> {
        let from = config.scripts.mail_from.clone().unwrap_or_else(|| format!("sandbar@{}", config.public_domain));
        let from = mailbox(&from).map_err(|_| MailError::From(from))?;
        let transport = config.scripts.smtp.as_ref().map(transport).transpose()?;
        let places = Places::new(limits::SCRIPT_MAILS_MAX, limits::SCRIPT_MAILS_PER_TEAM_MAX);
        Ok(Self { from, transport, places, outbox: Outbox::new(data_dir), hourly: Hourly::default() })
    }

    /// Sends one mail, or keeps it.
    pub(super) async fn send(&self, asker: Asker<'_>, args: &RawValue) -> OpResult {
        let (message, about) = compose(&self.from, asker, args, now_ms())?;
        self.hourly.take(asker.team_id, now_ms())?;
        let places = self.places.take(asker.team_id).await?;
        match &self.transport {
            Some(transport) => {
                let sent = tokio::time::timeout(Duration::from_secs(limits::SCRIPT_MAIL_TIMEOUT_S), transport.send(message)).await;
                let sent = sent.map_err(|_| OpError::wrong("the email was not sent: the SMTP server did not answer in time"))?;
                sent.map_err(|error| OpError::wrong(format!("the email was not sent: {}", reason(&error))))?;
            }
            None => self.outbox.put(asker.team_id, about, message.formatted()).await.map_err(|error| {
                tracing::error!(error = error_text(&error), "a mail could not be kept");
                OpError::internal("the email could not be kept on this server; its log says why")
            })?,
        }
        drop(places);
        Ok(RawValue::TRUE.to_owned())
    }
}

impl Hourly {
    /// Counts one more mail, unless there were too many.
    fn take(&self, team_id: &str, now_ms: i64) -> Result<(), OpError> {
        let mut teams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let began = |at_ms: i64| (0..HOUR_MS).contains(&(now_ms - at_ms));
        if teams.len() >= TEAMS_MAX {
            teams.retain(|_, (at_ms, _)| began(*at_ms));
        }
        let (at_ms, count) = teams.entry(team_id.to_owned()).or_insert((now_ms, 0));
        if !began(*at_ms) {
            (*at_ms, *count) = (now_ms, 0);
        }
        let max = limits::SCRIPT_MAILS_PER_TEAM_HOUR_MAX;
        if *count >= max {
            let minutes = (HOUR_MS - (now_ms - *at_ms)) / 60_000 + 1;
            return Err(OpError::wrong(format!("the email was not sent: a team sends at most {max} in an hour; the next one may be sent in {minutes} min")));
        }
        *count += 1;
        Ok(())
    }
}

fn transport(smtp: &SmtpConfig) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
    let parameters = || TlsParameters::new(smtp.host.clone());
    let tls = match smtp.tls {
        SmtpTls::Off => Ok(Tls::None),
        SmtpTls::IfOffered => parameters().map(Tls::Opportunistic),
        SmtpTls::Required => parameters().map(Tls::Required),
        SmtpTls::Wrapped => parameters().map(Tls::Wrapper),
    };
    let tls = tls.map_err(|error| MailError::Transport(format!("{smtp:?}"), error))?;
    let timeout = Duration::from_secs(limits::SCRIPT_MAIL_TIMEOUT_S);
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host).port(smtp.port).tls(tls).timeout(Some(timeout));
    if let Some((user, password)) = &smtp.login {
        builder = builder.credentials(Credentials::new(user.clone(), password.clone()));
    }
    Ok(builder.build())
}

/// What a server says is a stranger's text.
fn reason(error: &lettre::transport::smtp::Error) -> String {
    error_text(error).chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_MAX_CHARS).collect()
}

/// The mail that a script means, checked.
fn compose(from: &Mailbox, asker: Asker<'_>, args: &RawValue, now_ms: i64) -> Result<(Message, About), OpError> {
    let wrong = |text: String| OpError::wrong(format!("email.send: {text}"));
    let args: Args = json::read(args.get().as_bytes()).map_err(|error| wrong(format!("takes {{to, subject, text, html?, cc?, replyTo?, from?}}: {error}")))?;
    let from = &sender(from, args.from.as_deref()).map_err(wrong)?;
    let to = people("to", Some(args.to)).map_err(wrong)?;
    let cc = people("cc", args.cc).map_err(wrong)?;
    if to.is_empty() {
        return Err(wrong("to names nobody".to_owned()));
    }
    if to.len() + cc.len() > limits::SCRIPT_MAIL_RECIPIENTS_MAX {
        return Err(wrong(format!("a mail goes to at most {} people", limits::SCRIPT_MAIL_RECIPIENTS_MAX)));
    }
    let reply_to = args.reply_to.map(|text| mailbox(&text).map_err(|()| wrong(format!("replyTo: {} is no address", shown(&text))))).transpose()?;
    if args.subject.len() > limits::SCRIPT_MAIL_SUBJECT_MAX_BYTES || args.subject.contains(char::is_control) {
        return Err(wrong(format!("a subject is one line of at most {} bytes", limits::SCRIPT_MAIL_SUBJECT_MAX_BYTES)));
    }
    for (name, body) in [("text", &args.text), ("html", &args.html)] {
        if body.as_ref().is_some_and(|body| body.len() > limits::SCRIPT_MAIL_BODY_MAX_BYTES) {
            return Err(wrong(format!("{name} has at most {} bytes", limits::SCRIPT_MAIL_BODY_MAX_BYTES)));
        }
    }
    let about = About {
        created_at_ms: now_ms,
        from: from.to_string(),
        to: to.iter().map(Mailbox::to_string).collect(),
        cc: cc.iter().map(Mailbox::to_string).collect(),
        subject: args.subject.clone(),
        script_id: asker.script.map(|script| script.id.clone()),
        script_name: asker.script.map(|script| script.name.clone()),
        run_id: Some(asker.run_id.to_owned()).filter(|id| !id.is_empty()),
    };
    let domain = from.email.domain();
    let mut builder = Message::builder().from(from.clone()).subject(args.subject).date_now().message_id(Some(format!("<{}@{domain}>", uuid::Uuid::new_v4())));
    for person in to {
        builder = builder.to(person);
    }
    for person in cc {
        builder = builder.cc(person);
    }
    if let Some(reply_to) = reply_to {
        builder = builder.reply_to(reply_to);
    }
    let message = match (args.text, args.html) {
        (Some(text), Some(html)) => builder.multipart(MultiPart::alternative_plain_html(text, html)),
        (Some(text), None) => builder.singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(text)),
        (None, Some(html)) => builder.singlepart(SinglePart::builder().header(ContentType::TEXT_HTML).body(html)),
        (None, None) => return Err(wrong("text or html is needed".to_owned())),
    };
    message.map(|message| (message, about)).map_err(|error| wrong(error.to_string()))
}

/// Whom a mail is from: the operator says which address, the script may say under which name.
fn sender(ours: &Mailbox, given: Option<&str>) -> Result<Mailbox, String> {
    let Some(text) = given else { return Ok(ours.clone()) };
    match mailbox(text) {
        Ok(from) if from.email.to_string().eq_ignore_ascii_case(ours.email.as_ref()) => {
            Ok(Mailbox { name: from.name.or_else(|| ours.name.clone()), ..ours.clone() })
        }
        Ok(_) => Err(format!("from: {} is not allowed: mail of this server is from {}; replyTo says whom answers go to", shown(text), ours.email)),
        Err(()) => Err(format!("from: {} is no address", shown(text))),
    }
}

fn people(field: &str, given: Option<People>) -> Result<Vec<Mailbox>, String> {
    let texts = match given {
        None => Vec::new(),
        Some(People::One(text)) => vec![text],
        Some(People::Many(texts)) => texts,
    };
    if texts.len() > limits::SCRIPT_MAIL_RECIPIENTS_MAX {
        return Err(format!("a mail goes to at most {} people", limits::SCRIPT_MAIL_RECIPIENTS_MAX));
    }
    let mut people = Vec::new();
    for text in &texts {
        // One text may name several.
        let several = Some(text).filter(|text| is_line(text)).and_then(|text| Mailboxes::from_str(text).ok());
        people.extend(several.ok_or_else(|| format!("{field}: {} is no address", shown(text)))?);
    }
    Ok(people)
}

/// One address, with or without a name.
fn mailbox(text: &str) -> Result<Mailbox, ()> {
    if is_line(text) { Mailbox::from_str(text).map_err(|_| ()) } else { Err(()) }
}

/// Whether it is one line of bounded length: what follows a line's end would be another header.
fn is_line(text: &str) -> bool {
    text.len() <= limits::SCRIPT_MAIL_SUBJECT_MAX_BYTES * limits::SCRIPT_MAIL_RECIPIENTS_MAX && !text.contains(char::is_control)
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(100).collect::<String>())
}
