//! LZMA (the algorithm of .lzma, and of .xz inside LZMA2), decoded straight into the output, which serves as the
//! dictionary.
//!
//! Own code although libraries exist: unpacking is most of what happens between power-on and the first instruction of a
//! Linux domain. Debian's kernel takes 2.7 thousand million instructions here, with the x86 filter and the checksum; the
//! libraries that would do (lzma-rust2, xz4rust) take 4.2 and 4.7, because they stream through a dictionary of their own. The
//! format: LZMA SDK, `lzma-specification.txt`.

use super::Error;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

const DAMAGED: Error = Error::Damaged("the lzma data is damaged");

/// Unpacks a .lzma file so that it fills `output`.
pub(crate) fn unpack(data: &[u8], output: &mut [u8]) -> Result<(), Error> {
    let (header, stream) = data.split_first_chunk::<13>().ok_or(DAMAGED)?;
    let mut decoder = Decoder::new(header[0])?;
    let length = decoder.run(stream, output, 0, true)?;
    if length == output.len() { Ok(()) } else { Err(DAMAGED) }
}

/// Probability that a bit is 0, in units of 1/2048.
///
/// Atomic not for the sake of threads, but because the compiler leaves atomic stores where they are: else it merges the
/// two outcomes of a bit into one sequence of conditional moves, which takes a third more instructions.
type Prob = AtomicU32;
const PROB_BITS: u32 = 11;
const PROB_ONE: u32 = 1 << PROB_BITS;
/// How fast probabilities adapt.
const MOVE_BITS: u32 = 5;

/// Even probabilities.
const fn even<const N: usize>() -> [Prob; N] {
    [const { AtomicU32::new(PROB_ONE / 2) }; N]
}

/// Below this the range is shifted up by a byte.
const RANGE_TOP: u32 = 1 << 24;

/// Bytes of the range coder's initial state.
const RANGE_INIT: usize = 5;
/// Shortest match.
const MIN_MATCH: usize = 2;
/// Distances from this slot on have direct bits.
const FIRST_DIRECT_SLOT: u32 = 14;
/// Distances from this slot on have bits beyond the slot.
const FIRST_BITS_SLOT: u32 = 4;

/// Reads bits out of a compressed stream. Past the end of the input it reads zeroes, and remembers that it did.
struct RangeCoder<'a> {
    range: u32,
    code: u32,
    input: core::slice::Iter<'a, u8>,
    overrun: bool,
}

impl<'a> RangeCoder<'a> {
    fn new(input: &'a [u8]) -> Result<Self, Error> {
        let ([zero, code @ ..], rest) = input.split_first_chunk::<RANGE_INIT>().ok_or(DAMAGED)?;
        if *zero != 0 {
            return Err(DAMAGED);
        }
        Ok(Self { range: u32::MAX, code: u32::from_be_bytes(*code), input: rest.iter(), overrun: false })
    }

    #[inline(always)]
    fn normalize(&mut self) {
        if self.range < RANGE_TOP {
            self.range <<= 8;
            self.code <<= 8;
            match self.input.next() {
                Some(byte) => self.code |= u32::from(*byte),
                None => self.overrun = true,
            }
        }
    }

    /// Whether the next bit is 1, by an adaptive probability.
    #[inline(always)]
    fn bit(&mut self, prob: &Prob) -> bool {
        self.append(prob, 0) != 0
    }

    /// Shifts the next bit into `symbol`, by an adaptive probability.
    #[inline(always)]
    fn append(&mut self, prob: &Prob, symbol: u32) -> u32 {
        self.normalize();
        let p = prob.load(Relaxed);
        let bound = (self.range >> PROB_BITS) * p;
        if self.code < bound {
            self.range = bound;
            prob.store(p + ((PROB_ONE - p) >> MOVE_BITS), Relaxed);
            symbol * 2
        } else {
            self.range -= bound;
            self.code -= bound;
            prob.store(p - (p >> MOVE_BITS), Relaxed);
            symbol * 2 + 1
        }
    }

