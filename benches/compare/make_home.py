#!/usr/bin/env python3
"""make_home.py HOME - a backup home of one server with many backups and much WAL, on paper only.

BACKUPS (1000) and SEGMENTS (100000) say how many. Records and the list of WAL are as Barman 3.20 writes them; the files that they
speak of do not exist. HOME/barman.conf is a configuration for either tool.
"""

import datetime
import getpass
import os
import sys

RECORD = """backup_label='START WAL LOCATION: {begin_xlog} (file {begin_wal})\\nLABEL: x\\n'
begin_offset=40
begin_time={begin}
begin_wal={begin_wal}
begin_xlog={begin_xlog}
children_backup_ids=None
cluster_size=26828489
compression=None
config_file=/srv/pg/data/postgresql.conf
copy_stats={{'copy_time': 1.70592, 'total_time': 1.70592}}
data_checksums=on
deduplicated_size=26679121
encryption=None
end_offset=256
end_time={end}
end_wal={begin_wal}
end_xlog={begin_xlog}
error=None
hba_file=/srv/pg/data/pg_hba.conf
ident_file=/srv/pg/data/pg_ident.conf
included_files=None
mode=postgres
parent_backup_id=None
pgdata=/srv/pg/data
server_name=main
size=26679121
status=DONE
summarize_wal=None
systemid=7710937153959999515
tablespaces=None
timeline=1
version=150020
xlog_segment_size=16777216
"""


def segment(number):
    return f"00000001{number // 256:08X}{number % 256:08X}"


def main():
    home = os.path.abspath(sys.argv[1])
    backups = int(os.environ.get("BACKUPS", "1000"))
    segments = int(os.environ.get("SEGMENTS", "100000"))
    server = os.path.join(home, "main")
    for directory in ("base", "meta", "wals", "incoming", "streaming", "errors"):
        os.makedirs(os.path.join(server, directory), exist_ok=True)
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
    for number in range(backups):
        begin = start + datetime.timedelta(hours=number)
        first = 1 + number * segments // backups
        text = RECORD.format(
            begin=begin,
            end=begin + datetime.timedelta(minutes=5),
            begin_wal=segment(first),
            begin_xlog=f"{first // 256:X}/{first % 256:X}000028",
        )
        with open(f"{server}/meta/{begin:%Y%m%dT%H%M%S}-backup.info", "w") as record:
            record.write(text)
    with open(f"{server}/wals/main-xlog.db", "w") as wal:
        for number in range(1, segments + 1):
            wal.write(f"{segment(number)}\t{16000 + number % 999}\t{1704067200 + number}.25\tgzip\tNone\n")
    user = os.environ.get("BENCH_USER") or getpass.getuser()
    with open(f"{home}/barman.conf", "w") as conf:
        conf.write(
            f"[barman]\nbarman_home = {home}\nbarman_user = {user}\nlog_file = {home}/barman.log\n"
            "[main]\nactive = off\nconninfo = host=/nonexistent\nbackup_method = postgres\narchiver = on\n"
            "retention_policy = RECOVERY WINDOW OF 4 WEEKS\n"
        )


if __name__ == "__main__":
    main()
