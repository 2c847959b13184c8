//! Images: pulled from a real registry, imported, built, exported, and gone when nothing needs them.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, Server},
    http::{Api, encode, eventually},
    machine::violations,
    registry::{Answer, BadWire, Fake, Image, Registry, Tar, digest, layout, lines, made, refused},
};

const IMAGES: &str = "/api/v1/images";
const PASSWORD: &str = "f3b19c7e-of-the-registry";

fn server(env: &[(&str, &str)]) -> Server {
    let mut all = vec![("SANDBAR_POOL_MIN_IDLE", "1")];
    all.extend(env);
    Server::start_with(&all)
}

fn work(server: &Server, name: &str) -> PathBuf {
    let dir = server.data_dir().parent().unwrap().join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn template(api: &Api, id: &str, image: &str) {
    let spec = json!({ "mainContainer": { "image": image, "resources": { "memory": "256Mi" } } });
    api.post("/api/v1/templates", json!({ "template_id": id, "spec": spec })).ok(201);
}

fn names(api: &Api) -> Vec<String> {
    let images = api.get(IMAGES).ok(200)["images"].clone();
    images.as_array().unwrap().iter().flat_map(|image| image["names"].as_array().unwrap().clone()).map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn import(api: &Api, name: Option<&str>, archive: &[u8]) -> super::http::Reply {
    let query = name.map(|name| format!("?name={}", encode(name))).unwrap_or_default();
    api.send("POST", &format!("{IMAGES}/import{query}"), archive)
}

fn status(sandbox: &Sandbox, path: &str) -> (u16, String) {
    let reply = sandbox.api.get(&sandbox.file(path));
    (reply.status, reply.text())
}

/// What is on disk of layers and downloads.
fn on_disk(server: &Server) -> (usize, usize) {
    let count = |name: &str| fs::read_dir(server.data_dir().join("images").join(name)).unwrap().count();
    (count("layers"), count("downloads"))
}

#[track_caller]
fn settled(server: &Server) {
    eventually("a settled machine", Duration::from_secs(30), || {
        let found = violations(server);
        if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
    });
}

/// Two layers, of which the upper takes things of the lower away.
fn two_layers() -> Image {
    let lower = Tar::default().dir("usr/").dir("d/").file("d/gone", b"1").file("d/kept", b"kept").dir("all/").file("all/gone", b"1").file("changed", b"old");
    let upper = Tar::default()
        .dir("d/")
        .file("d/.wh.gone", b"")
        .dir("all/")
        .file("all/.wh..wh..opq", b"")
        .file("all/own", b"own")
        .file("changed", b"new")
        .entry(b'1', "hard", "changed", 0o644, b"")
        .entry(b'2', "to", "/changed", 0o777, b"");
    Image::of(vec![lower.done(), upper.done()])
}

#[track_caller]
fn is_two_layers(sandbox: &Sandbox) {
    assert_eq!(status(sandbox, "/d/gone").0, 404);
    assert_eq!(status(sandbox, "/all/gone").0, 404);
    for (path, contents) in [("/d/kept", "kept"), ("/all/own", "own"), ("/changed", "new"), ("/hard", "new"), ("/to", "new")] {
        assert_eq!(status(sandbox, path), (200, contents.to_owned()), "{path}");
    }
}

#[test]
fn what_is_pulled_is_what_was_pushed_and_is_pulled_once() {
    let server = server(&[]);
    let (api, dir) = (server.api(), work(&server, "registry"));
    let registry = Registry::start(&dir, None);
    let image = two_layers();
    registry.push(&image.layout("x"), "team/app:1", &[]);
    let name = format!("{}/team/app:1", registry.addr);
    let pulled = lines(&api, "pull", json!({ "name": name }));
    assert_eq!(pulled[0]["count"], 2, "{pulled:?}");
    assert!(pulled.iter().any(|line| line["type"] == "downloaded"));
    let info = &pulled.last().unwrap()["image"];
    assert_eq!((info["names"].clone(), info["layers"].clone()), (json!([name]), json!(2)));
    let again = lines(&api, "pull", json!({ "name": name, "local_name": "mine" }));
    assert!(again.iter().filter(|line| line["type"] == "ready").all(|line| line["was_there"] == true), "{again:?}");
    assert_eq!(again.last().unwrap()["image"]["names"], json!([name, "mine:latest"]));
    assert_eq!(on_disk(&server), (2, 0));

    template(&api, "app", "mine");
    let sandbox = Sandbox::claim_from(&api, "app", json!({}));
    is_two_layers(&sandbox);
    sandbox.write("/changed", b"own");
    // Its content stays for as long as it lives, whatever names mean.
    registry.push(&Image::of(vec![Tar::default().dir("usr/").file("changed", b"third").done()]).layout("x"), "team/app:1", &[]);
    made(&api, "pull", json!({ "name": name, "local_name": "mine" }));
    let other = Sandbox::claim_from(&api, "app", json!({}));
    assert_eq!(status(&other, "/changed"), (200, "third".into()));
    assert_eq!(status(&other, "/d/kept").0, 404);
    sandbox.post("/pause", json!({}));
    sandbox.api.post(&sandbox.path("/hibernate"), json!({}));
    assert_eq!(status(&sandbox, "/d/kept"), (200, "kept".into()));
    assert_eq!(status(&sandbox, "/changed"), (200, "own".into()));

    let error = api.delete(&format!("{IMAGES}?name=mine")).error(&[409]);
    assert!(error["message"].as_str().unwrap().contains("template \"app\""), "{error}");
    api.delete("/api/v1/templates/app").ok(200);
    for name in ["mine", &name] {
        api.delete(&format!("{IMAGES}?name={}", encode(name))).ok(200);
    }
    assert_eq!(names(&api), ["host"]);
    assert_eq!(api.get(IMAGES).ok(200)["count"], 3, "two contents are still needed");
    drop(other);
    eventually("the third layer to go", Duration::from_secs(20), || if on_disk(&server).0 == 2 { Ok(()) } else { Err(format!("{:?}", on_disk(&server))) });
    is_kept(&sandbox);
    drop(sandbox);
    eventually("all layers to go", Duration::from_secs(20), || if on_disk(&server) == (0, 0) { Ok(()) } else { Err(format!("{:?}", on_disk(&server))) });
    settled(&server);
}

#[track_caller]
fn is_kept(sandbox: &Sandbox) {
    assert_eq!(status(sandbox, "/d/kept"), (200, "kept".into()));
}

#[test]
fn what_a_registry_may_not_do() {
    let server = server(&[]);
    let (api, dir) = (server.api(), work(&server, "registry"));
    let registry = Registry::start(&dir, None);
    let name = |rest: &str| format!("{}/{rest}", registry.addr);
    assert!(refused(&api, "pull", json!({ "name": name("nope:1") })).contains("no such image (status 404, MANIFEST_UNKNOWN)"));

    // Other bytes than the manifest names: of the same length, and of another.
    let image = Image::of(vec![Tar::default().dir("usr/").file("f", &[7; 100_000]).done()]);
    registry.push(&image.layout("x"), "lies:1", &[]);
    let manifest = api_manifest(&registry, "lies/manifests/1");
    let layer = registry.blob(manifest["layers"][0]["digest"].as_str().unwrap());
    let honest = fs::read(&layer).unwrap();
    let mut changed = honest.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(&layer, &changed).unwrap();
    assert!(refused(&api, "pull", json!({ "name": name("lies:1") })).contains("other contents"));
    assert_eq!(on_disk(&server), (0, 0), "nothing of it is kept");
    fs::write(&layer, [honest.as_slice(), b"more"].concat()).unwrap();
    let text = refused(&api, "pull", json!({ "name": name("lies:1") }));
    assert!(text.contains("larger than") || text.contains("other contents"), "{text}");
    fs::write(&layer, &honest).unwrap();
    made(&api, "pull", json!({ "name": name("lies:1") }));

    // A layer that would lead out.
    let out = Image::of(vec![Tar::default().dir("usr/").entry(b'2', "l", "/tmp", 0o777, b"").file("l/out", b"x").done()]);
    registry.push(&out.layout("x"), "out:1", &[]);
    assert!(refused(&api, "pull", json!({ "name": name("out:1") })).contains("through a link"));
    let foreign = Image { architecture: "s390x", ..Image::of(vec![Tar::default().dir("usr/").done()]) };
    registry.push(&foreign.layout("x"), "foreign:1", &[]);
    assert!(refused(&api, "pull", json!({ "name": name("foreign:1") })).contains("s390x"));
    // A list with one for us.
    registry.push(&layout(&[&foreign, &two_layers()], "x", true), "list:1", &["--all"]);
    assert_eq!(made(&api, "pull", json!({ "name": name("list:1") }))["layers"], 2);
    registry.push(&layout(&[&foreign], "x", true), "list:2", &["--all"]);
    assert!(refused(&api, "pull", json!({ "name": name("list:2") })).contains("platform"));

    for (body, text) in [
        (json!({ "name": "A" }), "no name of an image"),
        (json!({ "name": name("a:1"), "username": "u" }), "go together"),
        (json!({ "name": name("a:1"), "local_name": "host:2" }), "has no tags"),
    ] {
        let error = api.post(&format!("{IMAGES}/pull"), body).error(&[400]);
        assert!(error["message"].as_str().unwrap().contains(text), "{error}");
    }
    assert!(refused(&api, "pull", json!({ "name": name("list:1"), "local_name": "host" })).contains("built-in"));
    settled(&server);
}

fn api_manifest(registry: &Registry, path: &str) -> Value {
    let url = format!("http://{}/v2/{path}", registry.addr);
    let out = Command::new("curl").args(["-sf", "-H", "Accept: application/vnd.oci.image.manifest.v1+json", &url]).output().unwrap();
    serde_json::from_slice(&out.stdout).expect("a manifest")
}

#[test]
fn a_registry_leads_nowhere_and_its_words_go_no_further() {
    const WORDS: &str = "the words of a server inside";
    let server = server(&[]);
    let api = server.api();
    // What must not be reached: a server on an address that is protected, as all of this machine are.
    let inside = Fake::start(|_, _| (404, vec![], WORDS.into()));
    let image = two_layers();
    let (manifest, config, at) = (image.manifest(), image.config(), inside.addr);
    let honest = move |path: &str| -> Answer {
        match path {
            path if path.contains("/manifests/") => (200, vec![], manifest.clone().into_bytes()),
            path if path.ends_with(&digest(config.as_bytes())) => (200, vec![], config.clone().into_bytes()),
            _ => (404, vec![], b"{}".to_vec()),
        }
    };
    let redirecting = Fake::start({
        let honest = honest.clone();
        move |path, _| {
            let answer = honest(path);
            if answer.0 == 404 { (307, vec![("Location", format!("http://{at}/secret"))], vec![]) } else { answer }
        }
    });
    let realm = Fake::start(move |_, _| (401, vec![("WWW-Authenticate", format!("Bearer realm=\"http://{at}/token\",service=\"s\""))], vec![]));
    for (fake, name) in [(&redirecting, "app:1"), (&realm, "app:2")] {
        let text = refused(&api, "pull", json!({ "name": format!("{}/{name}", fake.addr), "username": "u", "password": PASSWORD }));
        assert!(text.contains("is not asked") && !text.contains(WORDS), "{text}");
    }
    assert_eq!(inside.requests(), [""; 0]);
    let talking = Fake::start(|_, _| (500, vec![], WORDS.into()));
    let text = refused(&api, "pull", json!({ "name": format!("{}/app:1", talking.addr) }));
    assert!(text.contains("status 500") && !text.contains(WORDS), "{text}");

    // Whatever it says has a bound.
    let endless = Fake::start(|_, _| (200, vec![], vec![b' '; 5 << 20]));
    assert!(refused(&api, "pull", json!({ "name": format!("{}/app:1", endless.addr) })).contains("more than 4194304 bytes"));
    let manifest = image.manifest();
    for size in ["9223372036854775807", "18446744073709551615", "99999999999999999999"] {
        let length = format!("\"size\":{}", image.layers[0].len());
        let lie = manifest.replace(&length, &format!("\"size\":{size}"));
        let lying = Fake::start(move |_, _| (200, vec![], lie.clone().into_bytes()));
        let text = refused(&api, "pull", json!({ "name": format!("{}/app:1", lying.addr) }));
        assert!(text.contains("at most") || text.contains("cannot be read"), "{text}");
    }
    // One that is honest, and gives a token for a password.
    let (manifest, config, layers) = (image.manifest(), image.config(), image.layers.clone());
    let tokens = Fake::start(move |path, head| {
        let own = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned();
        let basic = "Basic dTpmM2IxOWM3ZS1vZi10aGUtcmVnaXN0cnk=";
        let with = |authorization: &str| head.contains(&format!("authorization: {authorization}\r\n"));
        match path {
            path if path.starts_with("/token?service=s&scope=repository%3Aapp%3Apull") && with(basic) => (200, vec![], br#"{"access_token":"t0k3n"}"#.to_vec()),
            path if path.starts_with("/token") => (401, vec![], vec![]),
            _ if !with("Bearer t0k3n") => (401, vec![("WWW-Authenticate", format!("Bearer realm=\"http://{own}/token\",service=\"s\""))], vec![]),
            path if path.ends_with("/manifests/1") => (200, vec![], manifest.clone().into_bytes()),
            path => {
                let blobs = layers.iter().map(Vec::as_slice).chain([config.as_bytes()]);
                blobs.into_iter().find(|blob| path.ends_with(&digest(blob))).map_or((404, vec![], vec![]), |blob| (200, vec![], blob.to_vec()))
            }
        }
    });
    let name = format!("{}/app:1", tokens.addr);
    assert!(refused(&api, "pull", json!({ "name": name, "username": "u", "password": "wrong" })).contains("credentials"));
    assert_eq!(made(&api, "pull", json!({ "name": name, "username": "u", "password": PASSWORD }))["layers"], 2);
    api.delete(&format!("{IMAGES}?name={}", encode(&name))).ok(200);
    let around = Fake::start(|path, _| (302, vec![("Location", format!("{path}x"))], vec![]));
    assert!(refused(&api, "pull", json!({ "name": format!("{}/app:1", around.addr) })).contains("more than 5 times"));
    eventually("nothing of it all", Duration::from_secs(20), || if on_disk(&server) == (0, 0) { Ok(()) } else { Err(format!("{:?}", on_disk(&server))) });
    let log = fs::read_to_string(server.data_dir().parent().unwrap().join("server.log")).unwrap();
    assert!(!log.contains(PASSWORD) && !log.contains(WORDS) && !log.contains("t0k3n"));
    settled(&server);
}

#[test]
fn what_is_counted_on_is_there() {
    let server = server(&[]);
    let api = server.api();
    let archive = two_layers().layout("app:1");
    import(&api, None, &archive).ok(201);
    // A folder that is lost is made again, and not taken for there.
    let layers = server.data_dir().join("images/layers");
    let lost = fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(&lost).unwrap();
    import(&api, None, &archive).ok(201);
    assert!(lost.is_dir());
    template(&api, "app", "app:1");
    is_two_layers(&Sandbox::claim_from(&api, "app", json!({})));
    let id = api.get(IMAGES).ok(200)["images"][1]["id"].as_str().unwrap().to_owned();
    assert_eq!(api.delete(&format!("{IMAGES}?name={id}")).status, 409, "by its id no more than by its name");
    for name in [format!("app@{id}"), id.clone()] {
        assert_eq!(import(&api, Some(&name), &archive).status, 400, "{name}");
    }

    // Many at once leave one, and nothing half.
    let other = Image::of(vec![Tar::default().dir("usr/").file("f", &vec![3; 3 << 20]).done()]).layout("other:1");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| import(&api, None, &other).ok(201));
        }
    });
    assert_eq!(on_disk(&server).0, 3);
    settled(&server);

    // A build that is reused, again and again while it goes.
    let spec = json!({ "name": "tools", "base": "host", "run": ["echo x >/opt/x"] });
    made(&api, "build", spec.clone());
    template(&api, "tools", "tools");
    for _ in 0..15 {
        api.delete(&format!("{IMAGES}?name=tools&force=true")).ok(200);
        let (collecting, building) = (api.clone(), api.clone());
        std::thread::scope(|scope| {
            scope.spawn(|| collecting.post("/api/v1/storage/gc", json!({})).ok(200));
            scope.spawn(|| made(&building, "build", spec.clone()));
        });
        assert_eq!(Sandbox::claim_from(&api, "tools", json!({})).sh_ok("cat /opt/x"), "x\n");
    }
    settled(&server);
}

