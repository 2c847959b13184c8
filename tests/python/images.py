"""Images as people use them: made with the command line, run by it, packages installed from indexes on this machine."""

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import subprocess
import tarfile
import threading
import time
import zipfile

SANDBAR = os.environ["SANDBAR_BIN"]
WORK = os.path.join(os.environ["WORK"], "images")
HOST = os.environ["OWN_ADDRESS"]


def sandbar(*args, ok=True, **more):
    done = subprocess.run([SANDBAR, *args], capture_output=True, text=True, **more)
    assert not ok or done.returncode == 0, f"sandbar {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def check(name, run):
    begun = time.monotonic()
    run()
    print(f"ok {name} ({time.monotonic() - begun:.1f} s)", flush=True)


def template(name, image):
    path = os.path.join(WORK, f"{name}.yaml")
    with open(path, "w") as out:
        out.write(f"template_id: {name}\nspec:\n  mainContainer: {{ image: '{image}', resources: {{ memory: 1Gi }} }}\n  pool: {{ minIdle: 1, maxIdle: 2 }}\n")
    sandbar("template", "create", "-f", path)


class Sandbox:
    def __init__(self, template):
        self.id = sandbar("sandbox", "create", template, "--ttl", "600").stdout.strip()

    def sh(self, script, ok=True):
        return sandbar("sandbox", "exec", self.id, "--", "sh", "-c", script, ok=ok)

    def run(self, language, code):
        return sandbar("sandbox", "run", self.id, language, code).stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        sandbar("sandbox", "rm", self.id)


def wheel(folder):
    """A wheel, as small as they come."""
    os.makedirs(os.path.join(folder, "simple", "tiny-sandbar"))
    files = {
        "tiny_sandbar.py": "def answer():\n    return 6 * 7\n",
        "tiny_sandbar-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-sandbar\nVersion: 1.0\n",
        "tiny_sandbar-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "tiny_sandbar-1.0.dist-info/RECORD"
    lines = [f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b'=').decode()},{len(t)}" for n, t in files.items()]
    name = "tiny_sandbar-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, "simple", "tiny-sandbar", name), "w") as out:
        for path, text in {**files, record: "\n".join([*lines, record + ",,"]) + "\n"}.items():
            out.writestr(path, text)
    with open(os.path.join(folder, "simple", "tiny-sandbar", "index.html"), "w") as out:
        out.write(f'<!DOCTYPE html><a href="{name}">{name}</a>')


def npm_package(folder, url):
    """What an npm registry answers about one package, and the package."""
    package = json.dumps({"name": "tiny-sandbar", "version": "1.0.0", "main": "index.js"}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in [("package/package.json", package), ("package/index.js", b"module.exports = () => 6 * 7;\n")]:
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    bytes_ = packed.getvalue()
    os.makedirs(os.path.join(folder, "npm"))
    with open(os.path.join(folder, "npm", "tiny.tgz"), "wb") as out:
        out.write(bytes_)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(bytes_).digest()).decode()
    version = {**json.loads(package), "dist": {"tarball": f"{url}/npm/tiny.tgz", "integrity": integrity}}
    with open(os.path.join(folder, "npm", "tiny-sandbar"), "w") as out:
        json.dump({"name": "tiny-sandbar", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}, out)


