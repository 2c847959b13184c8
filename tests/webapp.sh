#!/usr/bin/env bash
# A web application of some size that we did not write, JupyterLab, as a service and as a function: used by curl, by a
# browser, by WebSockets and by wrk, while what serves it is deleted, broken, replaced and taken back.
# SANDBAR_BIN is the program (default: the debug build).
set -uo pipefail
. "$(dirname "$0")/lib.sh"

python=$(python_client 0.10.4) || exit 1
application=$(web_application) || exit 1
start_server "${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandbar}" || exit 1
SANDBAR_URL=$url SANDBAR_TOKEN=$token WORK=$work APPLICATION=$application "$python" "$root/tests/python/webapp.py"
