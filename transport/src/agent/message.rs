//! Requests and what answers them, as payloads of frames.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use super::wire::{Decoder, Encoder, Malformed};
use crate::host::{
    Access, Action, Change, DIGEST_BYTES, Digest, Entry, FileEnd, HashJob, Hashed, Kind, Known, Owner,
    ReadJob, ReadOptions, Root,
};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request<'changes> {
    Open {
        path: PathBuf,
        access: Access,
    },
    Walk {
        root: Root,
        closed: Vec<PathBuf>,
    },
    Read {
        options: ReadOptions,
        jobs: Vec<ReadJob>,
    },
    Hash {
        jobs: Vec<HashJob>,
    },
    /// Borrowed by who asks for them, since they bring the contents of files along.
    Change {
        changes: Cow<'changes, [Change]>,
    },
    Sync {
        root: Root,
    },
    FreeBytes {
        root: Root,
    },
}

impl Request<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        match self {
            Request::Open { path, access } => {
                out.u8(1);
                out.u8(match access {
                    Access::Read => 0,
                    Access::Change => 1,
                });
                out.path(path);
            }
            Request::Walk { root, closed } => {
                out.u8(2);
                out.u32(root.0);
                out.count(closed.len());
                closed.iter().for_each(|path| out.path(path));
            }
            Request::Read { options, jobs } => {
                out.u8(3);
                out.option(options.inspector.as_ref(), |out, (name, parameters)| {
                    out.bytes(name.as_bytes());
                    out.bytes(parameters);
                });
                out.count(jobs.len());
                jobs.iter().for_each(|job| encode_read_job(&mut out, job));
            }
            Request::Hash { jobs } => {
                out.u8(4);
                out.count(jobs.len());
                for job in jobs {
                    out.u32(job.root.0);
                    out.path(&job.path);
                    out.u64(job.offset);
                    out.u64(job.length);
                    out.u32(job.block_bytes);
                }
            }
            Request::Change { changes } => {
                out.u8(5);
                out.count(changes.len());
                changes.iter().for_each(|change| encode_change(&mut out, change));
            }
            Request::Sync { root } => {
                out.u8(6);
                out.u32(root.0);
            }
            Request::FreeBytes { root } => {
                out.u8(7);
                out.u32(root.0);
            }
        }
        out.0
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut input = Decoder::new(payload);
        let request = match input.u8()? {
            1 => {
                let access = match input.u8()? {
                    0 => Access::Read,
                    1 => Access::Change,
                    _ => return Err(Malformed),
                };
                Request::Open { path: input.path()?, access }
            }
            2 => {
                let root = Root(input.u32()?);
                Request::Walk { root, closed: list(&mut input, 4, |input| input.path())? }
            }
            3 => {
                let inspector = input.option(|input| Ok((input.text()?, input.bytes()?.to_vec())))?;
                let jobs = list(&mut input, 25, decode_read_job)?;
                Request::Read { options: ReadOptions { inspector }, jobs }
            }
            4 => Request::Hash {
                jobs: list(&mut input, 28, |input| {
                    Ok(HashJob {
                        root: Root(input.u32()?),
                        path: input.path()?,
                        offset: input.u64()?,
                        length: input.u64()?,
                        block_bytes: input.u32()?,
                    })
                })?,
            },
            5 => Request::Change { changes: list(&mut input, 9, decode_change)?.into() },
            6 => Request::Sync { root: Root(input.u32()?) },
            7 => Request::FreeBytes { root: Root(input.u32()?) },
            _ => return Err(Malformed),
        };
        input.end()?;
        Ok(request)
    }
}

