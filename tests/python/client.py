"""The public Python client, unmodified, against a running server. Works with every release that the server serves."""

import json
import os
import secrets
import urllib.request

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


def publish_and_look() -> None:
    """Every call of `client.functions`, and whether the client can read its reply."""
    from sandbox0.apispec.models.function_autoscaling import FunctionAutoscaling
    from sandbox0.apispec.models.function_revision_spec import FunctionRevisionSpec
    from sandbox0.apispec.models.function_update_request import FunctionUpdateRequest

    service = {
        "id": "web",
        "port": 8000,
        "runtime": {"type": "cmd", "command": ["python3", "-m", "http.server", "8000"]},
        "ingress": {"public": True, "routes": [{"id": "all", "path_prefix": "/", "resume": True}]},
    }
    source = client.sandboxes.claim("default")
    functions = client.functions
    request = urllib.request.Request(
        f"{os.environ['SANDBOX0_BASE_URL']}/api/v1/sandboxes/{source.id}/services",
        json.dumps({"services": [service]}).encode(),
        {"Authorization": f"Bearer {os.environ['SANDBOX0_TOKEN']}"},
        method="PUT",
    )
    urllib.request.urlopen(request).close()
    made = functions.create_from_sandbox(source.id, "web", name=f"client-{secrets.token_hex(4)}")
    id = made.function.id
    try:
        equal((made.revision.revision_number, made.alias.alias, made.function.active_revision_id), (1, "production", made.revision.id))
        assert id in [function.id for function in functions.list()]
        equal(functions.get(made.function.slug).host, made.function.host)
        equal(functions.create_revision_from_sandbox(id, source.id, "web", promote=True).promoted, True)
        spec = FunctionRevisionSpec.from_dict({"template_id": "default", "runtime_service": service, "mounts": []})
        equal(functions.create_revision_from_spec(id, spec, promote=False).revision.revision_number, 3)
        equal([revision.revision_number for revision in functions.list_revisions(id)], [3, 2, 1])
        equal(functions.get_revision(id, 3).source_type.value, "revision_spec")
        equal(functions.set_alias(id, "staging", 3).revision_number, 3)
        equal([alias.alias for alias in functions.list_aliases(id)], ["production", "staging"])
        equal(functions.get_alias(id, "production").revision_number, 2)
        runtime = functions.get_runtime(id)
        equal((runtime.revision_number, runtime.state.value, runtime.phase.value), (2, "active", "ready"))
        assert runtime.instances and runtime.recent_events
        assert functions.restart_runtime(id).runtime_sandbox_id != runtime.runtime_sandbox_id
        functions.recycle_runtime(id)
        changed = functions.update(id, FunctionUpdateRequest(enabled=False, autoscaling=FunctionAutoscaling(min_warm=1, max_active=2, target_concurrency=3, scale_down_after_seconds=30)))
        equal((changed.enabled, changed.autoscaling.min_warm), (False, 1))
        equal(functions.get_runtime(id).state.value, "disabled")
    finally:
        functions.delete(id)
        client.sandboxes.delete(source.id)
    step("functions")


if hasattr(client, "functions"):
    publish_and_look()


def keep_a_secret() -> None:
    """Every call for credential sources, and a policy that binds one."""
    from sandbox0.apispec.models.credential_source_write_request import CredentialSourceWriteRequest
    from sandbox0.apispec.models.sandbox_network_policy import SandboxNetworkPolicy

    def source(secret: str) -> CredentialSourceWriteRequest:
        spec = {"staticHeaders": {"values": {"token": secret}}}
        return CredentialSourceWriteRequest.from_dict({"name": name, "resolverKind": "static_headers", "spec": spec})

    name = f"client-{secrets.token_hex(4)}"
    made = client.create_credential_source(source("first"))
    equal((made.name, made.resolver_kind.value, made.current_version, made.status), (name, "static_headers", 1, "active"))
    assert made.created_at and name in [listed.name for listed in client.list_credential_sources()]
    equal(client.update_credential_source(name, source("second")).current_version, 2)
    equal(client.get_credential_source(name).current_version, 2)
    sandbox = client.sandboxes.claim("default")
    try:
        headers = [{"name": "Authorization", "valueTemplate": "Bearer {{ .token }}"}]
        policy = {
            "mode": "allow-all",
            "egress": {"credentialRules": [{"credentialRef": "api", "protocol": "https", "domains": ["api.example.com"], "tlsMode": "terminate-reoriginate"}]},
            "credentialBindings": [{"ref": "api", "sourceRef": name, "projection": {"type": "http_headers", "httpHeaders": {"headers": headers}}}],
        }
        stored = sandbox.update_network_policy(SandboxNetworkPolicy.from_dict(policy))
        equal(stored.credential_bindings[0].source_ref, name)
        try:
            client.delete_credential_source(name)
        except APIError as error:
            equal(error.status_code, 409)
        else:
            raise AssertionError("a source was deleted that a sandbox binds")
    finally:
        client.sandboxes.delete(sandbox.id)
    client.delete_credential_source(name)
    step("credential sources")


if hasattr(client, "create_credential_source"):
    keep_a_secret()