#[test]
fn folders_that_a_layer_does_not_name_stay_what_they_are() {
    let server = server(&[]);
    let api = server.api();
    let base = Tar::default().dir("usr/").entry(b'5', "tmp/", "", 0o1777, b"").entry(b'5', "secret/", "", 0o700, b"").done();
    let upper = Tar::default().file("tmp/x", b"x").file("secret/y", b"y").done();
    import(&api, None, &Image::of(vec![base, upper.clone()]).layout("one:1")).ok(201);
    // The same layer on another one.
    let other = Tar::default().dir("usr/").entry(b'5', "secret/", "", 0o750, b"").done();
    import(&api, None, &Image::of(vec![other, upper]).layout("two:1")).ok(201);
    for (id, secret) in [("one", "0700"), ("two", "0750")] {
        template(&api, id, &format!("{id}:1"));
        let sandbox = Sandbox::claim_from(&api, id, json!({}));
        let mode = |path: &str| sandbox.api.get(&sandbox.path(&format!("/files/stat?path={path}"))).ok(200)["mode"].clone();
        assert_eq!(mode("/secret"), secret, "{id}");
        // Without a layer that names it, what every root has.
        assert_eq!(mode("/tmp"), "1777", "{id}");
        assert_eq!(status(&sandbox, "/secret/y"), (200, "y".into()));
    }
    let hiding = Image::of(vec![Tar::default().dir("usr/").entry(b'2', "bin", "usr/bin", 0o777, b"").done(), Tar::default().file("bin/tool", b"x").done()]);
    let error = import(&api, None, &hiding.layout("three:1")).error(&[400]);
    assert!(error["message"].as_str().unwrap().contains("a link or file in a layer below"), "{error}");
    settled(&server);
}

