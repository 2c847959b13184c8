//! Sandboxes against a model: the same steps are done in sandboxes and in folders of the host, and the trees must stay
//! equal through pauses, snapshots, restores, forks, and kills of the server between steps and in the middle of them.
//! `SANDBAR_MODEL_STEPS` sets how many steps, `SANDBAR_MODEL_SEED` which.
//!
//! Files are changed by replacing them: which names share a file is not kept over layers, as by no overlay filesystem.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, Server},
    http::{Reply, eventually},
    machine,
};

const STEPS_DEFAULT: usize = 300;
const SANDBOXES_MAX: usize = 4;
const SNAPSHOTS_MAX: usize = 6;
/// Steps between two looks at the whole tree.
const LOOK_EVERY: usize = 3;
/// Steps between two looks at all ids.
const COUNT_EVERY: usize = 25;
/// The tree that the steps are about.
const TOP: &str = "/workspace/t";
/// Moves the first to the second argument, unless that is in the first.
const MOVE: &str = "import os, sys
one, other = (os.path.realpath(path) + '/' for path in sys.argv[1:])
sys.exit(9) if other.startswith(one) else os.execvp('mv', ['mv', '-T'] + sys.argv[1:])";

/// Prints a line for everything in the present folder. Times count where a step set them, to before 2001.
const LIST: &str = r#"
import hashlib, os, stat
for folder, folders, files in os.walk('.'):
    folders.sort()
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        s = os.lstat(path)
        line = [path, stat.S_IFMT(s.st_mode), stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid, s.st_mtime if s.st_mtime < 1e9 else 0]
        if stat.S_ISLNK(s.st_mode):
            line.append(os.readlink(path))
        else:
            line.append(sorted((a, os.getxattr(path, a)) for a in os.listxattr(path) if a.startswith('user.')))
        if stat.S_ISREG(s.st_mode):
            line += [s.st_size, hashlib.sha256(open(path, 'rb').read()).hexdigest()]
        print(ascii(line))
"#;

/// Numbers that are the same in every run of a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn path(&mut self) -> String {
        let folders = ["", "a/", "b/", "a/c/", "a/c/d/"];
        let names = ["f", "g", "h", "x y", "é", "a", "c"];
        format!("{}{}", folders[self.roll(folders.len())], names[self.roll(names.len())])
    }

    /// A step on files. It may fail, but then in both places with the same code and the same trace.
    fn step(&mut self) -> String {
        let (path, other) = (self.path(), self.path());
        let size = [0, 1, 4096, 70_000][self.roll(4)];
        let fill = self.roll(1000);
        // What a link points to is changed as a file of its own.
        let replace = |change: &str| format!("test -f '{path}' && rm -rf .new && cp -aLT '{path}' .new && {change} && mv -fT .new '{path}'");
        match self.roll(16) {
            0..=2 => format!("mkdir -p \"$(dirname '{path}')\" && rm -rf .new && yes {fill} | head -c {size} >.new && mv -fT .new '{path}'"),
            // To write takes these bits away, but not from who is root outside.
            3 => replace(&format!("chmod ug-s .new && echo {fill} >>.new")),
            4 => format!("mkdir -p '{path}'"),
            // No folder is moved into itself, by whatever links: one of a lower layer is moved by copying, and only some of
            // the ways into itself are found out before that.
            5 | 6 => format!("python3 -c \"{MOVE}\" '{path}' '{other}'"),
            7 => format!("rm -rf '{path}'"),
            8 => format!("test -f '{path}' && ln -T '{path}' '{other}'"),
            9 => format!("ln -sT '{other}' '{path}'"),
            10 => format!("test -d '{path}' && chmod {}7{}5 '{path}'", fill % 4, fill % 8),
            11 => replace(&format!("python3 -c \"import os; os.setxattr('.new', 'user.k', b'{fill}')\"")),
            12 => format!("test -d '{path}' && python3 -c \"import os; os.setxattr('{path}', 'user.d', b'{fill}')\" && touch -d @{fill} '{path}'"),
            13 => replace(&format!("chown {fill}:{} .new && chmod 4{}51 .new && touch -d @{fill} .new", size % 4099, fill % 8)),
            14 => format!("mkfifo '{path}'"),
            // Gone and there again: nothing of the old one may shine through.
            _ => format!("rm -rf '{path}' && mkdir '{path}' && echo {fill} >'{path}/f'"),
        }
    }
}

