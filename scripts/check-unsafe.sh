#!/usr/bin/env bash
# check-unsafe.sh - runs the tests of pgwal's three modules with unsafe code where such code shows what is wrong with it.
#
# Miri runs the checksum of short records and the fetching ahead: it knows the instructions. It knows neither leases nor
# mappings of files, so those run under AddressSanitizer only, which faults on what isn't mapped; there the others run as
# well. Needs a nightly compiler; what it lacks is named, and makes the run fail.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
# Directories of their own: these builds share nothing with ordinary ones.
target=${CARGO_TARGET_DIR:-$PWD/target}
missing=0

lacks() { printf 'NOT RUN: %s\n' "$1" >&2; missing=1; }

if cargo +nightly miri --version >/dev/null 2>&1; then
    # Miri tells of the features that the compiler was given, not of the processor's.
    RUSTFLAGS="-C target-feature=+sse4.2" CARGO_TARGET_DIR=$target/miri \
        cargo +nightly miri test -p pgwal --features fast --lib -- checksum::short ahead::
else
    lacks "Miri (rustup +nightly component add miri)"
fi

if cargo +nightly --version >/dev/null 2>&1; then
    RUSTFLAGS="-Z sanitizer=address" CARGO_TARGET_DIR=$target/asan \
        cargo +nightly test --locked --target "$host" -p pgwal --features fast --lib -- ahead:: checksum:: reader::mapped::
else
    lacks "AddressSanitizer (rustup toolchain install nightly)"
fi
exit "$missing"
