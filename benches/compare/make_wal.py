#!/usr/bin/env python3
"""make_wal.py HOME - a backup home of one server with real WAL in many small, sparse segments.

SEGMENTS (100000) and BACKUPS (100) say how many. Each segment has 1 MiB on paper and one page on disk: COMMITS (5) commits a minute
apart, a restore point in every 1000th, then a switch to the next segment. PostgreSQL 15's format, checksums included, so that
whatever reads it finds sound WAL. HOME/barman.conf is the configuration; HOME/facts has shell variables to aim restores by.
"""

import datetime
import getpass
import os
import struct
import sys

from make_home import RECORD

SEGMENT = 1 << 20
SYSTEM_ID = 7710937153959999515
MAGIC = 0xD110
EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc)
START = datetime.datetime(2025, 1, 1, tzinfo=datetime.timezone.utc)
FIRST_XID = 1000

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def record(xid, previous, info, rmid, main):
    body = (struct.pack("<BB", 255, len(main)) + main) if main else b""
    head = struct.pack("<IIQBBH", 24 + len(body), xid, previous, info, rmid, 0)
    return head + struct.pack("<I", crc32c(body + head)) + body


def micros(minutes):
    return int((START + datetime.timedelta(minutes=minutes) - EPOCH).total_seconds()) * 1_000_000


def segment(number, commits, previous):
    """One segment's first page, and the position of its last record."""
    start = number * SEGMENT
    page = bytearray(struct.pack("<HHIQI4xQII", MAGIC, 2, 1, start, 0, SYSTEM_ID, SEGMENT, 8192))

    def add(data):
        nonlocal previous
        previous = start + len(page)
        page.extend(data)
        page.extend(bytes(-len(page) % 8))

    for place in range(commits):
        count = number * commits + place
        add(record(FIRST_XID + count, previous, 0, 1, struct.pack("<q", micros(count))))
    if number % 1000 == 0:
        name = f"point {number}".encode().ljust(64, b"\0")
        add(record(0, previous, 0x70, 0, struct.pack("<q", micros(number * commits + commits)) + name))
    add(record(0, previous, 0x40, 0, b""))
    return bytes(page), previous


def name(number):
    return f"00000001{number // 4096:08X}{number % 4096:08X}"


def lsn(number, offset):
    at = number * SEGMENT + offset
    return f"{at >> 32:X}/{at & 0xFFFFFFFF:X}"


def main():
    home = os.path.abspath(sys.argv[1])
    segments = int(os.environ.get("SEGMENTS", "100000"))
    backups = int(os.environ.get("BACKUPS", "100"))
    commits = int(os.environ.get("COMMITS", "5"))
    server = os.path.join(home, "main")
    for directory in ("base", "meta", "wals", "incoming", "streaming", "errors"):
        os.makedirs(os.path.join(server, directory), exist_ok=True)
    previous = SEGMENT - 32
    with open(f"{server}/wals/main-xlog.db", "w") as listed:
        for number in range(1, segments + 1):
            directory = f"{server}/wals/{name(number)[:16]}"
            os.makedirs(directory, exist_ok=True)
            page, previous = segment(number, commits, previous)
            with open(f"{directory}/{name(number)}", "wb") as file:
                file.write(page)
                file.truncate(SEGMENT)
            listed.write(f"{name(number)}\t{SEGMENT}\t{START.timestamp() + number * commits * 60}\tNone\tNone\n")
    for place in range(backups):
        first = 1 + place * segments // backups
        begin = START + datetime.timedelta(minutes=first * commits)
        text = RECORD.format(begin=begin, end=begin, begin_wal=name(first), begin_xlog=lsn(first, 40))
        text = text.replace(f"end_xlog={lsn(first, 40)}", f"end_xlog={lsn(first, 80)}")
        text = text.replace("xlog_segment_size=16777216", f"xlog_segment_size={SEGMENT}")
        identifier = f"{begin:%Y%m%dT%H%M%S}"
        os.makedirs(f"{server}/base/{identifier}/data", exist_ok=True)
        with open(f"{server}/meta/{identifier}-backup.info", "w") as file:
            file.write(text)
    user = os.environ.get("BENCH_USER") or getpass.getuser()
    with open(f"{home}/barman.conf", "w") as conf:
        conf.write(
            f"[barman]\nbarman_home = {home}\nbarman_user = {user}\nlog_file = {home}/barman.log\n"
            "[main]\nactive = off\nconninfo = host=/nonexistent\nbackup_method = postgres\narchiver = on\n"
        )
    late = segments * commits - commits * 3
    middle = segments * commits // 2
    with open(f"{home}/facts", "w") as facts:
        facts.write(f"late_xid={FIRST_XID + late}\nmiddle_xid={FIRST_XID + middle}\n")
        facts.write(f"late_time='{START + datetime.timedelta(minutes=late)}'\n")
        facts.write(f"middle_time='{START + datetime.timedelta(minutes=middle)}'\n")
        facts.write(f"late_lsn={lsn(segments - 2, 100)}\nlate_name='point {segments // 1000 * 1000 - 1000}'\n")


if __name__ == "__main__":
    main()
