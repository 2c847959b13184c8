"""JupyterLab as a service and as a function, see tests/webapp.sh. Its users notice nothing of what its owner does."""

import base64
import hashlib
import html
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

from websockets.sync.client import connect

API = os.environ["SANDBAR_URL"]
TOKEN = os.environ["SANDBAR_TOKEN"]
WORK = os.path.join(os.environ["WORK"], "webapp")
APPLICATION = os.environ["APPLICATION"]
HERE = os.path.dirname(os.path.abspath(__file__))
# The application's own password, which its users have.
PASSWORD = "sesame-of-the-test"
PORT = 8888
UPLOAD_BYTES = 8 << 20
SOON_S = 90

passed = 0


def check(name, run):
    global passed
    begun = time.monotonic()
    said = run()
    passed += 1
    print(f"ok {name} ({time.monotonic() - begun:.1f} s){': ' + said if said else ''}", flush=True)


def eventually(what, ask):
    until = time.monotonic() + SOON_S
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < until, f"not within {SOON_S} s: {what}"
        time.sleep(0.2)


def call(method, path, body=None, expect=(200, 201, 202), raw=None):
    """A call of the API, as its owner makes it."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(API + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            status, text = reply.status, reply.read()
    except urllib.error.HTTPError as refused:
        status, text = refused.code, refused.read()
    reply = json.loads(text)
    assert status in expect, f"{method} {path}: {status} {reply}"
    return reply["data"] if reply["success"] else reply["error"]


class Box:
    def __init__(self, id):
        self.id = id
        self.path = f"/api/v1/sandboxes/{id}"

    def sh(self, script):
        made = call("POST", f"{self.path}/contexts", {"type": "cmd", "cmd": {"command": ["sh", "-ec", script]}, "wait_until_done": True})
        assert made.get("exit_code", 0) == 0, made
        return made

    def serve(self, *services):
        return call("PUT", f"{self.path}/services", {"services": services})["services"]

    def source(self, service):
        return {"type": "sandbox_service", "sandbox_id": self.id, "service_id": service}


def service(id, port, command):
    routes = [{"id": "all", "path_prefix": "/", "resume": True}]
    return {"id": id, "port": port, "runtime": {"type": "cmd", "command": command, "env_vars": ENVIRONMENT}, "ingress": {"public": True, "routes": routes}}


ENVIRONMENT = {"JUPYTER_TOKEN": PASSWORD, "PYTHONPATH": "/opt/lab", "JUPYTER_PATH": "/opt/lab/share/jupyter", "JUPYTER_CONFIG_PATH": "/opt/lab/etc/jupyter", "SHELL": "/bin/sh"}
COMMAND = [
    "python3", "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={PORT}", "--ServerApp.port_retries=0",
    "--ServerApp.allow_remote_access=True", "--LabApp.app_dir=/opt/lab/share/jupyter/lab", "--ServerApp.root_dir=/workspace/notes",
]  # fmt: skip
LAB = {**service("lab", PORT, COMMAND), "health_check": {"path": "/api"}}
ENDS = service("ends", 8100, ["sh", "-c", "echo the notebooks are gone; exit 7"])
DEAF = service("deaf", 8101, ["sh", "-c", "echo listening to nobody; exec sleep 600"])


class Site:
    """The application as its users see it, at one of its addresses."""

    def __init__(self, url):
        self.url = url.rstrip("/")
        parts = urllib.parse.urlsplit(self.url)
        self.host, self.port = parts.netloc, parts.port

    def curl(self, path, *args, expect=200):
        form = "\n%{http_code}"
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "120", "-w", form, "-H", f"Authorization: token {PASSWORD}", *args, self.url + path], capture_output=True
        )
        body, _, status = done.stdout.rpartition(b"\n")
        assert done.returncode == 0 and int(status) == expect, f"curl {path}: {done}"
        return body

    def page(self):
        assert b"JupyterLab" in self.curl("/lab")
        # Who does not know the password sees nothing; who came by its link stays in by a cookie of this host.
        refused = subprocess.run(["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", f"{self.url}/api/contents"], capture_output=True, text=True)
        assert refused.stdout == "403", refused
        version = json.loads(self.curl("/api"))["version"]
        return f"jupyter-server {version}"

    def text(self):
        return self.curl("/files/revision.txt").decode().strip()

    def upload(self, name):
        """A file goes up, and comes back as it was."""
        content = os.urandom(UPLOAD_BYTES)
        path = os.path.join(WORK, "upload.json")
        with open(path, "w") as out:
            json.dump({"type": "file", "format": "base64", "content": base64.b64encode(content).decode()}, out)
        kept = json.loads(self.curl(f"/api/contents/{name}", "-X", "PUT", "-H", "Content-Type: application/json", "--data-binary", f"@{path}", expect=201))
        assert kept["size"] == UPLOAD_BYTES, kept
        back = self.curl(f"/files/{name}")
        assert hashlib.sha256(back).digest() == hashlib.sha256(content).digest(), f"{len(back)} bytes came back"
        return f"{os.path.getsize(path)} bytes up, {len(back)} back"

    def socket(self, path):
        # By hand to the address: not every resolver knows names below localhost.
        line = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        credential = {"Authorization": f"token {PASSWORD}"}
        return connect(f"ws://{self.host}{path}", sock=line, origin=self.url, additional_headers=credential, max_size=None)

    def terminal(self):
        """A shell of the application, by a WebSocket."""
        name = json.loads(self.curl("/api/terminals", "-X", "POST"))["name"]
        seen = ""
        with self.socket(f"/terminals/websocket/{name}") as line:
            line.send(json.dumps(["stdin", "echo $((6 * 7)) $(cat notes/revision.txt)\r"]))
            while "42 first" not in seen:
                kind, *rest = json.loads(line.recv(timeout=SOON_S))
                seen += rest[0] if kind == "stdout" else ""
        self.curl(f"/api/terminals/{name}", "-X", "DELETE", expect=204)

    def kernel(self):
        """A program of the application's own, by another WebSocket."""
        id = json.loads(self.curl("/api/kernels", "-X", "POST", "-d", '{"name": "python3"}', expect=201))["id"]
        me = uuid.uuid4().hex
        header = {"msg_id": uuid.uuid4().hex, "session": me, "username": "test", "date": "", "msg_type": "execute_request", "version": "5.3"}
        content = {"code": "print(sum(range(1000)))", "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        with self.socket(f"/api/kernels/{id}/channels?session_id={me}") as line:
            line.send(json.dumps({"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}))
            while True:
                said = json.loads(line.recv(timeout=SOON_S))
                assert said["msg_type"] != "error", said
                if said["msg_type"] == "stream":
                    assert said["content"]["text"] == "499500\n", said
                    break
        self.curl(f"/api/kernels/{id}", "-X", "DELETE", expect=204)

    def sockets(self):
        self.terminal()
        self.kernel()
        return "a terminal, a kernel"

    def browser(self, name):
        """Its page after its scripts ran: they asked for what is in the folder, and show it."""
        profile = os.path.join(WORK, f"browser-{uuid.uuid4().hex}")
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--virtual-time-budget=30000", "--dump-dom",
            f"{self.url}/lab?token={PASSWORD}",
        ]  # fmt: skip

        def shown():
            done = subprocess.run(command, capture_output=True, text=True, timeout=SOON_S)
            items = [html.unescape(item) for item in re.findall(r'jp-DirListing-itemText[^>]*><span>([^<]*)', done.stdout)]
            return (len(done.stdout), items) if "jp-LabShell" in done.stdout and name in items else None

        length, items = eventually(f"the page shows {name}", shown)
        return f"{length} bytes of page, files {', '.join(items)}"


class Load:
    """wrk, from its start to the end of the block, and what it counted."""

    def __init__(self, site, at_least_s, expect):
        self.site, self.at_least_s, self.expect = site, at_least_s, set(expect)

    def __enter__(self):
        self.begun = time.monotonic()
        command = [
            "wrk", "-t1", "-c16", "-d600s", "--timeout", "30s", "-s", os.path.join(HERE, "webapp.lua"),
            "-H", f"Host: {self.site.host}", "-H", f"Authorization: token {PASSWORD}", f"http://127.0.0.1:{self.site.port}/files/revision.txt",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(2)
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            time.sleep(max(0, self.begun + self.at_least_s - time.monotonic()))
        self.process.send_signal(signal.SIGINT)
        out = self.process.communicate(timeout=60)[0]
        if kind is not None:
            print(out)
            return
        counted = json.loads(re.search(r"^counted (.*)$", out, re.M)[1])
        failed = sum(counted[kind] for kind in ["connect", "read", "write", "timeout", "status"])
        assert failed == 0 and "Socket errors" not in out and "Non-2xx" not in out, out
        assert set(counted["answers"]) == self.expect, counted
        answers = ", ".join(f"{count} x {answer}" for answer, count in sorted(counted["answers"].items()))
        self.said = (
            f"{counted['requests']} requests in {counted['seconds']} s, 0 failed (connect 0, read 0, write 0, timeout 0, non-2xx 0), "
            f"median {counted['median_ms']} ms, slowest {counted['slowest_ms']} ms; {answers}"
        )


def main():
    os.makedirs(WORK)
    made = {}

    def install():
        volume = call("POST", "/api/v1/sandboxvolumes", {"access_mode": "RWO"})["id"]
        mounts = [{"sandboxvolume_id": volume, "mount_point": "/workspace/notes"}]
        box = Box(call("POST", "/api/v1/sandboxes", {"template": "default", "config": {"ttl": 1800}, "mounts": mounts})["sandbox_id"])
        with open(APPLICATION, "rb") as tar:
            call("POST", f"{box.path}/files?path=/opt/lab.tar", raw=tar.read())
        box.sh("mkdir /opt/lab; tar -xf /opt/lab.tar -C /opt/lab; rm /opt/lab.tar; echo first >/workspace/notes/revision.txt")
        made["box"] = box
        made["service"] = Site(box.serve(LAB)[0]["public_url"])
        return f"{os.path.getsize(APPLICATION)} bytes"

    check("the application in a sandbox", install)
    box, site = made["box"], made["service"]
    check("service: curl", site.page)
    check("service: upload", lambda: site.upload("upload.bin"))
    check("service: WebSockets", site.sockets)
    check("service: Chromium", lambda: site.browser("upload.bin"))

    def publish():
        published = call("POST", "/api/v1/functions", {"name": "lab", "source": box.source("lab")})
        made["function"] = f"/api/v1/functions/{published['function']['id']}"
        made["site"] = Site(published["function"]["url"])
        return made["site"].host

    check("published as a function", publish)
    path, site = made["function"], made["site"]
    runtime = lambda: call("GET", f"{path}/runtime")["runtime"]
    point = lambda alias, number, **more: call("PUT", f"{path}/aliases/{alias}", {"revision_number": number}, **more)
    check("function: curl", site.page)
    check("function: upload", lambda: site.upload("upload-2.bin"))
    check("function: WebSockets", site.sockets)
    check("function: Chromium", lambda: site.browser("upload-2.bin"))
    assert runtime()["serving"] == "source"

    def deleted():
        # What is published later comes from its twin.
        made["twin"] = Box(call("POST", f"{box.path}/fork", {})["sandbox"]["id"])
        with Load(site, 15, ["200 first"]) as load:
            call("DELETE", box.path)
            eventually("the source is gone", lambda: call("GET", box.path, expect=(200, 404)).get("code") == "not_found")
        state = eventually("it serves itself", lambda: (state := runtime())["serving"] == "revision" and state)
        ready = [instance for instance in state["instances"] if instance["state"] == "ready"]
        assert ready and all(one["sandbox_id"] != box.id for one in ready), state
        # What was uploaded through the function's host went to the sandbox that served it then, and the revision never had it.
        site.curl("/files/upload.bin")
        site.curl("/files/upload-2.bin", expect=404)
        return f"{load.said}; served by {len(ready)} instance of its own"

    check("the source is deleted under load", deleted)
    check("function on its own: upload", lambda: site.upload("upload-3.bin"))
    check("function on its own: WebSockets", site.sockets)
    check("function on its own: Chromium", lambda: site.browser("upload-3.bin"))
    twin = made["twin"]

    def broken():
        call("POST", f"{twin.path}/resume")
        twin.serve(LAB, ENDS, DEAF)
        said = []
        with Load(site, 0, ["200 first"]) as load:
            for id, why in [("ends", "the notebooks are gone"), ("deaf", "listening to nobody")]:
                reply = call("POST", f"{path}/revisions", {"source": twin.source(id), "promote": True})
                assert not reply["promoted"] and why in json.dumps(reply["promotion_error"]), reply
                said.append(reply["promotion_error"]["message"])
            refused = point("production", 2, expect=(409,))
            assert "the notebooks are gone" in json.dumps(refused), refused
        assert call("GET", f"{path}/aliases/production")["alias"]["revision_number"] == 1
        return f"{load.said}; refused: {' | '.join(said)}"

    check("broken revisions under load", broken)

    def previewed():
        twin.sh("echo second >/workspace/notes/revision.txt")
        assert not call("POST", f"{path}/revisions", {"source": twin.source("lab"), "promote": False})["promoted"]
        preview = Site(point("next", 4)["alias"]["url"])
        assert preview.host.startswith("next--"), preview.host
        assert (preview.text(), site.text()) == ("second", "first")
        return f"{preview.host} shows the second, {site.host} the first"

    check("a revision before it is promoted", previewed)

    def rolled_back():
        with Load(site, 12, ["200 first", "200 second"]) as load:
            for number, text in [(4, "second"), (1, "first")]:
                point("production", number)
                # Whoever comes after the reply is served by what it says.
                assert {site.text() for _ in range(20)} == {text}
                time.sleep(2)
        return load.said

    check("promoted and rolled back under load", rolled_back)

    def removed():
        call("DELETE", path)
        call("DELETE", twin.path)
        site.curl("/api", expect=404)

    check("deleted", removed)
    print(f"{passed} passed, 0 failed")


main()
