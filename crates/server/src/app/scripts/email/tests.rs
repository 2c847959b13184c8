use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use super::*;

const ASKER: Asker<'static> = Asker { team_id: "t", script: None, run_id: "run-1", depth: 0, secret: None };

fn composed(args: Value) -> Result<(String, About), OpError> {
    let from = mailbox("Sandbar <sandbar@a.test>").expect("an address");
    let args = serde_json::value::to_raw_value(&args).expect("JSON");
    compose(&from, ASKER, &args, 7).map(|(message, about)| (String::from_utf8(message.formatted()).expect("ASCII"), about))
}

#[test]
fn a_mail_is_what_the_script_means() {
    let (mail, about) = composed(json!({
        "to": ["Ann <ann@b.test>", "bob@b.test"], "cc": "c@b.test, d@b.test", "replyTo": "r@b.test", "subject": "Grüße", "text": "a\n.\nb", "html": "<p>ü</p>",
    }))
    .unwrap();
    for part in [
        "From: Sandbar <sandbar@a.test>",
        "To: Ann <ann@b.test>, bob@b.test",
        "Cc: c@b.test, d@b.test",
        "Reply-To: r@b.test",
        "Subject: =?utf-8?",
        "multipart/alternative",
        "Message-ID: <",
        "Date: ",
    ] {
        assert!(mail.contains(part), "{part}: {mail}");
    }
    assert_eq!(
        (about.to, about.cc.len(), about.subject.as_str(), about.run_id.as_deref()),
        (vec!["Ann <ann@b.test>".to_owned(), "bob@b.test".to_owned()], 2, "Grüße", Some("run-1"))
    );
    let (mail, _) = composed(json!({"to": "a@b.test", "subject": "s", "html": "<p>"})).unwrap();
    assert!(mail.contains("text/html") && !mail.contains("multipart"), "{mail}");
}

#[test]
fn what_is_not_ascii_is_encoded_wherever_it_stands_in_the_head() {
    let (mail, about) = composed(json!({
        "to": ["Zoë Ü <zoe@b.test>", "\u{65e5}\u{672c} <jp@b.test>"], "cc": "Ä Ö <ao@b.test>", "replyTo": "Réne <r@b.test>", "from": "Bücher <sandbar@a.test>",
        "subject": "Grüße 😀 ".repeat(20), "text": "žluťoučký", "html": "<p>ü</p>",
    }))
    .unwrap();
    assert!(mail.is_ascii(), "{mail}");
    for line in ["From: =?utf-8?b?", "To: =?utf-8?b?", "Cc: =?utf-8?b?", "Reply-To: =?utf-8?b?", "Subject: =?utf-8?b?"] {
        assert!(mail.contains(line), "{line}: {mail}");
    }
    assert!(mail.lines().all(|line| line.len() <= 998), "{mail}");
    assert_eq!((about.from.as_str(), about.to[0].as_str()), ("Bücher <sandbar@a.test>", "Zoë Ü <zoe@b.test>"), "what is shown is what was meant");
}

#[test]
fn the_sender_is_the_operators_under_a_name_of_the_scripts() {
    for (from, head) in [("sandbar@a.test", "From: Sandbar <sandbar@a.test>"), ("Shop <SANDBAR@A.test>", "From: Shop <sandbar@a.test>")] {
        let (mail, _) = composed(json!({"to": "a@b.test", "from": from, "subject": "s", "text": "t"})).unwrap();
        assert!(mail.contains(head), "{mail}");
    }
}

#[test]
fn nothing_gets_into_the_head_that_does_not_belong_there() {
    for field in ["to", "cc", "replyTo", "from", "subject"] {
        for evil in ["a@b.test\r\nBcc: x@y.test", "a@b.test\nBcc: x@y.test", "a@b.test\rBcc: x@y.test", "\u{0}a@b.test", "Ann\r\nX: y <a@b.test>"] {
            let mut args = json!({"to": "a@b.test", "subject": "s", "text": "t"});
            args[field] = json!(evil);
            let error = composed(args).expect_err(evil);
            assert!(error.message.starts_with("email.send: "), "{error:?}");
        }
    }
    let (mail, _) = composed(json!({"to": "\"Bcc: x@y.test\" <a@b.test>", "subject": "Bcc: x@y.test", "text": "Bcc: x@y.test"})).unwrap();
    let head = mail.split("\r\n\r\n").next().unwrap();
    assert!(!head.contains("\nBcc"), "{head}");
}

