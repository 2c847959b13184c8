use rcgen::{CertificateParams, KeyPair};

use super::*;

const PLAIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACAmcBWjf8XynFcJRfHmZNQcCQQyXL7sNIe4uQ35mUttFwAAAIh746QCe+Ok
AgAAAAtzc2gtZWQyNTUxOQAAACAmcBWjf8XynFcJRfHmZNQcCQQyXL7sNIe4uQ35mUttFw
AAAEA6fhV7hNntV/jaCrk8IFjk3CCbf0//MFG5D8qLLWCPNSZwFaN/xfKcVwlF8eZk1BwJ
BDJcvuw0h7i5DfmZS20XAAAABHRlc3QB
-----END OPENSSH PRIVATE KEY-----
";
/// Its passphrase is `open sesame`.
const LOCKED: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABAjTyOvlN
F6nicUlRzVqHaHAAAAAgAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIApBezMziIiXSjy4
eANEgk/XbPE8ottLjba4DCsUqudLAAAAkFBKcGQc4osSN+X8A2HOxsmxwd+KnZGARI6tfU
dXzF9czfWWwjIRzP4sooeYNpYixICH5y8dd09Flbk+1V7BDQoa8Q21quJbwEaq/sBMtEf2
dbioUI95Ljp8PFGMoPT7d5dX5C/LEACZbtOuYADO0QHTlKKlCPSHlRDS64dY6qcUnAvDIo
Z3umtKtqLo0RimKw==
-----END OPENSSH PRIVATE KEY-----
";
/// Encrypted with 300 rounds.
const SLOW: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABDeOmF68Y
Sb6ROgKpcoybpBAAABLAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIEzXcXmdstyC3xx/
ny4nr5vg4Vr1U/cx6OSv1n60Q+iCAAAAkEQ6lWNnWg5Z6Anz3dEfocrGYcUq1FAnvWO9kA
VVVypwVuBTI0/dfm1K56XN37Vc8P/a/2cTbVIA+IDog23zgz4BHKwC4RF0U6GEA5uWYKBq
CYwMbg6cfflNgLu+3oAEAgGqjaypHJGCdwqNwncJBqYXrkvgqmj5fKcWRz/DfdeCN946UE
cvgeHPz6pO6oNu/Q==
-----END OPENSSH PRIVATE KEY-----
";
const P256: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS
1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQQSPQhUvxIgdchXFhuUoUMLQV1Lb7L9
fiotr7nbng/e5aXl2WLhtVBqm/MHa+8VYr8F7qPWldNFYbPmp/sQsPkfAAAAoChj6B8oY+
gfAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBI9CFS/EiB1yFcW
G5ShQwtBXUtvsv1+Ki2vudueD97lpeXZYuG1UGqb8wdr7xVivwXuo9aV00Vhs+an+xCw+R
8AAAAhAKqlQacBU8VxZIrhKV2wQwiqi+vw5yybU1P3JdF9G7QkAAAABHRlc3QBAgM=
-----END OPENSSH PRIVATE KEY-----
";
const P521: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAArAAAABNlY2RzYS
1zaGEyLW5pc3RwNTIxAAAACG5pc3RwNTIxAAAAhQQBGsjgeoDaR1AlKUHKoCso6W8L0KXh
u7xfIDLPhMn6p6MmOfE6gIEQ4SwZNzPPlmBi7WMcOdp4/dTthRuT3SmwBqMB3HbZWrPc61
uJy8vptHXsrMm2T8OS2eHMZ5GdFZOzq+8oKU7rSm65rHqeAQuqzKE7kg72ybCKhznicsGL
4aPa3fIAAAEA4VOFRuFThUYAAAATZWNkc2Etc2hhMi1uaXN0cDUyMQAAAAhuaXN0cDUyMQ
AAAIUEARrI4HqA2kdQJSlByqArKOlvC9Cl4bu8XyAyz4TJ+qejJjnxOoCBEOEsGTczz5Zg
Yu1jHDnaeP3U7YUbk90psAajAdx22Vqz3OtbicvL6bR17KzJtk/DktnhzGeRnRWTs6vvKC
lO60puuax6ngELqsyhO5IO9smwioc54nLBi+Gj2t3yAAAAQgE8iFAVUjlb5XOIuVkg2kF8
Xm9Pkce1vpeM7v5fTIc/2iG7hIUijjdGz7xZnt+Wz+1TKUtQOMuq/6MoxR50Ck62/QAAAA
F0AQ==
-----END OPENSSH PRIVATE KEY-----
";

const CANARY: &str = "canary-77";

