# common.sh - what the side-by-side scripts share; sourced, not run.
#
#   BENCH_DIR   where clusters, homes and results go    [/var/tmp/barkeep-bench]
#   PG_MAJOR    the server's major version              [15]
#   SCALE       pgbench scale; 100 is 1.6 GB            [100]
#   TABLES      a cluster of so many small tables instead; 20000 make 78,000 files   [0]
#   RUNS        runs of each tool                       [5]
#   BARKEEP     the binary to measure                   [built here, release profile]
set -euo pipefail
compare_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$compare_dir/../.." && pwd)
: "${BENCH_DIR:=/var/tmp/barkeep-bench}" "${PG_MAJOR:=15}" "${SCALE:=100}" "${RUNS:=5}" "${TABLES:=0}"
: "${BARKEEP_TEST_DEPS:=/var/tmp/barkeep-deps}"
server_bin=$BARKEEP_TEST_DEPS/pg/$PG_MAJOR/bin
barman_bin=$BARKEEP_TEST_DEPS/barman/bin
results=$BENCH_DIR/results

say() { printf '%s\n' "$*" >&2; }
die() { printf 'ERROR: %s\n' "$*" >&2; exit 1; }

# The clients of the server's own version where it has them, else those of 18, which serve every older server.
client_bin=$server_bin
[ -x "$client_bin/pg_basebackup" ] || client_bin=$BARKEEP_TEST_DEPS/pg/18/bin

# Everything measured runs as one ordinary user; PostgreSQL refuses root.
bench_user=$(id -un)
as_user() { "$@"; }
user_words=()
if [ "$(id -u)" = 0 ]; then
    bench_user=postgres; id -u postgres >/dev/null 2>&1 || bench_user=nobody
    user_words=(setpriv "--reuid=$bench_user" "--regid=$(id -g "$bench_user")" --clear-groups --)
    as_user() { "${user_words[@]}" "$@"; }
fi

prepare() {
    [ -x "$server_bin/postgres" ] || die "no PostgreSQL $PG_MAJOR: run scripts/install-test-deps.sh"
    local package
    for package in time hyperfine; do
        command -v "$package" >/dev/null || [ -x "/usr/bin/$package" ] || {
            say "installing Debian's package '$package'"
            local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
            $sudo apt-get -qq update >/dev/null && $sudo apt-get -qq -y install "$package" >/dev/null
        }
    done
    mkdir -p "$BENCH_DIR" "$results"
    chmod 755 "$BENCH_DIR"
    if [ -z "${BARKEEP:-}" ]; then
        (cd "$top" && cargo build --quiet --release --locked -p barkeep) || die "barkeep does not build"
        BARKEEP=${CARGO_TARGET_DIR:-$top/target}/release/barkeep
    fi
    # A copy that the bench's user can reach, wherever the sources are.
    cp "$BARKEEP" "$BENCH_DIR/barkeep"; chmod 755 "$BENCH_DIR/barkeep"
    barkeep=$BENCH_DIR/barkeep
}

data=$BENCH_DIR/pg$PG_MAJOR-scale$SCALE
[ "$TABLES" = 0 ] || { SCALE=1; data=$BENCH_DIR/pg$PG_MAJOR-$TABLES-tables; }
port=$((54000 + PG_MAJOR))
conninfo="host=$BENCH_DIR port=$port user=postgres dbname=postgres"
sql() { as_user "$client_bin/psql" -XqAt -v ON_ERROR_STOP=1 -d "$conninfo" "$@"; }

