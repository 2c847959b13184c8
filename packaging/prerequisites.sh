#!/usr/bin/env bash
# Looks for what `make run` or `make test` needs and installs what is missing from the distribution's packages.
#   packaging/prerequisites.sh run|test
set -euo pipefail
purpose=${1:?usage: packaging/prerequisites.sh run|test}
rust_min=1.95

fail() {
  echo "prerequisites: $*" >&2
  exit 1
}

[ "$(uname -s)" = Linux ] || fail "Sandbar runs on Linux only; this is $(uname -s)"

packages=()
want() { # COMMAND PACKAGE: the package when the command is missing
  command -v "$1" >/dev/null 2>&1 || packages+=("$2")
}
want gcc gcc
# cc needs the C library's headers and start files too: the bundled SQLite is C, and procd is linked statically.
[ -e /usr/include/stdio.h ] || packages+=(libc6-dev)
want python3 python3
want curl curl
if [ "$purpose" = test ]; then
  if command -v python3 >/dev/null 2>&1; then
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
  else
    packages+=(python3-venv)
  fi
  want node nodejs
  want npm npm
  # Images: a real registry, a tool that pushes to it, and Debian roots.
  want docker-registry docker-registry
  want skopeo skopeo
  want mmdebstrap mmdebstrap
  want dpkg-deb dpkg
  # Certificates: an authority for tests, with its name server.
  want pebble pebble
  # What sandboxes talk to, and with: databases, a broker, git over HTTPS and SSH, name servers.
  want ip iproute2
  want redis-server redis-server
  want redis-cli redis-tools
  want mosquitto mosquitto
  want mosquitto_pub mosquitto-clients
  want git git
  want ssh openssh-client
  [ -x /usr/sbin/sshd ] || packages+=(openssh-server)
  compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || packages+=(postgresql)
  want dig bind9-dnsutils
  want openssl openssl
  want rsync rsync
  # A web application under load, and in a browser.
  want wrk wrk
  want chromium chromium
fi

if [ ${#packages[@]} -gt 0 ]; then
  command -v apt-get >/dev/null 2>&1 || fail "missing: ${packages[*]}. There is no apt-get here; install them with your distribution's tools and run make again"
  as_root=
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || fail "missing: ${packages[*]}. Run as root: apt-get install ${packages[*]}"
    as_root=sudo
  fi
  echo "prerequisites: installing ${packages[*]} with apt-get"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  install() { DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y --no-install-recommends "${packages[@]}" >"$log" 2>&1; }
  # The lists may be old or absent; they are read only when the packages cannot be had without.
  if ! install && ! { $as_root apt-get update >>"$log" 2>&1 && install; }; then
    tail -n 15 "$log" >&2
    fail "apt-get could not install ${packages[*]} (its last words are above)"
  fi
fi

if ! command -v cargo >/dev/null 2>&1 && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
  fail "missing: the Rust toolchain, $rust_min or newer. Install it from https://rustup.rs (curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y) and run make again"
fi
PATH=$PATH:$HOME/.cargo/bin
found=$(rustc --version | awk '{print $2}')
if [ "$(printf '%s\n%s\n' "$rust_min" "$found" | sort -V | head -n 1)" != "$rust_min" ]; then
  fail "Rust $found is too old: $rust_min or newer is needed (rustup update stable)"
fi
if [ "$purpose" = test ]; then
  cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || { echo "prerequisites: adding rustfmt and clippy"; rustup component add rustfmt clippy || fail "rustfmt or clippy is missing: rustup component add rustfmt clippy"; }
fi
if [ "$(id -u)" -ne 0 ]; then
  fail "sandboxes are made by root (cgroups, idmapped mounts, ranges of user ids): run make $purpose as root. \`sandbar doctor\` says what else this machine needs"
fi
