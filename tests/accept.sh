#!/usr/bin/env bash
# Runs an acceptance suite (a folder with accept_py.py) with several releases of the public Python client.
#   tests/accept.sh FOLDER [RELEASE...]
# SANDBAR_BIN is the program (default: the release build), ACCEPT_JOBS how many checks run at a time.
set -uo pipefail
suite=${1:?usage: tests/accept.sh FOLDER [RELEASE...]}
suite=$(cd "$suite" && pwd) || exit 2
shift
. "$(dirname "$0")/lib.sh"

only="^($(grep -v '^#' "$root/tests/accept-prefixes" | paste -sd'|'))"
releases=("$@")
[ ${#releases[@]} -gt 0 ] || releases=(0.10.4 0.5.3 0.4.5)
start_server "${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/sandbar}" || exit 1
failed=0
for release in "${releases[@]}"; do
  python=$(python_client "$release") || exit 1
  echo "=== $suite with sandbox0 $release"
  SANDBOX0_BASE_URL=$(base_url_for "$release") SANDBOX0_TOKEN=$token ACCEPT_ONLY=${ACCEPT_ONLY:-$only} ACCEPT_JOBS=${ACCEPT_JOBS:-2} \
    "$python" "$suite/accept_py.py" || failed=1
done
exit $failed
