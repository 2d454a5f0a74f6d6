#!/usr/bin/env bash
# run.sh - a short run of every fuzz target, or a long one of some.
#
# usage: fuzz/run.sh [target...]
#
#   FUZZ_SECONDS   for each target   [60]
#
# Needs a nightly toolchain and cargo-fuzz: cargo install cargo-fuzz --locked
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fuzz --version >/dev/null 2>&1 || { echo "no cargo-fuzz: cargo install cargo-fuzz --locked" >&2; exit 1; }
rustup toolchain list 2>/dev/null | grep -q nightly || { echo "no nightly compiler: rustup toolchain install nightly" >&2; exit 1; }

# Real WAL teaches the fuzzer more than any patience; without servers it does without.
[ -n "$(ls fuzz/corpus/records/13-* 2>/dev/null)" ] ||
    FUZZ_CORPUS=$PWD/fuzz/corpus cargo test --quiet -p pgwal --test it seeds >/dev/null || echo "no seeds of real WAL" >&2

targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
for target in "${targets[@]}"; do
    printf '=== %s\n' "$target"
    cargo +nightly fuzz run "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" -max_len=65536 -timeout=20 -rss_limit_mb=1024
done
