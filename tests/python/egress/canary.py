"""The secret is used in all ways and then looked for: in what every process of the sandbox has, in all that is on disk, in all that is
logged and shown."""

import base64
import json
import os
import re
import secrets

from cryptography.hazmat.primitives import serialization

from credentials import PLACEHOLDER, TERMINATE, binding, header, placeholder
from flows import SSH, wait
from sandbox import Sandbox, call
from table import CURL, INSIDE, Failed, open_to_all

USES = 20
# Read at once of a process's memory.
PIECE_BYTES = 8 << 20


def forms(secret):
    """As it may lie about: itself, in hexadecimal, in base64 at any offset, each letter of two bytes."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield secret.decode("latin-1").encode("utf-16-le")
    yield secret[::-1]
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + secret)
        # The ends depend on neighbours.
        yield text[4:-4]
        yield base64.urlsafe_b64encode(b"\0" * offset + secret)[4:-4]


def of_key(pem):
    """What only who has the private key has, as bytes and as it stands in the lines of its file."""
    load = serialization.load_ssh_private_key if "OPENSSH" in pem else serialization.load_pem_private_key
    key = load(pem.encode(), None)
    raw = key.private_bytes_raw() if hasattr(key, "private_bytes_raw") else key.private_numbers().private_value.to_bytes(32)
    lines = [line for line in pem.splitlines() if not line.startswith("-----")]
    text, width = "".join(lines), len(lines[0])
    yield from forms(raw)
    begun = next(at for at in (text.find(form.decode("latin-1")) for form in forms(raw)) if at >= 0)
    end = begun + len(raw)
    while begun < end:
        line_end = min((begun // width + 1) * width, end)
        if line_end - begun >= 12:
            yield text[begun:line_end].encode()
        begun = line_end


def use_everything(box, secrets_of_test):
    """With programs that go on, so that their memory is there to be searched."""
    for script in [
        f"for n in $(seq {USES}); do {CURL} -o /dev/null http://good.test/$n https://good.test/$n -H 'X-Key: {PLACEHOLDER}' || exit 1; done",
        f"for n in $(seq {USES}); do redis-cli -h good.test PING | grep -q PONG || exit 1; done",
        f"{INSIDE} mqtt good.test 1883",
        f"{CURL} -o /dev/null https://good.test:8443/",
        f"{CURL} --socks5-hostname socks.test:1080 -o /dev/null http://mail.test/",
        f'GIT_SSH_COMMAND="{SSH}" git ls-remote ssh://someone@good.test:2222{secrets_of_test.repository}',
        # What is refused and what fails is logged in more words.
        f"{CURL} http://good.test:9/; {CURL} http://evil.test/ -H 'X-Key: {PLACEHOLDER}'; true",
    ]:
        code, said = box.run(script, {"TOKEN": "canary"})
        if code != 0:
            raise Failed(f"{script}: {code} {said}")
    keep = (
        "import os, sys, time, requests\n"
        "line = requests.Session()\n"
        "for n in range(20): line.get('https://good.test/kept', headers={'X-Key': sys.argv[1]}); line.get('http://good.test/kept')\n"
        "planted = ''.join(['plant', 'ed-', os.environ['PLANTED']])\n"
        "open('/tmp/planted', 'w').write(planted); open('/dev/shm/planted', 'w').write(planted); open('/root/planted', 'w').write(planted)\n"
        "print('kept', flush=True); time.sleep(600)\n"
    )
    planted = secrets.token_hex(12)
    held = [
        box.start(f"exec python3 -c \"$KEEP\" {PLACEHOLDER}", {"KEEP": keep, "PLANTED": planted})["id"],
        box.start(f"{SSH} -p 2222 someone@good.test 'echo kept; sleep 600'")["id"],
        box.start("exec 3<>/dev/tcp/good.test/6379; printf 'PING\\r\\n' >&3; head -n 1 <&3; echo kept; sleep 600")["id"],
    ]
    for id in held:
        wait(box, id, "kept")
    return f"planted-{planted}".encode()


def policy(secrets_of_test):
    login = lambda name: binding(name, "username_password", f"{name}-login")
    ssh = binding("ssh", "ssh_proxy", "ssh-key", sandboxPublicKeys=[secrets_of_test.inside_key], upstreamUsername="root", knownHosts=[f"[good.test]:2222 {secrets_of_test.host_key}"])
    rule = lambda name, *domains, **more: {"credentialRef": name, "domains": list(domains or ["good.test"]), **more}
    return open_to_all(
        credentialRules=[
            rule("header", ports=[{"port": 80}]), rule("placeholder", ports=[{"port": 443}], tlsMode=TERMINATE), rule("redis", protocol="redis"), rule("mqtt", protocol="mqtt"),
            rule("proxy", "socks.test", protocol="socks5"), rule("certificate", ports=[{"port": 8443}], protocol="https", tlsMode=TERMINATE), rule("ssh", protocol="ssh", ports=[{"port": 2222}]),
        ],
        bindings=[header(), placeholder("header"), login("redis"), login("mqtt"), login("proxy"), binding("certificate", "tls_client_certificate", "certificate"), ssh],
    )  # fmt: skip


class Search:
    def __init__(self, patterns):
        self.pattern = re.compile(b"|".join(re.escape(pattern) for pattern in set(patterns)))
        self.longest = max(map(len, patterns))
        self.found = []
        self.bytes = 0

    def look(self, where, data):
        self.bytes += len(data)
        hit = self.pattern.search(data)
        if hit:
            self.found.append(f"{where}: {hit[0][:6]!r}...")

    def file(self, path):
        try:
            with open(path, "rb", buffering=0) as file:
                before = b""
                while piece := file.read(PIECE_BYTES):
                    self.look(path, before + piece)
                    before = piece[-self.longest :]
        except OSError:
            pass

    def tree(self, top, skip=()):
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in skip]
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    self.file(path)

    def process(self, pid):
        for name in ["environ", "cmdline", "comm"]:
            self.file(f"/proc/{pid}/{name}")
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                extent, rights, *rest = line.split()
                start, end = (int(part, 16) for part in extent.split("-"))
                if "r" not in rights or rest[-1] in ("[vvar]", "[vvar_vclock]", "[vsyscall]"):
                    continue
                for at in range(start, end, PIECE_BYTES):
                    try:
                        memory.seek(at)
                        self.look(f"memory of {pid} ({rest[-1]})", memory.read(min(PIECE_BYTES + self.longest, end - at)))
                    except (OSError, ValueError, OverflowError):
                        break


def processes(runtime):
    """All that are in a cgroup of the runtime."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cgroup") as groups:
                if runtime in groups.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def shown(box):
    """All that the API says of the sandbox and the sources."""
    for path in [
        "", "/network", "/network/events", "/contexts", "/logs", "/events", "/metrics", "/services", "/observability/audit",
    ]:  # fmt: skip
        yield path, json.dumps(call("GET", box.path + path, expect=range(200, 500)))
    for path in ["/api/v1/credential-sources", "/api/v1/credential-sources/token", "/api/v1/credential-sources/ssh-key", "/metrics", "/api/v1/audit"]:
        yield path, json.dumps(call("GET", path, expect=range(200, 500)))


