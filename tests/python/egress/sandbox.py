"""Sandboxes of the test, by the public API."""

import json
import os
import urllib.error
import urllib.request

API = os.environ["SANDBAR_URL"]
TOKEN = os.environ["SANDBAR_TOKEN"]
# Where the clients and their libraries are, inside.
HOME = "/opt/flows"


def call(method, path, body=None, expect=(200, 201, 202), raw=None):
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(API + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            status, text = reply.status, reply.read()
    except urllib.error.HTTPError as refused:
        status, text = refused.code, refused.read()
    try:
        reply = json.loads(text)
    except json.JSONDecodeError:
        reply = {"success": False, "error": {"message": text.decode(errors="replace")}}
    if status not in expect:
        raise Refused(f"{method} {path}: {status} {json.dumps(reply.get('error', reply))}")
    return reply.get("data") if reply.get("success") else reply["error"]


class Refused(Exception):
    """By the API."""


class Sandbox:
    """One, until the end of the block."""

    volume = None

    def __init__(self, network=None, template="default", **config):
        config = {"ttl": 900, **config}
        if network is not None:
            config["network"] = network
        mounts = [{"sandboxvolume_id": self.volume, "mount_point": HOME}] if self.volume else []
        self.id = call("POST", "/api/v1/sandboxes", {"template": template, "config": config, "mounts": mounts})["sandbox_id"]
        self.path = f"/api/v1/sandboxes/{self.id}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        call("DELETE", self.path)

    def run(self, script, environment=None):
        """Runs a shell script to its end; gives exit code and what it printed."""
        made = self.start(script, environment, wait=True)
        return made.get("exit_code"), (made.get("stdout") or "") + (made.get("stderr") or "")

    def start(self, script, environment=None, wait=False):
        values = {"PYTHONPATH": f"{HOME}/python", "HOME": "/root", "API_PORT": API.rsplit(":", 1)[-1], **(environment or {})}
        body = {"type": "cmd", "cmd": {"command": ["bash", "-c", script]}, "wait_until_done": wait, "env_vars": values, "ttl_sec": 60}
        return call("POST", f"{self.path}/contexts", body)

    def context(self, id):
        return call("GET", f"{self.path}/contexts/{id}")

    def set_network(self, network):
        call("PUT", f"{self.path}/network", network)


def install(tar):
    """Puts the clients into a volume that every sandbox of the test mounts."""
    Sandbox.volume = call("POST", "/api/v1/sandboxvolumes", {"access_mode": "RWX"})["id"]
    with Sandbox() as box:
        call("POST", f"{box.path}/files?path={HOME}/python.tar", raw=tar)
        code, said = box.run(f"cd {HOME} && tar -xf python.tar && rm python.tar && ls")
        assert code == 0, said
        return said
