//! Checks of what is in the WAL archive: is any missing, is all of it sound.

use barkeep_catalog::archive::{Indexed, index_archive};
use barkeep_catalog::gaps::Gap;
use barkeep_catalog::inspect::Soundness;
use barkeep_catalog::xlogdb;
use pgwal::WalFile;

use super::backups::Home;
use super::{Line, Lines};
use crate::context::ServerContext;
use crate::error::chain;

/// What to do when the archive can't be looked through.
const READABLE: &str = "see to it that barkeep's user can read it";
/// Most segments that are named one by one.
const NAMED_MAX: usize = 20;

/// Whether any segment is missing that recovery would need. Told only when so.
pub(super) fn completeness(lines: &mut Lines, home: &Home) {
    const NAME: &str = "WAL archive gaps";
    match &home.gaps {
        Ok(gaps) => {
            if !gaps.is_empty() {
                lines.lines.push(Line {
                    name: NAME.to_owned(),
                    ok: false,
                    hint: summary(gaps),
                    details: gaps.iter().take(NAMED_MAX).map(range).collect(),
                    cure: Some(
                        "cron fetches them while the server still has them; no recovery gets past a gap, so take a new \
                         backup if they don't come"
                            .to_owned(),
                    ),
                });
            }
        }
        Err(error) => lines.failed(NAME, error.clone(), READABLE),
    }
}

/// Whether every line of the archive's list says something. Told only when not.
pub(super) fn list(lines: &mut Lines, server: &ServerContext, home: &Home) {
    if home.list_faults.is_empty() {
        return;
    }
    lines.lines.push(Line {
        name: "WAL archive list".to_owned(),
        ok: false,
        hint: format!("{} lines cannot be read", home.list_faults.len()),
        details: home.list_faults.iter().take(NAMED_MAX).map(ToString::to_string).collect(),
        cure: Some(format!(
            "make it anew: barkeep rebuild-xlogdb {}; until then the files are gone by, but Barman stops at such a line",
            server.name()
        )),
    });
}

/// What is missing, in one phrase.
pub(in crate::command) fn summary(gaps: &[Gap]) -> String {
    let count: u64 = gaps.iter().map(|gap| gap.segments).sum();
    let first = gaps.first().map_or_else(String::new, |gap| gap.first.to_string());
    match count {
        1 => format!("{first} is missing"),
        count => format!("{count} segments are missing, the first is {first}"),
    }
}

fn range(gap: &Gap) -> String {
    if gap.segments == 1 { gap.first.to_string() } else { format!("{} to {}", gap.first, gap.last) }
}

/// Whether all archived segments are sound, as far as it is known. Told only when not.
pub(super) fn soundness(lines: &mut Lines, server: &ServerContext, home: &Home) {
    let doubtful = match &home.doubtful {
        Ok(doubtful) => doubtful,
        Err(error) => return lines.failed("WAL archive soundness", error.clone(), READABLE),
    };
    // What was deleted since is of no interest; nor does it matter if that can't be told.
    let faulty = doubtful
        .iter()
        .filter(|facts| server.layout().wal(&WalFile::Segment(facts.segment)).exists())
        .map(|facts| (facts.segment.to_string(), facts.soundness, facts.note.clone()));
    tell(lines, "WAL archive soundness", faulty.collect(), String::new());
}

/// Reads every archived segment. What is found out is remembered, and told by every check from then on.
pub(super) fn deep(lines: &mut Lines, server: &ServerContext) {
    const NAME: &str = "WAL archive records";
    let layout = server.layout();
    let segments = match xlogdb::archived_segments(&layout) {
        Ok(segments) => segments,
        Err(error) => return lines.failed(NAME, chain(&error), READABLE),
    };
    let (mut faulty, mut read) = (Vec::new(), 0_usize);
    let done = index_archive(&layout, &segments, None, |indexed| match indexed {
        Indexed::Read(facts) => {
            read += 1;
            if !facts.soundness.is_fine() {
                faulty.push((facts.segment.to_string(), facts.soundness, facts.note));
            }
        }
        Indexed::Unreadable(segment, error) => {
            faulty.push((segment.to_string(), Soundness::Damaged, chain(&error)));
        }
        Indexed::Gone(_) => {}
    });
    if let Err(error) = done {
        return lines.failed(NAME, chain(&error), READABLE);
    }
    tell(lines, NAME, faulty, format!("{read} segments were read"));
}

/// Damage is a failure; what is only odd is told. With nothing to tell, `all_well` is, unless it is empty.
fn tell(lines: &mut Lines, name: &str, faulty: Vec<(String, Soundness, String)>, all_well: String) {
    let damaged = faulty.iter().filter(|(_, soundness, _)| soundness.is_damage()).count();
    let odd = faulty.len() - damaged;
    let hint = match (damaged, odd) {
        (0, 0) if all_well.is_empty() => return,
        (0, 0) => all_well,
        (0, odd) => format!("{odd} segments are not as a server writes them"),
        (damaged, 0) => format!("{damaged} segments are damaged"),
        (damaged, odd) => {
            format!("{damaged} segments are damaged, and {odd} are not as a server writes them")
        }
    };
    let detail = |(segment, _, note): &(String, Soundness, String)| format!("{segment}: {note}");
    lines.lines.push(Line {
        name: name.to_owned(),
        ok: damaged == 0,
        hint,
        details: faulty.iter().take(NAMED_MAX).map(detail).collect(),
        cure: (damaged > 0).then(|| {
            "cron replaces them while the server still has them; no recovery gets past damage, so take a new backup if \
             that fails"
                .to_owned()
        }),
    });
}
