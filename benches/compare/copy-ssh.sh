#!/usr/bin/env bash
# copy-ssh.sh - copying files over SSH on loopback: barkeep, tar, Barman (rsync); a full backup, then a second one with
# reuse_backup = link after every 50th page was touched.
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/ssh.sh"
prepare
start_cluster
: >"$results/copy-ssh.tsv"; : >"$results/copy-ssh-second.tsv"

start_sshd
trap 'stop_sshd; stop_cluster' EXIT

tools="tar barkeep"
more="archiver = on
backup_method = rsync
reuse_backup = link
ssh_command = $ssh_words"
write_conf barkeep "$more"
if [ -x "$barman_bin/barman" ] && command -v rsync >/dev/null; then
    tools="$tools barman"
    write_conf barman "$more"
fi
# Barman takes no backup before a first WAL file has been archived.
printf '#!/bin/sh\nfor home in %s/home-*; do mkdir -p "$home/main/incoming"; cp "%s/$1" "$home/main/incoming/$2.tmp" && mv "$home/main/incoming/$2.tmp" "$home/main/incoming/$2"; done\n' \
    "$BENCH_DIR" "$data" >"$BENCH_DIR/archive.new"
chmod 755 "$BENCH_DIR/archive.new"; mv "$BENCH_DIR/archive.new" "$BENCH_DIR/archive"
sql -c "select pg_logical_emit_message(true, 'bench', 'x')" -c "select pg_switch_wal()" >/dev/null
sleep 3
as_user "$barkeep" -c "$BENCH_DIR/barkeep.conf" -q archive-wal main
[ ! -x "$barman_bin/barman" ] || as_user "$barman_bin/barman" -q -c "$BENCH_DIR/barman.conf" archive-wal main

backup() { # bench, tool, run
    case $2 in
    tar)
        [ "$1" = copy-ssh ] || return 0
        rm -rf "$BENCH_DIR/copied"; as_user mkdir "$BENCH_DIR/copied"
        measure "$1" "$2" "$3" sh -c "$ssh_words tar -C '$data' -c . 2>/dev/null | tar -C '$BENCH_DIR/copied' -x && sync -f '$BENCH_DIR/copied'"
        rm -rf "$BENCH_DIR/copied" ;;
    barkeep) measure "$1" "$2" "$3" "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" backup main ;;
    barman) measure "$1" "$2" "$3" "$barman_bin/barman" -q -c "$BENCH_DIR/barman.conf" backup main ;;
    esac
}
forget() { rm -rf "$BENCH_DIR"/home-*/main/base/2* "$BENCH_DIR"/home-*/main/meta/2*; }

for run in $(seq "$RUNS"); do
    forget
    for tool in $(rotate "$run" $tools); do sql -c checkpoint; sync; backup copy-ssh "$tool" "$run"; done
    # A row of every 50th page; there are 61 in one. Others in each run, since the new versions go to the end.
    sleep 2
    sql -c "update pgbench_accounts set abalance = abalance + 1 where aid % (61 * 50) = $run"
    for tool in $(rotate "$run" ${tools#tar}); do sql -c checkpoint; sync; backup copy-ssh-second "$tool" "$run"; done
done
forget
rm -f "$BENCH_DIR/archive"
printf '\n### Copy of files over SSH, pgbench scale %s (%s), PostgreSQL %s\n\n' "$SCALE" "$(du -sh "$data/base" | cut -f1)" "$PG_MAJOR"
"$compare_dir/summary.py" "$results/copy-ssh.tsv" tar
[[ $tools != *barman* ]] || { echo; "$compare_dir/summary.py" "$results/copy-ssh.tsv" barman; }
printf '\n### The second, after every 50th page was touched\n\n'
reference=barkeep; [[ $tools != *barman* ]] || reference=barman
"$compare_dir/summary.py" "$results/copy-ssh-second.tsv" "$reference"
