#!/bin/sh
# Builds the guest: QuickJS-ng and shim.c as one WebAssembly module, and writes down what it was made of.
#
#   build.sh           build, into crates/scripts/src/quickjs/guest.{wasm,lock}
#   build.sh --check   compare what is committed here with guest.lock; needs nothing but sha256sum
#
# The compiler is Zig's, from PyPI; the sources are those that the crate rquickjs-sys carries, from the registry. Both are
# fetched into a temporary folder. The same inputs give the same bytes.
set -eu

zig_version=0.17.1
crate_version=0.14.0
flags="-target wasm32-wasi -mexec-model=reactor -O2 -s -std=gnu11 -D_GNU_SOURCE -DNDEBUG -Wl,-z,stack-size=3145728 -Wno-everything"

here=$(cd "$(dirname "$0")" && pwd)
out=$here/../../crates/scripts/src/quickjs

sum() { sha256sum <"$1" | cut -d' ' -f1; }

# What is committed: these lines of the lock can be checked without a compiler.
committed() {
    for file in build.sh shim.c hooks.c stack-limit.patch interrupt-line.patch; do
        echo "guests/quickjs/$file $(sum "$here/$file")"
    done
    echo "guest.wasm $(sum "$out/guest.wasm")"
}

if [ "${1:-}" = --check ]; then
    committed | while read -r line; do
        grep -qxF "$line" "$out/guest.lock" || { echo "guest.lock does not know this ${line%% *}: run guests/quickjs/build.sh" >&2; exit 1; }
    done
    exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv zig
zig/bin/pip --quiet --disable-pip-version-check install "ziglang==$zig_version"
export ZIG_GLOBAL_CACHE_DIR="$work/cache" ZIG_LOCAL_CACHE_DIR="$work/cache"

mkdir -p fetch/src
touch fetch/src/lib.rs
printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[dependencies]\nrquickjs-sys = "=%s"\n' "$crate_version" >fetch/Cargo.toml
(cd fetch && cargo vendor --quiet vendor >/dev/null)
mv fetch/vendor/rquickjs-sys/quickjs source
for file in source/*.[ch]; do
    echo "$file $(sum "$file")"
done >inputs
patch --quiet -d source -p1 <"$here/stack-limit.patch"
patch --quiet -d source -p1 <"$here/interrupt-line.patch"
cp "$here/shim.c" "$here/hooks.c" source/

# shim.c includes quickjs.c and hooks.c.
# shellcheck disable=SC2086
(cd source && "$work/zig/bin/python" -m ziglang cc $flags -o guest.wasm shim.c libregexp.c libunicode.c dtoa.c)
cat source/guest.wasm >"$out/guest.wasm"
{
    echo "# Written by guests/quickjs/build.sh: what guest.wasm was made of, and its own sum (SHA-256)."
    echo "zig $zig_version"
    echo "rquickjs-sys $crate_version"
    echo "flags $flags"
    committed
    cat inputs
} >"$out/guest.lock"
ls -l "$out/guest.wasm"
