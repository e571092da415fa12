//! Kubernetes' quantities (`250m`, `64Mi`) and Go's durations (`90s`, `5m`).
//!
//! Both keep their value, not their text; they print in a canonical form that parses back equal.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount, exact to a thousandth: `64Mi`, `1.5`, `250m`, `1e3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    milli: i128,
}

impl Quantity {
    /// So many mebibytes.
    pub const fn mebibytes(count: i64) -> Self {
        Self { milli: count as i128 * 1024 * 1024 * 1000 }
    }

    /// So many thousandths.
    pub const fn from_milli(milli: i64) -> Self {
        Self { milli: milli as i128 }
    }

    /// The value in whole units, rounded up as Kubernetes does (bytes, for memory).
    pub fn value(self) -> i64 {
        let whole = self.milli.div_euclid(1000) + i128::from(self.milli.rem_euclid(1000) != 0);
        i64::try_from(whole).unwrap_or(i64::MAX)
    }

    /// The value in thousandths (millicores, for cpu).
    pub fn milli(self) -> i64 {
        i64::try_from(self.milli).unwrap_or(i64::MAX)
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a quantity: a number with an optional suffix is expected, such as 250m, 64Mi or 1.5"
            )
        };
        let split = text
            .char_indices()
            .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '+' || *c == '-'))))
            .map_or(text.len(), |(i, _)| i);
        let (number, suffix) = text.split_at(split);
        // The factor in thousandths of a unit, as numerator and denominator.
        let (multiply, divide): (i128, i128) = match suffix {
            "" => (1000, 1),
            "n" => (1, 1_000_000),
            "u" => (1, 1000),
            "m" => (1, 1),
            "k" => (1000_i128.pow(2), 1),
            "M" => (1000_i128.pow(3), 1),
            "G" => (1000_i128.pow(4), 1),
            "T" => (1000_i128.pow(5), 1),
            "P" => (1000_i128.pow(6), 1),
            "E" => (1000_i128.pow(7), 1),
            "Ki" => (1000 << 10, 1),
            "Mi" => (1000 << 20, 1),
            "Gi" => (1000 << 30, 1),
            "Ti" => (1000 << 40, 1),
            "Pi" => (1000 << 50, 1),
            "Ei" => (1000_i128 << 60, 1),
            _ => match suffix.strip_prefix(['e', 'E']).and_then(|e| e.parse::<i32>().ok()) {
                Some(e @ 0..=18) => (1000 * 10_i128.pow(e.unsigned_abs()), 1),
                Some(e @ -18..=-1) => (1000, 10_i128.pow(e.unsigned_abs())),
                _ => return Err(wrong()),
            },
        };
        let (sign, digits) = match number.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty())
            || whole.len() > 19
            || fraction.len() > 12
            || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
        {
            return Err(wrong());
        }
        let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
        let scale = 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(0)) * divide;
        let product = mantissa.checked_mul(multiply).ok_or_else(wrong)?;
        // Finer than a thousandth rounds up, away from zero, as Kubernetes does.
        let milli = product / scale + i128::from(product % scale != 0);
        if milli > i128::from(i64::MAX) * 1000 {
            return Err(format!("{text:?} is larger than a quantity can be"));
        }
        Ok(Self { milli: sign * milli })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli % 1000 != 0 {
            return write!(f, "{}m", self.milli);
        }
        let whole = self.milli / 1000;
        for (suffix, shift) in [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)] {
            let unit = 1_i128 << shift;
            if whole != 0 && whole % unit == 0 {
                return write!(f, "{}{suffix}", whole / unit);
            }
        }
        write!(f, "{whole}")
    }
}

/// A length of time: `10ms`, `90s`, `1h30m`; exact to a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    millis: u64,
}

impl Span {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a duration: numbers with units are expected, such as 10ms, 90s, 5m or 1h30m");
        if text == "0" {
            return Ok(Self { millis: 0 });
        }
        let mut rest = text;
        let mut millis = 0_f64;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let factor = match &rest[..unit] {
                "ms" => 1.0,
                "s" => 1000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                _ => return Err(wrong()),
            };
            millis += number * factor;
            rest = &rest[unit..];
        }
        if millis > 1e15 {
            return Err(format!("{text:?} is longer than a duration can be"));
        }
        // In range by the check above.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self { millis: millis.round() as u64 })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return f.write_str("0s");
        }
        for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
            if self.millis.is_multiple_of(length) {
                return write!(f, "{}{unit}", self.millis / length);
            }
        }
        write!(f, "{}ms", self.millis)
    }
}

macro_rules! text_or_number {
    ($type:ty, $name:literal, $what:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": ["string", "number"], "description": $what})
            }
        }
    };
}

text_or_number!(Quantity, "Quantity", "a quantity, such as 250m, 64Mi or 1.5");
text_or_number!(Span, "Duration", "a duration, such as 10ms, 90s or 5m");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_kubernetes_means() {
        for (text, milli, canonical) in [
            ("250m", 250, "250m"),
            ("64Mi", 64 * 1024 * 1024 * 1000, "64Mi"),
            ("1.5", 1500, "1500m"),
            ("1e3", 1_000_000, "1000"),
            ("128974848", 128_974_848_000, "123Mi"),
            ("0.5Gi", 512 * 1024 * 1024 * 1000, "512Mi"),
            ("1n", 1, "1m"),
        ] {
            let quantity: Quantity = text.parse().unwrap();
            assert_eq!((quantity.milli(), quantity.to_string().as_str()), (milli, canonical));
            assert_eq!(canonical.parse::<Quantity>().unwrap(), quantity);
        }
        for text in ["", "Mi", "1mi", "1 Mi", "--1", "1..2", "99999999999999999999", "0x10", "1e99"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, millis, canonical) in
            [("10ms", 10, "10ms"), ("1h30m", 5_400_000, "90m"), ("1.5s", 1500, "1500ms"), ("0", 0, "0s")]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.millis, span.to_string().as_str()), (millis, canonical));
        }
        for text in ["", "5", "s", "-1s", "5d", "1e9h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
