#!/usr/bin/env bash
# delete.sh - deleting a backup of a million files: `barkeep delete`, and `rm -rf` of the same files as the floor.
#
#   FILES        how many                                             [1000000]
#   FILE_BYTES   how large each is; empty ones measure names only     [0]
. "$(dirname "$0")/common.sh"
: "${FILES:=1000000}" "${FILE_BYTES:=0}"
prepare
home=$BENCH_DIR/delete-home
tree=$home/main/base/20240101T000000/data/base

# Two backups, the older of them with files in ten directories, as ten databases have them; on the disk when it is done.
make_backup() {
    rm -rf "$home"; mkdir -p "$home"
    BACKUPS=2 SEGMENTS=2 BENCH_USER=$bench_user python3 "$compare_dir/make_home.py" "$home"
    # One without files is no backup to fall back on, and the last one is never deleted.
    mkdir -p "$home/main/base/20240101T010000/data"
    echo "$PG_MAJOR" >"$home/main/base/20240101T010000/data/PG_VERSION"
    python3 - "$tree" "$FILES" "$FILE_BYTES" <<'PY'
import os, sys
tree, files, content = sys.argv[1], int(sys.argv[2]), b"x" * int(sys.argv[3])
for database in range(10):
    directory = os.path.join(tree, str(16384 + database))
    os.makedirs(directory)
    handle = os.open(directory, os.O_RDONLY)
    for number in range(database, files, 10):
        file = os.open(str(20000 + number), os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=handle)
        if content:
            os.write(file, content)
        os.close(file)
PY
    [ "$(id -u)" != 0 ] || chown -R "$bench_user" "$home"
    sync
}

one() { # tool, run
    make_backup
    case $1 in
    rm) measure delete rm "$2" rm -rf "$tree" ;;
    barkeep) measure delete barkeep "$2" "$barkeep" -c "$home/barman.conf" delete main 20240101T000000
        [ ! -e "$home/main/base/20240101T000000" ] || die "the backup is still there" ;;
    esac
}

: >"$results/delete.tsv"
for run in $(seq "$RUNS"); do
    for tool in $(rotate "$run" rm barkeep); do one "$tool" "$run"; done
done
rm -rf "$home"
printf '\n### Deleting a backup of %s files of %s bytes\n\n' "$FILES" "$FILE_BYTES"
"$compare_dir/summary.py" "$results/delete.tsv" rm
printf '\nFiles per second: %s\n' "$(awk -v files="$FILES" '
    { rates[$2] = rates[$2] sprintf(" %d", files / $4) } END { for (tool in rates) printf "%s%s; ", tool, rates[tool] }' "$results/delete.tsv")"
