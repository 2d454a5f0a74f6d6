//! The functions through which every byte of a backup or of WAL passes, each alone.

use std::fmt::Write as _;
use std::hint::black_box;

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgbase::checksum::page_checksum;
use pgbase::manifest::ChecksumAlgorithm;
use pgbase::tar::{TarParser, Trailer, encode_header};
use pgwal::wire::{BackendMessage, Inbox, StreamMessage};

const PAGE_BYTES: usize = 8192;
const MIB: usize = 1 << 20;

/// Bytes that are neither constant nor worth compressing.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

fn page_checksums(c: &mut Criterion) {
    let pages = noise(MIB);
    let mut group = c.benchmark_group("page_checksum");
    group.throughput(Throughput::Bytes(pages.len() as u64));
    group.bench_function("1 MiB of pages", |b| {
        b.iter(|| {
            let pages = black_box(&pages).chunks_exact(PAGE_BYTES).zip(0..);
            pages.fold(0, |sum, (page, block)| sum ^ page_checksum(page, block))
        });
    });
    group.finish();
}

fn manifest_hashes(c: &mut Criterion) {
    let data = noise(MIB);
    let mut group = c.benchmark_group("manifest_hash");
    group.throughput(Throughput::Bytes(data.len() as u64));
    for algorithm in [ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Sha256] {
        group.bench_function(format!("{algorithm:?}"), |b| {
            b.iter(|| {
                let mut hasher = algorithm.hasher();
                hasher.update(black_box(&data));
                let mut out = Vec::new();
                hasher.finish_into(&mut out);
                out
            });
        });
    }
    group.finish();
}

fn archives(c: &mut Criterion) {
    let mut group = c.benchmark_group("tar");
    for (what, file_bytes, files) in [("large files", 8 * MIB, 2), ("small files", PAGE_BYTES, 1024)] {
        let contents = noise(file_bytes);
        let mut archive = BytesMut::new();
        for number in 0..files {
            archive.put_slice(&encode_header(
                format!("base/5/{number}").as_bytes(),
                b'0',
                file_bytes as u64,
                b"",
            ));
            archive.put_slice(&contents);
        }
        archive.put_bytes(0, 1024);
        let archive = archive.freeze();
        group.throughput(Throughput::Bytes(archive.len() as u64));
        group.bench_function(what, |b| {
            b.iter(|| {
                let (mut parser, mut events) = (TarParser::new(Trailer::Required), 0);
                // As they come from a server: in messages of 32 KiB.
                for at in (0..archive.len()).step_by(32 << 10) {
                    let mut piece: Bytes = archive.slice(at..archive.len().min(at + (32 << 10)));
                    while parser.next(&mut piece).expect("a sound archive").is_some() {
                        events += 1;
                    }
                }
                events
            });
        });
    }
    group.finish();
}

fn replication_messages(c: &mut Criterion) {
    let wal = noise(8 << 10);
    let mut stream = BytesMut::new();
    for number in 0..128_u64 {
        stream.put_u8(b'd');
        stream.put_u32((4 + 25 + wal.len()) as u32);
        stream.put_u8(b'w');
        stream.put_u64(number * wal.len() as u64);
        stream.put_u64(1 << 40);
        stream.put_i64(0);
        stream.put_slice(&wal);
    }
    let mut group = c.benchmark_group("replication");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("WAL messages of 8 KiB", |b| {
        b.iter(|| {
            let (mut inbox, mut bytes) = (Inbox::new(), 0);
            inbox.buffer().extend_from_slice(black_box(&stream));
            while let Some(frame) = inbox.next_frame().expect("sound frames") {
                if let BackendMessage::CopyData(body) = BackendMessage::parse(frame).expect("sound messages")
                {
                    if let StreamMessage::XLogData { bytes: wal, .. } =
                        StreamMessage::parse(body).expect("WAL")
                    {
                        bytes += wal.len();
                    }
                }
            }
            bytes
        });
    });
    group.finish();
}

fn wal_lists(c: &mut Criterion) {
    let mut list = String::new();
    for number in 0..10_000 {
        let _ = writeln!(
            list,
            "0000000100000{:03X}000000{:02X}\t16777216\t1763806565.123\tNone\tNone",
            number / 256,
            number % 256
        );
    }
    let mut group = c.benchmark_group("catalog");
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("xlog.db of 10,000 files", |b| {
        b.iter(|| barkeep_catalog::xlogdb::parse(black_box(list.as_bytes())).entries.len());
    });
    group.finish();
}

criterion_group!(benches, page_checksums, manifest_hashes, archives, replication_messages, wal_lists);
criterion_main!(benches);