    /// A number of `BITS` bits, most significant first, by a tree of probabilities.
    #[inline(always)]
    fn tree<const BITS: u32, const SIZE: usize>(&mut self, probs: &[Prob; SIZE]) -> u32 {
        const { assert!(SIZE == 1 << BITS) };
        let mut symbol = 1;
        for _ in 0..BITS {
            symbol = self.append(&probs[symbol as usize % SIZE], symbol);
        }
        symbol - (1 << BITS)
    }

    /// A number of `bits` bits, least significant first, by a tree that starts at `probs[base + 1]`.
    #[inline(always)]
    fn reverse_tree<const SIZE: usize>(&mut self, probs: &[Prob; SIZE], base: u32, bits: u32) -> u32 {
        let (mut symbol, mut value) = (1, 0);
        for n in 0..bits {
            symbol = self.append(&probs[(base + symbol) as usize % SIZE], symbol);
            value |= (symbol & 1) << n;
        }
        value
    }

    /// A number of `bits` bits of even probability.
    #[inline(always)]
    fn direct(&mut self, bits: u32) -> u32 {
        let mut value = 0u32;
        for _ in 0..bits {
            self.normalize();
            self.range >>= 1;
            let below = self.code < self.range;
            value = value << 1 | u32::from(!below);
            if !below {
                self.code -= self.range;
            }
        }
        value
    }
}

/// Probabilities of match lengths.
struct Lengths {
    long: Prob,
    longer: Prob,
    low: [[Prob; 8]; 16],
    mid: [[Prob; 8]; 16],
    high: [Prob; 256],
}

impl Lengths {
    const fn new() -> Self {
        Self {
            long: AtomicU32::new(PROB_ONE / 2),
            longer: AtomicU32::new(PROB_ONE / 2),
            low: [const { even() }; 16],
            mid: [const { even() }; 16],
            high: even(),
        }
    }

    #[inline(always)]
    fn decode(&self, rc: &mut RangeCoder<'_>, pos_state: usize) -> usize {
        let more = if !rc.bit(&self.long) {
            rc.tree::<3, 8>(&self.low[pos_state & 15])
        } else if !rc.bit(&self.longer) {
            8 + rc.tree::<3, 8>(&self.mid[pos_state & 15])
        } else {
            16 + rc.tree::<8, 256>(&self.high)
        };
        MIN_MATCH + more as usize
    }
}

/// The adaptive probabilities but those of literals. Indices are `state << 4 | position state` where there are 256.
struct Probs {
    is_match: [Prob; 256],
    is_rep: [Prob; 16],
    is_rep0_no: [Prob; 16],
    is_rep0_long: [Prob; 256],
    is_rep1_no: [Prob; 16],
    is_rep2_no: [Prob; 16],
    slots: [[Prob; 64]; 4],
    special: [Prob; 128],
    align: [Prob; 16],
    match_length: Lengths,
    rep_length: Lengths,
}

impl Probs {
    const fn new() -> Self {
        Self {
            is_match: even(),
            is_rep: even(),
            is_rep0_no: even(),
            is_rep0_long: even(),
            is_rep1_no: even(),
            is_rep2_no: even(),
            slots: [const { even() }; 4],
            special: even(),
            align: even(),
            match_length: Lengths::new(),
            rep_length: Lengths::new(),
        }
    }

    /// The distance of a match, less one.
    #[inline(always)]
    fn distance(&self, rc: &mut RangeCoder<'_>, length: usize) -> u32 {
        let slot = rc.tree::<6, 64>(&self.slots[(length - MIN_MATCH).min(3)]);
        if slot < FIRST_BITS_SLOT {
            return slot;
        }
        let bits = (slot >> 1) - 1;
        let base = (2 | slot & 1) << bits;
        if slot < FIRST_DIRECT_SLOT {
            // The trees of these slots lie one behind the other, each at its base less its slot.
            return base + rc.reverse_tree(&self.special, base - slot, bits);
        }
        let high = rc.direct(bits - 4) << 4;
        base.wrapping_add(high).wrapping_add(rc.reverse_tree(&self.align, 0, 4))
    }
}

