//! Inputs out of other inputs: bits and bytes changed, pieces moved, doubled, cut out and put in, words of the
//! format between them. The same seed gives the same inputs.

use super::Target;

/// xorshift64.
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `bound`, and 0 where there is nothing below it.
    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() >> 11) as usize % bound }
    }
}

/// Makes the inputs of one target.
pub struct Mutator<'t> {
    random: Random,
    target: &'t Target,
}

/// Bytes and numbers at which programs go wrong.
const EDGES: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b'"', b'\n', b'0'];

impl<'t> Mutator<'t> {
    pub fn new(seed: u64, target: &'t Target) -> Self {
        // Other targets, other inputs; and no seed is 0, at which xorshift stands still.
        let named =
            target.name.bytes().fold(seed, |mixed, byte| (mixed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut random = Random(named.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        Self { random, target }
    }

    /// The next input, from one of these.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.random.below(corpus.len())].clone();
        let rounds = 1 + self.random.below(6);
        for _ in 0..rounds {
            self.change(&mut input, corpus);
            input.truncate(self.target.longest);
        }
        if self.random.below(8) > 0 {
            (self.target.mend)(&mut input);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let random = &mut self.random;
        let at = random.below(input.len());
        let to = (at + 1 + random.below(32)).min(input.len());
        match random.below(10) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = EDGES[random.below(EDGES.len())],
            2 if !input.is_empty() => input[at] = random.next() as u8,
            3 => input.truncate(at),
            4 if at < to => drop(input.drain(at..to)),
            5 if at < to => {
                let piece = input[at..to].repeat(1 + random.below(64));
                input.splice(to..to, piece);
            }
            // The beginning of this and the end of another.
            6 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                let end = (from + random.below(1024)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            // A word between, and a word over what stands there.
            kind if !self.target.words.is_empty() => {
                let word = self.target.words[random.below(self.target.words.len())].as_bytes();
                let over = if kind == 8 { at } else { (at + word.len()).min(input.len()) };
                input.splice(at..over, word.iter().copied());
            }
            _ => {}
        }
    }
}