def look_everywhere(secrets_of_test, work):
    canary = secrets_of_test.canary.encode()
    patterns = [*forms(canary), *of_key(secrets_of_test.ssh_key), *of_key(secrets_of_test.certificate_key)]
    with Sandbox(policy(secrets_of_test)) as box:
        planted = use_everything(box, secrets_of_test)
        runtime = call("GET", box.path)["runtime_id"]
        pids = processes(runtime)
        said = []
        # The first search has to find what was planted, or the second finds nothing for other reasons.
        for patterns, is_there in [([planted], True), (patterns, False)]:
            places = {"memory and environment": Search(patterns), "disk": Search(patterns), "/tmp and /dev/shm": Search(patterns), "logs and API": Search(patterns)}
            for pid in pids:
                places["memory and environment"].process(pid)
                for folder in ["tmp", "dev/shm", "run", "var/run/sandbox0"]:
                    places["/tmp and /dev/shm"].tree(f"/proc/{pid}/root/{folder}", skip=(f"/proc/{pid}/root/dev/pts",))
            places["disk"].tree(os.path.join(work, "data"))
            places["logs and API"].file(os.path.join(work, "server.log"))
            for path, text in shown(box):
                places["logs and API"].look(path, text.encode())
            for place, search in places.items():
                if is_there and place != "logs and API" and not search.found:
                    raise Failed(f"what was planted is not found in {place}: {len(pids)} processes, {search.bytes} bytes")
                if not is_there and search.found:
                    raise Failed(f"{place}: {search.found[:10]}")
                if not is_there:
                    said.append(f"{place} {search.bytes >> 20} MiB")
        return f"{len(pids)} processes; {', '.join(said)}"
