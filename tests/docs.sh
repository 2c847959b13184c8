#!/usr/bin/env bash
# Runs the examples of pages (default: all that have any that can be run) against a server of their own: every block that
# begins with ```sh, in order, as one script for each page that ends with the first command that fails. What stands behind
# `#=>` must be in the output, in that order. Blocks that are not to be run are called ```console.
#   tests/docs.sh [PAGE...]
# SANDBAR_BIN is the program (default: the debug build).
set -uo pipefail
. "$(dirname "$0")/lib.sh"

pages=("$@")
[ ${#pages[@]} -gt 0 ] || pages=("$root/docs/services.md" "$root/docs/previews.md" "$root/docs/network.md" "$root/docs/credentials.md" "$root/docs/ssh.md" "$root/docs/scripts.md" "$root/docs/collections.md" "$root/docs/apps.md" "$root/docs/receipts.md")
export SANDBAR_SSH_LISTEN=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
start_server "${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandbar}" || exit 1
# What one of the pages needs of Python, where this machine's has none.
python3 -c 'import cryptography' 2>/dev/null || { libraries=$(egress_clients) && export PYTHONPATH=$libraries; } || exit 1
failed=0
for page in "${pages[@]}"; do
  SANDBAR_URL=$url SANDBAR_TOKEN=$token SANDBAR_BIN=$sandbar WORK=$work python3 "$root/tests/python/docs.py" "$page" || failed=1
done
exit $failed
