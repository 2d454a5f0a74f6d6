#!/usr/bin/env bash
# restore.sh - a restore of one backup: barkeep, Barman, pgBackRest where it is installed, and cp -a with a sync; then a
# delta restore over what is right already, beside reading both sides once.
. "$(dirname "$0")/common.sh"
prepare
start_cluster
bench=restore; [ "$TABLES" = 0 ] || bench=restore-$TABLES-tables
: >"$results/$bench.tsv"; : >"$results/$bench-delta.tsv"

# One backup with its WAL, in a home that both tools restore from.
write_conf barkeep $'archiver = on'
home=$BENCH_DIR/home-barkeep
archive_into "$home"
sql -c checkpoint -c "select pg_switch_wal()" >/dev/null
as_user "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" backup main --wait --wait-timeout 300
rm -f "$BENCH_DIR/archive"
backup=$(ls -d "$home"/main/base/2*)

tools="cp barkeep"
[ ! -x "$barman_bin/barman" ] || tools="$tools barman"
if command -v pgbackrest >/dev/null; then
    tools="$tools pgbackrest"
    rest="pgbackrest --config=/dev/null --stanza=main --repo1-path=$BENCH_DIR/pgbackrest --lock-path=$BENCH_DIR/pgbackrest-lock
        --log-path=$BENCH_DIR/pgbackrest-log --log-level-console=warn --log-level-file=off"
    for directory in pgbackrest pgbackrest-lock pgbackrest-log; do
        rm -rf "${BENCH_DIR:?}/$directory"; mkdir "$BENCH_DIR/$directory"; chown "$bench_user" "$BENCH_DIR/$directory"
    done
    source="--pg1-path=$data --pg1-port=$port --pg1-socket-path=$BENCH_DIR --pg1-user=postgres"
    as_user $rest $source stanza-create
    as_user $rest $source --no-archive-check --start-fast --type=full --compress-type=none --process-max=2 backup
fi
stop_cluster; trap - EXIT

target=$BENCH_DIR/restored
fresh() { rm -rf "$target"; mkdir "$target"; chown "$bench_user" "$target"; chmod 700 "$target"; sync; }
cold() { sync; echo 3 2>/dev/null >/proc/sys/vm/drop_caches || true; }
restore_barkeep() { measure "$1" barkeep "$run" "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" restore --skip-archive-wal "${@:2}" main latest "$target"; }
for run in $(seq "$RUNS"); do
    for tool in $(rotate "$run" $tools); do
        fresh
        case $tool in
        cp) measure "$bench" cp "$run" sh -c "cp -a '$backup/data/.' '$target' && sync -f '$target'" ;;
        barkeep) restore_barkeep "$bench" ;;
        barman) measure "$bench" barman "$run" "$barman_bin/barman" -q -c "$BENCH_DIR/barkeep.conf" restore --skip-archive-wal main latest "$target" ;;
        pgbackrest) measure "$bench" pgbackrest "$run" $rest "--pg1-path=$target" --process-max=2 restore ;;
        esac
    done
    # Both sides have to be read: that is the floor for a comparison that believes nothing.
    fresh; as_user "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" restore --skip-archive-wal main latest "$target"
    for tool in $(rotate "$run" read barkeep); do
        cold
        case $tool in
        read) measure "$bench-delta" read "$run" sh -c "find '$target/base' '$backup/data/base' -type f -print0 | xargs -0 -n 64 -P 2 cat >/dev/null" ;;
        barkeep) restore_barkeep "$bench-delta" --delta-restore ;;
        esac
    done
done
size=$(du -sh "$backup/data" | cut -f1); files=$(find "$backup/data" -type f | wc -l)
rm -rf "$target"
printf '\n### Restore of %s in %s files, PostgreSQL %s\n\n' "$size" "$files" "$PG_MAJOR"
"$compare_dir/summary.py" "$results/$bench.tsv" cp
printf '\n### Delta restore of the same over itself, nothing cached\n\n'
"$compare_dir/summary.py" "$results/$bench-delta.tsv" read
