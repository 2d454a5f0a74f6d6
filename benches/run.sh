#!/usr/bin/env bash
# run.sh - every side-by-side run, then one table. See README.md.
#
# usage: benches/run.sh [backup] [copy] [copy-ssh] [restore] [restore-ssh] [receive] [startup] [wal] [wal_archive] [wal_restore]   (default: all)
set -euo pipefail
cd "$(dirname "$0")/compare"
[ $# -gt 0 ] || set -- startup wal backup copy copy-ssh restore restore-ssh receive wal_archive wal_restore
for script in "$@"; do "./$script.sh"; done
