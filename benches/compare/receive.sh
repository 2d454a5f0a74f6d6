#!/usr/bin/env bash
# receive.sh - WAL received with a slot while COPY loads a table, until the last segment is complete on disk.
#
#   LOAD_ROWS   rows of about 105 bytes that COPY loads   [8000000]
. "$(dirname "$0")/common.sh"
: "${LOAD_ROWS:=8000000}"
prepare
start_cluster
: >"$results/receive.tsv"
load=$BENCH_DIR/load-$LOAD_ROWS.tsv
[ -s "$load" ] || sql -c "copy (select g, repeat(md5(g::text), 3) from generate_series(1, $LOAD_ROWS) g) to '$load.new'" -c "select 1" >/dev/null
[ -s "$load" ] || mv "$load.new" "$load"

tools="pg_receivewal barkeep"
[ ! -x "$barman_bin/barman" ] || tools="$tools barman"
receiver=
stop_all() { [ -z "$receiver" ] || kill -INT "$receiver" 2>/dev/null || true; stop_cluster; }

# CPU and memory of a running process tree, from /proc: "user sys rss_kb" of its largest member.
tree_usage() { # root pid
    python3 - "$1" <<'PY'
import os, sys
tick = os.sysconf("SC_CLK_TCK")
def stat(pid):
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
children = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try: children.setdefault(int(stat(pid)[1]), []).append(int(pid))
    except OSError: pass
todo, user, system, peak = [int(sys.argv[1])], 0, 0, 0
while todo:
    pid = todo.pop(); todo += children.get(pid, [])
    fields = stat(pid); user += int(fields[11]); system += int(fields[12])
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM"): peak = max(peak, int(line.split()[1]))
print(user / tick, system / tick, peak)
PY
}

one() { # tool, run
    local tool=$1 run=$2 dir slot=bench_$1
    drop_slot "$slot"
    sql -c "set client_min_messages = warning" -c "drop table if exists loaded" -c "create table loaded (id bigint, filler text)" -c checkpoint -c "select pg_switch_wal()" >/dev/null
    sql -c "select pg_create_physical_replication_slot('$slot', true)" >/dev/null
    case $tool in
    pg_receivewal)
        dir=$BENCH_DIR/received; rm -rf "$dir"; as_user mkdir "$dir"
        set -- "$client_bin/pg_receivewal" -d "$conninfo" -D "$dir" -S "$slot" ;;
    barkeep|barman)
        write_conf "$tool" "streaming_archiver = on"$'\n'"slot_name = $slot"
        dir=$BENCH_DIR/home-$tool/main/streaming
        local program=$barkeep; [ "$tool" = barkeep ] || program=$barman_bin/barman
        # Makes the home's directories first; Barman's own check is what does it there.
        as_user "$program" -q -c "$BENCH_DIR/$tool.conf" check main >/dev/null 2>&1 || true
        set -- "$program" -q -c "$BENCH_DIR/$tool.conf" receive-wal main ;;
    esac
    sync
    "${user_words[@]}" "$@" >"$results/receive-$tool.out" 2>&1 &
    receiver=$!
    for _ in $(seq 200); do [ "$(sql -c "select count(*) from pg_stat_replication")" = 1 ] && break; sleep 0.05; done
    sleep 0.5
    local before=$EPOCHREALTIME from; from=$(sql -c "select pg_current_wal_lsn()")
    sql -c "copy loaded from '$load'"
    local last; last=$(sql -c "select pg_walfile_name(pg_switch_wal())")
    for _ in $(seq 6000); do [ -e "$dir/$last" ] && break; sleep 0.01; done
    local after=$EPOCHREALTIME
    [ -e "$dir/$last" ] || die "$tool did not receive $last in a minute; see $results/receive-$tool.out"
    local usage mb seconds
    usage=$(tree_usage "$receiver")
    mb=$(sql -c "select round((pg_current_wal_lsn() - '$from'::pg_lsn) / 1e6)")
    seconds=$(awk -v a="$before" -v b="$after" 'BEGIN { printf "%.3f", b - a }')
    [ "$tool" != barman ] || as_user "$barman_bin/barman" -q -c "$BENCH_DIR/barman.conf" receive-wal --stop main >/dev/null 2>&1 || true
    kill -INT "$receiver" 2>/dev/null || true; wait "$receiver" 2>/dev/null || true; receiver=
    for _ in $(seq 100); do [ "$(sql -c "select count(*) from pg_stat_replication")" = 0 ] && break; sleep 0.1; done
    drop_slot "$slot"; rm -rf "$dir"
    record receive "$tool" "$run" "$seconds" $usage "$(awk -v m="$mb" -v s="$seconds" 'BEGIN { printf "%.1f", m / s }')"
}

trap stop_all EXIT
for run in $(seq "$RUNS"); do
    for tool in $(rotate "$run" $tools); do one "$tool" "$run"; done
done
sql -c "drop table if exists loaded"
printf '\n### Receiving WAL under a COPY load, PostgreSQL %s\n\n' "$PG_MAJOR"
"$compare_dir/summary.py" "$results/receive.tsv" pg_receivewal
