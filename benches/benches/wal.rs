//! Reading WAL: verification, index, every record; beside the checksum alone and a copy of the same bytes.
//!
//! The WAL is made by a server (the first of `MAJORS` that is installed) under three loads. Without one there is nothing to
//! measure.

use std::hint::black_box;
use std::io::{BufRead, Cursor};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use pgwal::index::{IndexOptions, Indexer, SegmentIndex};
use pgwal::reader::{CHUNK_BYTES, SegmentSource};
use pgwal::rmgr::Description;
use pgwal::verify::{VerifyOptions, verify_segments};
use pgwal::{Decoder, Parts, SegmentName, SegmentSize, WalFile};
use testkit::{Cluster, StopMode};

const MAJORS: [u32; 2] = [18, 15];

/// Segments in memory.
struct Wal(Vec<(SegmentName, Vec<u8>)>);

impl SegmentSource for Wal {
    fn open(&self, segment: SegmentName) -> std::io::Result<Option<Box<dyn BufRead + '_>>> {
        let found = self.0.iter().find(|(name, _)| *name == segment);
        Ok(found.map(|(_, bytes)| Box::new(Cursor::new(bytes)) as Box<dyn BufRead>))
    }
}

impl Wal {
    /// The whole segments that a server writes under this load.
    fn of(major: u32, load: &[&str]) -> Self {
        let mut cluster = Cluster::builder(major)
            .setting("wal_keep_size", "2GB")
            .setting("synchronous_commit", "off")
            .setting("autovacuum", "off")
            .start();
        cluster.execute("CREATE TABLE accounts (id int PRIMARY KEY, balance int, filler text)");
        cluster
            .execute("INSERT INTO accounts SELECT g, 0, repeat('x', 84) FROM generate_series(1, 200000) g");
        cluster.execute("CHECKPOINT");
        cluster.switch_wal();
        let first: SegmentName =
            cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").parse().expect("a name");
        for statement in load {
            cluster.execute(statement);
        }
        let last: SegmentName =
            cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").parse().expect("a name");
        cluster.stop(StopMode::Fast);
        let mut segments = Vec::new();
        let mut segment = first;
        while segment < last {
            let path = cluster.data_dir().join("pg_wal").join(WalFile::Segment(segment).to_string());
            segments.push((segment, std::fs::read(path).expect("a segment")));
            segment = segment.next(SegmentSize::DEFAULT).expect("a next segment");
        }
        Wal(segments)
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    fn names(&self) -> Vec<SegmentName> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

/// Single-row statements, as pgbench sends them.
const TRANSACTIONS: &str = "DO $$ BEGIN FOR g IN 1..150000 LOOP
    UPDATE accounts SET balance = balance + 1 WHERE id = 1 + (g * 7919) % 200000;
    IF g % 5 = 0 THEN COMMIT; END IF; END LOOP; END $$";
const COPY: &str =
    "CREATE TABLE loaded AS SELECT g AS a, repeat(md5(g::text), 4) AS b FROM generate_series(1, 250000) g";
const IMAGES: &str = "UPDATE accounts SET balance = balance + 1 WHERE id % 40 = 0";

fn wal(c: &mut Criterion) {
    let Some(major) = MAJORS.into_iter().find(|major| testkit::want_pg(*major)) else { return };
    let loads: [(&str, &[&str]); 3] = [
        ("transactions", &[TRANSACTIONS]),
        ("copy", &[COPY]),
        ("images", &[IMAGES, "CHECKPOINT", IMAGES, "CHECKPOINT", IMAGES]),
    ];
    for (load, statements) in loads {
        let wal = Wal::of(major, statements);
        let mut group = c.benchmark_group(format!("wal of {load}"));
        group.throughput(Throughput::Bytes(wal.bytes()));
        group.sample_size(10);
        floor(&mut group, &wal);
        group.bench_function("verify", |b| b.iter(|| verify(&wal)));
        group.bench_function("index", |b| b.iter(|| index(&wal, false)));
        group.bench_function("index with blocks", |b| b.iter(|| index(&wal, true)));
        group.bench_function("decode and describe", |b| b.iter(|| describe(&wal)));
        group.finish();
    }
}

/// What nothing that reads these bytes can be faster than.
fn floor<M: criterion::measurement::Measurement>(group: &mut BenchmarkGroup<'_, M>, wal: &Wal) {
    group.bench_function("CRC-32C alone", |b| {
        b.iter(|| wal.0.iter().fold(0, |crc, (_, bytes)| crc32c::crc32c_append(crc, black_box(bytes))));
    });
    group.bench_function("copy alone", |b| {
        let mut buffer = vec![0; CHUNK_BYTES];
        b.iter(|| {
            for piece in wal.0.iter().flat_map(|(_, bytes)| bytes.chunks_exact(CHUNK_BYTES)) {
                buffer.copy_from_slice(black_box(piece));
                black_box(&buffer);
            }
        });
    });
}

fn verify(wal: &Wal) -> u64 {
    let mut records = 0;
    let each = |report: pgwal::verify::SegmentReport| {
        assert!(report.is_sound(), "{:?}", report.faults);
        records += report.records;
    };
    verify_segments(wal, &wal.names(), &VerifyOptions::default(), 1, each).expect("readable");
    records
}

fn index(wal: &Wal, blocks: bool) -> usize {
    let mut before: Option<SegmentIndex> = None;
    let mut size = 0;
    for (segment, bytes) in &wal.0 {
        let options = IndexOptions { segment_size: SegmentSize::DEFAULT, blocks };
        let going = before.as_ref().and_then(|before| Indexer::after(before, *segment, blocks));
        let mut indexer = going.or_else(|| Indexer::new(*segment, options)).expect("a segment's name");
        for piece in bytes.chunks(CHUNK_BYTES) {
            indexer.feed(piece).expect("sound WAL");
        }
        let made = indexer.finish().expect("an index");
        size += made.to_bytes().len();
        before = Some(made);
    }
    size
}

fn describe(wal: &Wal) -> usize {
    let start = wal.0[0].0.first_lsn(SegmentSize::DEFAULT).expect("a segment's name");
    let mut decoder = Decoder::new(start, SegmentSize::DEFAULT);
    let (mut parts, mut description, mut length) = (Parts::new(), Description::new(), 0);
    for (_, bytes) in &wal.0 {
        let mut input = &bytes[..];
        while let Some(record) = decoder.next(&mut input).expect("sound WAL") {
            parts.read(&record).expect("a sound record");
            description.read(&record, &parts);
            length += description.text().len();
        }
    }
    length
}

fn names(c: &mut Criterion) {
    c.bench_function("parse and print a segment's name", |b| {
        b.iter(|| black_box("00000001000000A3000000FE").parse::<WalFile>().map(|file| file.to_string()));
    });
}

criterion_group!(benches, wal, names);
criterion_main!(benches);
