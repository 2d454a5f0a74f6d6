#!/usr/bin/env bash
# wal_archive.sh - one archive_command call per segment, one after another: into a home on the same machine, and over SSH.
# barkeep verifies and indexes each segment as well.
#
#   SEGMENTS       how many calls of each tool         [200]
#   SLOW_SEGMENTS  how many of Barman's, over SSH      [20]
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/segments.sh"
: "${SLOW_SEGMENTS:=20}"
prepare
prepare_pgbackrest
make_segments
run() { # results, tool, run, limit, command...
    local file=$1 tool=$2 run=$3 limit=$4; shift 4
    sync
    "${user_words[@]}" env "PATH=$BENCH_DIR/bin:$PATH" "XDG_RUNTIME_DIR=$BENCH_DIR/bin" "$compare_dir/latency.py" run "$file" "$tool" "$run" "$segments" "$limit" "$@"
}
local_one() { # tool, run
    local compression=
    case $1 in *-zstd) compression="compression = zstd";; esac
    case $1 in
    cp)
        as_user rm -rf "$BENCH_DIR/copies"; as_user mkdir "$BENCH_DIR/copies"
        run "$results/wal-archive.txt" cp "$2" "$SEGMENTS" sh -c "cp %p $BENCH_DIR/copies/%f && sync $BENCH_DIR/copies/%f"
        rm -rf "$BENCH_DIR/copies" ;;
    barkeep|barkeep-zstd)
        write_conf barkeep "archiver = on"$'\n'"$compression"
        run "$results/wal-archive.txt" "$1" "$2" "$SEGMENTS" "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" wal-archive --local main %p
        [ "$(find "$BENCH_DIR/home-barkeep/main/wals" -type f -name '[0-9A-F]*' | wc -l)" = "$SEGMENTS" ] || die "not all is archived"
        rm -rf "$BENCH_DIR/home-barkeep" ;;
    pgbackrest|pgbackrest-zstd)
        local type=none; [ "$1" = pgbackrest ] || type=zst
        write_pgbackrest "$data" "compress-type=$type"
        run "$results/wal-archive.txt" "$1" "$2" "$SEGMENTS" pgbackrest --config="$BENCH_DIR/pgbackrest.conf" --stanza=main archive-push %p
        rm -rf "$BENCH_DIR/home-pgbackrest" ;;
    esac
}
ssh_one() { # tool, run
    local words=(-U "$bench_user" --port "$ssh_port" -c "$BENCH_DIR/$1.conf")
    write_conf "$1" "archiver = on"
    as_user mkdir -p "$BENCH_DIR/home-$1/main/incoming"
    case $1 in
    barkeep) run "$results/wal-archive-ssh.txt" "$1" "$2" "$SEGMENTS" "$barkeep" wal-archive "${words[@]}" --remote-program "$barkeep" 127.0.0.1 main %p ;;
    barman)
        run "$results/wal-archive-ssh.txt" "$1" "$2" "$SLOW_SEGMENTS" "$barman_bin/barman-wal-archive" "${words[@]}" 127.0.0.1 main %p ;;
    esac
    rm -rf "$BENCH_DIR/home-$1"
}
: >"$results/wal-archive.txt"; : >"$results/wal-archive-ssh.txt"
for file in wal-archive wal-archive-ssh; do [ "$(id -u)" != 0 ] || chown "$bench_user" "$results/$file.txt"; done
for number in $(seq "$RUNS"); do
    for tool in $(rotate "$number" cp barkeep barkeep-zstd pgbackrest pgbackrest-zstd); do local_one "$tool" "$number"; done
done
printf '\n### archive_command on the same machine, %s segments\n\n' "$SEGMENTS"
"$compare_dir/latency.py" summary "$results/wal-archive.txt" cp
start_sshd; trap stop_sshd EXIT
for number in $(seq "$RUNS"); do
    for tool in $(rotate "$number" barkeep barman); do ssh_one "$tool" "$number"; done
done
printf '\n### archive_command over SSH on loopback\n\n'
"$compare_dir/latency.py" summary "$results/wal-archive-ssh.txt" barman
