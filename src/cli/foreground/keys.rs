//! The keys that leave a session while its process goes on. Bytes in, bytes and a verdict out; no I/O.

use std::str::FromStr;

/// What is pressed to leave, where nobody says otherwise: Docker's and podman's.
pub(in crate::cli) const DEFAULT: &str = "ctrl-p,ctrl-q";

/// A sequence of keys; empty: there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Keys(Vec<u8>);

impl FromStr for Keys {
    type Err = String;

    /// `ctrl-p,ctrl-q`, `ctrl-a,d`; nothing turns it off.
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |word: &str| {
            let wrong = || format!("{word:?} is not a key: write ctrl-p,ctrl-q, or single characters such as ctrl-a,d");
            if let Some(letter) = word.strip_prefix("ctrl-") {
                return match letter.as_bytes() {
                    [byte @ b'a'..=b'z'] => Ok(byte - b'a' + 1),
                    [byte @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(byte - b'@'),
                    _ => Err(wrong()),
                };
            }
            match word.as_bytes() {
                [byte] if byte.is_ascii_graphic() || *byte == b' ' => Ok(*byte),
                _ => Err(wrong()),
            }
        };
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(key).collect::<Result<_, _>>().map(Self)
    }
}

/// Looks for the keys in what is typed.
pub(super) struct Detector {
    keys: Vec<u8>,
    /// How many of them were pressed last, and kept back.
    pressed: usize,
}

impl Detector {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys: keys.0, pressed: 0 }
    }

    /// What is to be passed on of what was typed, and whether the keys were pressed; what comes behind them is dropped.
    /// The beginning of the sequence is kept back until it is known to be none.
    pub(super) fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut pass = Vec::with_capacity(typed.len() + self.pressed);
        for byte in typed {
            let mut held = self.keys[..self.pressed].to_vec();
            held.push(*byte);
            while !self.keys.starts_with(&held) {
                pass.push(held.remove(0));
            }
            self.pressed = held.len();
            if self.pressed == self.keys.len() {
                self.pressed = 0;
                return (pass, true);
            }
        }
        (pass, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(keys: &str, typed: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut detector = Detector::new(keys.parse().unwrap());
        let mut all = Vec::new();
        for bytes in typed {
            let (pass, found) = detector.feed(bytes);
            all.extend(pass);
            if found {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn keys_are_written_as_docker_writes_them() {
        assert_eq!(DEFAULT.parse::<Keys>().unwrap(), Keys(vec![16, 17]));
        assert_eq!("ctrl-a,d".parse::<Keys>().unwrap(), Keys(vec![1, b'd']));
        assert_eq!("ctrl-@,ctrl-_".parse::<Keys>().unwrap(), Keys(vec![0, 31]));
        assert_eq!("".parse::<Keys>().unwrap(), Keys(vec![]));
        for wrong in ["ctrl-", "ctrl-P", "ctrl-1", "ab", "a,", "ä"] {
            assert!(wrong.parse::<Keys>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_sequence_leaves_however_it_is_cut() {
        assert_eq!(fed(DEFAULT, &[b"ls\x10\x11rest"]), (b"ls".to_vec(), true));
        assert_eq!(fed(DEFAULT, &[b"ls\x10", b"\x11"]), (b"ls".to_vec(), true));
        assert_eq!(fed("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
    }

    #[test]
    fn what_only_begins_like_it_is_passed_on() {
        assert_eq!(fed(DEFAULT, &[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(fed(DEFAULT, &[b"\x10\x10", b"\x10a"]), (b"\x10\x10\x10a".to_vec(), false));
        assert_eq!(fed(DEFAULT, &[b"\x11\x10"]), (b"\x11".to_vec(), false));
        assert_eq!(fed("", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }
}
