"""docs/sandbox-functions.md, verbatim: its files are written, its commands run one after the other, and what they print is
what the page says. And the command line beside it."""
import json
import os
import re
import subprocess
import sys
import tempfile

root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
text = open(os.path.join(root, "docs", "sandbox-functions.md"), encoding="utf-8").read()
sandbar = os.path.abspath(os.environ["SANDBAR_BIN"])


def cli(*args, code=0, data=""):
    done = subprocess.run([sandbar, *args], capture_output=True, text=True, input=data)
    assert done.returncode == code, (args, done)
    return done.stdout


id = cli("sandbox", "create").strip()
try:
    with tempfile.TemporaryDirectory() as here:
        # `name`: before a block makes it a file; a bash block is run, and a text block after it is its output.
        os.symlink(sandbar, os.path.join(here, "sandbar"))
        env = {**os.environ, "ID": id, "URL": os.environ["SANDBAR_URL"], "TOKEN": os.environ["SANDBAR_TOKEN"], "PATH": here + ":" + os.environ["PATH"]}
        ran = 0
        printed = None
        for before, kind, block in re.findall(r"(?:^`([\w.]+)`:\n\n)?^```(\w+)\n(.*?)^```$", text, re.S | re.M):
            if before:
                open(os.path.join(here, before), "w").write(block)
            elif kind == "bash":
                done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=here, env=env, capture_output=True, text=True, timeout=120)
                assert done.returncode == 0, (block, done)
                printed = done.stdout
                ran += 1
            elif kind == "text":
                assert printed.strip() == block.strip(), f"{printed!r} is not {block!r}"
        assert ran >= 5, ran

        source = "import sys\ndef handler(r):\n    return {'status': int(r['query']['status'][0]), 'headers': r['headers'], 'body_base64': r['body_base64']}\n"
        path = cli("sandbox", "function", "put", id, "echo", "-", data=source)
        assert path == "/workspace/functions/echo.py\n", path
        assert cli("sandbox", "fn", "get", id, "echo") == source
        invoke = ("sandbox", "function", "invoke", id, "echo")
        assert cli(*invoke, "--query", "status=200", "--stdin", data="h\u00e9llo") == "h\u00e9llo"
        assert cli(*invoke, "--query", "status=404", "--body-base64", "eA==", code=1) == "x"
        assert cli(*invoke, "--query", "status=500", code=1) == "Function returned status 500\n"
        whole = json.loads(cli("-o", "json", *invoke, "--query", "status=201", "--header", "X-A=b", "--header", "X-A=c", "--method", "put", "--cold", "--timeout-ms", "9000"))
        assert (whole["status"], whole["headers"]) == (201, {"X-A": ["b", "c"]}), whole
        assert "Error" in subprocess.run([sandbar, *invoke, "--handler", "none"], capture_output=True, text=True).stderr
        assert [line.split()[0] for line in cli("sandbox", "function", "ls", id).splitlines()[1:]] == ["echo", "main"]
        assert len(cli("sandbox", "function", "invocations", id, "main").splitlines()) == 2
        cli("sandbox", "function", "put", id, "broken", "-", data="def (", code=1)
        assert cli("sandbox", "function", "rm", id, "echo", "main") == "echo\nmain\n"
        cli("sandbox", "function", "rm", id, "echo", code=1)
finally:
    cli("sandbox", "rm", id)
print("functions as their page has them:", ran, "examples", file=sys.stderr)
