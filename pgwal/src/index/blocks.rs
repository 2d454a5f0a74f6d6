//! The map of changed blocks: per relation fork, which blocks, and below which one nothing was cut off.

use std::collections::BTreeMap;

use crate::{Fork, RelFile};

/// Blocks per piece of a large fork's set.
const PIECE_BLOCKS: u32 = 1 << 16;
/// Up to this many blocks of a fork are kept as a sorted list.
const MAX_FEW: usize = 64;

/// Blocks changed, by relation file and fork.
///
/// Changes of free space maps aren't all in the WAL: for those the map is no guide. A database that was created or dropped as
/// a whole is relation 0 of it, cut off to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockMap {
    forks: BTreeMap<(RelFile, Fork), ForkBlocks>,
}

/// Makes a map: most records change one of a few forks, so those are found without a search.
#[derive(Debug)]
pub(crate) struct BlockMapBuilder {
    forks: Vec<((RelFile, Fork), ForkBlocks)>,
    places: BTreeMap<(RelFile, Fork), usize>,
    recent: [usize; RECENT],
}

/// How many forks are found without a search; a power of two.
const RECENT: usize = 128;

impl Default for BlockMapBuilder {
    fn default() -> Self {
        BlockMapBuilder { forks: Vec::new(), places: BTreeMap::new(), recent: [usize::MAX; RECENT] }
    }
}

impl BlockMapBuilder {
    #[inline]
    pub(crate) fn fork(&mut self, file: RelFile, fork: Fork) -> &mut ForkBlocks {
        let slot = (file.number as usize ^ usize::from(fork.0) << 5) % RECENT;
        let recent = self.recent[slot];
        let hit = self.forks.get(recent).is_some_and(|(key, _)| *key == (file, fork));
        let place = if hit { recent } else { self.find(file, fork, slot) };
        &mut self.forks[place].1
    }

    fn find(&mut self, file: RelFile, fork: Fork, slot: usize) -> usize {
        let next = self.forks.len();
        let place = *self.places.entry((file, fork)).or_insert(next);
        if place == next {
            self.forks.push(((file, fork), ForkBlocks::default()));
        }
        self.recent[slot] = place;
        place
    }

    pub(crate) fn finish(self) -> BlockMap {
        BlockMap { forks: self.forks.into_iter().collect() }
    }
}

/// Blocks of a fork that were changed.
#[derive(Debug, Clone, Default)]
pub struct ForkBlocks {
    limit: Option<u32>,
    blocks: Blocks,
}

#[derive(Debug, Clone)]
enum Blocks {
    /// A sorted list.
    Few(Vec<u32>),
    /// A bit per block, in pieces.
    Many(Vec<Option<Box<[u64; PIECE_BLOCKS as usize / 64]>>>),
}

impl Default for Blocks {
    fn default() -> Self {
        Blocks::Few(Vec::new())
    }
}

impl BlockMap {
    /// The forks in order.
    pub fn iter(&self) -> impl Iterator<Item = (RelFile, Fork, &ForkBlocks)> {
        self.forks.iter().map(|((file, fork), blocks)| (*file, *fork, blocks))
    }

    /// What is known of a fork.
    pub fn get(&self, file: RelFile, fork: Fork) -> Option<&ForkBlocks> {
        self.forks.get(&(file, fork))
    }

    /// How many forks it holds.
    pub fn len(&self) -> usize {
        self.forks.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.forks.is_empty()
    }

    /// Takes in the map of later WAL.
    pub fn merge(&mut self, later: &BlockMap) {
        for (key, from) in &later.forks {
            let into = self.forks.entry(*key).or_default();
            if let Some(limit) = from.limit {
                into.cut(limit);
            }
            from.blocks().for_each(|block| into.insert(block));
        }
    }

    pub(crate) fn fork(&mut self, file: RelFile, fork: Fork) -> &mut ForkBlocks {
        self.forks.entry((file, fork)).or_default()
    }
}