# The cluster: pgbench tables, checksums on, durable settings. Made once; started and stopped by every script.
start_cluster() {
    if [ ! -s "$data/PG_VERSION" ]; then
        say "making the cluster (PostgreSQL $PG_MAJOR, pgbench scale $SCALE)"
        rm -rf "$data"; mkdir "$data"; [ "$(id -u)" != 0 ] || chown "$bench_user" "$data" "$BENCH_DIR"
        as_user "$server_bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --no-locale -k -N >/dev/null
        cat >>"$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$BENCH_DIR'
port = $port
wal_level = replica
archive_mode = on
archive_command = 'test ! -x $BENCH_DIR/archive || $BENCH_DIR/archive %p %f'
max_wal_size = 4GB
shared_buffers = 512MB
checkpoint_timeout = 30min
autovacuum = off
CONF
        start_server
        as_user "$client_bin/pgbench" -h "$BENCH_DIR" -p "$port" -U postgres -i -q -s "$SCALE" postgres >/dev/null 2>&1 ||
            die "pgbench could not fill the cluster"
        [ "$TABLES" = 0 ] || make_tables
        sql -c checkpoint
    else
        start_server
    fi
}
# Small tables, four files each: heap, index, and the same for long values.
make_tables() {
    say "making $TABLES tables"
    sql -c "create database many"
    local first
    for first in $(seq 1 500 "$TABLES"); do
        echo "do \$\$ begin for i in $first..$((first + 499)) loop
            execute format('create table t%s (id int primary key, v text)', i);
            execute format('insert into t%s values (1, ''x'')', i); end loop; end \$\$;"
    done | as_user "$client_bin/psql" -XqAt -v ON_ERROR_STOP=1 -d "host=$BENCH_DIR port=$port user=postgres dbname=many"
}
start_server() {
    as_user "$server_bin/pg_ctl" -s -w -t 120 -D "$data" -l "$data.log" start
    trap stop_cluster EXIT
    trap 'exit 130' INT TERM
}
stop_cluster() { as_user "$server_bin/pg_ctl" -s -w -m fast -D "$data" stop; }
drop_slot() { sql -c "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '$1'" >/dev/null; }

# A Barman configuration with one server, for either tool; each has a home of its own.
write_conf() { # tool, more lines
    local home=$BENCH_DIR/home-$1
    rm -rf "$home"; mkdir "$home"; [ "$(id -u)" != 0 ] || chown "$bench_user" "$home"
    cat >"$BENCH_DIR/$1.conf" <<CONF
[barman]
barman_user = $bench_user
barman_home = $home
barman_lock_directory = $home
log_file = $home/barman.log

[main]
description = the benchmark's server
conninfo = $conninfo
streaming_conninfo = $conninfo
backup_method = postgres
path_prefix = $client_bin
immediate_checkpoint = true
$2
CONF
}

# From now on the cluster archives its WAL into this home, until $BENCH_DIR/archive is removed.
archive_into() { # home
    as_user mkdir -p "$1/main/incoming"
    printf '#!/bin/sh\ncp "%s/$1" "%s/main/incoming/$2.tmp" && mv "%s/main/incoming/$2.tmp" "%s/main/incoming/$2"\n' \
        "$data" "$1" "$1" "$1" >"$BENCH_DIR/archive.new"
    chmod 755 "$BENCH_DIR/archive.new"; mv "$BENCH_DIR/archive.new" "$BENCH_DIR/archive"
}

# Runs a command and appends "bench tool run seconds user sys rss_kb" to the results.
measure() { # bench, tool, run, command...
    local bench=$1 tool=$2 run=$3; shift 3
    local usage; usage=$(mktemp)
    local begin=$EPOCHREALTIME
    /usr/bin/time -q -o "$usage" -f '%U %S %M' "${user_words[@]}" "$@" >"$results/$bench-$tool.out" 2>&1 ||
        { tail -n 5 "$results/$bench-$tool.out" >&2; die "$bench with $tool failed: $*"; }
    local end=$EPOCHREALTIME
    local seconds; seconds=$(awk -v a="$begin" -v b="$end" 'BEGIN { printf "%.3f", b - a }')
    record "$bench" "$tool" "$run" "$seconds" $(tail -n 1 "$usage")
    rm -f "$usage"
}
record() { printf '%s\n' "$*" >>"$results/$1.tsv"; say "  $*"; }

# The tools of one run, in an order that changes from run to run: no tool always goes first.
rotate() { # run, tool...
    local by=$(( ($1 - 1) % ($# - 1) )); shift
    printf '%s\n' "${@:by+1}" "${@:1:by}"
}