#[test]
fn a_registry_that_wants_a_password_gets_one() {
    let server = server(&[]);
    let (api, dir) = (server.api(), work(&server, "registry"));
    let registry = Registry::start(&dir, Some(("u", PASSWORD)));
    registry.push(&two_layers().layout("x"), "app:1", &[&format!("--dest-creds=u:{PASSWORD}")]);
    let name = format!("{}/app:1", registry.addr);
    for body in [json!({ "name": name }), json!({ "name": name, "username": "u", "password": "wrong" })] {
        let text = refused(&api, "pull", body);
        assert!(text.contains("credentials"), "{text}");
    }
    made(&api, "pull", json!({ "name": name, "username": "u", "password": PASSWORD }));
    let everywhere = Command::new("grep").args(["-rl", PASSWORD]).arg(server.data_dir()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&everywhere.stdout), "", "the password is kept nowhere");
}

#[test]
fn a_pull_that_breaks_off_is_gone_on_with() {
    const SIZE: usize = 12 << 20;
    let mut server = server(&[]);
    let dir = work(&server, "registry");
    let registry = Registry::start(&dir, None);
    // What cannot be made smaller.
    let mut noise = vec![0u8; SIZE];
    let mut state = 1u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    registry.push(&Image::of(vec![Tar::default().dir("usr/").file("noise", &noise).done()]).layout("x"), "big:1", &[]);
    let wire = BadWire::to(registry.addr, 5 << 20);
    let name = format!("{}/big:1", wire.addr);
    made(&server.api(), "pull", json!({ "name": name }));
    let passed = wire.passed.load(std::sync::atomic::Ordering::SeqCst);
    assert!(passed < SIZE as u64 * 5 / 4, "{passed} bytes were needed for {SIZE}");
    server.api().delete(&format!("{IMAGES}?name={}", encode(&name))).ok(200);
    eventually("the image to go", Duration::from_secs(20), || if on_disk(&server).0 == 0 { Ok(()) } else { Err("it is there".into()) });

    // The server dies in the middle; what was there by then is used by the next.
    wire.set_limit(u64::MAX);
    let stuck = BadWire::to(wire.addr, 7 << 20);
    let name = format!("{}/big:1", stuck.addr);
    let before = wire.passed.load(std::sync::atomic::Ordering::SeqCst);
    let (api, body) = (server.api(), json!({ "name": name }));
    let pulling = std::thread::spawn(move || api.try_json("POST", &format!("{IMAGES}/pull"), &body));
    let downloads = server.data_dir().join("images/downloads");
    let have = || fs::read_dir(&downloads).unwrap().flatten().map(|entry| entry.metadata().map_or(0, |m| m.len())).sum::<u64>();
    eventually("half of it", Duration::from_secs(20), || if have() > 4 << 20 { Ok(()) } else { Err(have().to_string()) });
    server.kill();
    drop(pulling.join());
    server.up();
    assert!(have() > 4 << 20);
    assert_eq!(names(&server.api()), ["host"]);
    settled(&server);
    stuck.set_limit(u64::MAX);
    made(&server.api(), "pull", json!({ "name": name }));
    let passed = wire.passed.load(std::sync::atomic::Ordering::SeqCst) - before;
    assert!(passed < SIZE as u64 * 3 / 2, "{passed} bytes were needed for {SIZE}");
    assert_eq!(on_disk(&server), (1, 0));
    settled(&server);
}