impl ForkBlocks {
    /// The fewest blocks that the fork had at any time, if it was created, cut off or dropped: what an earlier backup has from
    /// there on is void.
    pub const fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// The changed blocks, ascending.
    pub fn blocks(&self) -> impl Iterator<Item = u32> + '_ {
        let (few, many): (&[u32], &[_]) = match &self.blocks {
            Blocks::Few(blocks) => (blocks, &[]),
            Blocks::Many(pieces) => (&[], pieces),
        };
        let bits = many.iter().zip(0u32..).filter_map(|(piece, index)| Some((piece.as_ref()?, index)));
        let bits = bits.flat_map(|(piece, index)| {
            piece.iter().zip(0u32..).filter(|(word, _)| **word != 0).flat_map(move |(word, at)| {
                (0..64)
                    .filter(move |bit| word >> bit & 1 != 0)
                    .map(move |bit| index * PIECE_BLOCKS + at * 64 + bit)
            })
        });
        few.iter().copied().chain(bits)
    }

    /// Whether the block was changed.
    pub fn contains(&self, block: u32) -> bool {
        match &self.blocks {
            Blocks::Few(blocks) => blocks.binary_search(&block).is_ok(),
            Blocks::Many(pieces) => {
                let (piece, word, bit) = place(block);
                pieces.get(piece).and_then(Option::as_ref).is_some_and(|piece| piece[word] & bit != 0)
            }
        }
    }

    /// Notes a changed block.
    #[inline]
    pub(crate) fn insert(&mut self, block: u32) {
        match &mut self.blocks {
            Blocks::Few(blocks) => {
                if blocks.last() == Some(&block) {
                    return;
                }
                let Err(at) = blocks.binary_search(&block) else { return };
                if blocks.len() < MAX_FEW {
                    blocks.insert(at, block);
                    return;
                }
                let few = std::mem::take(blocks);
                self.blocks = Blocks::Many(Vec::new());
                few.into_iter().for_each(|block| self.set(block));
                self.set(block);
            }
            Blocks::Many(_) => self.set(block),
        }
    }

    fn set(&mut self, block: u32) {
        let Blocks::Many(pieces) = &mut self.blocks else { return };
        let (piece, word, bit) = place(block);
        if pieces.len() <= piece {
            pieces.resize_with(piece + 1, || None);
        }
        pieces[piece].get_or_insert_with(|| Box::new([0; PIECE_BLOCKS as usize / 64]))[word] |= bit;
    }

    /// Notes that the fork was cut off to this many blocks: changes beyond are void.
    pub(crate) fn cut(&mut self, limit: u32) {
        self.limit = Some(self.limit.map_or(limit, |known| known.min(limit)));
        if self.blocks().next().is_none() {
            return;
        }
        let kept: Vec<u32> = self.blocks().take_while(|block| *block < limit).collect();
        self.blocks = Blocks::default();
        kept.into_iter().for_each(|block| self.insert(block));
    }
}

impl PartialEq for ForkBlocks {
    fn eq(&self, other: &Self) -> bool {
        self.limit == other.limit && self.blocks().eq(other.blocks())
    }
}

impl Eq for ForkBlocks {}

const fn place(block: u32) -> (usize, usize, u64) {
    let within = block % PIECE_BLOCKS;
    ((block / PIECE_BLOCKS) as usize, (within / 64) as usize, 1 << (within % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const FILE: RelFile = RelFile { tablespace: 1663, database: 5, number: 9 };

    proptest! {
        #[test]
        fn behaves_as_a_set_that_is_cut_off(
            steps in prop::collection::vec((prop::bool::weighted(0.02), 0u32..200_000), 0..400),
        ) {
            let (mut fork, mut model) = (ForkBlocks::default(), BTreeSet::new());
            for (cut, block) in steps {
                if cut {
                    fork.cut(block);
                    model.retain(|known| *known < block);
                } else {
                    fork.insert(block);
                    model.insert(block);
                }
            }
            prop_assert!(fork.blocks().eq(model.iter().copied()));
            prop_assert!(model.iter().all(|block| fork.contains(*block)));
        }
    }

    #[test]
    fn what_was_cut_off_later_is_void_earlier() {
        let mut earlier = BlockMap::default();
        (0..100).for_each(|block| earlier.fork(FILE, Fork::MAIN).insert(block));
        let mut later = BlockMap::default();
        later.fork(FILE, Fork::MAIN).cut(10);
        later.fork(FILE, Fork::MAIN).insert(12);
        earlier.merge(&later);
        let fork = earlier.get(FILE, Fork::MAIN).unwrap();
        assert_eq!(fork.limit(), Some(10));
        assert!(fork.blocks().eq((0..10).chain([12])));
    }
}
