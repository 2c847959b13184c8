"""The public Python client, unmodified, against a running server. Works with every release that the server serves."""

import os
import secrets

from sandbox0 import APIError, Client
from sandbox0.sandbox import CmdOptions

client = Client(token=os.environ["SANDBOX0_TOKEN"], base_url=os.environ["SANDBOX0_BASE_URL"])
release = os.environ.get("SANDBOX0_RELEASE", "?")


def step(name: str) -> None:
    print(f"PASS python {release} {name}", flush=True)


def equal(got, want) -> None:
    assert got == want, f"got {got!r}, want {want!r}"


sandbox = client.sandboxes.claim("default")
try:
    step("claim")

    sandbox.run("python", "x = 40")
    assert "42" in sandbox.run("python", "print(x + 2)").output_raw
    sandbox.run("bash", "Y=7")
    assert "7" in sandbox.run("bash", "echo $Y").output_raw
    step("run")

    done = sandbox.cmd("sh", CmdOptions(command=["sh", "-c", "echo out; echo err >&2; exit 3"]))
    assert "out\n" in done.output_raw
    # Releases before 0.6 give the merged output only.
    if hasattr(done, "stdout"):
        equal((done.stdout, done.stderr, done.exit_code), ("out\n", "err\n", 3))
    step("cmd")

    stream = sandbox.cmd_stream("sh", CmdOptions(command=["sh", "-c", "echo streamed; exit 4"]))
    equal("".join(output.data for output in stream.iter_outputs()), "streamed\n")
    equal(stream.wait().exit_code, 4)
    step("cmd_stream")

    data = secrets.token_bytes(300_000)
    sandbox.write_file("/workspace/data.bin", data)
    equal(bytes(sandbox.read_file("/workspace/data.bin")), data)
    sandbox.delete_file("/workspace/data.bin")
    step("files")

    client.sandboxes.pause(sandbox.id)
    assert client.sandboxes.get(sandbox.id).paused
    client.sandboxes.resume(sandbox.id)
    assert not client.sandboxes.get(sandbox.id).paused
    step("pause and resume")

    page = client.sandboxes.list(limit=200)
    # Releases before 0.7 give the rows themselves.
    assert sandbox.id in [row.id for row in getattr(page, "sandboxes", page)]
    step("list")
finally:
    client.sandboxes.delete(sandbox.id)
try:
    client.sandboxes.get(sandbox.id)
except APIError as error:
    equal(error.status_code, 404)
else:
    raise AssertionError("the sandbox is still there after its deletion")
step("delete")
