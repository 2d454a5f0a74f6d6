#!/usr/bin/env bash
# wal.sh - reading 64 segments of mixed WAL (pgbench, bulk loads, page images) in page cache, on one core and on two.
#
#   WAL_SEGMENTS   how many segments are read             [64]
#   WAL_SCALE      pgbench scale of the server that makes them   [20]
. "$(dirname "$0")/common.sh"
: "${WAL_SEGMENTS:=64}"
SCALE=${WAL_SCALE:-20}
data=$BENCH_DIR/pg$PG_MAJOR-scale$SCALE
prepare
[ -x "$server_bin/pg_waldump" ] || die "PostgreSQL $PG_MAJOR here has no pg_waldump: try PG_MAJOR=15 or 18"
wal=$BENCH_DIR/wal-$PG_MAJOR-$WAL_SEGMENTS

# A third each: small transactions, bulk loading, and page images after checkpoints. One segment more than is read, so
# that the last record is whole.
make_wal() {
    start_cluster
    local first
    drop_slot bench_wal
    sql -c "select pg_create_physical_replication_slot('bench_wal', true)" >/dev/null
    first=$(sql -c "select pg_walfile_name(pg_switch_wal())")
    written() { sql -c "select count(*) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}\$' and name > '$first' and name < pg_walfile_name(pg_current_wal_lsn())"; }
    say "making $WAL_SEGMENTS segments of WAL"
    sql -c "set client_min_messages = warning" -c "drop table if exists loaded" -c "create table loaded (id bigint, filler text)"
    local round=0
    until [ "$(written)" -gt "$((WAL_SEGMENTS + 1))" ]; do
        round=$((round + 1))
        as_user "$client_bin/pgbench" -h "$BENCH_DIR" -p "$port" -U postgres -n -c 4 -t 5000 postgres >/dev/null 2>&1
        sql -c "insert into loaded select g, repeat(md5(g::text), 3) from generate_series(1, 150000) g"
        [ $((round % 2)) = 0 ] || sql -c "create index on loaded (id)" -c checkpoint
    done
    rm -rf "$wal" "$wal.new"; mkdir "$wal.new"
    local count=0 segment
    for segment in "$data"/pg_wal/[0-9A-F]*; do
        segment=${segment##*/}
        [[ $segment =~ ^[0-9A-F]{24}$ && $segment > $first ]] || continue
        count=$((count + 1))
        [ "$count" -le "$((WAL_SEGMENTS + 1))" ] || break
        cp "$data/pg_wal/$segment" "$wal.new/"
    done
    sql -c "drop table loaded"; drop_slot bench_wal
    [ "$(id -u)" != 0 ] || chown -R "$bench_user" "$wal.new"
    mv "$wal.new" "$wal"
    stop_cluster; trap - EXIT INT TERM
}
[ -d "$wal" ] || make_wal

# Read from the disk once, as an archive is that was written some time ago: that is how it lies in the page cache.
for segment in "$wal"/*; do dd if="$segment" iflag=nocache count=0 status=none; done
cat "$wal"/* >/dev/null
segments=("$wal"/*)
read_segments=("${segments[@]:0:WAL_SEGMENTS}")
first=${read_segments[0]##*/} last=${read_segments[-1]##*/}
one_core=(taskset -c "$(($(nproc) - 1))")

one() { # tool, run
    case $1 in
    pg_waldump) measure wal "$1" "$2" "${one_core[@]}" "$server_bin/pg_waldump" --stats -p "$wal" "$first" "$last" ;;
    verify) measure wal "$1" "$2" "${one_core[@]}" "$barkeep" wal verify --jobs 1 "${read_segments[@]}" ;;
    verify-2-cores) measure wal "$1" "$2" taskset -c "$(($(nproc) > 1 ? $(nproc) - 2 : 0))-$(($(nproc) - 1))" "$barkeep" wal verify --jobs 2 "${read_segments[@]}" ;;
    index) measure wal "$1" "$2" "${one_core[@]}" "$barkeep" wal index --merge "${read_segments[@]}" ;;
    index-blocks) measure wal "$1" "$2" "${one_core[@]}" "$barkeep" wal index --merge --blocks "${read_segments[@]}" ;;
    stats) measure wal "$1" "$2" "${one_core[@]}" "$barkeep" wal stats "${read_segments[@]}" ;;
    find) measure wal "$1" "$2" "${one_core[@]}" "$barkeep" wal find "${read_segments[@]}" ;;
    esac
}

: >"$results/wal.tsv"
for run in $(seq "$RUNS"); do
    for tool in $(rotate "$run" pg_waldump verify verify-2-cores index index-blocks stats find); do one "$tool" "$run"; done
done
printf '\n### Reading %s segments of WAL of PostgreSQL %s in page cache\n\n' "$WAL_SEGMENTS" "$PG_MAJOR"
"$compare_dir/summary.py" "$results/wal.tsv" pg_waldump cpu
