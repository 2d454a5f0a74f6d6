#!/usr/bin/env bash
# copy.sh - a full backup by copying files on one machine: cp -a, barkeep and pgBackRest with two processes (if it is there),
# both of these also with zstd (but not with TABLES).
. "$(dirname "$0")/common.sh"
prepare
start_cluster
bench=copy; [ "$TABLES" = 0 ] || bench=copy-$TABLES-tables
: >"$results/$bench.tsv"

# An empty repository: every backup is the first.
new_stanza() {
    local directory
    for directory in "$repository" "$BENCH_DIR/pgbackrest-lock" "$BENCH_DIR/pgbackrest-log"; do
        rm -rf "$directory"; as_user mkdir "$directory"
    done
    as_user pgbackrest --config="$BENCH_DIR/pgbackrest.conf" --stanza=main --no-online stanza-create
}

tools="cp barkeep"; [ "$TABLES" != 0 ] || tools="$tools barkeep-zstd"
write_conf barkeep-zstd $'archiver = on\nbackup_method = local-rsync\nbackup_compression = zstd'
write_conf barkeep $'archiver = on\nbackup_method = local-rsync'
if command -v pgbackrest >/dev/null; then
    tools="$tools pgbackrest"; [ "$TABLES" != 0 ] || tools="$tools pgbackrest-zstd"
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
            measure "$bench" "$tool" "$run" sh -c "cp -a '$data' '$BENCH_DIR/copied' && sync -f '$BENCH_DIR/copied'"
            rm -rf "$BENCH_DIR/copied" ;;
        barkeep*)
            measure "$bench" "$tool" "$run" "$barkeep" -q -c "$BENCH_DIR/$tool.conf" backup main
            rm -rf "$BENCH_DIR"/home-"$tool"/main/base/2* "$BENCH_DIR"/home-"$tool"/main/meta/2* ;;
        pgbackrest*)
            type=none; [ "$tool" = pgbackrest ] || type=zst
            measure "$bench" "$tool" "$run" pgbackrest --config="$BENCH_DIR/pgbackrest.conf" --stanza=main --compress-type="$type" --type=full backup
            new_stanza ;;
        esac
    done
done
size=$(du -sh "$data/base" | cut -f1) files=$(find "$data" -type f | wc -l)
printf '\n### Copy of files on one machine, %s in %s files, PostgreSQL %s\n\n' "$size" "$files" "$PG_MAJOR"
"$compare_dir/summary.py" "$results/$bench.tsv" cp
if [[ $tools == *pgbackrest* ]]; then
    for tool in pgbackrest pgbackrest-zstd; do [[ " $tools " == *" $tool "* ]] || continue; printf '\nof %s:\n\n' "$tool"; "$compare_dir/summary.py" "$results/$bench.tsv" "$tool"; done
fi
