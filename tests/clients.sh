#!/usr/bin/env bash
# End to end: a server of its own, the public clients and the command line against it.
# SANDBAR_BIN is the program (default: the debug build).
set -uo pipefail
. "$(dirname "$0")/lib.sh"

start_server "${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandbar}" || exit 1
failed=0
for release in 0.10.4 0.5.3 0.4.5; do
  python=$(python_client "$release") || exit 1
  SANDBOX0_BASE_URL=$(base_url_for "$release") SANDBOX0_TOKEN=$token SANDBOX0_RELEASE=$release "$python" "$root/tests/python/client.py" || failed=1
done
npm=$(npm_client) || exit 1
SANDBOX0_BASE_URL=$url SANDBOX0_TOKEN=$token node "$npm/check.mjs" || failed=1
SANDBAR_URL=$url SANDBAR_TOKEN=$token SANDBAR_BIN=$sandbar python3 "$root/tests/python/cli.py" || failed=1
SANDBAR_URL=$url SANDBAR_TOKEN=$token SANDBAR_BIN=$sandbar python3 "$root/tests/python/webhooks.py" || failed=1
SANDBAR_URL=$url SANDBAR_TOKEN=$token SANDBAR_BIN=$sandbar python3 "$root/tests/python/functions.py" || failed=1
exit $failed
