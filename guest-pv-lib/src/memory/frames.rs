//! Which frames are free: one bit each, and above it one bit for each word of them that has any.
//!
//! Pure bookkeeping, the same on a host. Invariant: bit `n` of `summary` is set exactly where word `n` of `words` is
//! not zero, and `free` counts the set bits of `words`. Frames are handed out lowest first, which keeps the high ones
//! together for whoever asks for a run.

/// Words that [`FreeFrames::new`] needs to keep `frames` frames.
pub const fn words_for(frames: usize) -> usize {
    let words = frames.div_ceil(64);
    words + words.div_ceil(64)
}

/// The set of free frames.
#[derive(Debug)]
pub struct FreeFrames<'a> {
    words: &'a mut [u64],
    summary: &'a mut [u64],
    /// No word of `summary` below this one has a bit set.
    lowest: usize,
    free: usize,
}

impl<'a> FreeFrames<'a> {
    /// A set for the frames `0..frames`, none of them free, kept in `storage`.
    ///
    /// # Panics
    ///
    /// Where `storage` is shorter than [`words_for`]`(frames)`.
    pub fn new(storage: &'a mut [u64], frames: usize) -> Self {
        let (words, rest) = storage.split_at_mut(frames.div_ceil(64));
        let (summary, _) = rest.split_at_mut(words.len().div_ceil(64));
        words.fill(0);
        summary.fill(0);
        Self { words, summary, lowest: 0, free: 0 }
    }

    /// How many frames are free.
    pub const fn free(&self) -> usize {
        self.free
    }

    /// Whether `frame` is free.
    #[cfg_attr(not(test), allow(dead_code))]
    pub fn contains(&self, frame: usize) -> bool {
        self.words.get(frame / 64).is_some_and(|word| word >> (frame % 64) & 1 != 0)
    }

    /// Takes `count` frames, one behind the other, the first a multiple of `align`, and returns the first.
    ///
    /// `align` is a power of two.
    pub fn take(&mut self, count: usize, align: usize) -> Option<usize> {
        debug_assert!(align.is_power_of_two() && count > 0);
        let mut start = self.next_free(self.lowest * 64 * 64)?;
        if count == 1 && align == 1 {
            self.mark(start, 1, false);
            return Some(start);
        }
        loop {
            let aligned = start.checked_next_multiple_of(align)?;
            let end = aligned.checked_add(count)?;
            match self.first_taken(aligned, end)? {
                taken if taken == end => {
                    self.mark(aligned, count, false);
                    return Some(aligned);
                }
                taken => start = self.next_free(taken + 1)?,
            }
        }
    }

    /// Takes the frames `first..first + count` in particular, where all of them are free.
    #[cfg_attr(not(test), allow(dead_code))]
    pub fn take_at(&mut self, first: usize, count: usize) -> bool {
        let end = first.checked_add(count);
        let all = end.is_some_and(|end| self.first_taken(first, end) == Some(end));
        if all {
            self.mark(first, count, false);
        }
        all
    }

    /// Gives the frames `first..first + count` back.
    ///
    /// # Panics
    ///
    /// Where one of them is free already or is none of the set: somebody would own a frame that is handed out again.
    pub fn give(&mut self, first: usize, count: usize) {
        self.mark(first, count, true);
    }

    /// Makes the frames `first..first + count` free or taken; each must have been the other.
    fn mark(&mut self, first: usize, count: usize, free: bool) {
        let (mut at, end) = (first, first + count);
        while at < end {
            let (index, offset) = (at / 64, at % 64);
            let bits = (end - at).min(64 - offset);
            let mask = (u64::MAX >> (64 - bits)) << offset;
            let word = &mut self.words[index];
            assert!(
                *word & mask == if free { 0 } else { mask },
                "frame {at:#x} is given back or taken twice"
            );
            *word ^= mask;
            let (summary, bit) = (&mut self.summary[index / 64], 1 << (index % 64));
            if *word == 0 {
                *summary &= !bit
            } else {
                *summary |= bit
            }
            at += bits;
        }
        if free {
            self.free += count;
            self.lowest = self.lowest.min(first / (64 * 64));
        } else {
            self.free -= count;
        }
        while self.lowest < self.summary.len() && self.summary[self.lowest] == 0 {
            self.lowest += 1;
        }
    }

    /// The first free frame that is not below `from`.
    fn next_free(&self, from: usize) -> Option<usize> {
        let index = from / 64;
        let first = self.words.get(index)? & (u64::MAX << (from % 64));
        if first != 0 {
            return Some(index * 64 + first.trailing_zeros() as usize);
        }
        let index = self.next_word(index + 1)?;
        Some(index * 64 + self.words[index].trailing_zeros() as usize)
    }

