#!/usr/bin/env bash
# restore-ssh.sh - a restore of one backup to another machine, over SSH on loopback: barkeep, and Barman (rsync) if it is there.
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/ssh.sh"
prepare
start_cluster
: >"$results/restore-ssh.tsv"

# One backup with its WAL, in a home that both tools restore from.
write_conf barkeep $'archiver = on\nbackup_method = local-rsync'
home=$BENCH_DIR/home-barkeep
archive_into "$home"
sql -c checkpoint -c "select pg_switch_wal()" >/dev/null
as_user "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" backup main --wait --wait-timeout 300
rm -f "$BENCH_DIR/archive"
stop_cluster
start_sshd
trap stop_sshd EXIT

tools="barkeep"
if [ -x "$barman_bin/barman" ] && command -v rsync >/dev/null; then tools="$tools barman"; fi
target=$BENCH_DIR/restored
for run in $(seq "$RUNS"); do
    for tool in $(rotate "$run" $tools); do
        rm -rf "$target"; as_user mkdir "$target"; as_user chmod 700 "$target"; sync
        program=$barkeep; [ "$tool" = barkeep ] || program=$barman_bin/barman
        measure restore-ssh "$tool" "$run" "$program" -q -c "$BENCH_DIR/barkeep.conf" restore --skip-archive-wal --remote-ssh-command "$ssh_words" main latest "$target"
    done
done
rm -rf "$target"
printf '\n### Restore over SSH, pgbench scale %s (%s), PostgreSQL %s\n\n' "$SCALE" "$(du -sh "$data/base" | cut -f1)" "$PG_MAJOR"
reference=barkeep; [[ $tools != *barman* ]] || reference=barman
"$compare_dir/summary.py" "$results/restore-ssh.tsv" "$reference"
