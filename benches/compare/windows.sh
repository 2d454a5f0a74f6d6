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
names=(windows windows-json plan-time plan-xid plan-lsn plan-name plan-unknown-name plan-auto-xid)
commands=(
    "windows main"
    "-f json windows main"
    "restore --plan --target-time '$late_time' main $oldest $nowhere"
    "restore --plan --target-xid $late_xid main $oldest $nowhere"
    "restore --plan --target-lsn $late_lsn main $oldest $nowhere"
    "restore --plan --target-name '$late_name' main $oldest $nowhere"
    "restore --plan --target-name nowhere main $oldest $nowhere"
    "restore --plan --target-xid $middle_xid main auto $nowhere"
)
for at in "${!names[@]}"; do
    as_user hyperfine --warmup 2 --runs "${RUNS}0" --ignore-failure -N --export-json "$results/${names[$at]}.json" \
        --command-name "${names[$at]}" "$run ${commands[$at]}" 2>/dev/null | grep -E 'Time|Range|^Benchmark'
done