    /// The first word that is not below `from` and has a free frame.
    fn next_word(&self, from: usize) -> Option<usize> {
        let index = from / 64;
        let mut summary = self.summary.get(index)? & (u64::MAX << (from % 64));
        let mut index = index;
        while summary == 0 {
            index += 1;
            summary = *self.summary.get(index)?;
        }
        Some(index * 64 + summary.trailing_zeros() as usize)
    }

    /// The first frame in `from..end` that is not free, or `end`; none where the set does not reach `end`.
    fn first_taken(&self, from: usize, end: usize) -> Option<usize> {
        let mut at = from;
        while at < end {
            let taken = !self.words.get(at / 64)? & (u64::MAX << (at % 64));
            let limit = (at / 64 + 1) * 64;
            if taken != 0 {
                return Some((at / 64 * 64 + taken.trailing_zeros() as usize).min(end));
            }
            at = limit;
        }
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hands_out_the_lowest_first_and_runs_as_they_fit() {
        let mut storage = vec![0; words_for(1000)];
        let mut set = FreeFrames::new(&mut storage, 1000);
        assert_eq!(set.take(1, 1), None);
        set.give(10, 3);
        set.give(100, 300);
        assert_eq!(set.take(1, 1), Some(10));
        assert_eq!(set.take(4, 1), Some(100));
        assert_eq!(set.take(2, 1), Some(11));
        assert_eq!(set.take(8, 64), Some(128));
        assert_eq!(set.take(1, 1), Some(104));
        assert_eq!(set.take(300, 1), None);
        assert_eq!(set.free(), 300 - 4 - 8 - 1);
    }

    #[test]
    fn a_run_reaches_the_very_last_frame_and_no_further() {
        let mut storage = vec![0; words_for(130)];
        let mut set = FreeFrames::new(&mut storage, 130);
        set.give(0, 130);
        assert_eq!(set.take(131, 1), None);
        assert_eq!(set.take(130, 1), Some(0));
        assert_eq!(set.free(), 0);
    }

    #[test]
    #[should_panic(expected = "given back or taken twice")]
    fn giving_a_frame_back_twice_is_noticed() {
        let mut storage = vec![0; words_for(64)];
        let mut set = FreeFrames::new(&mut storage, 64);
        set.give(3, 2);
        set.give(4, 1);
    }

    /// What a test does to the set.
    #[derive(Clone, Debug)]
    enum Action {
        Take(usize, usize),
        TakeAt(usize, usize),
        Give(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            (1usize..200, 0u32..8).prop_map(|(count, order)| Action::Take(count, 1 << order)),
            (1usize..4, Just(1)).prop_map(|(count, align)| Action::Take(count, align)),
            (0usize..9000, 1usize..100).prop_map(|(first, count)| Action::TakeAt(first, count)),
            any::<usize>().prop_map(Action::Give),
        ]
    }

    /// The same by trying every place.
    fn find(free: &BTreeSet<usize>, count: usize, align: usize) -> Option<usize> {
        free.iter().copied().find(|&first| {
            first.is_multiple_of(align) && (first..first + count).all(|frame| free.contains(&frame))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn behaves_like_a_set_of_numbers(
            actions in prop::collection::vec(action(), 1..200),
            frames in 1usize..9000,
            holes in prop::collection::vec(0usize..9000, 0..20),
        ) {
            let mut storage = vec![0; words_for(frames)];
            let mut set = FreeFrames::new(&mut storage, frames);
            let mut model: BTreeSet<usize> = (0..frames).filter(|frame| !holes.contains(frame)).collect();
            for &frame in &model {
                set.give(frame, 1);
            }
            let mut held: Vec<(usize, usize)> = vec![];
            for action in actions {
                match action {
                    Action::Take(count, align) => {
                        let got = set.take(count, align);
                        prop_assert_eq!(got, find(&model, count, align));
                        if let Some(first) = got {
                            (first..first + count).for_each(|frame| { model.remove(&frame); });
                            held.push((first, count));
                        }
                    }
                    Action::TakeAt(first, count) => {
                        let all = (first..first + count).all(|frame| model.contains(&frame));
                        prop_assert_eq!(set.take_at(first, count), all);
                        if all {
                            (first..first + count).for_each(|frame| { model.remove(&frame); });
                            held.push((first, count));
                        }
                    }
                    Action::Give(which) if !held.is_empty() => {
                        let (first, count) = held.swap_remove(which % held.len());
                        set.give(first, count);
                        model.extend(first..first + count);
                    }
                    Action::Give(_) => {}
                }
                prop_assert_eq!(set.free(), model.len());
            }
            for frame in 0..frames {
                prop_assert_eq!(set.contains(frame), model.contains(&frame));
            }
        }
    }
}
