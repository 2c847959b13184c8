//! Sandboxes against a model: the same steps are done in sandboxes and in folders of the host, and the trees must stay
//! equal through pauses, snapshots, restores, forks and kills of the server. `SANDBAR_MODEL_STEPS` sets how many.
//!
//! Files are changed by replacing them: which names share a file is not kept over layers, as by no overlay filesystem.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::harness::{SANDBOXES, Sandbox, Server};

const STEPS_DEFAULT: usize = 300;
const SANDBOXES_MAX: usize = 4;
const SNAPSHOTS_MAX: usize = 6;
/// Steps between two looks at the whole tree.
const LOOK_EVERY: usize = 3;
/// The tree that the steps are about.
const TOP: &str = "/workspace/t";

/// Prints a number for the tree in the present folder.
const HASH: &str = r#"
import hashlib, os, stat
total = hashlib.sha256()
for folder, folders, files in os.walk('.'):
    folders.sort()
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        s = os.lstat(path)
        line = [path, stat.S_IFMT(s.st_mode), stat.S_IMODE(s.st_mode)]
        if stat.S_ISLNK(s.st_mode):
            line.append(os.readlink(path))
        else:
            line.append(sorted((a, os.getxattr(path, a)) for a in os.listxattr(path) if a.startswith('user.')))
        if stat.S_ISREG(s.st_mode):
            line += [s.st_size, hashlib.sha256(open(path, 'rb').read()).hexdigest()]
        total.update(repr(line).encode())
print(total.hexdigest())
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

    /// A step on files. It may fail, but then in both places and without a trace.
    fn step(&mut self) -> String {
        let (path, other) = (self.path(), self.path());
        let size = [0, 1, 4096, 70_000][self.roll(4)];
        let fill = self.roll(1000);
        match self.roll(11) {
            0..=2 => format!("mkdir -p \"$(dirname '{path}')\"; yes {fill} | head -c {size} >.new && mv -fT .new '{path}'"),
            3 => format!("test -f '{path}' && cp -a '{path}' .new && echo {fill} >>.new && mv -fT .new '{path}'"),
            4 => format!("mkdir -p '{path}'"),
            // Neither name may be in the other.
            5 | 6 => format!("case '{other}/' in '{path}'/*) ;; *) mv -T '{path}' '{other}';; esac"),
            7 => format!("rm -rf '{path}'"),
            8 => format!("test -f '{path}' && ln -T '{path}' '{other}'"),
            9 => format!("ln -sT '{other}' '{path}'; test -d a && chmod 7{}5 a", fill % 8),
            _ => format!("test -f '{path}' && cp -a '{path}' .new && python3 -c \"import os; os.setxattr('.new', 'user.k', b'{fill}')\"; mv -fT .new '{path}'"),
        }
    }
}

/// A sandbox and the folder that it must equal.
struct Pair {
    sandbox: Sandbox,
    model: PathBuf,
}

struct World {
    server: Server,
    dir: PathBuf,
    count: usize,
    pairs: Vec<Pair>,
    /// Snapshots, and the folders that they must equal.
    snapshots: Vec<(String, PathBuf)>,
    dice: Dice,
}

impl World {
    fn new_model(&mut self, from: &Path) -> PathBuf {
        self.count += 1;
        let to = self.dir.join(self.count.to_string());
        assert!(Command::new("cp").args(["-a", "--"]).arg(from).arg(&to).status().unwrap().success());
        to
    }

    fn check(&self, pair: &Pair, step: usize, doing: &str) {
        let inside = pair.sandbox.run_with(&["python3", "-c", HASH], json!({ "cwd": TOP }));
        assert_eq!(inside.code, 0, "{inside:?}");
        let outside = Command::new("python3").args(["-c", HASH]).current_dir(&pair.model).output().unwrap();
        if inside.stdout.trim() != String::from_utf8_lossy(&outside.stdout).trim() {
            let list = "find . -printf '%P %y %m %s %n %l\\n' | sort";
            let inside = pair.sandbox.run_with(&["sh", "-c", list], json!({ "cwd": TOP })).stdout;
            let outside = Command::new("sh").args(["-c", list]).current_dir(&pair.model).output().unwrap();
            panic!("step {step}, after {doing}: {} has\n{inside}\nand not\n{}", pair.sandbox.id, String::from_utf8_lossy(&outside.stdout));
        }
    }

