use proptest::prelude::*;

use super::*;

const CANARY: &str = "canary-5f1c";

fn pem(label: &str) -> String {
    format!("-----BEGIN {label}-----\n{CANARY}\n-----END {label}-----\n")
}

fn each() -> Vec<(Kind, Value)> {
    vec![
        (Kind::Headers, json!({ "staticHeaders": { "values": { "token": CANARY, "X-Key": "k" } } })),
        (
            Kind::ClientCertificate,
            json!({ "staticTLSClientCertificate": { "certificatePem": pem("CERTIFICATE"), "privateKeyPem": pem("PRIVATE KEY"), "caPem": pem("CERTIFICATE") } }),
        ),
        (Kind::UsernamePassword, json!({ "staticUsernamePassword": { "username": "u", "password": CANARY } })),
        (Kind::SshPrivateKey, json!({ "staticSSHPrivateKey": { "privateKeyPem": pem("OPENSSH PRIVATE KEY"), "passphrase": CANARY } })),
    ]
}

fn body(kind: Kind, spec: &Value) -> Value {
    json!({ "name": "github", "resolverKind": kind.as_str(), "spec": spec })
}

fn refused(body: &Value) -> String {
    let found = Definition::read(body).expect_err("is refused");
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn each_kind_is_read_and_written_and_shows_nothing() {
    for (kind, spec) in each() {
        let read = Definition::read(&body(kind, &spec)).expect("is read");
        assert_eq!((read.name.as_str(), read.material.kind()), ("github", kind));
        assert_eq!(Material::from_spec(kind, &read.material.to_spec()), Ok(read.material.clone()));
        let shown = format!("{read:?} {:#?}", read.material);
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

#[test]
fn a_kind_takes_its_own_member_alone() {
    for (kind, _) in each() {
        for (other, spec) in each().into_iter().filter(|(other, _)| *other != kind) {
            let said = refused(&body(kind, &spec));
            assert!(said.contains(kind.member()) && said.contains(&format!("spec.{}: does not belong", other.member())), "{said}");
            assert!(!said.contains(CANARY), "{said}");
        }
    }
    let null_beside = json!({ "staticHeaders": { "values": { "t": "v" } }, "staticUsernamePassword": null });
    assert!(Definition::read(&body(Kind::Headers, &null_beside)).is_ok(), "SDKs send null for what was not set");
}

#[test]
fn what_is_wrong_is_named_and_never_repeated() {
    let long = CANARY.repeat(10_000);
    let headers = |values: Value| body(Kind::Headers, &json!({ "staticHeaders": { "values": values } }));
    let login = |login: Value| body(Kind::UsernamePassword, &json!({ "staticUsernamePassword": login }));
    let table = [
        (json!(CANARY), "body: must be an object"),
        (json!({ "name": "x" }), "resolverKind: is required; spec: is required"),
        (json!({ "name": CANARY, "resolverKind": CANARY, "spec": {} }), "resolverKind: must be one of static_headers"),
        (json!({ "name": 7, "resolverKind": "static_headers", "spec": CANARY }), "name: must be a text; spec: must be an object"),
        (json!({ "name": format!("../{CANARY}"), "resolverKind": "static_headers", "spec": {} }), "name: must be 1 to 128"),
        (
            json!({ "name": "x", "resolverKind": "static_headers", "spec": { "staticHeaders": { "values": { "t": "v" } } }, CANARY: 1 }),
            "body: has unknown fields",
        ),
        (headers(json!({})), "values: has 0 values; 1 to 64"),
        (headers(json!([CANARY])), "values: must be an object"),
        (headers(json!({ "t": 1 })), "spec.staticHeaders.values.t: must be a text"),
        (headers(json!({ "t": "" })), "values.t: must not be empty"),
        (headers(json!({ "t": format!("{CANARY}\r\nX: y") })), "values.t: must not hold line ends"),
        (headers(json!({ "t": long })), "values.t: has 110000 bytes; 16384 are the limit"),
        (headers(json!({ format!("{CANARY} "): "v" })), "the name of value 1 must be"),
        (login(json!({ "username": CANARY })), "spec.staticUsernamePassword.password: is required"),
        (login(json!({ "username": "", "password": "" })), "password: must not be empty when"),
        (
            login(json!({ "username": "u", "password": CANARY, "pasword": CANARY })),
            "spec.staticUsernamePassword: has unknown fields; known are username, password",
        ),
        (body(Kind::SshPrivateKey, &json!({ "staticSSHPrivateKey": { "privateKeyPem": CANARY } })), "spec.staticSSHPrivateKey.privateKeyPem: must be PEM"),
        (
            body(Kind::ClientCertificate, &json!({ "staticTLSClientCertificate": { "certificatePem": pem("CERTIFICATE"), "caPem": CANARY } })),
            "privateKeyPem: is required; spec.staticTLSClientCertificate.caPem: must be PEM",
        ),
    ];
    for (body, expected) in table {
        let said = refused(&body);
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
        assert!(!said.contains(CANARY), "{said}");
    }
}

#[test]
fn names_are_plain() {
    for name in ["a", "github", "GitHub.token_2-x", "0", &"a".repeat(128)] {
        assert!(is_name(name), "{name}");
    }
    for name in ["", ".", "..", "-a", "_a", "a/b", "a b", "ä", "a\n", &"a".repeat(129)] {
        assert!(!is_name(name), "{name:?}");
    }
}

#[test]
fn kinds_fit_their_projections() {
    let fitting = |kind: Kind| Projection::ALL.into_iter().filter(move |projection| kind.fits(*projection)).map(Projection::as_str).collect::<Vec<_>>();
    assert_eq!(fitting(Kind::Headers), ["http_headers", "placeholder_substitution"]);
    assert_eq!(fitting(Kind::UsernamePassword), ["http_headers", "placeholder_substitution", "username_password"]);
    assert_eq!(fitting(Kind::ClientCertificate), ["tls_client_certificate"]);
    assert_eq!(fitting(Kind::SshPrivateKey), ["ssh_proxy"]);
    for kind in Kind::ALL {
        assert_eq!(Kind::parse(kind.as_str()), Some(kind));
    }
    for projection in Projection::ALL {
        assert_eq!(Projection::parse(projection.as_str()), Some(projection));
    }
}

#[test]
fn templates_know_values_by_name() {
    let headers = Material::Headers(BTreeMap::from([("token".to_owned(), "t".to_owned())]));
    let login = Material::UsernamePassword { username: "u".to_owned(), password: "p".to_owned() };
    assert_eq!((headers.value("token"), headers.value("username")), (Some("t"), None));
    assert_eq!((login.value("username"), login.value("password"), login.value("token")), (Some("u"), Some("p"), None));
}

#[test]
fn a_sandbox_binds_what_its_template_binds_and_its_own() {
    let policy = |bindings: Value| json!({ "mode": "allow-all", "credentialBindings": bindings });
    let binding = |reference: &str, source: &str, projection: &str| json!({ "ref": reference, "sourceRef": source, "projection": { "type": projection } });
    let template = policy(json!([binding("a", "one", "http_headers"), binding("b", "two", "http_headers")]));
    let own = policy(json!([binding("b", "three", "ssh_proxy"), { "ref": 1 }, "nonsense"]));
    let bound = bindings(Some(&template), Some(&own));
    let expected = [("a", "one", "http_headers"), ("b", "three", "ssh_proxy")];
    let read =
        |(reference, source, projection): (&str, &str, &str)| Binding { reference: reference.into(), source: source.into(), projection: projection.into() };
    assert_eq!(bound, expected.map(read));
    assert_eq!(bindings(None, None), []);
    assert_eq!(bindings(Some(&json!({ "credentialBindings": null })), None), []);
    assert_eq!(bound[0].check(Some(Kind::UsernamePassword)), Ok(()));
    let missing = bound[0].check(None).expect_err("is missing");
    assert_eq!(missing.to_string(), "credential binding \"a\" names the source \"one\", which this team does not have");
    let unfit = bound[1].check(Some(Kind::Headers)).expect_err("does not fit").to_string();
    assert!(unfit.ends_with("is ssh_proxy, which its source \"three\" of kind static_headers does not fit; it takes static_ssh_private_key"), "{unfit}");
}

proptest! {
    /// Whatever is sent, no text of it comes back.
    #[test]
    fn nothing_is_repeated(place in 0usize..6, kind in 0usize..5, text in "[A-Z]{12,40}") {
        let kind = Kind::ALL.get(kind).map_or("other", |kind| kind.as_str());
        let nested = match place {
            0 => json!(text),
            1 => json!({ text.clone(): text }),
            2 => json!({ "staticHeaders": text }),
            3 => json!({ "staticHeaders": { "values": [text] } }),
            4 => json!({ "staticUsernamePassword": { "username": [text], "password": { "a": text } } }),
            _ => json!({ "staticSSHPrivateKey": { "privateKeyPem": text, "passphrase": 1 } }),
        };
        for violation in Definition::read(&json!({ "name": "x", "resolverKind": kind, "spec": nested })).err().into_iter().flatten() {
            prop_assert!(!violation.to_string().contains(&text));
        }
    }
}
