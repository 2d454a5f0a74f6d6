#!/usr/bin/env bash
# wal_restore.sh - recovery through restore_command: single calls, and the replay of all segments from the start of a server on
# a base backup to the end of recovery. "pg_wal" is the replay of the same segments where they need no fetching; "ready" is the
# least that any restore_command costs: the segments lie on the same file system, on stable storage, and mv renames them.
#
#   SEGMENTS   how many                     [60]
#   TOOLS      of the replay, in any order  [pg_wal ready cp barkeep pgbackrest]
#   CALLS      of the single calls; may be empty  [start cp barkeep pgbackrest]
: "${SEGMENTS:=60}" "${TOOLS:=pg_wal ready cp barkeep pgbackrest}" "${CALLS=start cp barkeep pgbackrest}"
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/segments.sh"
prepare
prepare_pgbackrest
make_segments
replayed=$BENCH_DIR/replayed
replay_port=$((port + 100))
archives() { # fills one archive per tool, once
    write_conf barkeep "archiver = on"
    as_user mkdir -p "$BENCH_DIR/home-barkeep/main/incoming"
    as_user cp -p "$segments"/[0-9A-F]* "$BENCH_DIR/home-barkeep/main/incoming"
    as_user "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" archive-wal main
    write_pgbackrest "$data" "compress-type=none"
    local segment
    for segment in "$segments"/[0-9A-F]*; do
        as_user pgbackrest --config="$BENCH_DIR/pgbackrest.conf" --stanza=main archive-push "$segment"
    done
}
command_of() { # tool; by exec, without which the shell that PostgreSQL starts would start a process and wait for it
    case $1 in
    cp) echo "exec cp $segments/%f %p" ;;
    ready) echo "exec mv $BENCH_DIR/ready/%f %p" ;;
    barkeep) echo "exec $barkeep -q -c $BENCH_DIR/barkeep.conf wal-restore --local main %f %p" ;;
    pgbackrest) echo "exec pgbackrest --config=$BENCH_DIR/pgbackrest.conf --stanza=main --pg1-path=$replayed --archive-async --process-max=2 --archive-get-queue-max=128MiB archive-get %f %p" ;;
    pg_wal) echo false ;;
    esac
}
replay() { # tool, run
    as_user rm -rf "$replayed" "$BENCH_DIR/home-pgbackrest/spool"; as_user mkdir "$BENCH_DIR/home-pgbackrest/spool"
    as_user cp -a "$base" "$replayed"
    [ "$1" != pg_wal ] || as_user cp -p "$segments"/[0-9A-F]* "$replayed/pg_wal"
    [ "$1" != ready ] || { as_user rm -rf "$BENCH_DIR/ready"; as_user cp -pr "$segments" "$BENCH_DIR/ready"; }
    as_user touch "$replayed/recovery.signal"
    as_user sh -c "cat >>'$replayed/postgresql.auto.conf'" <<CONF
port = $replay_port
archive_mode = off
recovery_target_timeline = 'current'
restore_command = '$(command_of "$1")'
CONF
    # What was removed is over then, on a virtual machine also that its memory goes back to the host.
    sync; sleep 4
    local before=$EPOCHREALTIME
    as_user "$server_bin/pg_ctl" -s -W -D "$replayed" -l "$replayed/log" start
    # Waits without a processor of its own: recovery, what fetches for it and the disk share the few that there are.
    local lines=$BENCH_DIR/log-lines follower
    rm -f "$lines"; mkfifo "$lines"
    tail -s 0.05 -n +1 -F "$replayed/log" >"$lines" 2>/dev/null & follower=$!
    timeout 600 grep -q -m 1 -e 'archive recovery complete' -e 'database system is shut down' <"$lines"
    local after=$EPOCHREALTIME
    kill "$follower" 2>/dev/null || true; rm -f "$lines"
    grep -q 'archive recovery complete' "$replayed/log" || die "$1: recovery did not end; see $replayed/log"
    as_user "$server_bin/pg_ctl" -s -m immediate -D "$replayed" stop
    [ "$1" = pg_wal ] || [ "$(grep -c 'restored log file' "$replayed/log")" -ge "$SEGMENTS" ] || die "$1 restored too few files"
    record wal-replay "$1" "$2" "$(awk -v a="$before" -v b="$after" 'BEGIN { printf "%.3f", b - a }')" 0 0 0
}
single() { # tool, run: each call after the last, the next segments being prefetched meanwhile
    local got=$BENCH_DIR/got; as_user rm -rf "$got" "$BENCH_DIR/home-pgbackrest/spool"; as_user mkdir -p "$got/pg_wal" "$BENCH_DIR/home-pgbackrest/spool"
    local words
    case $1 in
    cp) words=(cp %p "$got/pg_wal/RECOVERYXLOG") ;;
    barkeep) words=("$barkeep" -q -c "$BENCH_DIR/barkeep.conf" wal-restore --local -p 2 main %f "$got/pg_wal/RECOVERYXLOG") ;;
    pgbackrest) words=(pgbackrest --config="$BENCH_DIR/pgbackrest.conf" --stanza=main --archive-async --process-max=2 --archive-get-queue-max=128MiB archive-get %f "$got/pg_wal/RECOVERYXLOG") ;;
    start) words=("$barkeep" --version) ;;
    esac
    # A pause between calls stands for the replay of a segment, and what was got is gone by then, as with a server.
    (cd "$BENCH_DIR" && "${user_words[@]}" env PAUSE=0.05 REMOVE="$got/pg_wal/RECOVERYXLOG" "$compare_dir/latency.py" run \
        "$results/wal-restore.txt" "$1" "$2" "$segments" "$SEGMENTS" "${words[@]}")
    as_user rm -rf "$got"
}
archives
: >"$results/wal-restore.txt"; : >"$results/wal-replay.tsv"; [ "$(id -u)" != 0 ] || chown "$bench_user" "$results/wal-restore.txt"
for number in $(seq "$RUNS"); do
    for tool in ${CALLS:+$(rotate "$number" $CALLS)}; do single "$tool" "$number"; done
    for tool in $(rotate "$number" $TOOLS); do replay "$tool" "$number"; done
done
as_user rm -rf "$replayed" "$BENCH_DIR/ready" "$BENCH_DIR/home-barkeep" "$BENCH_DIR/home-pgbackrest"
if [ -n "$CALLS" ]; then
    printf '\n### One restore_command call, 50 ms after the last\n\n'
    "$compare_dir/latency.py" summary "$results/wal-restore.txt" pgbackrest
fi
printf '\n### Replay of %s segments, PostgreSQL %s\n\n' "$SEGMENTS" "$PG_MAJOR"
"$compare_dir/summary.py" "$results/wal-replay.tsv" pg_wal
