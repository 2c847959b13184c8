#!/usr/bin/env bash
# Real programs in sandboxes talk to real servers, under policies that allow it and under policies that do not; then they try to
# get around those; then a secret that was used is looked for everywhere. The servers are the Internet of a network namespace
# in which every address is local, so nothing of this leaves it.
# SANDBAR_BIN is the program (default: the debug build).
set -uo pipefail
. "$(dirname "$0")/lib.sh"

libraries=$(egress_clients) || exit 1
if [ -z "${SANDBAR_TEST_WORLD:-}" ]; then
  rm -rf "$work"
  SANDBAR_TEST_WORLD=1 exec unshare --net -- "$0" "$@"
fi
ip link set lo up && ip address add 192.0.2.7/32 dev lo && ip route add local 0.0.0.0/0 dev lo || exit 1
# The sysctl is this namespace's own.
if ip -6 address add 2600:5e1f::7/128 dev lo && ip -6 route add local ::/0 dev lo && echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind; then
  export SANDBAR_TEST_IPV6=1
else
  echo "this machine has no IPv6; what is about it is left out" >&2
fi

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
chmod 711 "$work" # A database that refuses to be root has its folder below.
mkdir -m 711 "$work/world" && PYTHONPATH=$libraries python3 "$root/tests/python/egress/authority.py" "$work/world" || exit 1
export SANDBAR_NAMESERVERS=127.0.0.1 SANDBAR_EGRESS_ALLOW=10.9.9.9/32 SANDBAR_EGRESS_CA_FILE=$work/world/authority.pem SANDBAR_LOG_LEVEL=debug
start_server "${SANDBAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/sandbar}" || exit 1
GRPC_ENABLE_FORK_SUPPORT=0 SANDBAR_URL=$url SANDBAR_TOKEN=$token WORK=$work LIBRARIES=$libraries PYTHONPATH=$libraries PYTHONDONTWRITEBYTECODE=1 \
  python3 "$root/tests/python/egress/main.py" "$@"
