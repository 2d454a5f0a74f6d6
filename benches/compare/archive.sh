#!/usr/bin/env bash
# archive.sh - archive-wal of segments that wait in incoming/, for each compression; barkeep also verifies and indexes them.
#
#   SEGMENTS      how many                      [60]
#   COMPRESSIONS  which                         [none zstd gzip]
. "$(dirname "$0")/common.sh"
: "${SEGMENTS:=60}" "${COMPRESSIONS:=none zstd gzip}"
SCALE=${ARCHIVE_SCALE:-10}
data=$BENCH_DIR/pg$PG_MAJOR-scale$SCALE
segments=$BENCH_DIR/segments-$SEGMENTS
prepare
[ -x "$barman_bin/barman" ] || die "no Barman: run scripts/install-test-deps.sh"
if [ "$(find "$segments" -type f 2>/dev/null | wc -l)" -lt "$SEGMENTS" ]; then
    rm -rf "$segments"; mkdir -p "$segments"; [ "$(id -u)" != 0 ] || chown "$bench_user" "$segments"
    printf '#!/bin/sh\ntest "$(ls %s | wc -l)" -ge %s || cp "$1" %s/"$2"\n' "$segments" "$SEGMENTS" "$segments" >"$BENCH_DIR/archive"
    chmod 755 "$BENCH_DIR/archive"
    start_cluster
    say "making $SEGMENTS segments of pgbench's WAL"
    while [ "$(find "$segments" -type f | wc -l)" -lt "$SEGMENTS" ]; do
        # A checkpoint now and then, for page images as a server writes them.
        as_user "$client_bin/pgbench" -h "$BENCH_DIR" -p "$port" -U postgres -n -c 8 -j 2 -T 10 -M prepared postgres >/dev/null 2>&1
        sql -c checkpoint -c "select pg_switch_wal()" >/dev/null
    done
    stop_cluster; trap - EXIT
    rm -f "$BENCH_DIR/archive"
fi
: >"$results/archive.tsv"
for compression in $COMPRESSIONS; do
    : >"$results/archive-$compression.tsv"
    for run in $(seq "$RUNS"); do
        for tool in $(rotate "$run" barkeep barman); do
            setting="compression = $compression"; [ "$compression" != none ] || setting=
            write_conf "$tool" "archiver = on"$'\n'"$setting"
            incoming=$BENCH_DIR/home-$tool/main/incoming
            as_user mkdir -p "$incoming"
            as_user cp -p "$segments"/* "$incoming"
            sync
            program=$barkeep; [ "$tool" = barkeep ] || program=$barman_bin/barman
            measure "archive-$compression" "$tool" "$run" "$program" -q -c "$BENCH_DIR/$tool.conf" archive-wal main
            archived=$(find "$BENCH_DIR/home-$tool/main/wals" -type f -name '[0-9A-F]*' | wc -l)
            [ "$archived" = "$SEGMENTS" ] || die "$tool archived $archived of $SEGMENTS"
            rm -rf "$BENCH_DIR/home-$tool"
        done
    done
    printf '\n### Archiving %s segments, compression = %s\n\n' "$SEGMENTS" "$compression"
    "$compare_dir/summary.py" "$results/archive-$compression.tsv" barman
done
