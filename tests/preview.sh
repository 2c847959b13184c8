#!/usr/bin/env bash
# A Vite application in a sandbox, seen in a browser through private previews: hot reload, frames, pauses, links that open once.
# SANDBAR_BIN is the program (default: the debug build).
set -uo pipefail
. "$(dirname "$0")/lib.sh"

client=$(preview_client) || exit 1
start_server "${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandbar}" || exit 1
SANDBAR_URL=$url SANDBAR_TOKEN=$token SANDBAR_BIN=$sandbar WORK=$work CLIENT=$client VITE_TAR=$client/vite.tar node "$root/tests/preview/check.mjs"
