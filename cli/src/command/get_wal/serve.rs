//! `get-wal --serve`: one process that hands out WAL files for as long as it is asked for them.
//!
//! Spoken between `wal-restore`'s prefetcher and a backup host that runs barkeep, so that a segment costs no new process
//! there. Described in `docs/formats.md`.

use std::fmt;
use std::io::{self, BufRead, Read, Write};

use barkeep_catalog::Layout;
use barkeep_catalog::wal;
use pgwal::WalFile;

use crate::error::chain;

/// What the answering side says first.
pub(crate) const GREETING: &str = "barkeep-get-wal 1";
/// Longest line of either side, in bytes.
pub(crate) const LINE_BYTES_MAX: u64 = 4096;
/// Size of the pieces in which a file is sent, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Answers until `questions` end. Files are sent as they are stored: who asks decompresses and verifies.
///
/// # Errors
/// When the other side has gone away in the middle of an answer.
pub(super) fn serve(
    layout: &Layout,
    mut questions: impl BufRead,
    mut answers: impl Write,
    mut sent: impl FnMut(WalFile),
) -> io::Result<()> {
    writeln!(answers, "{GREETING}")?;
    answers.flush()?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let mut line = String::new();
        if (&mut questions).take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end().parse::<WalFile>() {
            Ok(file) => {
                send(layout, file, &mut piece, &mut answers)?;
                sent(file);
            }
            Err(_) => refuse(&mut answers, "failed", &"that is no WAL file's name")?,
        }
        answers.flush()?;
    }
}

fn send(layout: &Layout, file: WalFile, piece: &mut [u8], answers: &mut impl Write) -> io::Result<()> {
    let found = match wal::find(layout, file, false) {
        Ok(Some(found)) => found,
        Ok(None) => {
            let text = format!("WAL file '{file}' not found in server '{}'", layout.server);
            return refuse(answers, "missing", &text);
        }
        Err(error) => return refuse(answers, "failed", &chain(&error)),
    };
    let path = found.path.clone();
    let mut source = found.stored();
    loop {
        match source.read(piece) {
            Ok(0) => return writeln!(answers, "end"),
            Ok(count) => {
                writeln!(answers, "data {count}")?;
                answers.write_all(&piece[..count])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let text = format!("'{}' can't be read: {error}", path.display());
                return refuse(answers, "failed", &text);
            }
        }
    }
}

fn refuse(answers: &mut impl Write, word: &str, why: &dyn fmt::Display) -> io::Result<()> {
    let mut why = why.to_string().replace(['\n', '\r'], " ");
    // A word and a space go before it, a line's end behind.
    let room = usize::try_from(LINE_BYTES_MAX).unwrap_or(usize::MAX) - 16;
    while why.len() > room {
        why.pop();
    }
    writeln!(answers, "{word} {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(questions: &str) -> String {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new("main", home.path(), home.path());
        let file: WalFile = "000000010000000000000001".parse().unwrap();
        std::fs::create_dir_all(layout.wal_directory(&file)).unwrap();
        std::fs::write(layout.wal(&file), "some WAL").unwrap();
        let mut said = Vec::new();
        serve(&layout, questions.as_bytes(), &mut said, |_| {}).unwrap();
        String::from_utf8(said).unwrap()
    }

    #[test]
    fn answers_what_it_is_asked_and_ends_when_nobody_asks() {
        assert_eq!(answers(""), "barkeep-get-wal 1\n");
        let one = "000000010000000000000001\n";
        let got = "data 8\nsome WALend\n";
        assert_eq!(answers(one), format!("barkeep-get-wal 1\n{got}"));
        let missing = "missing WAL file '00000002.history' not found in server 'main'\n";
        let all = answers(&format!("{one}00000002.history\n{one}../x\n"));
        let rubbish = "failed that is no WAL file's name\n";
        assert_eq!(all, format!("barkeep-get-wal 1\n{got}{missing}{got}{rubbish}"));
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let said = answers(&"x".repeat(10_000));
        assert!(said.lines().skip(1).all(|line| line.starts_with("failed ")), "{said}");
    }
}
