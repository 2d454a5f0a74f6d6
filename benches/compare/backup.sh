#!/usr/bin/env bash
# backup.sh - a full backup over the replication protocol: barkeep, pg_basebackup, Barman.
. "$(dirname "$0")/common.sh"
prepare
start_cluster
: >"$results/backup.tsv"

tools="pg_basebackup barkeep"
write_conf barkeep $'archiver = on'
if [ -x "$barman_bin/barman" ]; then
    tools="$tools barman"
    write_conf barman $'archiver = on'
fi

# Barman takes no backup before a first WAL file has been archived: each home gets one, as archive_command would do it.
give_first_wal() {
    local tool home
    printf '#!/bin/sh\nfor home in %s/home-*; do cp "%s/$1" "$home/main/incoming/$2.tmp" && mv "$home/main/incoming/$2.tmp" "$home/main/incoming/$2"; done\n' \
        "$BENCH_DIR" "$data" >"$BENCH_DIR/archive.new"
    for home in "$BENCH_DIR"/home-*; do as_user mkdir -p "$home/main/incoming"; done
    chmod 755 "$BENCH_DIR/archive.new"; mv "$BENCH_DIR/archive.new" "$BENCH_DIR/archive"
    sql -c "select pg_logical_emit_message(true, 'bench', 'x')" -c "select pg_switch_wal()" >/dev/null
    for home in "$BENCH_DIR"/home-*; do
        for _ in $(seq 100); do [ -n "$(ls "$home/main/incoming")" ] && break; sleep 0.1; done
    done
    as_user "$barkeep" -c "$BENCH_DIR/barkeep.conf" -q archive-wal main
    [ ! -x "$barman_bin/barman" ] || as_user "$barman_bin/barman" -q -c "$BENCH_DIR/barman.conf" archive-wal main
}
give_first_wal

for run in $(seq "$RUNS"); do
    for tool in $(rotate "$run" $tools); do
        sql -c checkpoint; sync
        case $tool in
        pg_basebackup)
            rm -rf "$BENCH_DIR/plain"
            measure backup "$tool" "$run" "$client_bin/pg_basebackup" -d "$conninfo" -D "$BENCH_DIR/plain" -Fp -X none -c fast
            rm -rf "$BENCH_DIR/plain" ;;
        barkeep)
            measure backup "$tool" "$run" "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" backup main
            rm -rf "$BENCH_DIR"/home-barkeep/main/base/2* "$BENCH_DIR"/home-barkeep/main/meta/2* ;;
        barman)
            measure backup "$tool" "$run" "$barman_bin/barman" -q -c "$BENCH_DIR/barman.conf" backup main
            rm -rf "$BENCH_DIR"/home-barman/main/base/2* "$BENCH_DIR"/home-barman/main/meta/2* ;;
        esac
    done
done
rm -f "$BENCH_DIR/archive"
printf '\n### Full backup, pgbench scale %s (%s), PostgreSQL %s\n\n' "$SCALE" "$(du -sh "$data/base" | cut -f1)" "$PG_MAJOR"
"$compare_dir/summary.py" "$results/backup.tsv" pg_basebackup
