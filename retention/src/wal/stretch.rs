//! Many overlapping intervals made into a row of stretches.

use std::collections::BinaryHeap;

use pgwal::Lsn;

/// Segments from `first` up to, not including, `end`, that a claim needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) first: u64,
    pub(super) end: u64,
    /// Whether it is known that it leads there.
    pub(super) certain: bool,
    /// The claim, by its index.
    pub(super) claim: usize,
    /// Where the claim begins: the greatest is the last to be given up.
    pub(super) begin: Lsn,
}

/// Segments from `first` up to the next stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) first: u64,
    /// The claim, by its index, that needs it and begins last.
    pub(super) needed_by: Option<usize>,
    /// The same of those of which it is not known.
    pub(super) perhaps_by: Option<usize>,
}

/// The claims that hold a place, the one that begins last on top.
type Holders = BinaryHeap<(Lsn, usize, u64)>;

/// Stretches from 0 on, without gaps, neighbours different.
pub(super) fn cut(mut intervals: Vec<Interval>) -> Vec<Stretch> {
    let mut cuts: Vec<u64> = std::iter::once(0)
        .chain(intervals.iter().flat_map(|interval| [interval.first, interval.end]))
        .filter(|cut| *cut < u64::MAX)
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    intervals.sort_unstable_by_key(|interval| interval.first);
    let mut coming = intervals.into_iter().peekable();
    let (mut certain, mut perhaps) = (Holders::new(), Holders::new());
    let mut stretches: Vec<Stretch> = Vec::with_capacity(cuts.len());
    for first in cuts {
        while let Some(interval) = coming.next_if(|interval| interval.first <= first) {
            let holders = if interval.certain { &mut certain } else { &mut perhaps };
            holders.push((interval.begin, interval.claim, interval.end));
        }
        let stretch =
            Stretch { first, needed_by: top(&mut certain, first), perhaps_by: top(&mut perhaps, first) };
        let same =
            |last: &Stretch| (last.needed_by, last.perhaps_by) == (stretch.needed_by, stretch.perhaps_by);
        if !stretches.last().is_some_and(same) {
            stretches.push(stretch);
        }
    }
    stretches
}

/// The holder on top, after those that ended are gone.
fn top(holders: &mut Holders, at: u64) -> Option<usize> {
    while let Some((_, claim, end)) = holders.peek() {
        if *end > at {
            return Some(*claim);
        }
        holders.pop();
    }
    None
}
