//! Writes an index.

use crate::index::{BlockMap, Destructive, Listed, Loss, Outcomes, SegmentIndex, Tail};
use crate::{Lsn, PgTimestamp, RelFile};

/// Puts fields at the end.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn number(&mut self, number: u64) {
        let mut rest = number;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    pub(super) fn signed(&mut self, number: i64) {
        self.number((number << 1 ^ number >> 63) as u64);
    }

    fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    fn lsn(&mut self, lsn: Lsn) {
        self.number(lsn.as_u64());
    }

    fn time(&mut self, time: PgTimestamp) {
        self.signed(time.as_micros());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(list.len() as u64);
        list.iter().for_each(|entry| write(self, entry));
    }

    fn listed<T>(&mut self, listed: &Listed<T>, write: impl FnMut(&mut Self, &T)) {
        self.list(&listed.entries, write);
        self.number(listed.more);
    }

    fn file(&mut self, file: RelFile) {
        [file.tablespace, file.database, file.number].into_iter().for_each(|oid| self.number(u64::from(oid)));
    }

    pub(super) fn index(&mut self, index: &SegmentIndex) {
        self.number(u64::from(index.version.major()));
        self.number(index.segment_size.bytes());
        self.number(u64::from(index.segment.timeline().as_u32()));
        self.lsn(index.segment.first_lsn(index.segment_size).unwrap_or_default());
        self.number(index.system_id);
        self.lsn(index.start);
        self.lsn(index.end);
        self.flag(index.complete);
        self.flag(index.head_missing);
        self.number(index.records);
        self.option(index.first_record, Self::lsn);
        self.option(index.last_record, Self::lsn);
        self.outcomes(&index.commits);
        self.outcomes(&index.aborts);
        self.option(index.xids, Self::xids);
        self.listed(&index.restore_points, |writer, point| {
            writer.lsn(point.lsn);
            writer.time(point.time);
            writer.bytes(point.name.as_bytes());
        });
        self.listed(&index.checkpoints, |writer, checkpoint| {
            writer.lsn(checkpoint.lsn);
            writer.lsn(checkpoint.redo);
            writer.number(u64::from(checkpoint.timeline));
            writer.flag(checkpoint.shutdown);
            writer.signed(checkpoint.unix_seconds);
        });
        self.listed(&index.timelines, |writer, begin| {
            writer.lsn(begin.lsn);
            writer.number(u64::from(begin.timeline));
            writer.number(u64::from(begin.previous));
            writer.time(begin.time);
        });
        self.listed(&index.destructive, Self::destructive);
        self.option(index.blocks.as_ref(), Self::blocks);
        self.option(index.tail.as_ref(), Self::tail);
    }

    fn outcomes(&mut self, outcomes: &Outcomes) {
        self.number(outcomes.count);
        self.option(outcomes.times, |writer, (first, last)| {
            writer.time(first);
            writer.time(last);
        });
        self.option(outcomes.xids, Self::xids);
        self.option(outcomes.last_end, Self::lsn);
    }

    fn xids(&mut self, (low, high): (u32, u32)) {
        self.number(u64::from(low));
        self.number(u64::from(high));
    }

    fn destructive(&mut self, operation: &Destructive) {
        self.lsn(operation.lsn);
        self.number(u64::from(operation.xid));
        match operation.what {
            Loss::RelationFile(file) => {
                self.0.push(0);
                self.file(file);
            }
            Loss::RelationEnd { file, blocks } => {
                self.0.push(1);
                self.file(file);
                self.number(u64::from(blocks));
            }
            Loss::TruncatedTable { database, relation } => {
                self.0.push(2);
                self.number(u64::from(database));
                self.number(u64::from(relation));
            }
            Loss::Database(oid) => {
                self.0.push(3);
                self.number(u64::from(oid));
            }
            Loss::Tablespace(oid) => {
                self.0.push(4);
                self.number(u64::from(oid));
            }
        }
        self.option(operation.commit, |writer, (lsn, time)| {
            writer.lsn(lsn);
            writer.time(time);
        });
    }

    fn blocks(&mut self, blocks: &BlockMap) {
        self.number(blocks.len() as u64);
        for (file, fork, changed) in blocks.iter() {
            self.file(file);
            self.0.push(fork.0);
            self.option(changed.limit(), |writer, limit| writer.number(u64::from(limit)));
            let mut runs: Vec<(u32, u32)> = Vec::new();
            for block in changed.blocks() {
                match runs.last_mut() {
                    Some((_, last)) if *last + 1 == block => *last = block,
                    _ => runs.push((block, block)),
                }
            }
            self.number(runs.len() as u64);
            let mut next = 0;
            for (first, last) in runs {
                self.number(u64::from(first) - next);
                self.number(u64::from(last - first));
                next = u64::from(last) + 1;
            }
        }
    }

    fn tail(&mut self, tail: &Tail) {
        self.lsn(tail.last_record);
        self.number(u64::from(tail.timeline.as_u32()));
        self.option(tail.open.as_ref(), |writer, open| {
            writer.lsn(open.lsn);
            writer.number(u64::from(open.total));
            writer.number(u64::from(open.got));
            writer.number(u64::from(open.crc));
            writer.bytes(&open.bytes);
        });
        self.list(&tail.pending, Self::destructive);
    }
}
