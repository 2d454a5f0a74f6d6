#!/usr/bin/env bash
# listing.sh - how long it takes to list a thousand backups with a hundred thousand WAL files.
#
#   BACKUPS, SEGMENTS   how many                             [1000, 100000]
#   WITH_BARMAN=1       Barman too, once: it takes minutes
. "$(dirname "$0")/common.sh"
prepare
home=$BENCH_DIR/listing-home
rm -rf "$home"; mkdir -p "$home"; [ "$(id -u)" != 0 ] || chown "$bench_user" "$home"
BENCH_USER=$bench_user python3 "$compare_dir/make_home.py" "$home"
[ "$(id -u)" != 0 ] || chown -R "$bench_user" "$home"
as_user env HOME="$BENCH_DIR" hyperfine --shell none --warmup 3 --min-runs 20 --style basic \
    --export-json "$BENCH_DIR/listing.json" "$barkeep -c $home/barman.conf list-backups main" \
    >"$results/listing.out" 2>&1 || { cat "$results/listing.out" >&2; die "hyperfine failed"; }
printf '\n### Listing %s backups and %s WAL files\n\n| command | median ms | worst ms |\n|---|---|---|\n' "${BACKUPS:-1000}" "${SEGMENTS:-100000}"
python3 - "$BENCH_DIR/listing.json" <<'PY'
import json, sys
for result in json.load(open(sys.argv[1]))["results"]:
    print(f"| `barkeep list-backups` | {result['median'] * 1000:.1f} | {result['max'] * 1000:.1f} |")
PY
if [ -n "${WITH_BARMAN:-}" ]; then
    started=$(date +%s.%N)
    as_user "$barman_bin/barman" -q -c "$home/barman.conf" list-backups main
    printf '| `barman list-backups` | %.0f | |\n' "$(python3 -c "import sys, time; print((time.time() - float(sys.argv[1])) * 1000)" "$started")"
fi
rm -rf "$home"