#[test]
fn archives_of_all_kinds_are_imported_and_exported() {
    let server = server(&[]);
    let (api, dir) = (server.api(), work(&server, "archives"));
    let image = two_layers();
    let imported = import(&api, None, &image.layout("app:1")).ok(201);
    assert_eq!(imported["images"][0]["names"], json!(["app:1"]));
    template(&api, "app", "app:1");
    is_two_layers(&Sandbox::claim_from(&api, "app", json!({})));

    // What `docker save` writes, packed; it has the same contents, so it is the same image.
    fs::write(dir.join("layout.tar"), image.layout("x")).unwrap();
    let docker = dir.join("docker.tar");
    let copied = Command::new("skopeo")
        .args(["copy", "--insecure-policy"])
        .arg(format!("oci-archive:{}", dir.join("layout.tar").display()))
        .arg(format!("docker-archive:{}:team/app:2", docker.display()))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    assert!(Command::new("gzip").arg(&docker).status().unwrap().success());
    let saved = import(&api, None, &fs::read(dir.join("docker.tar.gz")).unwrap()).ok(201);
    assert_eq!(saved["images"][0]["layers"], 2);
    assert_eq!(on_disk(&server).0, 2, "its layers were there");

    // Out and in again, under another name.
    let exported = api.get(&format!("{IMAGES}/export?name=app:1"));
    assert_eq!(exported.status, 200);
    fs::write(dir.join("out.tar"), &exported.body).unwrap();
    let looked = Command::new("skopeo").arg("inspect").arg(format!("oci-archive:{}", dir.join("out.tar").display())).output().unwrap();
    assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
    import(&api, Some("again"), &exported.body).ok(201);
    template(&api, "again", "again");
    is_two_layers(&Sandbox::claim_from(&api, "again", json!({})));

    // A root without any wrapping.
    let root = Tar::default().dir("usr/").file("etc/motd", b"hello").entry(b'3', "dev/null", "", 0o666, b"").done();
    assert_eq!(import(&api, None, &root).status, 400);
    import(&api, Some("plain:root"), &root).ok(201);
    template(&api, "plain", "plain:root");
    let plain = Sandbox::claim_from(&api, "plain", json!({}));
    assert_eq!(status(&plain, "/etc/motd"), (200, "hello".into()));
    assert_eq!(status(&plain, "/etc/hostname"), (200, "sandbox\n".into()));
    settled(&server);
}

