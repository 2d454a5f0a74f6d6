#!/usr/bin/env bash
# archive.sh - archive-wal of segments that wait in incoming/, for each compression; barkeep also verifies and indexes them.
#
#   SEGMENTS      how many                      [60]
#   COMPRESSIONS  which                         [none zstd gzip]
: "${SEGMENTS:=60}" "${COMPRESSIONS:=none zstd gzip}"
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/segments.sh"
prepare
[ -x "$barman_bin/barman" ] || die "no Barman: run scripts/install-test-deps.sh"
make_segments
for compression in $COMPRESSIONS; do
    : >"$results/archive-$compression.tsv"
    for run in $(seq "$RUNS"); do
        for tool in $(rotate "$run" barkeep barman); do
            setting="compression = $compression"; [ "$compression" != none ] || setting=
            write_conf "$tool" "archiver = on"$'\n'"$setting"
            incoming=$BENCH_DIR/home-$tool/main/incoming
            as_user mkdir -p "$incoming"
            as_user cp -p "$segments"/[0-9A-F]* "$incoming"
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