/// The state after a literal, by the state before it.
const AFTER_LITERAL: [u8; 16] = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5, 0, 0, 0, 0];
/// States below this follow a literal.
const AFTER_MATCH: usize = 7;

/// Probabilities of the bits of a literal: by themselves, and where a match just ended by the byte that would follow it.
type Literal = [Prob; 0x400];

/// A decoder with its adaptive state.
pub(super) struct Decoder {
    /// Literal context bits, from the previous byte.
    context_bits: u32,
    /// Mask of the position bits that select a literal's context.
    literal_mask: usize,
    /// Mask of the position bits that select the position state.
    position_mask: usize,
    state: usize,
    /// The last four distances, less one.
    reps: [u32; 4],
    probs: Box<Probs>,
    literals: Vec<Literal>,
}

impl Decoder {
    /// A decoder for the properties byte of the format.
    pub(super) fn new(properties: u8) -> Result<Self, Error> {
        let mut decoder = Self {
            context_bits: 0,
            literal_mask: 0,
            position_mask: 0,
            state: 0,
            reps: [0; 4],
            probs: Box::new(Probs::new()),
            literals: Vec::new(),
        };
        decoder.set_properties(properties)?;
        Ok(decoder)
    }

    /// Takes over new properties, and resets the state.
    pub(super) fn set_properties(&mut self, properties: u8) -> Result<(), Error> {
        let properties = u32::from(properties);
        let (lc, lp, pb) = (properties % 9, properties / 9 % 5, properties / 45);
        // LZMA2's limit; .lzma files of any Linux build are within it.
        if pb > 4 || lc + lp > 4 {
            return Err(DAMAGED);
        }
        self.context_bits = lc;
        self.literal_mask = (1 << lp) - 1;
        self.position_mask = (1 << pb) - 1;
        self.literals.clear();
        self.literals.try_reserve_exact(1 << (lc + lp)).map_err(|_| Error::OutOfMemory)?;
        self.literals.resize_with(1 << (lc + lp), even);
        self.reset();
        Ok(())
    }

    /// Forgets what was learnt.
    pub(super) fn reset(&mut self) {
        self.state = 0;
        self.reps = [0; 4];
        *self.probs = Probs::new();
        self.literals.fill_with(even);
    }

    /// Decodes one range-coded stream into `output` from `start` on, until it is full; what is before `start` is the
    /// dictionary. Answers how far it came: with `marker` an end marker may end the stream earlier.
    pub(super) fn run(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        start: usize,
        marker: bool,
    ) -> Result<usize, Error> {
        let mut rc = RangeCoder::new(input)?;
        let mut at = start;
        let mut previous = if start == 0 { 0 } else { output[start - 1] };
        let mut state = self.state;
        let [mut rep0, mut rep1, mut rep2, mut rep3] = self.reps;
        let probs = &self.probs;
        while at < output.len() {
            let pos_state = at & self.position_mask;
            let index = (state << 4 | pos_state) & 0xff;
            let length;
            if !rc.bit(&probs.is_match[index]) {
                let context = usize::from(previous) >> (8 - self.context_bits);
                let context = (at & self.literal_mask) << self.context_bits | context;
                let table = &self.literals[context];
                previous = if state < AFTER_MATCH {
                    literal(&mut rc, table)
                } else {
                    let like = output[at.wrapping_sub(rep0 as usize + 1)];
                    literal_after_match(&mut rc, table, like)
                };
                output[at] = previous;
                length = 1;
                state = usize::from(AFTER_LITERAL[state & 15]);
            } else {
                if !rc.bit(&probs.is_rep[state & 15]) {
                    (rep3, rep2, rep1) = (rep2, rep1, rep0);
                    length = probs.match_length.decode(&mut rc, pos_state);
                    rep0 = probs.distance(&mut rc, length);
                    if rep0 == u32::MAX {
                        // The end marker.
                        rc.normalize();
                        return if marker && rc.code == 0 && !rc.overrun { Ok(at) } else { Err(DAMAGED) };
                    }
                    state = if state < AFTER_MATCH { 7 } else { 10 };
                } else if !rc.bit(&probs.is_rep0_no[state & 15]) {
                    if !rc.bit(&probs.is_rep0_long[index]) {
                        length = 1;
                        state = if state < AFTER_MATCH { 9 } else { 11 };
                    } else {
                        length = probs.rep_length.decode(&mut rc, pos_state);
                        state = if state < AFTER_MATCH { 8 } else { 11 };
                    }
                } else {
                    if !rc.bit(&probs.is_rep1_no[state & 15]) {
                        (rep0, rep1) = (rep1, rep0);
                    } else if !rc.bit(&probs.is_rep2_no[state & 15]) {
                        (rep0, rep1, rep2) = (rep2, rep0, rep1);
                    } else {
                        (rep0, rep1, rep2, rep3) = (rep3, rep0, rep1, rep2);
                    }
                    length = probs.rep_length.decode(&mut rc, pos_state);
                    state = if state < AFTER_MATCH { 8 } else { 11 };
                }
                let distance = rep0 as usize + 1;
                if distance > at || length > output.len() - at {
                    return Err(DAMAGED);
                }
                repeat(output, at, distance, length);
                previous = output[at + length - 1];
            }
            at += length;
        }
        rc.normalize();
        (self.state, self.reps) = (state, [rep0, rep1, rep2, rep3]);
        if rc.overrun || !marker && rc.code != 0 { Err(DAMAGED) } else { Ok(at) }
    }
}

