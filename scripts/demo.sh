#!/usr/bin/env bash
# demo.sh - the whole story on a throw-away server: back up, stream WAL, drop a table, go back to the moment before.
#
# usage: scripts/demo.sh            (or: make demo)
#
#   BARKEEP     the binary to show        [built here: target/release/barkeep]
#   PG_BINDIR   the PostgreSQL to use     [the newest under /usr/lib/postgresql, or what PATH has]
#
# Touches nothing outside a new directory below /tmp, which it removes. Needs no running server; installs Debian's
# postgresql package if the machine has no PostgreSQL at all.
set -euo pipefail
cd "$(dirname "$0")/.."

say()  { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '  $ %s\n' "$*"; }
die()  { printf 'ERROR: %s\n' "$*" >&2; exit 1; }

find_server() {
    if [ -n "${PG_BINDIR:-}" ]; then printf '%s\n' "$PG_BINDIR"; return; fi
    local found
    found=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -n | tail -n 1)
    if [ -n "$found" ] && [ -x "$found/initdb" ]; then printf '%s\n' "$found"; return; fi
    found=$(command -v initdb || true)
    [ -z "$found" ] || dirname "$(readlink -f "$found")"
}

install_server() {
    command -v apt-get >/dev/null || die "no PostgreSQL found: install a server package, or set PG_BINDIR"
    local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
    say "No PostgreSQL here: installing the distribution's package (without starting a server)"
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get -qq update >/dev/null
    $sudo apt-get -qq -y install postgresql-common >/dev/null
    # Only the programs are wanted: no cluster is made, no service started.
    $sudo sed -i 's/^#\? *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    $sudo apt-get -qq -y install postgresql >/dev/null
}

bindir=$(find_server)
if [ -z "$bindir" ]; then install_server; bindir=$(find_server); fi
[ -x "$bindir/initdb" ] || die "no initdb in '$bindir'"
psql=$bindir/psql; [ -x "$psql" ] || psql=$(command -v psql) || die "no psql: install postgresql-client"

if [ -z "${BARKEEP:-}" ]; then
    command -v cargo >/dev/null || die "no cargo: install Rust from https://rustup.rs, or set BARKEEP to a binary"
    say "Building barkeep"
    cargo build --release --locked -p barkeep
    BARKEEP=${CARGO_TARGET_DIR:-target}/release/barkeep
fi
barkeep_built=$(readlink -f "$BARKEEP")
started=$SECONDS

# PostgreSQL refuses to run as root, so everything belongs to an ordinary user.
user=$(id -un)
user_words=()
if [ "$(id -u)" = 0 ]; then
    user=postgres; id -u $user >/dev/null 2>&1 || user=nobody
    user_words=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups --)
fi
as_user() { "${user_words[@]}" "$@"; }

top=$(mktemp -d /tmp/barkeep-demo.XXXXXX)
receiver=
cleanup() {
    local status=$?
    trap '' INT TERM
    set +e
    [ -z "$receiver" ] || { kill "$receiver" && wait "$receiver"; } 2>/dev/null
    for cluster in live restored; do
        [ ! -f "$top/$cluster/postmaster.pid" ] || as_user "$bindir/pg_ctl" -s -D "$top/$cluster" -m immediate stop
    done
    if [ "$status" = 130 ] || [ "$status" = 143 ]; then
        printf '\nInterrupted: everything is stopped and removed.\n' >&2
    elif [ "$status" != 0 ]; then
        printf '\nThe demo did not finish (status %s). The last lines of its logs:\n' "$status" >&2
        tail -n 15 "$top"/*.log >&2
    fi
    rm -rf "$top"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

chmod 0711 "$top"
cp "$barkeep_built" "$top/barkeep"; chmod 0755 "$top/barkeep"; BARKEEP=$top/barkeep
mkdir "$top/home" "$top/socket"
[ "$(id -u)" != 0 ] || chown "$user" "$top" "$top/home" "$top/socket"

# The servers listen on no network; their sockets, in a directory of their own, are told apart by these numbers.
live_port=5432 restored_port=5433
start_server() { # cluster, port
    as_user "$bindir/pg_ctl" -s -w -t 60 -D "$top/$1" -l "$top/$1.log" \
        -o "-p $2 -k $top/socket -c listen_addresses=''" start
}
sql() { as_user "$psql" -XqAt -v ON_ERROR_STOP=1 -h "$top/socket" -p "$1" -U postgres -d postgres -c "$2"; }
barkeep() {
    local word shown=
    for word in "$@"; do case $word in *' '*) shown="$shown '$word'" ;; *) shown="$shown $word" ;; esac; done
    show "barkeep$shown"
    as_user "$BARKEEP" -c "$top/barman.conf" "$@" | sed 's/^/    /'
}

say "1. A PostgreSQL server ($("$bindir/postgres" --version)) with a slot for barkeep"
as_user "$bindir/initdb" -D "$top/live" -U postgres -A trust -k >"$top/initdb.log"
start_server live $live_port
cat >"$top/barman.conf" <<CONF
[barman]
barman_home = $top/home
barman_user = $user
log_file = $top/home/barman.log

[demo]
description = A throw-away server
conninfo = host=$top/socket port=$live_port user=postgres dbname=postgres
streaming_conninfo = host=$top/socket port=$live_port user=postgres
backup_method = postgres
streaming_archiver = on
slot_name = barkeep
create_slot = auto
immediate_checkpoint = true
CONF
chmod 0644 "$top/barman.conf"

say "2. WAL is received as it is written"
show "barkeep receive-wal demo &"
"${user_words[@]}" "$BARKEEP" -c "$top/barman.conf" -q receive-wal demo >"$top/receive-wal.log" 2>&1 &
receiver=$!
for _ in $(seq 100); do ls "$top"/home/demo/streaming/*.partial >/dev/null 2>&1 && break; sleep 0.1; done

say "3. A base backup, and proof that its WAL is here"
barkeep backup demo --wait --wait-timeout 30
barkeep list-backups demo

say "4. Work goes on, and then somebody drops a table"
sql $live_port "CREATE TABLE invoices AS SELECT n AS id, md5(n::text) AS reference FROM generate_series(1, 50000) AS n"
moment=$(sql $live_port "SELECT clock_timestamp()")
sleep 1
printf '    %s rows in invoices at %s\n' "$(sql $live_port "SELECT count(*) FROM invoices")" "$moment"
sql $live_port "DROP TABLE invoices"
printf '    DROP TABLE invoices;\n'
barkeep switch-wal demo --force --archive --archive-timeout 30

say "5. Back to the moment before"
barkeep restore demo latest "$top/restored" --target-time "$moment" --target-action promote
start_server restored $restored_port
for _ in $(seq 100); do
    [ "$(sql $restored_port "SELECT pg_is_in_recovery()" 2>/dev/null)" = f ] && break; sleep 0.1
done
rows=$(sql $restored_port "SELECT count(*) FROM invoices")
[ "$rows" = 50000 ] || die "expected 50000 rows in the restored table, found $rows"
say "The restored server has $rows rows in invoices. All of it took $((SECONDS - started)) s after the build."
