"""The command line, as a user has it, against a running server: SANDBAR_BIN with SANDBAR_URL and SANDBAR_TOKEN."""

import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BIN = os.environ["SANDBAR_BIN"]


def run(*args, data=b"", env=None, timeout=60):
    done = subprocess.run([BIN, *args], input=data, capture_output=True, timeout=timeout, env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr


class CommandLine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        code, out, err = run("sandbox", "create", "-e", "COLOUR=blue")
        assert code == 0, err
        cls.id = out.decode().strip()
        cls.here = tempfile.TemporaryDirectory()

    @classmethod
    def tearDownClass(cls):
        cls.here.cleanup()
        code, out, err = run("sandbox", "rm", cls.id)
        assert (code, out.decode().strip()) == (0, cls.id), err

    def exec(self, *command, **options):
        return run("sandbox", "exec", self.id, "--", *command, **options)

    def test_exec_keeps_streams_apart_and_the_exit_code(self):
        self.assertEqual(self.exec("sh", "-c", "echo out; echo err >&2; exit 7"), (7, b"out\n", b"err\n"))

    def test_exec_has_the_environment_of_the_sandbox_and_of_the_call(self):
        code, out, _ = run("sandbox", "exec", "-e", "SIZE=big", "-w", "/tmp", self.id, "--", "sh", "-c", "echo $COLOUR $SIZE $PWD")
        self.assertEqual((code, out), (0, b"blue big /tmp\n"))

    def test_exec_passes_input_on(self):
        self.assertEqual(self.exec("head", "-n1", data="grüße\nrest\n".encode()), (0, "grüße\n".encode(), b""))

    def test_exec_passes_the_end_of_input_on(self):
        code, out, _ = self.exec("wc", "-c", data=b"x" * 300_000)
        self.assertEqual((code, out.strip()), (0, b"300000"))

    def test_exec_as_json(self):
        code, out, _ = run("-o", "json", "sandbox", "exec", self.id, "--", "sh", "-c", "echo out; echo err >&2; exit 2")
        reply = json.loads(out)
        self.assertEqual((code, reply["stdout"], reply["stderr"], reply["exit_code"]), (2, "out\n", "err\n", 2))

    def test_exec_with_a_terminal(self):
        master, slave = pty.openpty()
        child = subprocess.Popen([BIN, "sandbox", "exec", "--tty", self.id, "--", "sh", "-c", "test -t 0 && stty size && read line && echo got $line"], stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        text, deadline = b"", time.monotonic() + 30
        sent = False
        while time.monotonic() < deadline and b"got hello" not in text:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    text += os.read(master, 4096)
                except OSError:
                    break
            if not sent and b"\n" in text:
                os.write(master, b"hello\r")
                sent = True
        self.assertIn(b"got hello", text)
        self.assertEqual(child.wait(10), 0)
        os.close(master)

    def test_interrupt_reaches_the_command(self):
        script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.1; done"
        child = subprocess.Popen([BIN, "sandbox", "exec", self.id, "--", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.assertEqual(child.stdout.readline(), b"ready\n")
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.communicate(timeout=20)[0], b"interrupted\n")
        self.assertEqual(child.returncode, 5)

    def test_run_keeps_state_in_a_context(self):
        code, _, err = run("sandbox", "run", "--keep", self.id, "python", "x = 20")
        self.assertEqual(code, 0, err)
        context = err.decode().split()[-1]
        code, out, _ = run("sandbox", "run", "--context", context, self.id, "python", "print(x + 22)")
        self.assertEqual((code, out), (0, b"42\n"))
        code, out, _ = run("sandbox", "run", self.id, "python", data=b"print('from a pipe')\n")
        self.assertEqual((code, out), (0, b"from a pipe\n"))

    def test_copy_a_file_both_ways(self):
        here = pathlib.Path(self.here.name)
        data = os.urandom(3_000_000)
        (here / "up.bin").write_bytes(data)
        os.chmod(here / "up.bin", 0o755)
        self.assertEqual(run("sandbox", "cp", str(here / "up.bin"), f"{self.id}:/tmp/copied.bin")[0], 0)
        code, out, _ = self.exec("stat", "-c", "%s %a", "/tmp/copied.bin")
        self.assertEqual(out, b"3000000 755\n")
        self.assertEqual(run("sandbox", "cp", f"{self.id}:/tmp/copied.bin", str(here / "down.bin"))[0], 0)
        self.assertEqual((here / "down.bin").read_bytes(), data)
        self.assertEqual(run("sandbox", "cp", "-", f"{self.id}:/tmp/piped", data=b"piped")[0], 0)
        self.assertEqual(run("sandbox", "cp", f"{self.id}:/tmp/piped", "-")[1], b"piped")

    def test_copy_a_folder_both_ways(self):
        here = pathlib.Path(self.here.name)
        for i in range(20):
            (here / f"tree/a{i % 3}/b").mkdir(parents=True, exist_ok=True)
            (here / f"tree/a{i % 3}/b/f{i}").write_text(str(i))
        (here / "tree/empty").mkdir()
        self.assertEqual(run("sandbox", "cp", str(here / "tree"), f"{self.id}:/tmp/tree")[0], 0)
        code, out, err = run("-o", "json", "sandbox", "cp", f"{self.id}:/tmp/tree", str(here / "back"))
        self.assertEqual(code, 0, err)
        self.assertEqual(json.loads(out)["files"], 20)
        self.assertEqual(subprocess.run(["diff", "-r", here / "tree", here / "back"]).returncode, 0)

    def test_tables_and_json(self):
        code, out, _ = run("sandbox", "ls")
        self.assertEqual(code, 0)
        self.assertIn(self.id, out.decode())
        code, out, _ = run("-o", "json", "sandbox", "ls")
        self.assertIn(self.id, [row["id"] for row in json.loads(out)["sandboxes"]])
        code, out, _ = run("-o", "json", "sandbox", "get", self.id)
        self.assertEqual(json.loads(out)["status"], "running")
        self.assertEqual(run("template", "ls")[0], 0)
        self.assertEqual(json.loads(run("-o", "json", "template", "get", "default")[1])["template_id"], "default")

    def test_pause_resume_refresh_events_and_logs(self):
        id = run("sandbox", "create", "--ttl", "600")[1].decode().strip()
        try:
            self.assertEqual(run("sandbox", "exec", id, "--", "echo", "logged line")[0], 0)
            self.assertIn(b"logged line", run("sandbox", "logs", id)[1])
            self.assertEqual(run("sandbox", "pause", id)[0], 0)
            self.assertTrue(json.loads(run("-o", "json", "sandbox", "get", id)[1])["paused"])
            self.assertEqual(run("sandbox", "resume", id)[0], 0)
            self.assertEqual(run("sandbox", "pause", "--hibernate", id)[0], 0)
            self.assertEqual(run("sandbox", "exec", id, "--", "echo", "woken")[1], b"woken\n")
            self.assertIn(b"expires", run("sandbox", "refresh", "--duration", "300", id)[1])
            events = json.loads(run("-o", "json", "sandbox", "events", id)[1])["events"]
            self.assertGreater(len(events), 2)
            self.assertEqual(run("sandbox", "events", id)[0], 0)
        finally:
            self.assertEqual(run("sandbox", "rm", id)[0], 0)

    def test_credentials(self):
        file = pathlib.Path(self.here.name, "token")
        file.write_text("from a file\n")
        code, out, err = run("credential", "add", "cli", "--value", "token=env:CLI_SECRET", env={"CLI_SECRET": "hush"})
        self.assertEqual(code, 0, err)
        self.assertNotIn(b"hush", out + err)
        self.assertRegex(run("credential", "ls")[1].decode(), r"cli +static_headers +1 +active")
        self.assertEqual(run("credential", "rotate", "cli", "--value", f"token={file}")[0], 0)
        made = json.loads(run("-o", "json", "credential", "rotate", "cli", "--value", "token=-", data=b"from standard input")[1])
        self.assertEqual((made["name"], made["currentVersion"]), ("cli", 3))
        self.assertIn(b"version", run("credential", "get", "cli")[1])
        code, _, err = run("credential", "rotate", "cli", "--username", "u", "--password", "-", data=b"p")
        self.assertEqual(code, 1)
        self.assertIn(b"cannot be changed", err)
        code, _, err = run("credential", "add", "other", "--value", "token=plain text")
        self.assertEqual(code, 1)
        self.assertNotIn(b"plain text", err)
        self.assertEqual(run("credential", "rm", "cli")[0], 0)
        self.assertEqual(run("credential", "get", "cli")[0], 1)

    def test_keys(self):
        made = json.loads(run("-o", "json", "key", "create", "for a test", "--role", "viewer", "--expires-in", "1h")[1])
        id = (made.get("api_key") or made)["id"]
        self.assertEqual(run("sandbox", "ls", env={"SANDBAR_TOKEN": made["key"]})[0], 0)
        code, _, err = run("sandbox", "create", env={"SANDBAR_TOKEN": made["key"]})
        self.assertEqual(code, 1)
        self.assertIn(b"forbidden", err)
        self.assertIn("for a test", run("key", "ls")[1].decode())
        self.assertEqual(run("key", "rm", id)[0], 0)
        self.assertEqual(run("sandbox", "ls", env={"SANDBAR_TOKEN": made["key"]})[0], 1)

    def test_login_is_remembered_for_its_owner_only(self):
        with tempfile.TemporaryDirectory() as home:
            env = {"XDG_CONFIG_HOME": home}
            self.assertEqual(run("login", "--token", os.environ["SANDBAR_TOKEN"], env=env)[0], 0)
            stored = pathlib.Path(home, "sandbar/credentials.json")
            self.assertEqual(stored.stat().st_mode & 0o777, 0o600)
            self.assertEqual(run("sandbox", "ls", env={**env, "SANDBAR_TOKEN": "", "SANDBAR_URL": ""})[0], 0)
            self.assertEqual(run("login", "--token", "s0_wrong_key", env=env)[0], 1)

    def test_failures_are_one_line_and_say_the_request(self):
        code, out, err = run("sandbox", "get", "sb-nothing")
        self.assertEqual((code, out), (1, b""))
        self.assertEqual(err.count(b"\n"), 1)
        self.assertIn(b"not_found", err)
        self.assertIn(b"request ", err)
        self.assertEqual(run("sandbox", "nonsense")[0], 2)
        self.assertEqual(run("--url", "http://127.0.0.1:1", "sandbox", "ls")[0], 1)
        code, _, err = run("-o", "json", "sandbox", "get", "sb-nothing")
        self.assertEqual(json.loads(err)["error"]["status"], 404)

    def file(self, name, text):
        path = pathlib.Path(self.here.name) / name
        path.write_text(text)
        return str(path)

    def on_terminal(self, *args):
        """What a terminal is sent, with the line ends that a program writes."""
        master, slave = pty.openpty()
        child = subprocess.Popen([BIN, *args], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        os.close(master)
        child.wait(timeout=60)
        return shown.replace(b"\r\n", b"\n").decode()

    def test_scripts_run_here_and_say_how_they_ended(self):
        data = self.file("data.json", '{"n": 20}')
        add = self.file("add.js", "console.log('adding'); return ctx.data.n + 22")
        self.assertEqual(run("script", "run", add, "--data", "@" + data), (0, b"42\n", b"adding\n"))
        self.assertEqual(run("script", "run", add, "--data", "-", data=b'{"n": 1}')[:2], (0, b"23\n"))
        code, out, _ = run("-o", "json", "script", "run", add, "--data", '{"n": 2}')
        self.assertEqual((code, json.loads(out)["value"], json.loads(out)["logs"]), (0, 24, ["adding"]))
        for name, source, flags, wanted, says in [
            ("throws", "throw new TypeError('no')", [], 1, "TypeError: no (user_error)"),
            ("spins", "while (true) {}", ["--timeout", "200"], 1, "timed out after 200ms"),
            ("grows", "const all = []; while (true) all.push(new Uint8Array(1 << 20).fill(1))", ["--memory", "16"], 1, "(memory)"),
            ("is-none", "return )", [], 1, "is-none.js"),
            ("short", "return 1", ["--timeout", "5"], 2, "50..=60000"),
            ("small", "return 1", ["--memory", "1"], 2, "16..=512"),
            ("of-json", "return 1", ["--data", "{"], 2, "--data is no JSON"),
            ("of-a-file", "return 1", ["--data", data], 2, "write @" + data),
            ("of-no-file", "return 1", ["--data", "@/nonexistent"], 2, "/nonexistent cannot be read"),
            ("elsewhere", "return 1", ["--fetch-allow", "https://x/"], 2, "--fetch-allow"),
        ]:
            code, _, err = run("script", "run", self.file(f"{name}.js", source), *flags)
            self.assertEqual(code, wanted, (name, err))
            self.assertIn(says, err.decode(), name)
        code, _, err = run("script", "run", "/nonexistent.js")
        self.assertEqual((code, err), (2, b"sandbar: /nonexistent.js cannot be read: No such file or directory (os error 2)\n"))

    def test_what_scripts_say_does_not_steer_the_terminal(self):
        evil = "\\x1b[31mred\\x9b1m\\u202e"
        for name, source in [
            ("returns", f"console.log('{evil}'); return 'two\\nlines {evil}'"),
            ("lists", f"return ['\\x7f\\x9b1m{evil}']"),
            ("throws", f"const e = new Error('{evil}'); e.name = '{evil}'; throw e"),
        ]:
            path = self.file(f"evil-{name}.js", source)
            self.assertEqual(run("script", "put", path)[0], 0)
            for command in [("run", path), ("invoke", f"evil-{name}"), ("logs", f"evil-{name}"), ("runs", f"evil-{name}"), ("get", "--code", f"evil-{name}")]:
                shown = self.on_terminal("script", *command)
                self.assertEqual([c for c in shown if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)], [], (command, shown))
            self.assertEqual(run("script", "rm", f"evil-{name}")[0], 0)
        path = self.file("evil.js", f"return 'two\\nlines {evil}'")
        self.assertIn("two\nlines", self.on_terminal("script", "run", path))
        self.assertEqual(run("script", "run", path)[1].decode(), "two\nlines \x1b[31mred\x9b1m\u202e\n", "a program is told what it is")

    def test_scripts_are_put_by_flags_and_by_records(self):
        code = self.file("put-me.js", "return [ctx.data.a, 1]")
        flags = ["--timeout", "900", "--cpu", "800", "--memory", "32", "--no-capabilities", "--fetch-allow", "a.example", "--max-attempts", "1", "--deterministic"]
        done, out, err = run("-o", "json", "script", "put", code, *flags)
        self.assertEqual(done, 0, err)
        made = json.loads(out)
        self.assertEqual([made[field] for field in ("timeoutMs", "cpuMs", "memoryMb", "capabilities", "fetchAllow", "deterministic")], [900, 800, 32, [], ["a.example"], True])
        self.assertEqual(made["retry"], {"maxAttempts": 1, "maxAgeSeconds": 86400})
        record = self.file("put-me.json", out.decode())
        self.assertEqual(run("script", "rm", "put-me")[0], 0)
        again = json.loads(run("-o", "json", "script", "put", "--config", record, "--trigger", "cron", "--pattern", "@daily", "--timezone", "Europe/Berlin", "--overlap", "queue")[1])
        self.assertEqual([again[field] for field in ("name", "code", "timeoutMs", "capabilities")], ["put-me", made["code"], 900, []])
        self.assertEqual([again["schedule"][field] for field in ("timezone", "concurrencyPolicy", "missedRunPolicy")], ["Europe/Berlin", "queue", "run_once"])
        yaml = self.file("put-me.yaml", "capabilities: null\nschedule: {jitterSeconds: 5}\nactive: false\n")
        changed = json.loads(run("-o", "json", "script", "put", code, "--config", yaml)[1])
        self.assertEqual([changed[field] for field in ("capabilities", "active", "version", "trigger")], [None, False, 1, "cron"])
        self.assertEqual([changed["schedule"][field] for field in ("timezone", "jitterSeconds")], ["Europe/Berlin", 5])
        for flags, wanted in [(["--timeout", "1"], 1), (["--timeout", "x"], 2), (["--config", code], 2), (["--no-fetch", "--fetch-allow", "x"], 2)]:
            self.assertEqual(run("script", "put", code, *flags)[0], wanted, flags)
        self.assertEqual(run("script", "rm", "put-me")[0], 0)

    def test_dead_letters_are_tried_again_and_forgotten(self):
        path = self.file("dies.js", "throw new Error('dead ' + ctx.data.data)")
        self.assertEqual(run("script", "put", path, "--trigger", "event", "--pattern", "cli:dies", "--max-attempts", "1")[0], 0)

        def letters(wanted, *flags):
            until = time.monotonic() + 30
            while True:
                found = json.loads(run("-o", "json", "script", "dead-letters", "ls", *flags)[1])
                if len(found) == wanted or time.monotonic() > until:
                    self.assertEqual(len(found), wanted, found)
                    return found
                time.sleep(0.1)

        for number in range(3):
            code, out, err = run("event", "publish", "cli", "dies", "--data", str(number))
            self.assertEqual(code, 0, err)
        letters(3, "--script", "dies")
        code, out, _ = run("script", "dead-letters", "ls")
        self.assertEqual(code, 0)
        self.assertIn("dies", out.decode().splitlines()[1].split(), "by name")
        self.assertEqual(run("script", "dead-letters", "redrive", "--script", "dies")[:2], (0, b"3 are tried again\n"))
        one = letters(3)[0]["id"]
        code, out, _ = run("script", "jobs", "dies", "--state", "dead", "--limit", "2")
        self.assertEqual((code, [line.split()[:4] for line in out.decode().splitlines()[1:]]), (0, [["dies", "event", "dead", "1"]] * 2))
        self.assertEqual(run("script", "dead-letters", "rm", one)[:2], (0, f"{one}\n".encode()))
        self.assertEqual(run("script", "dead-letters", "rm", one)[0], 1)
        self.assertEqual(run("script", "dead-letters", "rm", "--script", "dies")[:2], (0, b"2 are forgotten\n"))
        self.assertEqual(run("script", "dead-letters", "rm", "--all")[:2], (0, b"0 are forgotten\n"))
        self.assertEqual(run("script", "dead-letters", "rm")[0], 2)
        self.assertEqual(run("script", "rm", "dies")[0], 0)

    def test_completions(self):
        for shell in ("bash", "zsh", "fish"):
            code, out, _ = run("completions", shell)
            self.assertEqual(code, 0)
            self.assertIn(b"sandbar", out)


    def test_services_are_shown_replaced_and_removed_one_by_one(self):
        def rows(*args, **options):
            code, out, err = run("sandbox", "service", *args, **options)
            self.assertEqual((code, err), (0, b""), out)
            return [line.split() for line in out.decode().splitlines()]

        header = ["ID", "PORT", "RUNTIME", "PUBLIC", "URL", "PUBLISHABLE"]
        self.assertEqual(rows("get", self.id), [header])
        file = pathlib.Path(self.here.name) / "services.yaml"
        file.write_text("- {id: web, port: 8000, runtime: {type: cmd, command: [python3, -m, http.server]}, ingress: {public: true}}\n- {id: db, port: 5432, runtime: {type: manual}, ingress: {public: false}}\n")
        shown = rows("update", self.id, "--services-file", str(file))
        host = f"{self.id}--p8000."
        self.assertEqual([row[:3] for row in shown[1:]], [["web", "8000", "cmd"], ["db", "5432", "manual"]])
        self.assertIn(host, shown[1][3])
        self.assertEqual((shown[1][4], shown[2][-1]), ("yes", "not_public,manual_runtime"))
        self.assertEqual(rows("get", self.id), shown)

        # What is printed as JSON is taken again.
        code, out, _ = run("-o", "json", "sandbox", "service", "get", self.id)
        self.assertEqual([service["id"] for service in json.loads(out)["services"]], ["web", "db"])
        self.assertEqual(rows("update", self.id, "--services-file", "-", data=out), shown)
        self.assertEqual(rows("delete", self.id, "web")[1:], shown[2:])

        for args, data, named in [(("delete", self.id, "web"), b"", b"db"), (("update", self.id, "-f", "-"), b"{", b"YAML or JSON"), (("update", self.id, "-f", "-"), b"[{\"id\": \"x\"}]", b"port")]:
            code, out, err = run("sandbox", "service", *args, data=data)
            self.assertEqual((code, out), (1, b""), args)
            self.assertIn(named, err)
        self.assertEqual(rows("clear", self.id), [header])


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=1).result
    sys.exit(not result.wasSuccessful())