fn list<T>(
    input: &mut Decoder<'_>,
    least_bytes: usize,
    decode: impl Fn(&mut Decoder<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = input.count(least_bytes)?;
    (0..count).map(|_| decode(input)).collect()
}

fn encode_read_job(out: &mut Encoder, job: &ReadJob) {
    out.u32(job.root.0);
    out.path(&job.path);
    out.u64(job.offset);
    out.u64(job.length);
    out.option(job.known.as_ref(), |out, known| {
        out.u32(known.block_bytes);
        encode_digests(out, &known.digests);
    });
}

fn decode_read_job(input: &mut Decoder<'_>) -> Result<ReadJob, Malformed> {
    Ok(ReadJob {
        root: Root(input.u32()?),
        path: input.path()?,
        offset: input.u64()?,
        length: input.u64()?,
        known: input
            .option(|input| Ok(Known { block_bytes: input.u32()?, digests: decode_digests(input)? }))?,
    })
}

fn encode_digests(out: &mut Encoder, digests: &[Digest]) {
    out.count(digests.len());
    out.0.extend_from_slice(digests.as_flattened());
}

fn decode_digests(input: &mut Decoder<'_>) -> Result<Vec<Digest>, Malformed> {
    let count = input.count(DIGEST_BYTES)?;
    let bytes = input.raw(count * DIGEST_BYTES)?;
    Ok(bytes.as_chunks::<DIGEST_BYTES>().0.to_vec())
}

fn encode_change(out: &mut Encoder, change: &Change) {
    out.u32(change.root.0);
    out.path(&change.path);
    match &change.action {
        Action::CreateDirectory { mode } => {
            out.u8(1);
            out.u32(*mode);
        }
        Action::CreateFile { mode } => {
            out.u8(2);
            out.u32(*mode);
        }
        Action::Write { offset, data } => {
            out.u8(3);
            out.u64(*offset);
            out.bytes(data);
        }
        Action::Truncate { size } => {
            out.u8(4);
            out.u64(*size);
        }
        Action::SymbolicLink { target } => {
            out.u8(5);
            out.path(target);
        }
        Action::HardLink { to } => {
            out.u8(6);
            out.path(to);
        }
        Action::Rename { to } => {
            out.u8(7);
            out.path(to);
        }
        Action::RemoveFile => out.u8(8),
        Action::RemoveDirectory => out.u8(9),
        Action::SetMetadata { mode, owner, modified_ns } => {
            out.u8(10);
            out.option(*mode, Encoder::u32);
            out.option(*owner, |out, owner| {
                out.u32(owner.uid);
                out.u32(owner.gid);
            });
            out.option(*modified_ns, Encoder::i64);
        }
        Action::Sync => out.u8(11),
        Action::Lock => out.u8(12),
    }
}

fn decode_change(input: &mut Decoder<'_>) -> Result<Change, Malformed> {
    let root = Root(input.u32()?);
    let path = input.path()?;
    let action = match input.u8()? {
        1 => Action::CreateDirectory { mode: input.u32()? },
        2 => Action::CreateFile { mode: input.u32()? },
        3 => Action::Write { offset: input.u64()?, data: input.bytes()?.to_vec() },
        4 => Action::Truncate { size: input.u64()? },
        5 => Action::SymbolicLink { target: input.path()? },
        6 => Action::HardLink { to: input.path()? },
        7 => Action::Rename { to: input.path()? },
        8 => Action::RemoveFile,
        9 => Action::RemoveDirectory,
        10 => Action::SetMetadata {
            mode: input.option(Decoder::u32)?,
            owner: input.option(|input| Ok(Owner { uid: input.u32()?, gid: input.u32()? }))?,
            modified_ns: input.option(Decoder::i64)?,
        },
        11 => Action::Sync,
        12 => Action::Lock,
        _ => return Err(Malformed),
    };
    Ok(Change { root, path, action })
}

pub(super) fn encode_entry(out: &mut Encoder, entry: &Entry) {
    out.path(&entry.path);
    out.u8(match entry.kind {
        Kind::File => 0,
        Kind::Directory => 1,
        Kind::Link => 2,
        Kind::Other => 3,
    });
    out.u64(entry.size);
    out.i64(entry.modified_ns);
    out.u32(entry.mode);
    out.u32(entry.owner.uid);
    out.u32(entry.owner.gid);
    out.u32(entry.links);
    out.path(&entry.target);
}

pub(super) fn decode_entry(input: &mut Decoder<'_>) -> Result<Entry, Malformed> {
    Ok(Entry {
        path: input.path()?,
        kind: match input.u8()? {
            0 => Kind::File,
            1 => Kind::Directory,
            2 => Kind::Link,
            3 => Kind::Other,
            _ => return Err(Malformed),
        },
        size: input.u64()?,
        modified_ns: input.i64()?,
        mode: input.u32()?,
        owner: Owner { uid: input.u32()?, gid: input.u32()? },
        links: input.u32()?,
        target: input.path()?,
    })
}

/// Part of the answer to a read: several of these make a frame.
#[derive(Debug)]
pub(super) enum ReadPart<'a> {
    Data { job: u32, offset: u64, bytes: &'a [u8] },
    Same { job: u32, offset: u64, length: u64 },
    End { job: u32, outcome: io::Result<FileEnd> },
}

pub(super) fn encode_data(out: &mut Encoder, job: u32, offset: u64, bytes: &[u8]) {
    out.u8(1);
    out.u32(job);
    out.u64(offset);
    out.bytes(bytes);
}

pub(super) fn encode_same(out: &mut Encoder, job: u32, offset: u64, length: u64) {
    out.u8(2);
    out.u32(job);
    out.u64(offset);
    out.u64(length);
}

pub(super) fn encode_end(out: &mut Encoder, job: u32, outcome: &io::Result<FileEnd>) {
    out.u8(3);
    out.u32(job);
    encode_outcome(out, outcome.as_ref(), |out, end| {
        out.u64(end.bytes);
        out.i64(end.modified_ns);
        out.bytes(&end.findings);
    });
}

pub(super) fn decode_read_part<'a>(input: &mut Decoder<'a>) -> Result<ReadPart<'a>, Malformed> {
    Ok(match input.u8()? {
        1 => ReadPart::Data { job: input.u32()?, offset: input.u64()?, bytes: input.bytes()? },
        2 => ReadPart::Same { job: input.u32()?, offset: input.u64()?, length: input.u64()? },
        3 => ReadPart::End {
            job: input.u32()?,
            outcome: decode_outcome(input, |input| {
                Ok(FileEnd {
                    bytes: input.u64()?,
                    modified_ns: input.i64()?,
                    findings: input.bytes()?.to_vec(),
                })
            })?,
        },
        _ => return Err(Malformed),
    })
}

