//! Taking everything away from a domain that is being destroyed.
//!
//! There is no list of a domain's frames: 16 bytes a frame leave no room for links. The teardown looks through the parts of the
//! frame table that they are in instead, three times, and remembers where it is when it has to stop: first it takes all pins away, then it
//! dooms tables that were left partly checked, then it gives up the domain's own reference to each frame. Frames that
//! another domain still maps stay, and stay in the reservation's count, until that one lets go of them. What the domain left in its
//! memory is cleared later (`mem::buddy`): by a CPU that has nothing else to do, or by whoever takes the frame.

use super::PageError;
use super::info::{Count, FrameInfo, Type};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Mfn;
use crate::platform::Platform;
use core::ops::Range;

/// Frames looked at between two questions whether other work is pending.
const BURST: u64 = 256;

/// How far a teardown got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Teardown {
    /// 0: not begun; 1 to 3 as above.
    stage: u8,
    /// The next frame to look at; before the first stage the next vCPU, which gives up its tables.
    next: u64,
}

impl Teardown {
    /// Not begun.
    pub(crate) const fn new() -> Self {
        Self { stage: 0, next: 0 }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Takes all frames away from `domain`, whose vCPUs have stopped for good and which is among the dying of the domain table.
    /// What its reservation counts afterwards are the frames that others still keep.
    ///
    /// # Errors
    /// [`PageError::Restart`] when this CPU has other work first: call again.
    pub fn release_domain_pages(&self, domain: &Domain<P>) -> Result<(), PageError> {
        self.settle_pieces(domain).map_err(|_| PageError::Restart)?;
        let mut progress = domain.pages.teardown.lock();
        let Teardown { mut stage, mut next } = *progress;
        let all = domain.pages.frames();
        if stage == 0 {
            self.frames.drop_claim(&domain.pages.claim);
            while let Some(vcpu) = usize::try_from(next).ok().and_then(|next| domain.vcpus.get(next)) {
                self.drop_vcpu_tables(domain, vcpu);
                next += 1;
                *progress = Teardown { stage, next };
                if self.platform.work_pending() {
                    return Err(PageError::Restart);
                }
            }
            (stage, next) = (1, all.start);
        }
        while stage <= 3 {
            *progress = Teardown { stage, next };
            self.work_off_doomed(domain)?;
            let (any, part_end) = domain.pages.had_any_near(next);
            let end = if any {
                let end = next.saturating_add(BURST).min(part_end).min(all.end);
                self.look_through(domain, next..end, stage)
            } else {
                domain.pages.next_had(next)
            };
            (stage, next) = if end >= all.end { (stage + 1, all.start) } else { (stage, end) };
            *progress = Teardown { stage, next };
            if stage <= 3 && self.platform.work_pending() {
                return Err(PageError::Restart);
            }
        }
        // What the last frames left.
        self.work_off_doomed(domain)
    }

    /// Looks through some frames; answers where it stopped, before the end only because it took long.
    fn look_through(&self, domain: &Domain<P>, frames: Range<u64>, stage: u8) -> u64 {
        let mut end = frames.end;
        // Frames in a row that are free by now, and that the allocator shall have.
        let mut freed = frames.start..frames.start;
        let start = usize::try_from(frames.start).unwrap_or(usize::MAX);
        for (mfn, info) in frames.zip(self.platform.frame_table().iter().skip(start)) {
            let count = info.count();
            if count.refs() == 0 || count.owner() != domain.id {
                continue;
            }
            // Most frames are no tables, and are merely passed by. What is one is judged again.
            let word = info.type_word();
            if stage == 1 && !word.is_pinned() || stage == 2 && !word.has(Type::BUSY | Type::PARTIAL) {
                continue;
            }
            let taken = if stage == 3 { self.take_idle_frame(domain.id, Mfn(mfn), info) } else { None };
            let Some(slow) = taken else {
                if self.release_frame(domain, Mfn(mfn), info, stage) && self.platform.work_pending() {
                    end = mfn + 1;
                    break;
                }
                continue;
            };
            if freed.end != mfn {
                self.give_up_frames(domain, freed);
                freed = mfn..mfn;
            }
            freed.end = mfn + 1;
            if slow {
                end = mfn + 1;
                break;
            }
        }
        self.give_up_frames(domain, freed);
        end
    }

    /// Lets the allocator have frames of [`Hypervisor::take_idle_frame`].
    fn give_up_frames(&self, domain: &Domain<P>, frames: Range<u64>) {
        let count = frames.end - frames.start;
        if count != 0 {
            self.frames.give_dirty(frames, Some(&domain.pages.claim));
            domain.pages.shrink(count);
        }
    }

    /// Gives up what a frame has of a domain that ends. Others may drop references to it at any time, and the frame may be free then, or
    /// another domain's: what is not the domain's own reference is judged and given up with a reference held. Answers whether a table was
    /// given up, with all its entries.
    fn release_frame(&self, domain: &Domain<P>, mfn: Mfn, info: &FrameInfo, stage: u8) -> bool {
        if stage == 1 {
            let pinned = info.type_word().is_pinned();
            if pinned {
                // Only the guest's own hypercalls pin and unpin, and it does not run any more.
                let _ = self.unpin_table(domain, mfn);
            }
            return pinned;
        }
        if info.try_get(domain.id).is_err() {
            return false;
        }
        let word = info.type_word();
        match stage {
            2 if word.has(Type::BUSY | Type::PARTIAL) => {
                self.doom(domain, mfn, info, word);
            }
            3 if info.count().0 & (Count::ALLOCATED | Count::XENHEAP) == Count::ALLOCATED => {
                self.clear_allocated(mfn, info);
            }
            _ => {}
        }
        self.put_page(mfn);
        false
    }
}

#[cfg(test)]
mod tests {
    use crate::mock;
    use crate::page::info::Type;
    use core::sync::atomic::Ordering::SeqCst;

    /// A frame that was the ending domain's when it was looked at is another domain's by now, or free: it stays as it is.
    #[test]
    fn frames_of_others_are_left_alone() {
        let hv = mock::hypervisor(64);
        let (ends, other) = (mock::domain(&hv, 1, 1, 8), mock::domain(&hv, 2, 1, 8));
        let frame = |mfn: &u64| hv.known_frame(crate::ids::Mfn(*mfn)).count().owner() == other.id;
        let mfn = crate::ids::Mfn((0..64).find(frame).unwrap());
        let info = hv.known_frame(mfn);
        let before = (info.count.load(SeqCst), info.type_word());
        for stage in [2, 3] {
            hv.release_frame(&ends, mfn, info, stage);
            assert!((info.count.load(SeqCst), info.type_word()) == before, "stage {stage}");
        }
        let partial = Type(Type::BUSY | Type::PARTIAL);
        info.set_type(partial);
        hv.release_frame(&ends, mfn, info, 2);
        assert!(info.type_word() == partial && !ends.pages.has_doomed());
        info.set_type(before.1);
    }

    /// What the word of a free frame says is no reference that was left, whatever its bits.
    #[test]
    fn links_are_no_references() {
        let hv = mock::hypervisor(64);
        let domain = mock::domain(&hv, 1, 1, 8);
        let owned = |mfn: &u64| hv.known_frame(crate::ids::Mfn(*mfn)).count().owner() == domain.id;
        let info = hv.known_frame(crate::ids::Mfn((0..64).find(owned).unwrap()));
        let before = info.type_word();
        let links = Type(Type::LEFT | 0x1234);
        info.set_type(links);
        assert!(!info.take_left() && info.type_word() == links);
        info.set_type(before);
    }
}
