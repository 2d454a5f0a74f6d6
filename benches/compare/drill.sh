#!/usr/bin/env bash
# drill.sh - what a drill takes beside the same by hand: restore, start, replay to the end of the archive, look at every table and
# index with pg_amcheck, stop. Then a drill that verifies page checksums instead, beside restore and replay alone. By hand, too, the
# server syncs nothing: it is thrown away.
#
#   CLIENTS_SECONDS   how long pgbench fills the WAL that is replayed   [20]
: "${SCALE:=20}" "${CLIENTS_SECONDS:=20}"
. "$(dirname "$0")/common.sh"
prepare
start_cluster
: >"$results/drill.tsv"
write_conf barkeep $'archiver = on'
home=$BENCH_DIR/home-barkeep
archive_into "$home"
as_user "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" backup main --wait --wait-timeout 300
as_user "$client_bin/pgbench" -h "$BENCH_DIR" -p "$port" -U postgres -n -c 4 -T "$CLIENTS_SECONDS" postgres >/dev/null 2>&1
last=$(sql -c "select pg_walfile_name(pg_switch_wal())")
for _ in $(seq 300); do [ ! -e "$home/main/incoming/$last" ] || break; sleep 0.2; done
rm -f "$BENCH_DIR/archive"
stop_cluster; trap - EXIT
as_user "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" archive-wal main
say "$(ls "$home"/main/wals/0*/ | grep -c '^0') segments archived"

by_hand=$BENCH_DIR/by-hand.sh
cat >"$by_hand" <<SH
set -e
target=\$1; check=\$2
"$barkeep" -q -c "$BENCH_DIR/barkeep.conf" restore --skip-archive-wal main latest "\$target"
"$server_bin/pg_ctl" -s -w -t 600 -D "\$target" -l "\$target.log" -o "-c archive_mode=off -c fsync=off -c autovacuum=off -c port=\$(($port + 500)) -c unix_socket_directories='$BENCH_DIR'" start
[ "\$check" = no ] || "$client_bin/pg_amcheck" -h "$BENCH_DIR" -p \$(($port + 500)) -U postgres --all --install-missing >/dev/null
"$server_bin/pg_ctl" -s -w -m immediate -D "\$target" stop
rm -rf "\$target"
SH
target=$BENCH_DIR/restored
drill=("$barkeep" -q -c "$BENCH_DIR/barkeep.conf" drill main latest --target end --pg-bin "$server_bin")
for run in $(seq "$RUNS"); do
    for tool in $(rotate "$run" drill by-hand drill-checksums replay-only); do
        rm -rf "$target"; mkdir "$target"; chown "$bench_user" "$target"; chmod 700 "$target"; sync
        case $tool in
        drill) measure drill drill "$run" "${drill[@]}" ;;
        drill-checksums) measure drill drill-checksums "$run" "${drill[@]}" --check checksums ;;
        by-hand) measure drill by-hand "$run" bash "$by_hand" "$target" yes ;;
        replay-only) measure drill replay-only "$run" bash "$by_hand" "$target" no ;;
        esac
    done
done
rm -rf "$target" "$by_hand"
printf '\n### A drill, beside the same by hand (with pg_amcheck)\n\n'
"$compare_dir/summary.py" "$results/drill.tsv" by-hand
printf '\n### A drill, with amcheck or with page checksums, beside restore and replay alone\n\n'
"$compare_dir/summary.py" "$results/drill.tsv" replay-only
