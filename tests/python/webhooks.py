"""Webhooks as docs/webhooks.md has them: its code for receivers, verbatim, and the command line."""
import http.server
import json
import os
import re
import subprocess
import threading
import time

root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
text = open(os.path.join(root, "docs", "webhooks.md"), encoding="utf-8").read()
page = {}
for block in re.findall(r"```python\n(.*?)```", text, re.S):
    exec(block, page)
verify = page["verify"]
sandbar = os.environ["SANDBAR_BIN"]
SECRET = "a long random text"
got = []


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        good = verify(SECRET, self.headers, body)
        got.append((good, dict(self.headers), json.loads(body), body))
        self.send_response(204 if good else 401)
        self.end_headers()

    def log_message(self, *args):
        pass


def cli(*args, code=0):
    done = subprocess.run([sandbar, *args], capture_output=True, text=True)
    assert done.returncode == code, (args, done)
    return done.stdout


def wait(what, ask):
    end = time.time() + 60
    while time.time() < end:
        found = ask()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: {[event for _, _, event, _ in got]}")


def of(kind):
    return [entry for entry in got if entry[2]["event_type"] == kind]


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
config = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"sandbar-webhooks-{os.getpid()}.json")
try:
    with open(config, "w") as file:
        json.dump({"webhook": {"url": f"http://127.0.0.1:{server.server_port}/hook", "secret": SECRET, "watch_dir": "/workspace"}}, file)
    id = cli("sandbox", "create", "--config", config).strip()
    wait("sandbox.ready", lambda: of("sandbox.ready"))
    # The program inside that the page shows; python, since curl may not be there.
    body = re.search(r"webhook/publish -d '(.*?)'", text).group(1)
    code = f"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:49983/api/v1/webhook/publish', {body!r}.encode()).status)"
    assert cli("sandbox", "exec", id, "--", "python3", "-c", code) == "202\n"
    _, _, event, _ = wait("agent.event", lambda: of("agent.event"))[0]
    assert (event["event_id"], event["payload"]) == ("job-7", {"progress": 0.5}), event
    wait("process.exited", lambda: of("process.exited"))
    assert all(good for good, *_ in got), "every request is verified by the code of the page"
    good, headers, _, body = got[0]
    assert not verify("another", headers, body) and not verify(SECRET, headers, body + b" "), "what was changed is not"
    assert not verify(SECRET, headers, body, tolerance=-1), "nor what is old"
    listed = json.loads(cli("webhook", "deliveries", id, "-o", "json"))["deliveries"]
    assert {"sandbox.ready", "agent.event"} <= {entry["event_type"] for entry in listed}, listed
    assert "sandbox.ready" in cli("webhook", "deliveries", id, "--status", "delivered")
    assert "job-7" in cli("webhook", "get", id, "job-7")
    before = len(of("agent.event"))
    assert cli("webhook", "redeliver", id, "job-7").strip() == "job-7"
    again = wait("once more", lambda: of("agent.event")[before:])[0]
    assert again[3] == of("agent.event")[0][3], "the same bytes"
    cli("webhook", "redeliver", id, "none", code=1)
    assert "delivered" in cli("webhook", "test", id)
    server.shutdown()
    server.server_close()
    assert "failed" in cli("webhook", "test", id, code=1)
    cli("sandbox", "rm", id)
    assert "sandbox.deleted" in cli("webhook", "deliveries", id), "it can be read when the sandbox is gone"
finally:
    if os.path.exists(config):
        os.remove(config)
print("webhooks: ok")
