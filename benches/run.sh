#!/usr/bin/env bash
# run.sh - every side-by-side run, then one table. See README.md.
#
# usage: benches/run.sh [backup] [copy] [copy-ssh] [receive] [startup]        (default: all)
set -euo pipefail
cd "$(dirname "$0")/compare"
[ $# -gt 0 ] || set -- startup backup copy copy-ssh receive
for script in "$@"; do "./$script.sh"; done
