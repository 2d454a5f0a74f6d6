#!/usr/bin/env bash
# archive_memory.sh - the memory that archive-wal takes with one thread that compresses: most that was resident, for each
# compression and level, beside what is resident without any segment.
#
#   SEGMENTS      of so many                              [60]
#   ARCHIVED      so many are archived for each           [6]
#   COMPRESSIONS  which, a level behind a colon           [none gzip:low ... xz:9]
: "${SEGMENTS:=60}" "${ARCHIVED:=6}"
: "${COMPRESSIONS:=none gzip:low gzip:medium gzip:high bzip2:medium bzip2:high lz4:medium snappy zstd:low zstd:medium zstd:high zstd:22 xz:low xz:medium xz:high xz:9}"
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/segments.sh"
prepare
make_segments
archive() { # compression, level, segments
    local lines="archiver = on"
    [ "$1" = none ] || lines+=$'\n'"compression = $1"
    [ -z "$2" ] || lines+=$'\n'"compression_level = $2"
    write_conf barkeep "$lines"
    local incoming=$BENCH_DIR/home-barkeep/main/incoming
    as_user mkdir -p "$incoming"
    [ "$3" = 0 ] || find "$segments" -type f -name '[0-9A-F]*' | sort | head -n "$3" | as_user xargs cp -pt "$incoming"
    # One processor is one thread.
    measure archive-memory "$1:$2" "$3" taskset -c 0 "$barkeep" -q -c "$BENCH_DIR/barkeep.conf" archive-wal main
    stored=$(find "$BENCH_DIR/home-barkeep/main" -type f -path '*/wals/*/[0-9A-F]*' -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }')
    rm -rf "$BENCH_DIR/home-barkeep"
}
: >"$results/archive-memory.tsv"
archive none "" 0
idle=$(awk 'END { print $NF }' "$results/archive-memory.tsv")
printf '\n### Memory of archive-wal, one thread, %s segments; %s MiB without any\n\n' "$ARCHIVED" "$((idle / 1024))"
printf '| compression | level | peak MiB | for the thread | CPU s | MiB stored |\n|---|---|---|---|---|---|\n'
for one in $COMPRESSIONS; do
    level=${one#*:}; [ "$level" != "$one" ] || level=
    archive "${one%%:*}" "$level" "$ARCHIVED"
    awk -v name="${one%%:*}" -v level="$level" -v idle="$idle" -v stored="$stored" \
        'END { printf "| %s | %s | %.0f | %.0f | %.1f | %.1f |\n", name, level, $NF / 1024, ($NF - idle) / 1024, $5 + $6, stored / 1048576 }' "$results/archive-memory.tsv"
done