/// A sandbox and the folder that it must equal.
struct Pair {
    sandbox: Sandbox,
    model: PathBuf,
    /// A process that has to outlive the pause, as its memory was asked to be kept.
    kept: Option<Value>,
}

/// A snapshot of a sandbox and the folder that it must equal.
#[derive(Clone)]
struct Snapshot {
    id: String,
    of: String,
    model: PathBuf,
}

struct World {
    server: Server,
    dir: PathBuf,
    count: usize,
    pairs: Vec<Pair>,
    snapshots: Vec<Snapshot>,
    dice: Dice,
}

impl Pair {
    fn new(server: &Server, id: &Value, model: PathBuf) -> Self {
        Self { sandbox: Sandbox { api: server.api(), id: id.as_str().unwrap().to_owned() }, model, kept: None }
    }

    fn files(&self) -> BTreeSet<String> {
        let inside = self.sandbox.run_with(&["python3", "-c", LIST], json!({ "cwd": TOP }));
        assert_eq!(inside.code, 0, "{inside:?}");
        inside.stdout.lines().map(str::to_owned).collect()
    }

    /// It was woken: what it had in memory goes on.
    fn check_kept(&mut self, step: usize) {
        if let Some(context) = self.kept.take() {
            let context = self.sandbox.context(&context["id"]);
            assert_eq!(context["running"], true, "step {step}: the memory of {} was to be kept: {context}", self.sandbox.id);
            self.sandbox.api.delete(&self.sandbox.path(&format!("/contexts/{}", context["id"].as_str().unwrap()))).ok(200);
        }
    }
}

impl World {
    fn new_model(&mut self, from: &Path) -> PathBuf {
        self.count += 1;
        let to = self.dir.join(self.count.to_string());
        assert!(Command::new("cp").args(["-a", "--"]).arg(from).arg(&to).status().unwrap().success());
        to
    }

    fn check(&mut self, at: usize, step: usize, doing: &str) {
        let pair = &mut self.pairs[at];
        let (inside, outside) = (pair.files(), files(&pair.model));
        pair.check_kept(step);
        if inside != outside {
            let (has, has_not): (Vec<_>, Vec<_>) = (inside.difference(&outside).collect(), outside.difference(&inside).collect());
            panic!("step {step}, after {doing}: {} has\n{has:#?}\nand has not\n{has_not:#?}", pair.sandbox.id);
        }
    }

    /// Every sandbox and every snapshot that should be there is, and no other.
    fn count(&self, step: usize) {
        let known: BTreeSet<String> = self.pairs.iter().map(|pair| pair.sandbox.id.clone()).collect();
        assert_eq!(self.sandboxes(), known, "step {step}: sandboxes");
        for pair in &self.pairs {
            assert_eq!(pair.sandbox.get()["id"], pair.sandbox.id.as_str());
            let of_it: Vec<String> = self.snapshots.iter().filter(|one| one.of == pair.sandbox.id).map(|one| one.id.clone()).collect();
            assert_eq!(snapshots_of(&pair.sandbox), of_it, "step {step}: snapshots of {}", pair.sandbox.id);
        }
        for one in &self.snapshots {
            assert_eq!(self.server.api().get(&one.path()).ok(200)["sandbox_id"], one.of.as_str());
        }
    }

