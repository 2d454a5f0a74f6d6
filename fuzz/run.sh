#!/usr/bin/env bash
# run.sh - fuzzes every target, or those that are named.
#
# usage: fuzz/run.sh [--smoke] [target...]
#
#   TIME   seconds for each target (also FUZZ_SECONDS)   [60, or 2 with --smoke]
#
# With a nightly compiler it runs libFuzzer by cargo-fuzz (installed if missing), which learns from what its inputs reach. With
# --smoke, or where there is no nightly, the stable compiler runs the same targets on the corpus and on inputs changed at random.
set -euo pipefail
cd "$(dirname "$0")/.."

smoke=
[ "${1:-}" != --smoke ] || { smoke=1; shift; }
rustup toolchain list 2>/dev/null | grep -q nightly || {
    [ -n "$smoke" ] || echo "no nightly compiler (rustup toolchain install nightly): random changes only" >&2
    smoke=${smoke:-instead}
}
seconds=${TIME:-${FUZZ_SECONDS:-}}
[ -n "$seconds" ] || { [ "$smoke" = 1 ] && seconds=2 || seconds=60; }

# Small texts to begin with; and real WAL, which teaches more than any patience. Without servers it does without.
mkdir -p fuzz/corpus
cp -r fuzz/seeds/. fuzz/corpus/
if [ "$smoke" != 1 ] && [ -z "$(ls fuzz/corpus/records/13-* 2>/dev/null)" ]; then
    FUZZ_CORPUS=$PWD/fuzz/corpus cargo test --quiet -p pgwal --all-features --test it seeds >/dev/null || echo "no seeds of real WAL" >&2
fi

if [ -n "$smoke" ]; then
    # In the workspace's directory, where most of what it is made of has been built.
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
    cargo build --quiet --locked --manifest-path fuzz/Cargo.toml --no-default-features --bin smoke
    exec "$CARGO_TARGET_DIR/debug/smoke" "$seconds" fuzz/corpus "$@"
fi

export LSAN_OPTIONS=${LSAN_OPTIONS:-suppressions=$PWD/fuzz/leaks.txt}
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list | grep -vx smoke)
for target in "${targets[@]}"; do
    printf '=== %s\n' "$target"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=1024
done
