#!/usr/bin/env bash
# dist.sh - what is given to people: a tarball and, where dpkg-deb is, a Debian package.
#
# usage: scripts/dist.sh            (or: make dist)
#
#   BARKEEP     the binary to pack       [built here, static: make build-static]
#   DIST_DIR    where the results go     [target/dist]
#
# The package depends on nothing, not even on a C library, and conflicts with nothing: Barman's names are made by
# `barkeep install-links` where they are wanted.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${BARKEEP:-}
if [ -z "$binary" ]; then
    target=$(scripts/static-target.sh)
    make build-static "STATIC_TARGET=$target"
    binary=${CARGO_TARGET_DIR:-target}/$target/release/barkeep
fi
if readelf -d "$binary" | grep -q NEEDED; then
    echo "$binary needs shared libraries: it would not run as agent on every host" >&2
    exit 1
fi
out=${DIST_DIR:-target/dist}
version=$("$binary" --version | cut -d' ' -f2)
machine=$(uname -m)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

root=$stage/root
install -D -m 755 "$binary" "$root/usr/bin/barkeep"
install -D -m 644 packaging/barkeep.service "$root/usr/lib/systemd/system/barkeep.service"
install -d "$root/usr/share/man/man1"
"$binary" man-pages "$root/usr/share/man/man1" >/dev/null
gzip -9n "$root"/usr/share/man/man1/*.1
completion() {
    install -d "$root/$(dirname "$2")"
    "$binary" completions "$1" > "$root/$2"
}
completion bash usr/share/bash-completion/completions/barkeep
completion zsh usr/share/zsh/vendor-completions/_barkeep
completion fish usr/share/fish/vendor_completions.d/barkeep.fish
install -d "$root/usr/share/doc/barkeep"
install -m 644 README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT docs/*.md "$root/usr/share/doc/barkeep"

mkdir -p "$out"
name=barkeep-$version-linux-$machine
tar -C "$root" --owner=0 --group=0 --sort=name --transform "s,^\./usr,$name," -czf "$out/$name.tar.gz" ./usr
printf '%s\n' "$out/$name.tar.gz"

if command -v dpkg-deb >/dev/null; then
    install -d -m 755 "$root/DEBIAN"
    cat > "$root/DEBIAN/control" <<CONTROL
Package: barkeep
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: The barkeep authors <maintainers@barkeep.invalid>
Section: database
Priority: optional
Suggests: openssh-client
Homepage: https://github.com/barkeep/barkeep
Description: Backup and point-in-time recovery for PostgreSQL
 One binary that works on Barman's configuration, commands and backup home:
 base backups, WAL receiving and archiving, restores to any moment.
CONTROL
    deb=$out/barkeep_${version}_$(dpkg --print-architecture).deb
    dpkg-deb --root-owner-group --build "$root" "$deb" >/dev/null
    printf '%s\n' "$deb"
fi
