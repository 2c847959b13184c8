"""A mirror of the registries that npm and pip are set up for here: fetches what is asked for once, and keeps it in a folder.

    mirror.py ADDRESS FOLDER NPM_REGISTRY PYTHON_INDEX

Prints the port that it serves on; `/npm/` is the one and `/pypi/simple/` the other. Package managers check what they get by hashes of their own.
"""

import hashlib
import http.server
import os
import re
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

HEADERS = ["content-type", "etag"]


class Mirror:
    def __init__(self, folder, npm, pypi):
        self.folder, self.npm, self.pypi = folder, npm.rstrip("/"), pypi.rstrip("/")
        os.makedirs(folder, exist_ok=True)
        self.locks, self.guard = {}, threading.Lock()

    def upstream(self, path):
        """The address that a path here stands for."""
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "npm":
            return f"{self.npm}/{rest}"
        if kind == "pypi" and rest.startswith("simple/"):
            return f"{self.pypi}/{rest.removeprefix('simple/')}"
        if kind == "files":
            return f"https://{rest}"
        return None

    def get(self, path, accept, own):
        url = self.upstream(path)
        if url is None:
            return 404, {}, b""
        name = hashlib.sha256(f"{url} {accept}".encode()).hexdigest()
        with self.guard:
            lock = self.locks.setdefault(name, threading.Lock())
        with lock:
            status, headers, body = self.kept(name) or self.fetch(name, url, accept)
        kind = headers.get("content-type", "")
        if "json" in kind and path.startswith("/npm/"):
            body = body.replace(f"{self.npm}/".encode(), f"{own}/npm/".encode())
        elif "html" in kind and path.startswith("/pypi/"):
            body = re.sub(rb'href="https://', f'href="{own}/files/'.encode(), body)
        return status, headers, body

    def kept(self, name):
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                head, body = file.read().split(b"\n\n", 1)
        except FileNotFoundError:
            return None
        return 200, dict(line.split(": ", 1) for line in head.decode().splitlines()), body

    def fetch(self, name, url, accept):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=120) as reply:
                headers, body = {key: reply.headers[key] for key in HEADERS if reply.headers[key]}, reply.read()
        except urllib.error.HTTPError as refused:
            return refused.code, {}, refused.read()
        part = os.path.join(self.folder, f"{name}.part")
        with open(part, "wb") as file:
            file.write("".join(f"{key}: {value}\n" for key, value in headers.items()).encode() + b"\n" + body)
        os.replace(part, os.path.join(self.folder, name))
        return 200, headers, body


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        # npm asks for the short form of what it is told of a package, pip for pages.
        accept = "text/html" if self.path.startswith("/pypi/") else self.headers.get("Accept", "*/*")
        try:
            status, headers, body = self.server.mirror.get(self.path, accept, f"http://{self.headers['Host']}")
        except OSError as error:
            status, headers, body = 502, {}, str(error).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main(address, folder, npm, pypi):
    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    server.mirror = Mirror(folder, npm, pypi)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
