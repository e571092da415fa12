//! What a plain scalar is, by YAML 1.2's core schema (section 10.3.2): `no` and `on` are words,
//! `1:30` is a word, `0o17` is a number.

/// The type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalarKind {
    Null,
    Bool,
    Int,
    Float,
    Text,
}

/// The type of a plain (unquoted, untagged) scalar.
pub(super) fn kind_of(text: &str) -> ScalarKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ScalarKind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return ScalarKind::Bool,
        ".nan" | ".NaN" | ".NAN" => return ScalarKind::Float,
        _ => {}
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(hex) = text.strip_prefix("0x") {
        let ok = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        return if ok { ScalarKind::Int } else { ScalarKind::Text };
    }
    if let Some(octal) = text.strip_prefix("0o") {
        let ok = !octal.is_empty() && octal.bytes().all(|b| (b'0'..=b'7').contains(&b));
        return if ok { ScalarKind::Int } else { ScalarKind::Text };
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits(unsigned) {
        return ScalarKind::Int;
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return ScalarKind::Float;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_ok =
        (digits(whole) && (fraction.is_empty() || digits(fraction))) || (whole.is_empty() && digits(fraction));
    if mantissa_ok && exponent.is_none_or(digits) { ScalarKind::Float } else { ScalarKind::Text }
}

/// The value of an [`ScalarKind::Int`] scalar; `None` beyond 128 bits.
pub(super) fn integer(text: &str) -> Option<i128> {
    if let Some(hex) = text.strip_prefix("0x") {
        return i128::from_str_radix(hex, 16).ok();
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return i128::from_str_radix(octal, 8).ok();
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_typed_by_the_core_schema() {
        for (kind, texts) in [
            (ScalarKind::Null, &["", "~", "null", "NULL"][..]),
            (ScalarKind::Bool, &["true", "False"]),
            (ScalarKind::Int, &["0", "-1", "+7", "0o17", "0xfF", "007"]),
            (ScalarKind::Float, &["1.5", "1.", ".5", "1e3", "-1.5E-7", ".inf", "-.INF", ".nan"]),
            (
                ScalarKind::Text,
                &[
                    "no", "yes", "on", "off", "y", "nUll", "1:30", "1_000", "0x", "0o8", "-", ".", "e3", "1e", "-0x1",
                    "tRUE", "1.2.3",
                ],
            ),
        ] {
            for text in texts {
                assert_eq!(kind_of(text), kind, "{text:?}");
            }
        }
    }
}
