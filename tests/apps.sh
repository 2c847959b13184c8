#!/usr/bin/env bash
# Apps as people have them, deployed with the command line and seen in a browser through private previews: one with React and Vite, one
# with FastAPI, and the examples that the shape of manifests was taken from, with Bun. Their packages come from a mirror on this machine.
#   tests/apps.sh [tides|guestbook|mission...]
# With SANDBAR_SCREENSHOTS=FOLDER what the browser saw is written there.
# SANDBAR_BIN is the program (default: the debug build).
set -uo pipefail
. "$(dirname "$0")/lib.sh"

client=$(preview_client) || exit 1
protocol=$(mcp_client) || exit 1
start_server "${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandbar}" || exit 1
start_mirror "$own_address" || exit 1
SANDBAR_URL=$url SANDBAR_TOKEN=$token SANDBAR_BIN=$sandbar WORK=$work CLIENT=$client PROTOCOL=$protocol MIRROR=$mirror_url \
  node "$root/tests/apps/check.mjs" "$@"
code=$?
stop_mirror
exit $code
