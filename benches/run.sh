#!/usr/bin/env bash
# run.sh - every side-by-side run, then one table. See README.md.
#
# usage: benches/run.sh [backup] [receive] [startup]        (default: all)
set -euo pipefail
cd "$(dirname "$0")/compare"
[ $# -gt 0 ] || set -- startup backup receive
for script in "$@"; do "./$script.sh"; done
