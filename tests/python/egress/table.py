"""Rows of the tables, and what is done with one: a sandbox with a policy, a program in it, and what became of its flow."""

import dataclasses
import os
import re
import secrets
import time

from sandbox import HOME, Refused, Sandbox

INSIDE = f"python3 {HOME}/inside.py"
CURL = "curl -sS --max-time 10"
# What makes a program believe the authority of the world itself, for flows that nobody looks into.
TRUST = {name: f"{HOME}/authority.pem" for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"]}
NEEDS_IPV6 = re.compile("2600:|six.test|both.test")
# For what is not going to be answered.
IMPATIENT = {"QUIC_PATIENCE_S": "2"}
# What is refused where it can be said in words.
IN_WORDS = "refused by the sandbox's network policy"


def rule(action, domains, cidrs=(), ports=(), apps=(), name=None):
    made = {"action": action, "domains": list(domains), "cidrs": list(cidrs), "ports": [port(one) for one in ports], "appProtocols": list(apps)}
    return {key: value for key, value in {**made, "name": name}.items() if value}


def port(one):
    """443, (8000, 8999), "udp:9000" or "tcp:443"."""
    if isinstance(one, tuple):
        return {"port": one[0], "endPort": one[1], "protocol": "tcp"}
    if isinstance(one, str):
        protocol, number = one.split(":")
        return {"port": int(number), "protocol": protocol}
    return {"port": one}


def allow(*domains, **more):
    return rule("allow", domains, **more)


def deny(*domains, **more):
    return rule("deny", domains, **more)


def policy(mode, rules=(), bindings=(), **egress):
    egress = {"trafficRules": list(rules), **egress}
    made = {"mode": mode, "egress": {key: value for key, value in egress.items() if value}, "credentialBindings": list(bindings)}
    return {key: value for key, value in made.items() if value}


def block(*rules, **more):
    return policy("block-all", rules, **more)


def open_to_all(*rules, **more):
    return policy("allow-all", rules, **more)


@dataclasses.dataclass
class Row:
    """A flow and its expected result. `$TOKEN` is new for each row, and what a server has to see or must not see."""

    name: str
    policy: dict | None
    script: str
    # Allowed: exit code 0, and this is printed.
    says: str | None = None
    # And some server saw this. TOKEN stands for the row's.
    saw: str | None = None
    # Refused, when nothing is to be printed: this is printed, or the exit code is not 0. No server saw this; else TOKEN.
    unseen: str | None = None
    refused: str | None = None
    trust: bool = True
    # Called before, in place of a claim with the policy; gives the sandbox.
    claim: object = None
    # Called after with the sandbox, for whatever else has to be so.
    after: object = None


class Failed(Exception):
    """What came of a row is not what was expected."""


class Tables:
    def __init__(self, world, canary, only):
        self.world, self.canary, self.only = world, canary, only
        self.failed = []
        self.count = {}

    def run(self, kind, rows, do):
        for row in rows:
            if not re.search(self.only, f"{kind}: {row.name}") or NEEDS_IPV6.search(getattr(row, "script", "")) and "SANDBAR_TEST_IPV6" not in os.environ:
                continue
            self.count[kind] = self.count.get(kind, 0) + 1
            begun = time.monotonic()
            try:
                said = do(row)
                self.print(f"ok {kind}: {row.name} ({time.monotonic() - begun:.1f} s){': ' + said if said else ''}")
            except (Failed, Refused, AssertionError) as failure:
                self.failed.append(row.name)
                self.print(f"FAILED {kind}: {row.name}: {failure or type(failure).__name__}")

    def print(self, text):
        print(text.replace(self.canary, "<the secret>"), flush=True)

    def flow(self, row):
        token = f"t{secrets.token_hex(8)}"
        mark = self.world.mark()
        with row.claim() if row.claim else Sandbox(row.policy) as box:
            patience = {} if row.says else IMPATIENT
            code, said = box.run(row.script, {"TOKEN": token, **(TRUST if row.trust else {}), **patience})
            if row.says is not None:
                self.allowed(row, token, mark, code, said)
            else:
                self.refused(row, token, mark, code, said)
            if row.after:
                row.after(box)
        self.check_secrecy(said)
        return shortened(said)

    def check_secrecy(self, said):
        if self.canary in said:
            raise Failed(f"the secret was shown: {shortened(said, 300)}")

    def allowed(self, row, token, mark, code, said):
        if code != 0 or not re.search(row.says, said):
            raise Failed(f"expected {row.says!r}, got exit code {code}: {shortened(said, 600)}; servers saw {self.world.since(mark)}")
        if row.saw:
            wanted = re.compile(row.saw.replace("TOKEN", token), re.S | re.I)
            if not self.world.wait_for(mark, wanted.search):
                raise Failed(f"no server saw {wanted.pattern!r} but {self.world.since(mark)}")
        if row.unseen:
            self.check_unseen(row.unseen, mark, said)

    def refused(self, row, token, mark, code, said):
        self.check_unseen((row.unseen or "TOKEN").replace("TOKEN", token), mark, said)
        is_refused = code != 0 or IN_WORDS in said if row.refused is None else re.search(row.refused, said)
        if not is_refused:
            raise Failed(f"expected a refusal {row.refused or ''}, got exit code {code}: {shortened(said, 600)}")


    def check_unseen(self, unwanted, mark, said):
        seen = [line for line in self.world.since(mark) if re.search(unwanted, line, re.S) and not line.startswith("names: ")]
        if seen:
            raise Failed(f"a server saw {seen}; the program said {shortened(said, 600)}")


def shortened(text, most=110):
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return text if len(text) <= most else "..." + text[-most:]


