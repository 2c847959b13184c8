"""Runs the examples of one page of the documentation, see tests/docs.sh."""

import os
import pathlib
import re
import subprocess
import sys

TIMEOUT_S = 600
EXPECTED = re.compile(r"\s#=> (.*)$")


def script_of(lines):
    """The page with everything but its examples left out, so that line numbers stay, and what their output must hold."""
    script, expected, inside = [], [], None
    for number, line in enumerate(lines, 1):
        if inside is None and line.startswith("```"):
            inside = line[3:].strip() or "text"
            line = ""
        elif line.startswith("```"):
            inside, line = None, ""
        if inside != "sh":
            script.append("")
            continue
        script.append(line)
        if found := EXPECTED.search(line):
            expected.append((number, found[1].strip()))
    return script, expected


def main(page):
    script, expected = script_of(page.read_text().splitlines())
    if not any(script):
        sys.exit(f"{page}: there is nothing to run")
    # A page begins with its title, so the first line is free.
    script[0] = "set -eEuo pipefail; trap 'echo \"line $LINENO failed\"' ERR"
    work = pathlib.Path(os.environ["WORK"]) / page.stem
    work.mkdir()
    path = work / page.name
    path.write_text("\n".join(script) + "\n")
    env = {**os.environ, "PATH": f"{pathlib.Path(os.environ['SANDBAR_BIN']).resolve().parent}:{os.environ['PATH']}", "HOME": str(work)}
    done = subprocess.run(["bash", path], cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S)
    at = 0
    for number, text in expected:
        found = done.stdout.find(text, at)
        if found < 0:
            sys.exit(f"{page}:{number}: {text!r} is not in the output, or not there. All of it:\n{done.stdout}")
        at = found + len(text)
    if done.returncode != 0:
        sys.exit(f"{page}: ended with {done.returncode}:\n{done.stdout}")
    print(f"{page.name}: {len(expected)} examples hold")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