    fn sandboxes(&self) -> BTreeSet<String> {
        let rows = self.server.api().get(&format!("{SANDBOXES}?limit=200")).ok(200);
        rows["sandboxes"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server.up();
        eventually("a machine that matches the rows", Duration::from_secs(30), || {
            let wrong = machine::violations(&self.server);
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
        });
    }

    fn step(&mut self, step: usize) {
        let at = self.dice.roll(self.pairs.len());
        let choice = self.dice.roll(100);
        let mut doing = format!("choice {choice}");
        match choice {
            0..=66 => {
                let script = self.dice.step();
                let pair = &mut self.pairs[at];
                // Shown when the test fails.
                eprintln!("step {step}: {} does {script}", pair.sandbox.id);
                let inside = pair.sandbox.run_with(&["sh", "-c", &script], json!({ "cwd": TOP }));
                pair.check_kept(step);
                let outside = Command::new("sh").args(["-c", &script]).current_dir(&pair.model).output().unwrap();
                assert_eq!(Some(inside.code), outside.status.code().map(i64::from), "step {step}, {script}: {inside:?} and {outside:?}");
                doing = script;
            }
            67..=71 => {
                self.pairs[at].sandbox.post("/pause", json!({}));
            }
            72..=74 => {
                let pair = &mut self.pairs[at];
                let context = pair.sandbox.spawn(&["sleep", "100000"]);
                pair.check_kept(step);
                pair.sandbox.post("/pause", json!({ "memory": true }));
                assert_eq!(pair.sandbox.get()["status"], "paused");
                pair.kept = Some(context);
                doing = "a pause that keeps memory".into();
            }
            75..=79 => {
                let pair = &mut self.pairs[at];
                pair.sandbox.post("/pause", json!({}));
                pair.kept = None;
                pair.sandbox.post("/hibernate", json!({}));
            }
            80..=82 => {
                let pair = &mut self.pairs[at];
                pair.sandbox.post("/resume", json!({}));
                pair.check_kept(step);
            }
            83..=87 => {
                let data = self.pairs[at].sandbox.api.post(&self.pairs[at].sandbox.path("/snapshots"), json!({})).ok(201);
                self.keep_snapshot(at, data["id"].as_str().unwrap().to_owned());
            }
            88..=90 if !self.snapshots.is_empty() => {
                let one = self.any_snapshot();
                let model = self.new_model(&one.model);
                let pair = &mut self.pairs[at];
                pair.sandbox.post("/pause", json!({}));
                pair.kept = None;
                pair.sandbox.post("/rootfs/restore", json!({ "snapshot_id": one.id }));
                replace(&mut pair.model, model);
                doing = "a restore".into();
            }
            91..=93 => {
                let data = self.pairs[at].sandbox.api.post(&self.pairs[at].sandbox.path("/fork"), json!({})).ok(201);
                self.keep_fork(at, &data["sandbox"]["id"]);
                doing = "a fork".into();
            }
            94 | 95 if !self.snapshots.is_empty() => {
                let one = self.any_snapshot();
                let claimed = self.server.api().post(SANDBOXES, json!({ "template": "default", "snapshot_id": one.id })).ok(201);
                let model = self.new_model(&one.model);
                let claimed = Pair::new(&self.server, &claimed["sandbox_id"], model);
                self.replace_pair(at, claimed);
                doing = "a claim from a snapshot".into();
            }
            96 => {
                self.restart();
                doing = "a kill of the server".into();
            }
            97..=99 => doing = self.interrupted(at, step),
            _ => {}
        }
        if step.is_multiple_of(LOOK_EVERY) {
            self.check(at.min(self.pairs.len() - 1), step, &doing);
        }
        if step.is_multiple_of(COUNT_EVERY) {
            self.count(step);
        }
    }

    /// Something is asked of the server, which is killed in the middle of it: it is done or it is not, and what was
    /// acknowledged is done.
    fn interrupted(&mut self, at: usize, step: usize) -> String {
        let (what, after) = (self.dice.roll(4), Duration::from_millis(self.dice.roll(25) as u64));
        let one = if self.snapshots.is_empty() { None } else { Some(self.any_snapshot()) };
        let sandbox = &self.pairs[at].sandbox;
        let before = (self.sandboxes(), snapshots_of(sandbox));
        let (path, body) = match (what, &one) {
            (0, _) => (sandbox.path("/snapshots"), json!({})),
            (1, _) | (_, None) => (sandbox.path("/fork"), json!({})),
            (2, Some(one)) => {
                sandbox.post("/pause", json!({}));
                (sandbox.path("/rootfs/restore"), json!({ "snapshot_id": one.id }))
            }
            (_, Some(one)) => (SANDBOXES.to_owned(), json!({ "template": "default", "snapshot_id": one.id })),
        };
        let api = self.server.api();
        let reply: Option<Reply> = std::thread::scope(|scope| {
            let asked = scope.spawn(|| api.try_json("POST", &path, &body).ok());
            std::thread::sleep(after);
            self.server.kill();
            asked.join().unwrap()
        });
        self.server.up();
        let doing = format!("a kill {after:?} into {path}, answered {:?}", reply.as_ref().map(|reply| reply.status));
        let acknowledged = reply.as_ref().is_some_and(|reply| (200..300).contains(&reply.status));
        let new_sandboxes: Vec<String> = self.sandboxes().difference(&before.0).cloned().collect();
        let new_snapshots: Vec<String> = snapshots_of(&self.pairs[at].sandbox).into_iter().filter(|id| !before.1.contains(id)).collect();
        assert!(new_sandboxes.len() + new_snapshots.len() <= 1, "step {step}, {doing}: {new_sandboxes:?} {new_snapshots:?}");
        if path.ends_with("/restore") {
            let (pair, one) = (&mut self.pairs[at], one.unwrap());
            pair.kept = None;
            let restored = pair.files() == files(&one.model);
            assert!(restored || !acknowledged, "step {step}, {doing}: was acknowledged");
            if restored {
                let model = self.new_model(&one.model);
                replace(&mut self.pairs[at].model, model);
            }
        } else {
            assert!(!acknowledged || new_sandboxes.len() + new_snapshots.len() == 1, "step {step}, {doing}: was acknowledged");
        }
        for id in new_snapshots {
            self.keep_snapshot(at, id);
        }
        for id in new_sandboxes {
            if path.ends_with("/fork") {
                self.keep_fork(at, &json!(id));
            } else {
                let model = self.new_model(&self.snapshots.iter().find(|one| body["snapshot_id"] == one.id.as_str()).unwrap().model.clone());
                let claimed = Pair::new(&self.server, &json!(id), model);
                self.replace_pair(at, claimed);
            }
        }
        eventually("a machine that matches the rows", Duration::from_secs(30), || {
            let wrong = machine::violations(&self.server);
            if wrong.is_empty() { Ok(()) } else { Err(format!("step {step}, {doing}: {}", wrong.join("\n  "))) }
        });
        doing
    }

    fn any_snapshot(&mut self) -> Snapshot {
        self.snapshots[self.dice.roll(self.snapshots.len())].clone()
    }

    fn keep_snapshot(&mut self, at: usize, id: String) {
        let model = self.new_model(&self.pairs[at].model.clone());
        self.snapshots.push(Snapshot { id, of: self.pairs[at].sandbox.id.clone(), model });
        if self.snapshots.len() > SNAPSHOTS_MAX {
            let old = self.snapshots.remove(0);
            self.server.api().delete(&old.path()).ok(200);
            assert_eq!(self.server.api().get(&old.path()).status, 404);
            fs::remove_dir_all(old.model).unwrap();
        }
    }

    fn keep_fork(&mut self, at: usize, id: &Value) {
        let model = self.new_model(&self.pairs[at].model.clone());
        self.pairs.push(Pair::new(&self.server, id, model));
        if self.pairs.len() > SANDBOXES_MAX {
            let old = self.dice.roll(SANDBOXES_MAX);
            let old = self.pairs.remove(old);
            fs::remove_dir_all(&old.model).unwrap();
        }
    }

    fn replace_pair(&mut self, at: usize, pair: Pair) {
        let old = std::mem::replace(&mut self.pairs[at], pair);
        fs::remove_dir_all(&old.model).unwrap();
    }
}

impl Snapshot {
    fn path(&self) -> String {
        format!("/api/v1/sandbox-rootfs-snapshots/{}", self.id)
    }
}

fn replace(model: &mut PathBuf, by: PathBuf) {
    fs::remove_dir_all(std::mem::replace(model, by)).unwrap();
}

fn files(model: &Path) -> BTreeSet<String> {
    let outside = Command::new("python3").args(["-c", LIST]).current_dir(model).output().unwrap();
    assert!(outside.status.success(), "{outside:?}");
    String::from_utf8_lossy(&outside.stdout).lines().map(str::to_owned).collect()
}

/// Oldest first.
fn snapshots_of(sandbox: &Sandbox) -> Vec<String> {
    let listed = sandbox.api.get(&sandbox.path("/snapshots")).ok(200);
    let ids: Vec<String> = listed["snapshots"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed["count"], ids.len());
    ids
}

#[test]
fn files_equal_the_model_through_everything() {
    let steps = std::env::var("SANDBAR_MODEL_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(STEPS_DEFAULT);
    let seed = std::env::var("SANDBAR_MODEL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "1")]);
    let dir = server.data_dir().parent().unwrap().join("model");
    fs::create_dir_all(dir.join("0")).unwrap();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.sh_ok(&format!("mkdir -p {TOP}"));
    let pairs = vec![Pair { sandbox, model: dir.join("0"), kept: None }];
    let mut world = World { server, dir, count: 0, pairs, snapshots: Vec::new(), dice: Dice(seed) };
    for step in 0..steps {
        world.step(step);
    }
    for at in 0..world.pairs.len() {
        world.check(at, steps, "the end");
    }
    world.count(steps);
    world.pairs.clear();
}
