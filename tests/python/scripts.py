"""The examples of script functions, for real: an item that is enriched when it is made, by a server of embeddings, and a digest
that is mailed by schedule, to a mail server.

SANDBAR_URL, SANDBAR_TOKEN   the server; it sends mail to SMTP_ADDRESS and lets scripts fetch from WEB_ADDRESS, which are served here
"""

import email
import email.policy
import json
import os
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller

URL = os.environ["SANDBAR_URL"]
TOKEN = os.environ["SANDBAR_TOKEN"]
WEB = os.environ["WEB_ADDRESS"]
SMTP = os.environ["SMTP_ADDRESS"]
WITHIN_S = 60

ENRICH = """
const post = ctx.data.data;
const r = await ctx.fetch(
  `https://api.openai.com/v1/embeddings`,
  {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `Bearer ${ctx.user.email /* placeholder */}`,
    },
    body: JSON.stringify({ model: "text-embedding-3-small", input: post.title }),
  },
);
console.log("embedded", post.id, "in", r.status);
return { id: post.id, len: r.text.length };
"""

DIGEST = """
const recent = await ctx.db.list("posts", {
  filter: { created_at: { _gt: "$now" } }, // last day, roughly
  limit: 50,
});
if (recent.length === 0) return { skipped: true };
await ctx.email.send({
  to: "team@example.com",
  subject: `${recent.length} new posts today`,
  text: recent.map((p) => `- ${p.title}`).join("\\n"),
});
return { sent: recent.length };
"""


def api(method, path, body=None, expect=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status, answer = response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        status, answer = error.code, json.loads(error.read())
    assert expect is None or status == expect, f"{method} {path}: {status} {answer}"
    return answer


def eventually(what, look):
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {WITHIN_S} s: {what}")


class Embeddings(BaseHTTPRequestHandler):
    asked = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, self.headers, body))
        answer = json.dumps({"data": [{"embedding": [0.25] * 8}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Mailbox:
    def __init__(self):
        self.mail = []

    async def handle_DATA(self, server, session, envelope):
        self.mail.append(envelope)
        return "250 OK"


def runs_of(script):
    return api("GET", f"/api/functions/{script}/runs", expect=200)["data"]


def details(script, run):
    return api("GET", f"/api/functions/{script}/runs/{run['id']}", expect=200)["data"]


def step(name):
    print(f"PASS scripts {name}", flush=True)


def create(**fields):
    return api("POST", "/api/functions", fields, expect=201)["data"]["id"]


def enrich():
    code = ENRICH.replace("https://api.openai.com", f"http://{WEB}")
    script = create(name="enrich", trigger="event", pattern="items:posts:created", code=code)
    item = api("POST", "/api/items/posts", {"title": "A first post – ü"}, expect=201)["data"]
    run = eventually("the item is enriched", lambda: next((r for r in runs_of(script) if r["status"] == "succeeded"), None))
    run = details(script, run)
    path, headers, body = Embeddings.asked[0]
    assert path == "/v1/embeddings", path
    assert headers["content-type"] == "application/json" and headers["authorization"].startswith("Bearer "), dict(headers)
    assert body == {"model": "text-embedding-3-small", "input": "A first post – ü"}, body
    assert run["output"] == {"id": item["id"], "len": len(json.dumps({"data": [{"embedding": [0.25] * 8}]}))}, run
    lines = [line if isinstance(line, str) else line["text"] for line in run["logs"]]
    assert lines == [f"embedded {item['id']} in 200"], lines
    assert len(Embeddings.asked) == 1
    step("enrich an item on create")


def digest(mailbox):
    # As it stands: nothing was made after the present moment.
    nightly = create(name="nightly_digest", trigger="cron", pattern="0 9 * * *", code=DIGEST)
    api("PATCH", f"/api/functions/{nightly}", {"pattern": "* * * * * *"}, expect=200)
    run = eventually("the digest is skipped", lambda: next((r for r in runs_of(nightly) if r["status"] == "succeeded"), None))
    assert details(nightly, run)["output"] == {"skipped": True}, run
    assert not mailbox.mail
    # The same about what was made before it: who runs for nobody reads what is public.
    api("PATCH", f"/api/functions/{nightly}", {"code": DIGEST.replace("_gt", "_lt")}, expect=200)
    envelope = eventually("the digest is mailed", lambda: mailbox.mail and mailbox.mail[0])
    api("PATCH", f"/api/functions/{nightly}", {"active": False}, expect=200)
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert envelope.rcpt_tos == ["team@example.com"], envelope.rcpt_tos
    assert message["subject"] == "1 new posts today", message["subject"]
    assert message.get_body().get_content().strip() == "- A first post – ü", message.get_body().get_content()
    sent = eventually("the run is kept", lambda: next((r for r in runs_of(nightly) if details(nightly, r).get("output") == {"sent": 1}), None))
    assert details(nightly, sent)["input"]["pattern"] == "* * * * * *", sent
    step("nightly digest")


def main():
    host, port = WEB.rsplit(":", 1)
    web = ThreadingHTTPServer((host, int(port)), Embeddings)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    host, port = SMTP.rsplit(":", 1)
    mailbox = Mailbox()
    mail = Controller(mailbox, hostname=host, port=int(port))
    mail.start()
    readable = [{"role": "public", "action": "read"}]
    api("POST", "/api/collections", {"slug": "posts", "fields": [{"name": "title", "type": "string"}], "permissions": readable}, expect=201)
    enrich()
    digest(mailbox)
    mail.stop()
    web.shutdown()


main()
