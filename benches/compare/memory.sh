#!/usr/bin/env bash
# memory.sh - the memory that a copy of a million files takes, and of so many more or fewer. The cluster is simulated (no
# machine needs to have it), all else is real: the list, the copies, the manifest.
#
#   FILES   how many   [1000000]
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${FILES:=1000000}" "${BENCH_DIR:=/var/tmp/barkeep-bench}"
cargo build --quiet --release --locked -p pgbase --example simulated_copy
copy=$BENCH_DIR/simulated
mkdir -p "$BENCH_DIR"; rm -rf "$copy"
trap 'rm -rf "$copy"' EXIT
"${CARGO_TARGET_DIR:-target}/release/examples/simulated_copy" "$copy" "$FILES"
