#!/usr/bin/env bash
# A gibibyte of random bytes through `ssh cat` in both directions at once and by sftp both ways, and a quarter of it past a
# reader that stands still for a while, which is many times what may be kept: hashes are equal, and neither the server nor the agent keeps what nobody has taken.
# SANDBAR_BIN is the program (default: the debug build), SSH_TEST_MIB how many mebibytes (default: 1024).
set -uo pipefail
. "$(dirname "$0")/lib.sh"

mib=${SSH_TEST_MIB:-1024}
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export SANDBAR_SSH_LISTEN=127.0.0.1:$port SANDBAR_POOL_MIN_IDLE=1
start_server "${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandbar}" || exit 1
export SANDBAR_URL=$url SANDBAR_TOKEN=$token

fail() {
  echo "ssh: $*" >&2
  exit 1
}

# hwm PID: the most resident memory that a process had, in KiB, since it was set back.
hwm() { awk '/^VmHWM:/ { print $2 }' "/proc/$1/status"; }

ssh-keygen -q -t ed25519 -N '' -f "$work/key" || exit 1
"$sandbar" ssh-key add "$work/key.pub" --name test >/dev/null || fail "the key was not added"
id=$("$sandbar" sandbox create --output json | python3 -c 'import json, sys; print(json.load(sys.stdin)["sandbox_id"])') || fail "no sandbox"
cat >"$work/config" <<END
Host $id
  HostName 127.0.0.1
  Port $port
  User $id
  IdentityFile $work/key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
END

head -c $((mib << 20)) /dev/urandom >"$work/noise" || exit 1
wanted=$(sha256sum <"$work/noise")
head -c $((mib << 18)) "$work/noise" >"$work/quarter" || exit 1
wanted_quarter=$(sha256sum <"$work/quarter")
# Those of the pool are its children, too; they do nothing.
agents=$(pgrep -x -P "$server_pid" procd)
before=$(hwm "$server_pid")

seconds() { python3 -c 'import time; print(time.time())'; }
since() { python3 -c "import sys, time; s = time.time() - float(sys.argv[1]); print(f'{s:.1f} s, {float(sys.argv[2]) / s:.0f} MiB/s')" "$1" "${2:-$mib}"; }

begun=$(seconds)
[ "$(ssh -F "$work/config" "$id" cat <"$work/noise" | sha256sum)" = "$wanted" ] || fail "cat changed the bytes"
echo "ssh cat, both ways: $(since "$begun")"

begun=$(seconds)
[ "$(ssh -F "$work/config" "$id" cat <"$work/quarter" | { head -c 1000000; sleep 3; cat; } | sha256sum)" = "$wanted_quarter" ] || fail "cat with a slow reader changed the bytes"
echo "ssh cat, to a reader that stands still for 3 s: $(since "$begun" $((mib / 4)))"

begun=$(seconds)
printf 'put %s /tmp/noise\nget /tmp/noise %s\n' "$work/noise" "$work/back" >"$work/batch"
sftp -q -F "$work/config" -b "$work/batch" "$id" >/dev/null || fail "sftp failed"
cmp "$work/noise" "$work/back" || fail "sftp changed the bytes"
echo "sftp, there and back: $(since "$begun")"

grown=$(($(hwm "$server_pid") - before))
echo "the server grew by $((grown >> 10)) MiB at most"
[ "$grown" -lt $((96 << 10)) ] || fail "the server kept what nobody had taken"
for pid in $agents; do
  most=$(hwm "$pid")
  echo "the agent had $((most >> 10)) MiB at most"
  [ "$most" -lt $((32 << 10)) ] || fail "the agent kept what nobody had taken"
done
[ -n "$agents" ] || fail "the agent was not found"
