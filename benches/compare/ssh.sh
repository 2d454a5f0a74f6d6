# ssh.sh - an SSH server for the scripts that need one; sourced after common.sh.
# A private SSH server on loopback that lets the bench's user in; $ssh_words reach it, and `ssh` in $BENCH_DIR/bin does.
ssh_port=$((55000 + PG_MAJOR))
ssh_words="ssh -F $BENCH_DIR/sshd/ssh_config -p $ssh_port $bench_user@127.0.0.1"
start_sshd() {
    local program at=$BENCH_DIR/sshd libraries=
    program=$(command -v sshd || echo "$BARKEEP_TEST_DEPS/sshd/usr/sbin/sshd")
    [ -x "$program" ] || die "no SSH server: run scripts/install-test-deps.sh"
    case $program in "$BARKEEP_TEST_DEPS"/*) libraries=$(dirname "$(find "$BARKEEP_TEST_DEPS/sshd/usr/lib" -name libwrap.so.0 | head -n 1)");; esac
    rm -rf "$at"; mkdir -p "$at" "$BENCH_DIR/bin"; chmod 700 "$BENCH_DIR/bin"
    ssh-keygen -q -t ed25519 -N '' -f "$at/host_key"; ssh-keygen -q -t ed25519 -N '' -f "$at/key"
    cp "$at/key.pub" "$at/authorized_keys"
    printf 'Port %s\nListenAddress 127.0.0.1\nHostKey %s/host_key\nPidFile none\nAuthorizedKeysFile %s/authorized_keys\nPasswordAuthentication no\nUsePAM no\nStrictModes no\nMaxStartups 100\nMaxSessions 100\nSetEnv PATH=%s:/usr/bin:/bin\n' "$ssh_port" "$at" "$at" "$barman_bin" >"$at/sshd_config"
    printf 'Host *\n  IdentityFile %s/key\n  IdentitiesOnly yes\n  BatchMode yes\n  UserKnownHostsFile %s/known_hosts\n  StrictHostKeyChecking accept-new\n  LogLevel ERROR\n' "$at" "$at" >"$at/ssh_config"
    [ "$(id -u)" != 0 ] || chown -R "$bench_user" "$at" "$BENCH_DIR/bin"
    printf '#!/bin/sh\nexec /usr/bin/ssh -F %s/ssh_config "$@"\n' "$at" >"$BENCH_DIR/bin/ssh"; chmod 755 "$BENCH_DIR/bin/ssh"
    "${user_words[@]}" env "LD_LIBRARY_PATH=$libraries" "$program" -D -e -f "$at/sshd_config" 2>"$at/sshd.log" &
    sshd_pid=$!
    for _ in $(seq 100); do (exec 3<>"/dev/tcp/127.0.0.1/$ssh_port") 2>/dev/null && return; sleep 0.1; done
    die "sshd does not listen; see $at/sshd.log"
}
stop_sshd() { [ -z "${sshd_pid:-}" ] || kill "$sshd_pid" 2>/dev/null || true; }
