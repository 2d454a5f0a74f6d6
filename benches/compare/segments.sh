# segments.sh - WAL segments of pgbench, archived once by a real server and kept; sourced after common.sh.
#
#   SEGMENTS      how many   [200]
. "$(dirname "${BASH_SOURCE[0]}")/ssh.sh"
: "${SEGMENTS:=200}"
SCALE=${ARCHIVE_SCALE:-10}
data=$BENCH_DIR/pg$PG_MAJOR-scale$SCALE
segments=$BENCH_DIR/wal-$PG_MAJOR-$SEGMENTS

# Fills $segments, and takes $BENCH_DIR/base-$PG_MAJOR-$SEGMENTS, a base backup from before.
base=$BENCH_DIR/base-$PG_MAJOR-$SEGMENTS
make_segments() {
    [ "$(find "$segments" -maxdepth 1 -type f 2>/dev/null | wc -l)" -lt "$SEGMENTS" ] || [ ! -s "$base/PG_VERSION" ] || return 0
    rm -rf "$segments" "$base"; mkdir -p "$segments"; [ "$(id -u)" != 0 ] || chown "$bench_user" "$segments"
    printf '#!/bin/sh\ncp "$1" %s/"$2.new" && mv %s/"$2.new" %s/"$2"\n' "$segments" "$segments" "$segments" >"$BENCH_DIR/archive"
    chmod 755 "$BENCH_DIR/archive"
    start_cluster
    sql -c "select pg_switch_wal()" >/dev/null
    as_user "$client_bin/pg_basebackup" -X stream -c fast -d "$conninfo" -D "$base"
    as_user find "$base/pg_wal" -maxdepth 1 -type f -delete
    say "making $SEGMENTS segments of pgbench's WAL"
    while [ "$(find "$segments" -type f -name '[0-9A-F]*' | wc -l)" -lt "$((SEGMENTS + 5))" ]; do
        # A checkpoint now and then, for page images as a server writes them.
        as_user "$client_bin/pgbench" -h "$BENCH_DIR" -p "$port" -U postgres -n -c 8 -j 2 -T 10 -M prepared postgres >/dev/null 2>&1
        sql -c checkpoint -c "select pg_switch_wal()" >/dev/null
    done
    stop_cluster; trap - EXIT
    rm -f "$BENCH_DIR/archive"
    find "$segments" -type f '(' -name '*.new' -o -name '*.backup' ')' -delete
    # Recovery begins with the segment of the backup.
    local first; first=$(sed -n 's/^START WAL LOCATION.*file \(.*\))$/\1/p' "$base/backup_label")
    find "$segments" -type f -name '[0-9A-F]*' | while read -r file; do [[ ! ${file##*/} < $first ]] || rm "$file"; done
    find "$segments" -type f -name '[0-9A-F]*' | sort | tail -n +$((SEGMENTS + 1)) | xargs -r rm
}

# pgBackRest: the same archive, its own repository. Debian's package, installed if missing.
prepare_pgbackrest() {
    command -v pgbackrest >/dev/null || {
        say "installing Debian's package 'pgbackrest'"
        local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
        $sudo apt-get -qq update >/dev/null && $sudo apt-get -qq -y install pgbackrest >/dev/null
    }
}
write_pgbackrest() { # data directory, more lines
    rm -rf "$BENCH_DIR/home-pgbackrest"
    as_user mkdir -p "$BENCH_DIR/home-pgbackrest/spool" "$BENCH_DIR/home-pgbackrest/lock"
    cat >"$BENCH_DIR/pgbackrest.conf" <<CONF
[global]
repo1-path=$BENCH_DIR/home-pgbackrest/repo
spool-path=$BENCH_DIR/home-pgbackrest/spool
lock-path=$BENCH_DIR/home-pgbackrest/lock
log-level-file=off
log-level-console=error
$2
[main]
pg1-path=$1
CONF
    as_user pgbackrest --config="$BENCH_DIR/pgbackrest.conf" --stanza=main --no-online stanza-create >/dev/null
}
