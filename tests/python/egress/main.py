"""The whole, see tests/egress.sh. An argument is a pattern of the rows to run."""

import io
import os
import secrets
import signal
import sys
import tarfile
import types

import authority
import canary
import credentials
import evasions
import flows
import sandbox
import servers
import table
from daemons import Daemons

FOLDER = os.path.join(os.environ["WORK"], "world")
HERE = os.path.dirname(os.path.abspath(__file__))


class World(servers.World):
    """The servers, and what the programs among them write into their logs."""

    def __init__(self, canary):
        super().__init__(FOLDER, authority.Authority(FOLDER), canary)
        self.daemons = Daemons(FOLDER, canary)
        self.daemons.make_repository()
        self.begun = self.mark()
        self.repository = f"{FOLDER}/repositories/project.git"

    def mark(self):
        return self.log.mark(), self.daemons.sizes()

    def since(self, mark):
        return self.log.since(mark[0]) + self.daemons.lines_since(mark[1])

    def wait_for(self, mark, is_it):
        return self.log.wait_for(mark[0], is_it, lambda: self.daemons.lines_since(mark[1]))


def clients():
    """A tar of what is needed inside."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(os.environ["LIBRARIES"], "python", filter=lambda of: None if "__pycache__" in of.name else of)
        tar.add(os.path.join(HERE, "inside.py"), "inside.py")
        for name in ["authority.pem", "inside"]:
            tar.add(os.path.join(FOLDER, name), name)
    return out.getvalue()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    secret = f"canary{secrets.token_hex(16)}"
    world = World(secret)
    sandbox.install(clients())
    known = credentials.Secrets(world, secret)
    tables = table.Tables(world, secret, sys.argv[1] if len(sys.argv) > 1 else "")
    for rows in [flows.rows(world.repository), credentials.rows(known)]:
        tables.run("flow", rows, tables.flow)
    for rows in [evasions.rows(), credentials.thefts(known)]:
        tables.run("evasion", rows, lambda row: evasions.try_all(tables, row))
    tables.run("search", [types.SimpleNamespace(name="the secret after its use")], lambda _: canary.look_everywhere(known, os.environ["WORK"]))
    print(f"{tables.count.get('flow', 0)} flows, {tables.count.get('evasion', 0)} evasions, {len(tables.failed)} failed")
    # Threads of servers are not waited for.
    world.daemons.stop()
    os._exit(1 if tables.failed else 0)


main()
