#!/usr/bin/env bash
# Script functions: one suite for every provider, executors of others and for others, and the examples of the documentation
# with a real server for embeddings and a real mail server.
# SANDBAR_BIN is the program (default: the debug build).
set -uo pipefail
. "$(dirname "$0")/lib.sh"

binary=${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandbar}
bun=$(bun_program) || exit 1
python=$(smtp_python) || exit 1
failed=0
helpers=()
end_helpers() {
  for pid in "${helpers[@]}"; do
    kill "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
  done
  helpers=()
}
trap 'code=$?; end_helpers; (exit "$code"); finish' EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
# The address of this machine by which scripts reach what the tests serve: loopback is refused.
address=$(python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("192.0.2.1", 9)); print(s.getsockname()[0])')

wait_for() {
  for _ in $(seq 100); do
    curl -fsS -o /dev/null "$1" 2>/dev/null && return 0
    sleep 0.1
  done
  echo "nothing answers at $1" >&2
  return 1
}

# conformance PROFILE PROVIDER [NAME=VALUE...]: the suite against a server with this environment.
conformance() {
  local profile=$1 provider=$2 web_port
  shift 2
  web_port=$(free_port)
  local settings=(FUNCTIONS_FETCH_ALLOW="$address:$web_port" "$@")
  export "${settings[@]}"
  start_server "$binary" || exit 1
  PROFILE=$profile PROVIDER=$provider WEB_ADDRESS=$address:$web_port SANDBAR_URL=$url SANDBAR_TOKEN=$token node "$root/tests/conformance/run.mjs" || failed=1
  stop_server
  unset "${settings[@]%%=*}"
}

# Sets executor_url.
start_node_executor() {
  local port
  port=$(free_port)
  HOST=127.0.0.1 PORT=$port node "$root/tests/executor/node-executor.mjs" >"$work/executor.log" 2>&1 &
  helpers+=($!)
  executor_url=http://127.0.0.1:$port
  wait_for "$executor_url/health"
}

# Sets executor_url.
start_own_executor() {
  local port
  port=$(free_port)
  "$binary" executor --listen "127.0.0.1:$port" >"$work/own-executor.log" 2>&1 &
  helpers+=($!)
  executor_url=http://127.0.0.1:$port
  wait_for "$executor_url/health"
}

# What a script may not reach although it runs in Bun on this machine.
export CANARY_FILE=$work/canary
echo "canary-$RANDOM$RANDOM" >"$CANARY_FILE"

conformance quickjs quickjs
conformance bun-worker bun-worker FUNCTIONS_SANDBOX=bun-worker SANDBAR_BUN="$bun"
start_own_executor || exit 1
EXECUTOR_URL=$executor_url node "$root/tests/executor/node-main.mjs" || failed=1
conformance sandbar-executor remote-http FUNCTIONS_EXEC_URL="$executor_url"
end_helpers
start_node_executor || exit 1
EXECUTOR_URL=$executor_url node "$root/tests/executor/node-main.mjs" || failed=1
conformance node-executor remote-http FUNCTIONS_EXEC_URL="$executor_url"
end_helpers

web_port=$(free_port)
smtp_port=$(free_port)
export FUNCTIONS_FETCH_ALLOW=$address:$web_port SANDBAR_SMTP_URL=smtp://$address:$smtp_port
start_server "$binary" || exit 1
WEB_ADDRESS=$address:$web_port SMTP_ADDRESS=$address:$smtp_port SANDBAR_URL=$url SANDBAR_TOKEN=$token "$python" "$root/tests/python/scripts.py" || failed=1
exit $failed