    fn step(&mut self, step: usize) {
        let at = self.dice.roll(self.pairs.len());
        let choice = self.dice.roll(100);
        let mut doing = format!("choice {choice}");
        match choice {
            0..=69 => {
                let script = self.dice.step();
                let pair = &self.pairs[at];
                pair.sandbox.run_with(&["sh", "-c", &script], json!({ "cwd": TOP }));
                Command::new("sh").args(["-c", &script]).current_dir(&pair.model).output().unwrap();
                doing = script;
            }
            70..=75 => {
                self.pairs[at].sandbox.post("/pause", json!({}));
            }
            76..=80 => {
                self.pairs[at].sandbox.post("/pause", json!({}));
                // Whoever is hibernated already says so.
                self.pairs[at].sandbox.api.post(&self.pairs[at].sandbox.path("/hibernate"), json!({}));
            }
            81..=83 => {
                self.pairs[at].sandbox.post("/resume", json!({}));
            }
            84..=89 => {
                let id = self.pairs[at].sandbox.api.post(&self.pairs[at].sandbox.path("/snapshots"), json!({})).ok(201)["id"].as_str().unwrap().to_owned();
                let model = self.new_model(&self.pairs[at].model.clone());
                self.snapshots.push((id, model));
                if self.snapshots.len() > SNAPSHOTS_MAX {
                    let (old, _) = self.snapshots.remove(0);
                    self.server.api().delete(&format!("/api/v1/sandbox-rootfs-snapshots/{old}")).ok(200);
                }
            }
            90..=92 if !self.snapshots.is_empty() => {
                let (id, from) = self.snapshots[self.dice.roll(self.snapshots.len())].clone();
                let model = self.new_model(&from);
                let pair = &mut self.pairs[at];
                pair.sandbox.post("/pause", json!({}));
                pair.sandbox.post("/rootfs/restore", json!({ "snapshot_id": id }));
                pair.model = model;
                doing = "a restore".into();
            }
            93..=95 => {
                let data = self.pairs[at].sandbox.api.post(&self.pairs[at].sandbox.path("/fork"), json!({})).ok(201);
                let sandbox = Sandbox { api: self.server.api(), id: data["sandbox"]["id"].as_str().unwrap().to_owned() };
                let model = self.new_model(&self.pairs[at].model.clone());
                self.pairs.push(Pair { sandbox, model });
                doing = "a fork".into();
                if self.pairs.len() > SANDBOXES_MAX {
                    let old = self.dice.roll(SANDBOXES_MAX);
                    self.pairs.remove(old);
                }
            }
            96 | 97 if !self.snapshots.is_empty() => {
                let (id, from) = self.snapshots[self.dice.roll(self.snapshots.len())].clone();
                let claimed = self.server.api().post(SANDBOXES, json!({ "template": "default", "snapshot_id": id })).ok(201);
                let sandbox = Sandbox { api: self.server.api(), id: claimed["sandbox_id"].as_str().unwrap().to_owned() };
                let model = self.new_model(&from);
                self.pairs[at] = Pair { sandbox, model };
                doing = "a claim from a snapshot".into();
            }
            98 => {
                self.server.kill();
                self.server.up();
                doing = "a kill of the server".into();
            }
            _ => {}
        }
        if step.is_multiple_of(LOOK_EVERY) {
            let at = at.min(self.pairs.len() - 1);
            self.check(&self.pairs[at], step, &doing);
        }
    }
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
    let pairs = vec![Pair { sandbox, model: dir.join("0") }];
    let mut world = World { server, dir, count: 0, pairs, snapshots: Vec::new(), dice: Dice(seed) };
    for step in 0..steps {
        world.step(step);
    }
    for pair in &world.pairs {
        world.check(pair, steps, "the end");
    }
    world.pairs.clear();
}