#[inline(always)]
fn literal(rc: &mut RangeCoder<'_>, table: &Literal) -> u8 {
    let mut symbol = 1u32;
    for _ in 0..8 {
        symbol = rc.append(&table[symbol as usize & 0xff], symbol);
    }
    symbol as u8
}

/// A literal where a match ended: as long as its bits are those of `like`, they have probabilities of their own.
#[inline(always)]
fn literal_after_match(rc: &mut RangeCoder<'_>, table: &Literal, like: u8) -> u8 {
    let (mut symbol, mut same, mut like) = (1u32, 0x100u32, u32::from(like));
    for _ in 0..8 {
        like <<= 1;
        let like_bit = like & same;
        let prob = &table[(same + like_bit + symbol) as usize & 0x3ff];
        let grown = rc.append(prob, symbol);
        same &= if grown & 1 != 0 { like_bit } else { !like_bit };
        symbol = grown;
    }
    symbol as u8
}

/// Copied at a time where source and destination do not overlap within it.
const STEP: usize = 8;

/// Repeats `length` bytes that are `distance` back. The caller checked that both fit.
#[inline(always)]
fn repeat(output: &mut [u8], at: usize, distance: usize, length: usize) {
    if distance >= STEP && output.len() - at >= length.next_multiple_of(STEP) {
        repeat_steps(output, at, distance, length);
    } else {
        repeat_closely(output, at, distance, length);
    }
}

/// Copies in steps. The last one may write beyond the match: what follows overwrites it.
#[inline(always)]
fn repeat_steps(output: &mut [u8], at: usize, distance: usize, length: usize) {
    let mut to = at;
    while to < at + length {
        let Some(step) = output.get(to - distance..).and_then(|s| s.first_chunk::<STEP>()).copied() else {
            break;
        };
        let Some(target) = output.get_mut(to..).and_then(|s| s.first_chunk_mut::<STEP>()) else { break };
        *target = step;
        to += STEP;
    }
}

/// Repeats a short period, or at the very end of the output.
#[inline(never)]
fn repeat_closely(output: &mut [u8], at: usize, distance: usize, length: usize) {
    if distance == 1 {
        let byte = output[at - 1];
        output[at..at + length].fill(byte);
        return;
    }
    // Byte by byte, until the distance in whole periods is a step at least.
    let period = distance * STEP.div_ceil(distance);
    let room = output.len() - at >= length.next_multiple_of(STEP) + STEP;
    let single = if room { length.min(period - distance) } else { length };
    for to in at..at + single {
        output[to] = output[to - distance];
    }
    repeat_steps(output, at + single, period, length - single);
}