#[test]
fn archives_that_are_refused_leave_nothing() {
    let server = server(&[]);
    let api = server.api();
    let image = two_layers();
    let whole = image.layout("app:1");
    let mut lying = Image::of(vec![Tar::default().dir("usr/").file("f", b"the honest bytes").done()]).layout("app:1");
    let at = lying.windows(6).position(|window| window == b"honest").unwrap();
    lying[at..at + 6].copy_from_slice(b"forged");
    let no_manifest = Tar::default().file("index.json", br#"{"manifests":[{"digest":"sha256:x"}]}"#).done();
    let bomb = Tar::default().file("index.json", &vec![b' '; 5 << 20]).done();
    let layer = |tar: Tar| Image::of(vec![tar.dir("usr/").done()]).layout("app:1");
    let table: Vec<(&str, Option<&str>, Vec<u8>)> = vec![
        ("no name", None, image.layout("latest")),
        ("cannot be read", Some("x"), whole[..whole.len() / 2].to_vec()),
        ("cannot be read", Some("x"), b"no archive at all".repeat(100)),
        ("has other contents", None, lying),
        ("no digest", None, no_manifest),
        ("at most", None, bomb),
        ("\"..\" in its path", None, layer(Tar::default().file("../out", b"x"))),
        ("through a link", None, layer(Tar::default().entry(b'2', "l", "/etc", 0o777, b"").file("l/x", b""))),
        ("did not bring before", None, layer(Tar::default().entry(b'1', "h", "/etc/shadow", 0o644, b""))),
        ("built-in", Some("host"), whole.clone()),
        ("neither an OCI layout", Some("x"), Tar::default().file("readme", b"x").done()),
        ("name can be given to one only", Some("x"), layout(&[&image, &Image::of(vec![])], "app:1", false)),
    ];
    for (rule, name, archive) in table {
        let error = import(&api, name, &archive).error(&[400]);
        assert!(error["message"].as_str().unwrap().contains(rule), "want {rule:?}, got {error}");
    }
    assert_eq!(names(&api), ["host"]);
    assert_eq!(on_disk(&server), (0, 0));
    settled(&server);
}

#[test]
fn a_build_keeps_what_its_commands_leave() {
    let server = server(&[]);
    let api = server.api();
    let spec = json!({ "name": "tools:1", "base": "host", "env": { "GREETING": "hi" }, "working_dir": "/app",
        "files": [{ "path": "/app/hello.sh", "text": "#!/bin/sh\necho $GREETING from $(pwd)\n", "mode": "0755" }, { "path": "/app/raw", "base64": "AP8=" }],
        "run": ["./hello.sh; echo oops >&2", "echo data >/opt/data; rm /etc/motd; rm -rf /srv; mkdir /srv; chown 1000:1000 /opt/data"] });
    let built = lines(&api, "build", spec.clone());
    let printed: Vec<_> = built.iter().filter(|line| line["type"] == "output").map(|line| (line["stream"].clone(), line["data"].clone())).collect();
    assert!(printed.contains(&(json!("stdout"), json!("hi from /app\n"))) && printed.contains(&(json!("stderr"), json!("oops\n"))), "{built:?}");
    let id = built.last().unwrap()["image"]["id"].clone();
    // The same again is not run again, unless that is asked for.
    let again = lines(&api, "build", spec.clone());
    assert!(again.len() == 1 && again[0]["image"]["id"] == id, "{again:?}");
    template(&api, "tools", "tools:1");
    let sandbox = Sandbox::claim_from(&api, "tools", json!({}));
    assert_eq!(sandbox.sh("/procd/runtimes/python-runner 2>/dev/null").code, 64, "what runs functions is in every image");
    let seen = sandbox.sh_ok("/app/hello.sh; cat /opt/data; stat -c %u /opt/data; ls /etc/motd 2>&1 | wc -l; od -An -tx1 /app/raw; python3 -c 'print(6*7)'");
    assert_eq!(seen, "hi from /workspace\ndata\n1000\n1\n 00 ff\n42\n");

    // On top of that one, with what the base says.
    let more = json!({ "name": "more", "base": "tools:1", "run": ["test \"$GREETING\" = hi && rm /opt/data && echo x >/opt/x"] });
    assert_eq!(made(&api, "build", more)["layers"], 2);
    template(&api, "more", "more");
    assert_eq!(Sandbox::claim_from(&api, "more", json!({})).sh_ok("ls /opt"), "x\n");
    let error = api.get(&format!("{IMAGES}/export?name=more")).error(&[400]);
    assert!(error["message"].as_str().unwrap().contains("built-in"), "{error}");

    let failing = json!({ "name": "bad", "base": "host", "run": ["true", "exit 7", "touch /never"] });
    assert!(refused(&api, "build", failing).contains("step 2 of 3 ended with exit code 7"));
    assert_eq!(api.post(&format!("{IMAGES}/build"), json!({ "name": "x", "base": "nope", "run": ["true"] })).status, 404);
    assert_eq!(api.post(&format!("{IMAGES}/build"), json!({ "name": "x", "base": "host", "runn": [] })).status, 400);
    // Protected addresses are as closed as in sandboxes.
    let inside = format!("! timeout 5 bash -c 'echo > /dev/tcp/127.0.0.2/{}' && ! ls {}", api.addr().port(), server.data_dir().display());
    made(&api, "build", json!({ "name": "walls", "base": "host", "run": [inside] }));

    // Who goes away ends the build.
    let (gone, body) = (api.clone(), json!({ "name": "gone", "base": "host", "run": ["echo begun; sleep 600"] }).to_string());
    let mut stream = gone.open("POST", &format!("{IMAGES}/build"), &[("content-type", "application/json")], Some(body.len() as u64)).unwrap();
    std::io::Write::write_all(&mut stream, body.as_bytes()).unwrap();
    let mut incoming = super::http::Incoming::read(stream).unwrap();
    while !incoming.line().unwrap().contains("begun") {}
    drop(incoming);
    settled(&server);
    assert!(!names(&api).contains(&"gone:latest".to_owned()));
    assert!(!names(&api).contains(&"bad:latest".to_owned()));
}

#[test]
fn a_template_brings_its_image_where_that_is_allowed() {
    let registry_dir = std::env::temp_dir().join(format!("sandbar-registry-{}", std::process::id()));
    let registry = Registry::start(&registry_dir, None);
    let allowed = registry.addr.to_string();
    let server = server(&[("SANDBAR_IMAGE_REGISTRIES", &allowed)]);
    let api = server.api();
    let creation = |id: &str| api.get(&format!("/api/v1/templates/{id}")).ok(200)["status"]["creation"].clone();
    let condition = |id: &str| api.get(&format!("/api/v1/templates/{id}")).ok(200)["status"]["conditions"][0].clone();
    let claim = |id: &str| api.post(SANDBOXES, json!({ "template": id }));

    template(&api, "elsewhere", "registry.invalid/app:1");
    assert_eq!((condition("elsewhere")["reason"].clone(), creation("elsewhere")["state"].clone()), (json!("Missing"), json!("failed")));
    let error = claim("elsewhere").error(&[409]);
    assert_eq!(error["code"], "template_not_ready");
    assert!(error["message"].as_str().unwrap().contains("sandbar image"), "{error}");

    template(&api, "later", &format!("{allowed}/app:1"));
    eventually("the failure", Duration::from_secs(20), || {
        let now = condition("later");
        if now["reason"] == "PullFailed" && now["message"].as_str().unwrap().contains("no such image") { Ok(()) } else { Err(now.to_string()) }
    });
    assert_eq!(claim("later").status, 409);
    registry.push(&two_layers().layout("x"), "app:1", &[]);
    // It is tried again by itself.
    eventually("the image", Duration::from_secs(30), || {
        let now = condition("later");
        if now["reason"] == "Present" { Ok(()) } else { Err(now.to_string()) }
    });
    assert!(creation("later").is_null(), "ready");
    is_two_layers(&Sandbox::claim_from(&api, "later", json!({})));
    assert_eq!(
        api.post(
            "/api/v1/templates",
            json!({ "template_id": "odd", "spec": { "mainContainer": { "image": "Odd Name", "resources": { "memory": "256Mi" } } } })
        )
        .status,
        400
    );
    drop(registry);
    fs::remove_dir_all(registry_dir).unwrap();
}

#[test]
fn images_are_the_operators_and_storage_says_what_takes_the_disk() {
    let mut server = server(&[("SANDBAR_REGISTRATION", "true")]);
    let api = server.api();
    let stranger = api.anonymous().post("/auth/register", json!({ "email": "a@example.com", "password": "long enough", "name": "A" })).ok(201);
    let stranger = api.with_token(stranger["access_token"].as_str().unwrap());
    stranger.get(IMAGES).ok(200);
    let archive = two_layers().layout("app:1");
    for reply in [
        stranger.post(&format!("{IMAGES}/pull"), json!({ "name": "a" })),
        stranger.post(&format!("{IMAGES}/build"), json!({ "name": "a", "base": "host", "run": ["true"] })),
        import(&stranger, None, &archive),
        stranger.get(&format!("{IMAGES}/export?name=app:1")),
        stranger.delete(&format!("{IMAGES}?name=app:1")),
        stranger.get("/api/v1/storage"),
        stranger.post("/api/v1/storage/gc", json!({})),
    ] {
        assert_eq!(reply.status, 403, "{}", reply.text());
    }
    import(&api, None, &archive).ok(201);
    let sandbox = Sandbox::claim(&api, json!({}));
    sandbox.write("/workspace/big", &vec![1; 3 << 20]);
    // An interrupted download, and a layer that was unpacked before its image was cut off.
    let images = server.data_dir().join("images");
    fs::write(images.join("downloads").join("0".repeat(64)), [1; 5000]).unwrap();
    let orphan = digest(b"orphan");
    fs::create_dir(images.join("layers").join(&orphan[7..])).unwrap();
    let storage = api.get("/api/v1/storage").ok(200);
    let part = |kind: &str| storage["parts"].as_array().unwrap().iter().find(|part| part["kind"] == kind).cloned().unwrap_or_default();
    assert_eq!(part("image_layer")["items"], 3);
    assert!(part("sandbox")["bytes"].as_u64().unwrap() >= 3 << 20, "{storage}");
    assert!(storage["largest"].as_array().unwrap().iter().any(|item| item["id"] == sandbox.id.as_str()));
    let reclaimable: Vec<_> = storage["reclaimable"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(reclaimable, ["image_layer", "download"]);
    let done = api.post("/api/v1/storage/gc", json!({})).ok(200);
    assert!(done["downloads_bytes"].as_u64().unwrap() >= 5000);
    assert_eq!((on_disk(&server), names(&api)), ((2, 0), vec!["host".to_owned(), "app:1".to_owned()]));
    api.post("/api/v1/storage/gc", json!({ "unused_images": true })).ok(200);
    assert_eq!((on_disk(&server), names(&api)), ((0, 0), vec!["host".to_owned()]));

    // A server that dies at any moment of an import has all of an image or nothing.
    for wait_ms in [0, 3, 10, 25, 60, 120] {
        let (importing, archive) = (server.api(), archive.clone());
        let import = std::thread::spawn(move || importing.try_send("POST", &format!("{IMAGES}/import"), &[], &archive));
        std::thread::sleep(Duration::from_millis(wait_ms));
        server.kill();
        drop(import.join());
        server.up();
        settled(&server);
        let there = names(&server.api()).contains(&"app:1".to_owned());
        assert_eq!(on_disk(&server), (if there { 2 } else { 0 }, 0), "after {wait_ms} ms");
    }
}
