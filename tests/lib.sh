# Sourced by the scripts here: a server of their own on a free port in a fresh folder, and public clients in target/.
# Everything started is ended and every folder removed when the script ends, however it ends.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/sandbar-test.XXXXXX")
server_pid=
mirror_pid=

stop_server() {
  if [ -n "$server_pid" ]; then
    kill -TERM "$server_pid" 2>/dev/null
    for _ in $(seq 200); do
      kill -0 "$server_pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$server_pid" 2>/dev/null
    wait "$server_pid" 2>/dev/null
    server_pid=
  fi
  if [ -e "$work/data/lock" ]; then
    "$sandbar" purge --data-dir "$work/data" --yes >/dev/null || echo "what is left of the server in $work could not be removed" >&2
  fi
}

finish() {
  code=$?
  trap - EXIT INT TERM
  stop_mirror
  stop_server
  if [ "$code" -ne 0 ] && [ -s "$work/server.log" ]; then
    echo "--- the server's log ends with:" >&2
    tail -n 30 "$work/server.log" >&2
  fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start_server BINARY: sets url and token.
start_server() {
  sandbar=$1
  local port
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  url=http://127.0.0.1:$port
  token=s0_test_$(python3 -c 'import secrets; print(secrets.token_hex(24))')
  # No packet is sent: this only asks which of our addresses faces the world.
  own_address=$(python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("192.0.2.1", 9)); print(s.getsockname()[0])' 2>/dev/null || echo 127.0.0.1)
  SANDBAR_DATA_DIR=$work/data SANDBAR_LISTEN=127.0.0.1:$port SANDBAR_BOOTSTRAP_TOKEN=$token SANDBAR_EGRESS_ALLOW=${SANDBAR_EGRESS_ALLOW:-$own_address/32} SANDBAR_SSH_LISTEN=${SANDBAR_SSH_LISTEN:-off} \
    SANDBAR_SCRIPT_CACHE_DIR=${SANDBAR_SCRIPT_CACHE_DIR:-${CARGO_TARGET_DIR:-$root/target}/tmp/script-cache} \
    "$sandbar" serve >"$work/server.log" 2>&1 &
  server_pid=$!
  for _ in $(seq 600); do
    if curl -fsS -o /dev/null "$url/readyz" 2>/dev/null; then return 0; fi
    kill -0 "$server_pid" 2>/dev/null || { echo "the server did not start" >&2; return 1; }
    sleep 0.1
  done
  echo "the server was not ready within 60 s" >&2
  return 1
}

# python_client VERSION: prints the interpreter of an environment with that release of the client.
python_client() {
  local venv=$root/target/clients/python-$1
  if [ ! -e "$venv/.complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2 && "$venv/bin/pip" install --quiet --disable-pip-version-check "sandbox0==$1" websockets >&2 && touch "$venv/.complete" || return 1
  fi
  echo "$venv/bin/python"
}

# npm_client: prints the folder in which the npm client is installed.
npm_client() {
  local dir=$root/target/clients/npm
  if ! cmp -s "$root/tests/npm/package.json" "$dir/package.json" || [ ! -d "$dir/node_modules/sandbox0" ]; then
    mkdir -p "$dir" && cp "$root/tests/npm/package.json" "$dir/" && npm install --prefix "$dir" --no-audit --no-fund --loglevel=error >&2 || return 1
  fi
  cp "$root/tests/npm/check.mjs" "$dir/" && echo "$dir"
}

# preview_client: prints the folder in which a browser's driver is installed, and beside it vite.tar, a development server with
# all that it needs.
preview_client() {
  local dir=$root/target/clients/preview
  if ! cmp -s "$root/tests/preview/package.json" "$dir/package.json" || [ ! -e "$dir/vite.tar" ]; then
    rm -rf "$dir" && mkdir -p "$dir" && cp "$root/tests/preview/package.json" "$dir/" &&
      npm install --prefix "$dir" --no-audit --no-fund --loglevel=error >&2 &&
      tar -C "$dir" --owner=0 --group=0 --exclude=node_modules/playwright-core --exclude=node_modules/.bin -cf "$dir/vite.tar.part" node_modules &&
      mv "$dir/vite.tar.part" "$dir/vite.tar" || return 1
  fi
  echo "$dir"
}

# mcp_client: prints the folder in which the public client of the Model Context Protocol is installed.
mcp_client() {
  local release=1.32.2 dir=$root/target/clients/mcp
  if [ ! -e "$dir/$release/.complete" ]; then
    rm -rf "$dir" && mkdir -p "$dir/$release" &&
      npm install --prefix "$dir/$release" --no-audit --no-fund --loglevel=error "@modelcontextprotocol/sdk@$release" >&2 &&
      touch "$dir/$release/.complete" || return 1
  fi
  echo "$dir/$release"
}

# start_mirror ADDRESS: a mirror of the registries that npm and pip are set up for here, for sandboxes. Sets mirror_url; what was fetched
# once is kept in target/.
start_mirror() {
  local npm pip pypi port
  npm=$(npm config get registry) && pip=$(python_client 0.10.4) || return 1
  pypi=$("$pip" -m pip config get global.index-url 2>/dev/null) ||
    pypi=$("$pip" -c 'from pip._internal.models.index import PyPI; print(PyPI.simple_url)') || return 1
  mkfifo "$work/mirror.port" || return 1
  python3 "$root/tests/python/mirror.py" "$1" "$root/target/clients/mirror" "$npm" "$pypi" >"$work/mirror.port" 2>"$work/mirror.log" &
  mirror_pid=$!
  read -r port <"$work/mirror.port" || { cat "$work/mirror.log" >&2; return 1; }
  mirror_url=http://$1:$port
}

stop_mirror() {
  if [ -n "$mirror_pid" ]; then
    kill "$mirror_pid" 2>/dev/null
    wait "$mirror_pid" 2>/dev/null
    mirror_pid=
  fi
}

# bun_program: prints the path of Bun.
bun_program() {
  local release=1.4.5 dir=$root/target/clients/bun
  local program=$dir/$release/node_modules/bun/bin/bun.exe
  if [ ! -x "$program" ]; then
    rm -rf "$dir" && mkdir -p "$dir/$release" &&
      npm install --prefix "$dir/$release" --no-audit --no-fund --loglevel=error "bun@$release" >&2 || return 1
  fi
  echo "$program"
}

# smtp_python: prints the interpreter of an environment with a mail server.
smtp_python() {
  local release=1.4.6 venv
  venv=$root/target/clients/aiosmtpd-$release
  if [ ! -e "$venv/.complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2 && "$venv/bin/pip" install --quiet --disable-pip-version-check "aiosmtpd==$release" >&2 && touch "$venv/.complete" || return 1
  fi
  echo "$venv/bin/python"
}

# web_application: prints the path of a tar with JupyterLab and all it needs, for the Python that sandboxes find.
web_application() {
  local release=4.6.6 dir=$root/target/clients/jupyterlab
  local tar=$dir-$release.tar
  if [ ! -e "$tar" ]; then
    rm -rf "$dir" "$dir-venv"
    # Python's own folders first, as in a sandbox: another Python that comes first here would bring modules for itself.
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin python3 -m venv "$dir-venv" >&2 &&
      "$dir-venv/bin/pip" install --quiet --disable-pip-version-check --target "$dir" "jupyterlab==$release" >&2 &&
      rm -rf "$dir/jedi/third_party" && # Two files of five: types that an editor shows.
      tar -C "$dir" --owner=0 --group=0 -cf "$tar.part" . && mv "$tar.part" "$tar" || return 1
    rm -rf "$dir" "$dir-venv"
  fi
  echo "$tar"
}

# egress_clients: prints the folder of Python libraries of the protocols that sandboxes speak, for the Python that they find.
egress_clients() {
  local list="requests aiohttp httpx[http2] grpcio websockets aioquic paho-mqtt h2 hypercorn aiosmtpd cryptography" dir=$root/target/clients/egress
  if [ "$(cat "$dir/.complete" 2>/dev/null)" != "$list" ]; then
    rm -rf "$dir" "$dir-venv"
    # shellcheck disable=SC2086 # A list.
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin python3 -m venv "$dir-venv" >&2 &&
      "$dir-venv/bin/pip" install --quiet --disable-pip-version-check --target "$dir" $list >&2 && echo "$list" >"$dir/.complete" || return 1
    rm -rf "$dir-venv"
  fi
  echo "$dir"
}

# base_url_for VERSION: the base URL for a release of the Python client.
base_url_for() {
  case $1 in
    0.10.*) echo "$url" ;;
    *) echo "$url/compat/2026-05" ;;
  esac
}
