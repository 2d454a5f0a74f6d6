#!/usr/bin/env bash
# copy.sh - a full backup by copying files on one machine: barkeep, cp -a, pgBackRest with two processes, Barman.
#
#   The cluster is that of backup.sh. pgBackRest and rsync (for Barman) are taken if they are there.
. "$(dirname "$0")/common.sh"
prepare
start_cluster
: >"$results/copy.tsv"

# An empty repository: every backup is the first.
new_stanza() {
    local directory
    for directory in "$repository" "$BENCH_DIR/pgbackrest-lock" "$BENCH_DIR/pgbackrest-log"; do
        rm -rf "$directory"; as_user mkdir "$directory"
    done
    as_user pgbackrest --config="$BENCH_DIR/pgbackrest.conf" --stanza=main --no-online stanza-create
}

tools="cp barkeep"
write_conf barkeep $'archiver = on\nbackup_method = local-rsync'
if command -v pgbackrest >/dev/null; then
    tools="$tools pgbackrest"
    repository=$BENCH_DIR/pgbackrest
    cat >"$BENCH_DIR/pgbackrest.conf" <<CONF
[global]
repo1-path=$repository
lock-path=$BENCH_DIR/pgbackrest-lock
log-path=$BENCH_DIR/pgbackrest-log
log-level-console=warn
log-level-file=off
start-fast=y
archive-check=n
compress-type=none
process-max=2
[main]
pg1-path=$data
pg1-port=$port
pg1-socket-path=$BENCH_DIR
pg1-user=postgres
CONF
    new_stanza
fi

for run in $(seq "$RUNS"); do
    for tool in $(rotate "$run" $tools); do
        sql -c checkpoint; sync
        case $tool in
        cp)
            rm -rf "$BENCH_DIR/copied"
            measure copy "$tool" "$run" sh -c "cp -a '$data' '$BENCH_DIR/copied' && sync -f '$BENCH_DIR/copied'"
            rm -rf "$BENCH_DIR/copied" ;;
        barkeep)
            measure copy "$tool" "$run" "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" backup main
            rm -rf "$BENCH_DIR"/home-barkeep/main/base/2* "$BENCH_DIR"/home-barkeep/main/meta/2* ;;
        pgbackrest)
            measure copy "$tool" "$run" pgbackrest --config="$BENCH_DIR/pgbackrest.conf" --stanza=main --type=full backup
            new_stanza ;;
        esac
    done
done
printf '\n### Copy of files on one machine, pgbench scale %s (%s), PostgreSQL %s\n\n' "$SCALE" "$(du -sh "$data/base" | cut -f1)" "$PG_MAJOR"
"$compare_dir/summary.py" "$results/copy.tsv" cp
