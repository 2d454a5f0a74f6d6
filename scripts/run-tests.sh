#!/usr/bin/env bash
# run-tests.sh - every test of the workspace: units, real servers, documentation examples.
#
# usage: scripts/run-tests.sh [arguments for the test runner]
#
#   REQUIRE_PG   majors whose absence is a failure rather than a skip, as "13,15"
set -euo pipefail
cd "$(dirname "$0")/.."

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --all-features --locked "$@"
else
    cargo test --workspace --all-features --locked --lib --bins --tests "$@"
fi
cargo test --workspace --all-features --locked --doc