pub(super) fn encode_hashed(out: &mut Encoder, outcome: &io::Result<Hashed>) {
    encode_outcome(out, outcome.as_ref(), |out, hashed| {
        out.u64(hashed.bytes);
        encode_digests(out, &hashed.digests);
    });
}

pub(super) fn decode_hashed(input: &mut Decoder<'_>) -> Result<io::Result<Hashed>, Malformed> {
    decode_outcome(input, |input| Ok(Hashed { bytes: input.u64()?, digests: decode_digests(input)? }))
}

/// A success, or an error by the system's number (0 when it has none) and in words.
pub(super) fn encode_outcome<T>(
    out: &mut Encoder,
    outcome: Result<T, &io::Error>,
    encode: impl FnOnce(&mut Encoder, T),
) {
    match outcome {
        Ok(value) => {
            out.u8(0);
            encode(out, value);
        }
        Err(error) => {
            out.u8(1);
            out.u32(error.raw_os_error().and_then(|code| u32::try_from(code).ok()).unwrap_or(0));
            out.bytes(error.to_string().as_bytes());
        }
    }
}

pub(super) fn decode_outcome<T>(
    input: &mut Decoder<'_>,
    decode: impl FnOnce(&mut Decoder<'_>) -> Result<T, Malformed>,
) -> Result<io::Result<T>, Malformed> {
    match input.u8()? {
        0 => decode(input).map(Ok),
        1 => {
            let code = i32::try_from(input.u32()?).map_err(|_| Malformed)?;
            let text = input.words()?;
            Ok(Err(if code == 0 { io::Error::other(text) } else { io::Error::from_raw_os_error(code) }))
        }
        _ => Err(Malformed),
    }
}
