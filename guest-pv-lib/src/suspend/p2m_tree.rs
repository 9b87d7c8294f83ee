//! Where a toolstack finds the p2m list: the frames of the list, in frames whose own numbers are in one more frame
//! (`pfn_to_mfn_frame_list_list` of `arch_shared_info`).

use crate::memory::{OutOfMemory, Pages};
use crate::mmu::Mfn;

/// Numbers that a frame holds.
const PER_PAGE: usize = 512;

/// The frames of the tree: the root, and the lists behind it.
#[derive(Debug)]
pub struct Tree(Pages);

impl Tree {
    /// Room for the tree of a p2m list with `entries` entries, as far as a tree of this height goes.
    pub fn new(entries: usize) -> Result<Self, OutOfMemory> {
        let lists = entries.div_ceil(PER_PAGE).div_ceil(PER_PAGE).clamp(1, PER_PAGE);
        Pages::new(1 + lists).map(Self)
    }

    /// Fills the tree in; `frame_of` is the frame of the p2m list that has entry 512 times the number.
    pub fn fill(&mut self, frames: usize, frame_of: impl Fn(usize) -> Option<Mfn>) {
        let lists = self.0.count() - 1;
        for list in 0..lists {
            let mfn = self.0.mfn(1 + list);
            self.set(list, mfn);
        }
        for number in 0..frames.min(lists * PER_PAGE) {
            if let Some(mfn) = frame_of(number) {
                self.set(PER_PAGE + number, mfn);
            }
        }
    }

    fn set(&mut self, slot: usize, mfn: Mfn) {
        let words = self.0.as_mut().as_chunks_mut::<8>().0;
        words[slot] = mfn.0.to_ne_bytes();
    }

    /// The frame of the root.
    pub fn root(&self) -> Mfn {
        self.0.mfn(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_the_list_is_found() {
        let mut tree = Tree::new(PER_PAGE * PER_PAGE + 1).unwrap();
        assert_eq!(tree.0.count(), 3);
        tree.fill(513, |number| Some(Mfn(1000 + number as u64)));
        let words: alloc::vec::Vec<u64> =
            tree.0.as_ref().as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        assert_eq!(words[..3], [tree.0.mfn(1).0, tree.0.mfn(2).0, 0]);
        assert_eq!((words[512], words[1023], words[1024], words[1025]), (1000, 1511, 1512, 0));
        assert_eq!(tree.root(), tree.0.mfn(0));
    }
}