#[test]
fn what_is_wrong_is_said() {
    let with = |field: &str, value: Value| {
        let mut args = json!({"to": "a@b.test", "subject": "s", "text": "t"});
        args[field] = value;
        args
    };
    for (args, words) in [
        (json!({}), "to"),
        (with("to", json!("")), "to"),
        (with("to", json!([])), "nobody"),
        (with("to", json!("nobody")), "is no address"),
        (with("to", json!("a@b@c")), "is no address"),
        (with("to", json!(["a@b.test", "x y"])), "is no address"),
        (with("to", json!(7)), "email.send"),
        (with("to", json!(vec!["a@b.test"; 51])), "at most 50"),
        (with("cc", json!(vec!["a@b.test"; 50])), "at most 50"),
        (with("to", json!(vec!["a@b.test"; 51].join(","))), "at most 50"),
        (with("subject", Value::Null), "email.send"),
        (with("subject", json!("s".repeat(999))), "subject"),
        (with("text", Value::Null), "text or html"),
        (with("text", json!("t".repeat(limits::SCRIPT_MAIL_BODY_MAX_BYTES + 1))), "text has at most"),
        (with("html", json!("t".repeat(limits::SCRIPT_MAIL_BODY_MAX_BYTES + 1))), "html has at most"),
        (with("replyTo", json!("a@b.test, c@d.test")), "replyTo"),
        (with("from", json!("boss@b.test")), "mail of this server is from sandbar@a.test"),
        (with("from", json!("boss")), "from: \"boss\" is no address"),
        (with("bcc", json!("x@b.test")), "bcc: is not known; there are to, from, cc, "),
    ] {
        let error = composed(args.clone()).expect_err("is refused");
        assert!(error.message.contains(words), "{args}: {error:?}");
    }
}

/// An SMTP server that says yes to everything but one person, and keeps what it is told.
async fn smtp() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let (port, told) = (listener.local_addr().expect("an address").port(), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&told);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                let mut in_data = false;
                write.write_all(b"220 test ESMTP\r\n").await.expect("writes");
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer = match line.get(..4).unwrap_or(&line) {
                        _ if in_data && line != "." => None,
                        "." => Some("250 kept"),
                        "EHLO" => Some("250-test\r\n250-8BITMIME\r\n250 AUTH PLAIN"),
                        "DATA" => Some("354 go on"),
                        "RCPT" if line.contains("nobody@") => Some("550 no such user"),
                        "QUIT" => Some("221 bye"),
                        _ => Some("250 ok"),
                    };
                    in_data = in_data && line != "." || line == "DATA";
                    kept.lock().expect("a lock").push(line);
                    if let Some(answer) = answer {
                        let _ = write.write_all(format!("{answer}\r\n").as_bytes()).await;
                    }
                }
            });
        }
    });
    (port, told)
}

fn mailer(url: Option<&str>) -> Mailer {
    Mailer {
        from: mailbox("sandbar@a.test").expect("an address"),
        transport: url.map(|url| transport(&url.parse().expect("a URL")).expect("a transport")),
        places: Places::new(4, 4),
        outbox: Outbox::new(Path::new("/dev/null/sandbar")),
        hourly: Hourly::default(),
    }
}

async fn send(mailer: &Mailer, to: &str) -> OpResult {
    let args = serde_json::value::to_raw_value(&json!({"to": to, "subject": "s", "text": "one\n.two\nthree"})).expect("JSON");
    mailer.send(ASKER, &args).await
}

#[tokio::test]
async fn mail_leaves_by_smtp() {
    let (port, told) = smtp().await;
    let mailer = mailer(Some(&format!("smtp://u:p%40@127.0.0.1:{port}")));
    assert_eq!(send(&mailer, "ann@b.test").await.unwrap().get(), "true");
    let told_now = std::mem::take(&mut *told.lock().unwrap());
    for line in ["AUTH PLAIN AHUAcEA=", "MAIL FROM:<sandbar@a.test>", "RCPT TO:<ann@b.test>", "To: ann@b.test", "..two", "three"] {
        assert!(told_now.iter().any(|told| told.starts_with(line)), "{line}: {told_now:?}");
    }
    let refused = send(&mailer, "nobody@b.test").await.unwrap_err();
    assert!(refused.message.starts_with("the email was not sent: ") && refused.message.contains("no such user"), "{refused:?}");
}

#[tokio::test]
async fn a_server_that_offers_no_tls_gets_no_mail_where_it_is_required() {
    let (port, told) = smtp().await;
    let mailer = mailer(Some(&format!("smtp://u:p@127.0.0.1:{port}?tls=required")));
    assert!(send(&mailer, "ann@b.test").await.is_err());
    assert!(told.lock().unwrap().iter().all(|line| !line.starts_with("AUTH") && !line.starts_with("MAIL")));
}

#[tokio::test]
async fn what_cannot_be_sent_or_kept_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    assert!(send(&mailer(Some(&format!("smtp://127.0.0.1:{port}"))), "ann@b.test").await.unwrap_err().message.starts_with("the email was not sent"));
    assert!(send(&mailer(None), "ann@b.test").await.is_err());
}

#[test]
fn a_team_sends_so_many_in_an_hour() {
    let hourly = Hourly::default();
    for _ in 0..limits::SCRIPT_MAILS_PER_TEAM_HOUR_MAX {
        hourly.take("a", 1000).expect("may be sent");
    }
    let refused = hourly.take("a", 1000 + HOUR_MS - 1).expect_err("is one too many");
    assert!(refused.message.contains("at most 1000 in an hour; the next one may be sent in 1 min"), "{}", refused.message);
    assert!(hourly.take("b", 1000).is_ok());
    assert!(hourly.take("a", 1000 + HOUR_MS).is_ok());
    // The clock was set back: nobody waits until it has caught up.
    assert!(hourly.take("a", 7).is_ok());
}
