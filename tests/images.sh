#!/usr/bin/env bash
# Images made on this machine: Debian with Python, Debian with Node; their REPLs, and pip, npm and apt-get inside them.
# SANDBAR_BIN is the program (default: the debug build).
set -uo pipefail
. "$(dirname "$0")/lib.sh"

start_server "${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandbar}" || exit 1
SANDBAR_URL=$url SANDBAR_TOKEN=$token SANDBAR_BIN=$sandbar OWN_ADDRESS=$own_address WORK=$work python3 "$root/tests/python/images.py"
