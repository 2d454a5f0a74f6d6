#!/usr/bin/env bash
# limit.sh - how near a backup by copying files comes to its bandwidth_limit, locally and over SSH on loopback: all that a
# backup takes is counted, connecting, its start and its stop as well.
#
#   LIMITS   KiB a second, one after the other   [20480 51200]
: "${LIMITS:=20480 51200}" "${SCALE:=30}"
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/ssh.sh"
prepare
start_cluster
start_sshd
trap "stop_sshd; stop_cluster" EXIT
sql -c checkpoint
printf '\n### Backups under a bandwidth_limit\n\n| method | limit MiB/s | MiB copied | s | MiB/s | of the limit |\n|---|---|---|---|---|---|\n'
for limit in $LIMITS; do
    for method in local-rsync rsync; do
        lines=$'archiver = on\nbackup_method = '$method$'\nbandwidth_limit = '$limit
        [ "$method" = local-rsync ] || lines="$lines"$'\n'"ssh_command = $ssh_words"
        write_conf limited "$lines"
        before=$EPOCHREALTIME
        as_user "$barkeep" -q -c "$BENCH_DIR/limited.conf" backup main >"$results/limit.log" 2>&1 || die "no backup; see $results/limit.log"
        after=$EPOCHREALTIME
        bytes=$(find "$BENCH_DIR/home-limited/main/base" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%d", sum }')
        awk -v m="$method" -v l="$limit" -v b="$bytes" -v t0="$before" -v t1="$after" 'BEGIN {
            mib = b / 1048576; s = t1 - t0; limit = l / 1024
            printf "| %s | %.0f | %.0f | %.2f | %.1f | %.3f |\n", m, limit, mib, s, mib / s, mib / s / limit }'
        rm -rf "$BENCH_DIR/home-limited" "$BENCH_DIR/limited.conf"
    done
done
