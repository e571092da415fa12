//! Kubernetes' `$(NAME)` in commands and environment values.
//!
//! `$(NAME)` becomes the variable's value when there is one and stays as written when not; `$$(NAME)` becomes
//! the text `$(NAME)`. Nothing else is special: Kubernetes also halves a `$$` before anything else, which
//! only ever breaks a shell's own `$$`.

/// Expands `text`; `value` gives a variable's value.
pub(super) fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if rest.starts_with("$(") {
            // The escape: the dollar stays, and what follows it is plain text.
            out.push_str("$(");
            rest = &rest[2..];
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_values_as_in_kubernetes() {
        let value = |name: &str| match name {
            "A" => Some("a"),
            "EMPTY" => Some(""),
            "NESTED" => Some("$(A)"),
            _ => None,
        };
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)", "a"),
            ("x$(A)$(A)y", "xaay"),
            ("$(EMPTY)!", "!"),
            ("$(NESTED)", "$(A)"),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(A)", "$(A)"),
            ("kill -9 $$", "kill -9 $$"),
            ("$$$$(A)", "$$$(A)"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("100$ \u{20ac}$(A)", "100$ \u{20ac}a"),
        ] {
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }
}
