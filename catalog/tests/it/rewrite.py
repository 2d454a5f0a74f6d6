"""Reads the files of a directory with Barman's own classes and writes them again, the way Barman would.

usage: rewrite.py DIRECTORY make|keep
    make  first makes records of its own, with values that are hard to write down
    keep  takes the files that are there
"""

import datetime
import os
import sys

import dateutil.tz
import barman.output  # first: the modules import each other
from barman.infofile import BackupInfo, Tablespace, WalFileInfo

HARD_TEXTS = [
    "plain",
    "it's",
    'say "x"',
    "both ' and \"",
    "back\\slash\n\ttab\r",
    "caf\u00e9 \u4e2d\u6587 \U0001f600",
    "\u00a0\u00ad\u200b\u2028\ufeff\ue000\u0378",
    "e\u0301 \u0085 \x00\x1f\x7f",
    "u'",
    "{}[]()",
]


def make(directory):
    for number, text in enumerate(HARD_TEXTS):
        path = os.path.join(directory, "202601%02dT000000" % (number + 1))
        info = BackupInfo(os.path.basename(path))
        info.status = ["EMPTY", "STARTED", "WAITING_FOR_WALS", "DONE", "FAILED", "SYNCING"][number % 6]
        info.backup_label = text
        info.included_files = HARD_TEXTS[:number]
        info.tablespaces = [Tablespace(text, 16384 + i, "/srv/" + text) for i in range(number % 3)]
        info.copy_stats = {"copy_time": 10.0 ** (number * 3 - 12), "total_time": number / 3, "n": number, "d": {text: None}}
        info.begin_time = datetime.datetime(2026, 1, 2, 3, 4, 5, number * 100, dateutil.tz.tzoffset(None, (number - 5) * 1800))
        info.end_time = datetime.datetime(2026, 1, 2, 3, 4, 5, 0, dateutil.tz.tzutc())
        info.begin_xlog = "%X/%X" % (number, number << 24)
        info.begin_wal = "%08X%08X%08X" % (number + 1, number, 255 - number)
        info.timeline = number + 1
        info.size = number * 10 ** 15
        info.cluster_size = number
        info.version = 180000
        info.backup_name = "name %d" % number if number % 2 else None
        info.children_backup_ids = ["20270101T000000", "20270102T000000"][:number % 3] or None
        info.parent_backup_id = "20250101T000000" if number % 2 else None
        info.error = "failure (%d)" % number if number % 2 else None
        info.xlog_segment_size = 1 << (20 + number)
        info.save(filename=path)


def rewrite(path):
    if os.path.basename(path).endswith("-xlog.db"):
        lines = [WalFileInfo.from_xlogdb_line(line).to_xlogdb_line() for line in open(path)]
        with open(path + ".again", "w") as again:
            again.writelines(lines)
        return
    info = BackupInfo(os.path.basename(path))
    info.load(path)
    info.save(filename=path + ".again")


def main(directory, mode):
    if mode == "make":
        make(directory)
    for name in sorted(os.listdir(directory)):
        rewrite(os.path.join(directory, name))


main(*sys.argv[1:])