def debian_package(folder):
    """A package whose script makes a user, and the index of it."""
    top = os.path.join(folder, "build")
    os.makedirs(os.path.join(top, "DEBIAN"))
    os.makedirs(os.path.join(top, "usr", "bin"))
    control = "Package: tiny-sandbar\nVersion: 1.0\nArchitecture: all\nMaintainer: Test <test@example.com>\nDescription: tiny\n"
    scripts = {"DEBIAN/control": control, "DEBIAN/postinst": "#!/bin/sh\nset -e\nuseradd --system tiny\ninstall -d -o tiny /var/lib/tiny\n", "usr/bin/tiny": "#!/bin/sh\necho forty-two\n"}
    for path, text in scripts.items():
        with open(os.path.join(top, path), "w") as out:
            out.write(text)
        os.chmod(os.path.join(top, path), 0o644 if path.endswith("control") else 0o755)
    os.makedirs(os.path.join(folder, "apt"))
    deb = os.path.join(folder, "apt", "tiny.deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", top, deb], check=True, stdout=subprocess.DEVNULL)
    with open(deb, "rb") as file:
        bytes_ = file.read()
    with open(os.path.join(folder, "apt", "Packages"), "w") as out:
        out.write(f"{control}Filename: ./tiny.deb\nSize: {len(bytes_)}\nSHA256: {hashlib.sha256(bytes_).hexdigest()}\n")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(folder):
    server = http.server.ThreadingHTTPServer((HOST, 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{HOST}:{server.server_port}"


def main():
    os.makedirs(WORK)
    folder = os.path.join(WORK, "index")
    os.makedirs(folder)
    url = serve(folder)
    wheel(folder)
    npm_package(folder, url)
    debian_package(folder)

    check("bootstrap Debian with Python", lambda: sandbar("image", "bootstrap", "python-slim", "--include", "python3,python3-pip,python3-venv"))
    check("bootstrap Debian with Node", lambda: sandbar("image", "bootstrap", "node-slim", "--include", "nodejs,npm"))
    template("python", "python-slim")
    template("node", "node-slim:latest")

    def python():
        with Sandbox("python") as box:
            assert "bookworm" in box.sh("cat /etc/os-release").stdout
            assert box.run("python", "x = 20\nprint(x + 22)") == "42\n"
            assert box.run("bash", "echo $((6 * 7))") == "42\n"
            install = f"python3 -m pip install --quiet --break-system-packages --index-url {url}/simple --trusted-host {HOST} tiny-sandbar"
            box.sh(install)
            assert box.sh("python3 -c 'import tiny_sandbar; print(tiny_sandbar.answer())'").stdout == "42\n"
            # A virtual environment, too, and files of it after a hibernation.
            box.sh(f"python3 -m venv /workspace/venv && /workspace/venv/bin/pip install --quiet --index-url {url}/simple --trusted-host {HOST} tiny-sandbar")
            sandbar("sandbox", "pause", box.id, "--hibernate")
            assert box.sh("/workspace/venv/bin/python -c 'import tiny_sandbar; print(tiny_sandbar.answer())'").stdout == "42\n"

    def node():
        with Sandbox("node") as box:
            assert box.run("node", "let x = 20; console.log(x + 22)") == "42\n"
            box.sh(f"cd /workspace && npm install --no-audit --no-fund --registry {url}/npm/ tiny-sandbar")
            assert box.sh("cd /workspace && node -e 'console.log(require(\"tiny-sandbar\")())'").stdout == "42\n"

    def apt():
        with Sandbox("python") as box:
            box.sh(f"echo 'deb [trusted=yes] {url}/apt ./' >/etc/apt/sources.list && rm -rf /etc/apt/sources.list.d/*")
            box.sh("apt-get update && apt-get install -y tiny-sandbar")
            assert box.sh("tiny; stat -c %U /var/lib/tiny").stdout == "forty-two\ntiny\n"
            box.sh("apt-get remove -y tiny-sandbar && ! command -v tiny")

    def build():
        path = os.path.join(WORK, "tools.yaml")
        with open(os.path.join(WORK, "tool.py"), "w") as out:
            out.write("#!/usr/bin/env python3\nimport tiny_sandbar\nprint(tiny_sandbar.answer())\n")
        os.chmod(os.path.join(WORK, "tool.py"), 0o755)
        with open(path, "w") as out:
            out.write(
                f"name: tools\nbase: python-slim\nenv: {{ PIP_BREAK_SYSTEM_PACKAGES: '1' }}\nfiles:\n  - {{ path: /usr/local/bin/tool, source: tool.py }}\n"
                f"run:\n  - pip install --quiet --index-url {url}/simple --trusted-host {HOST} tiny-sandbar\n  - rm -rf /usr/share/doc\n"
            )
        done = sandbar("image", "build", "-f", path)
        assert "step 2 of 2" in done.stderr, done.stderr
        template("tools", "tools")
        with Sandbox("tools") as box:
            assert box.sh("tool; ls -d /usr/share/doc 2>&1 | grep -c 'No such'").stdout == "42\n1\n"

    def export():
        path = os.path.join(WORK, "tools.tar")
        sandbar("image", "export", "tools", path)
        layout = os.path.join(WORK, "layout")
        os.makedirs(layout)
        subprocess.run(["tar", "-xf", path, "-C", layout], check=True)
        sandbar("image", "import", layout, "--name", "copy")
        template("copy", "copy")
        with Sandbox("copy") as box:
            assert box.sh("tool; stat -c %a /tmp /usr/bin/passwd").stdout == "42\n1777\n4755\n"
        assert "copy:latest" in sandbar("image", "ls").stdout
        for name in ["copy", "tools"]:
            sandbar("template", "rm", name)
            sandbar("image", "rm", name)
        assert sandbar("image", "rm", "python-slim", ok=False).returncode == 1
        sandbar("gc")
        assert "copy" not in sandbar("image", "ls").stdout
        assert "image_layer  2" in sandbar("du").stdout, sandbar("du").stdout

    for name, run in [("Python, pip", python), ("Node, npm", node), ("apt-get", apt), ("build", build), ("export, import, rm, gc", export)]:
        check(name, run)
    print("7 passed, 0 failed")


main()