fn client(certificate_pem: &str, private_key_pem: &str, ca_pem: Option<&str>) -> Result<Material, String> {
    let material = Material::ClientCertificate {
        certificate_pem: certificate_pem.to_owned(),
        private_key_pem: private_key_pem.to_owned(),
        ca_pem: ca_pem.map(str::to_owned),
    };
    checked(material).map_err(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

fn ssh(private_key_pem: &str, passphrase: Option<&str>) -> Result<String, String> {
    let material = Material::SshPrivateKey { private_key_pem: private_key_pem.to_owned(), passphrase: passphrase.map(str::to_owned) };
    match checked(material) {
        Ok(Material::SshPrivateKey { private_key_pem, passphrase: None }) => Ok(private_key_pem),
        Ok(other) => panic!("{other:?}"),
        Err(found) => Err(found[0].to_string()),
    }
}

#[test]
fn a_certificate_has_to_belong_to_its_key() {
    let made = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec![name.to_owned()]).expect("a name").self_signed(&key).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    };
    let ((certificate, key), (other, other_key)) = (made("one.example"), made("two.example"));
    assert!(client(&certificate, &key, None).is_ok());
    assert!(client(&format!("{certificate}{other}"), &key, Some(&format!("{other}{certificate}"))).is_ok(), "a chain, and authorities");
    let broken = certificate.replace("MII", "AII");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let nonsense = format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n");
    let table: [(&str, &str, Option<&str>, &str); 8] = [
        (&certificate, &other_key, None, "spec.staticTLSClientCertificate.privateKeyPem: does not belong"),
        (&format!("{other}{certificate}"), &key, None, "privateKeyPem: does not belong"),
        (&key, &key, None, "certificatePem: holds no certificate"),
        (&certificate, &certificate, None, "privateKeyPem: holds no private key"),
        (&broken, &key, None, "certificatePem: certificate 1 cannot be read"),
        (&certificate, encrypted, None, "privateKeyPem: is encrypted"),
        (&certificate, &nonsense, None, "privateKeyPem: holds no private key"),
        (&certificate, &key, Some(&key), "caPem: holds no certificate"),
    ];
    for (certificate, key, ca, expected) in table {
        let said = client(certificate, key, ca).expect_err(expected);
        assert!(said.contains(expected) && !said.contains(CANARY), "{said}");
    }
    let both = client(&key, &certificate, None).expect_err("both are wrong");
    assert!(both.contains("certificatePem") && both.contains("; spec.staticTLSClientCertificate.privateKeyPem"), "{both}");
}

#[test]
fn an_ssh_key_is_kept_without_its_passphrase() {
    let opened = ssh(LOCKED, Some("open sesame")).expect("opens");
    assert!(PrivateKey::from_pem(&opened, None).is_ok());
    assert_eq!(ssh(&opened, None).as_ref(), Ok(&opened));
    assert!(ssh(PLAIN, Some("not needed")).is_ok());
    assert!(ssh(&format!("\n{P256}\n"), None).is_ok());
    let ecdsa = KeyPair::generate().expect("a key").serialize_pem();
    assert_eq!(ssh(&ecdsa, None), Ok(ecdsa), "other formats stay as they are");
}

/// Made anew, since they are long; skipped where there is no ssh-keygen.
#[test]
fn rsa_keys_are_taken_in_both_formats() {
    let dir = std::env::temp_dir().join(format!("sandbar-usable-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let made = |name: &str, args: &[&str]| {
        let path = dir.join(name);
        let done = std::process::Command::new("ssh-keygen").args(["-q", "-t", "rsa", "-f"]).arg(&path).args(args).status();
        done.is_ok_and(|status| status.success()).then(|| std::fs::read_to_string(path).expect("a key"))
    };
    if let Some(locked) = made("locked", &["-b", "2048", "-N", "open sesame", "-a", "2"]) {
        let opened = ssh(&locked, Some("open sesame")).expect("opens");
        assert_eq!(ssh(&opened, None).as_ref(), Ok(&opened));
        let pem = made("pem", &["-b", "2048", "-N", "", "-m", "PEM"]).expect("a key");
        assert_eq!(ssh(&pem, None).as_ref(), Ok(&pem));
        let short = ssh(&made("short", &["-b", "1024", "-N", ""]).expect("a key"), None).expect_err("is short");
        assert!(short.contains("RSA of 2048 to 4096 bits"), "{short}");
    } else {
        eprintln!("skipped: needs ssh-keygen");
    }
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn an_ssh_key_that_cannot_be_used_is_refused() {
    let table = [
        (LOCKED, None, "spec.staticSSHPrivateKey.passphrase: is required"),
        (LOCKED, Some(CANARY), "passphrase: does not open the key"),
        (SLOW, Some("x"), "privateKeyPem: costs too much to open; allowed are 256 rounds"),
        (P521, None, "privateKeyPem: is of a kind"),
        (&PLAIN.replace("b3Bl", "AAAA"), None, "privateKeyPem: is in OpenSSH's format and cannot be read"),
        ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n", Some("x"), "privateKeyPem: is "),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", None, "privateKeyPem: is "),
    ];
    for (pem, passphrase, expected) in table {
        let said = ssh(pem, passphrase).expect_err(expected);
        assert!(said.contains(expected) && !said.contains(CANARY), "{said}");
    }
}

#[test]
fn lines_of_ssh_are_read_before_they_are_kept() {
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGQhJPCh01tAbAxrqyNsbuyLSpWnBH+HvYbLdqXkSxK";
    let check = |keys: &[&str], hosts: &[String]| {
        let proxy = serde_json::json!({ "sandboxPublicKeys": keys, "upstreamUsername": "git", "knownHosts": hosts });
        let binding = serde_json::json!({ "ref": "git", "sourceRef": "s", "projection": { "type": "ssh_proxy", "sshProxy": proxy } });
        let found = super::check_bindings(&serde_json::json!({ "credentialBindings": [binding] })).err().unwrap_or_default();
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let host = format!("git.test {KEY}");
    assert_eq!(check(&[KEY], std::slice::from_ref(&host)), "");
    let said = check(&[KEY, "ssh-rsa x"], &[host, "garbage".to_owned()]);
    for part in ["sshProxy.knownHosts[1]", "sshProxy.sandboxPublicKeys[1]", "\"git\""] {
        assert!(said.contains(part), "{said}");
    }
}
