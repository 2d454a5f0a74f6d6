#!/usr/bin/env bash
# catalogue.sh - the quick commands on a large home: 100 backups, 100,000 archived WAL files, and barkeep's index of each; and
# cron with 50 servers that have nothing to do.
#
#   BACKUPS     backups in the home         [100]
#   WALS        archived WAL files          [100000]
#   SERVERS     idle servers for cron       [50]
. "$(dirname "$0")/common.sh"
: "${BACKUPS:=100}" "${WALS:=100000}" "${SERVERS:=50}"
SCALE=${STARTUP_SCALE:-1}
data=$BENCH_DIR/pg$PG_MAJOR-scale$SCALE
prepare
start_cluster
system_id=$(sql -c "select system_identifier from pg_control_system()")
write_conf catalogue "archiver = on"
home=$BENCH_DIR/home-catalogue/main
as_user "$barkeep" -q -c "$BENCH_DIR/catalogue.conf" check main >/dev/null 2>&1 || true
say "making a home with $BACKUPS backups and $WALS WAL files"
python3 - "$home" "$BACKUPS" "$WALS" "$system_id" <<'PY'
import datetime, os, sys
home, backups, wals, system_id = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
name = lambda i: "00000001%08X%08X" % (i // 256, i % 256)
lsn = lambda i, offset: "%X/%X" % (i // 256, (i % 256) << 24 | offset)
start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
for n in range(backups):
    at = start + datetime.timedelta(hours=n)
    first, id = 1 + n * (wals // backups), at.strftime("%Y%m%dT%H%M%S")
    os.makedirs(f"{home}/base/{id}/data")
    facts = dict(backup_label=None, begin_offset=40, begin_time=at, begin_wal=name(first), begin_xlog=lsn(first, 40),
        children_backup_ids=None, cluster_size=1591000000, compression=None, config_file=None, copy_stats=None,
        data_checksums="on", deduplicated_size=1591000000, encryption=None, end_offset=256,
        end_time=at + datetime.timedelta(minutes=3), end_wal=name(first), end_xlog=lsn(first, 256), error=None,
        hba_file=None, ident_file=None, included_files=None, mode="postgres", parent_backup_id=None, pgdata="/srv/pg",
        server_name="main", size=1591000000, status="DONE", summarize_wal=None, systemid=system_id, tablespaces=None,
        timeline=1, version=150020, xlog_segment_size=16777216)
    with open(f"{home}/meta/{id}-backup.info", "w") as file:
        file.writelines(f"{key}={value}\n" for key, value in sorted(facts.items()))
with open(f"{home}/wals/main-xlog.db", "w") as list:
    for i in range(1, wals + 1):
        directory = f"{home}/wals/{name(i)[:16]}"
        if not os.path.isdir(directory): os.mkdir(directory)
        open(f"{directory}/{name(i)}", "w").close()
        list.write(f"{name(i)}\t5592405\t{start.timestamp() + i * 60 + 0.25}\tzstd\tNone\n")
PY
[ "$(id -u)" != 0 ] || chown -R "$bench_user" "$home"
# What the indexes would be, had there been so much WAL: one of a real segment, moved to every place.
sample=$BENCH_DIR/sample-segment
sql -c "set client_min_messages = warning" -c "drop table if exists loaded" -c "create table loaded as select g, md5(g::text) from generate_series(1, 300000) g" -c "select pg_switch_wal()" -c "drop table loaded" >/dev/null
cp "$data/pg_wal/$(sql -c "select name from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$' order by modification desc limit 1 offset 2")" "$sample"
chmod 644 "$sample"
fill=$BENCH_DIR/fill_index_store
[ -x "$fill" ] && [ "$fill" -nt "$top/catalog/examples/fill_index_store.rs" ] || {
    (cd "$top" && cargo build --quiet --release --locked -p barkeep-catalog --example fill_index_store)
    cp "${CARGO_TARGET_DIR:-$top/target}/release/examples/fill_index_store" "$fill"
}
as_user "$fill" "$home" "$sample" "$WALS"

names=(list-backups check status)
commands=("list-backups main" "check main" "status main")
args=()
for tool in barkeep barman; do
    program=$barkeep; [ "$tool" = barkeep ] || program=$barman_bin/barman
    [ -x "$program" ] || continue
    for i in "${!commands[@]}"; do
        args+=(-n "$tool ${names[i]}" "$program -c $BENCH_DIR/catalogue.conf ${commands[i]}")
    done
done
as_user env HOME="$BENCH_DIR" hyperfine --shell none --ignore-failure --warmup 2 --min-runs "$RUNS" --max-runs $((RUNS * 4)) --style basic \
    --export-json "$BENCH_DIR/catalogue.json" "${args[@]}" >"$results/catalogue.out" 2>&1 || { cat "$results/catalogue.out" >&2; die "hyperfine failed"; }
printf '\n### A home with %s backups and %s archived WAL files\n\n| command | median ms | worst ms |\n|---|---|---|\n' "$BACKUPS" "$WALS"
python3 - "$BENCH_DIR/catalogue.json" <<'PY'
import json, sys
for result in json.load(open(sys.argv[1]))["results"]:
    print(f"| `{result['command']}` | {result['median'] * 1000:.1f} | {result['max'] * 1000:.1f} |")
PY
rm -rf "$home" "$sample"

# Servers that have nothing to do: what a minute costs.
: >"$results/cron.tsv"
for tool in barkeep barman; do
    write_conf "$tool" "archiver = on"
    server=$(sed '1,/^\[main\]/d' "$BENCH_DIR/$tool.conf")
    for n in $(seq 2 "$SERVERS"); do printf '[idle%s]\n%s\n' "$n" "$server"; done >>"$BENCH_DIR/$tool.conf"
    program=$barkeep; [ "$tool" = barkeep ] || program=$barman_bin/barman
    as_user "$program" -q -c "$BENCH_DIR/$tool.conf" cron >/dev/null 2>&1 || true
    sleep 2
done
for run in $(seq "$RUNS"); do
    for tool in $(rotate "$run" barkeep barman); do
        program=$barkeep; [ "$tool" = barkeep ] || program=$barman_bin/barman
        measure cron "$tool" "$run" "$program" -q -c "$BENCH_DIR/$tool.conf" cron
        sleep 3 # What Barman's cron has started goes on in the background; its time is not counted.
    done
done
printf '\n### cron with %s idle servers\n\n' "$SERVERS"
"$compare_dir/summary.py" "$results/cron.tsv" barman
