#!/usr/bin/env bash
# windows.sh - what can be restored, and where a restore would stop, of 100,000 archived segments: with the index that barkeep makes of
# them, in one run of the program each.
#
#   SEGMENTS    archived segments           [100000]
#   BACKUPS     backups in the home         [100]
. "$(dirname "$0")/common.sh"
: "${SEGMENTS:=100000}" "${BACKUPS:=100}"
export SEGMENTS BACKUPS
prepare
home=$BENCH_DIR/home-windows
if [ ! -s "$home/facts" ]; then
    say "making a home with $BACKUPS backups and $SEGMENTS segments"
    rm -rf "$home"; mkdir -p "$home"
    BENCH_USER=$bench_user python3 "$compare_dir/make_wal.py" "$home"
    [ "$(id -u)" != 0 ] || chown -R "$bench_user" "$home"
fi
. "$home/facts"
run="$barkeep -c $home/barman.conf"
say "indexing what is not indexed yet"
as_user /usr/bin/time -f '%e s, %U s of processor, %M KiB' $run windows --index main >"$results/windows.txt"
# The oldest backup: all segments are between it and the target.
oldest=$(ls "$home/main/base" | head -n 1)
nowhere=$BENCH_DIR/nowhere
names=(windows windows-json plan-time plan-xid plan-lsn plan-name plan-unknown-name plan-auto-xid plan-auto-time)
commands=(
    "windows main"
    "-f json windows main"
    "restore --plan --target-time '$late_time' main $oldest $nowhere"
    "restore --plan --target-xid $late_xid main $oldest $nowhere"
    "restore --plan --target-lsn $late_lsn main $oldest $nowhere"
    "restore --plan --target-name '$late_name' main $oldest $nowhere"
    "restore --plan --target-name nowhere main $oldest $nowhere"
    "restore --plan --target-xid $middle_xid main auto $nowhere"
    "restore --plan --target-time '$late_time' main auto $nowhere"
)
args=()
for at in "${!names[@]}"; do args+=(-n "${names[$at]}" "$run ${commands[$at]}"); done
# A target that nobody knows is refused, which is an answer too.
as_user hyperfine --shell none --ignore-failure --warmup 2 --runs "${RUNS}0" --style basic --export-json "$BENCH_DIR/windows.json" \
    "${args[@]}" >"$results/windows.out" 2>&1 || { cat "$results/windows.out" >&2; die "hyperfine failed"; }
printf '\n### %s archived segments, %s backups\n\n| command | median ms | worst ms | processor ms |\n|---|---|---|---|\n' "$SEGMENTS" "$BACKUPS"
python3 - "$BENCH_DIR/windows.json" <<'PY'
import json, sys
for result in json.load(open(sys.argv[1]))["results"]:
    processor = result["user"] + result["system"]
    print(f"| `{result['command']}` | {result['median'] * 1000:.0f} | {result['max'] * 1000:.0f} | {processor * 1000:.0f} |")
PY
