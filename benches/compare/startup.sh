#!/usr/bin/env bash
# startup.sh - how long the quick commands take, from start to exit, on a home with one backup.
. "$(dirname "$0")/common.sh"
SCALE=${STARTUP_SCALE:-1}
data=$BENCH_DIR/pg$PG_MAJOR-scale$SCALE
prepare
start_cluster
write_conf barkeep "streaming_archiver = on"$'\n'"slot_name = bench_startup"$'\n'"create_slot = auto"
as_user "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" backup main >"$results/startup.out" 2>&1 || { cat "$results/startup.out" >&2; die "no backup to list"; }
drop_slot bench_startup

commands=("$barkeep --version" "$barkeep -c $BENCH_DIR/barkeep.conf list-backups main")
names=("barkeep --version" "barkeep list-backups")
if [ -x "$barman_bin/barman" ]; then
    # The same home, read by both.
    commands+=("$barman_bin/barman --version" "$barman_bin/barman -c $BENCH_DIR/barkeep.conf list-backups main")
    names+=("barman --version" "barman list-backups")
fi
args=()
for i in "${!commands[@]}"; do args+=(-n "${names[i]}" "${commands[i]}"); done
as_user env HOME="$BENCH_DIR" hyperfine --shell none --warmup 3 --min-runs 20 --style basic \
    --export-json "$BENCH_DIR/startup.json" "${args[@]}" >"$results/startup.out" 2>&1 || { cat "$results/startup.out" >&2; die "hyperfine failed"; }
printf '\n### Starting up\n\n| command | median ms | worst ms |\n|---|---|---|\n'
python3 - "$BENCH_DIR/startup.json" <<'PY'
import json, sys
for result in json.load(open(sys.argv[1]))["results"]:
    print(f"| `{result['command']}` | {result['median'] * 1000:.1f} | {result['max'] * 1000:.1f} |")
PY
