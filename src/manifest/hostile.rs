//! Input made to cost: every one of them must end soon, and say what is wrong.

use super::tests::file;
use super::*;

#[test]
fn input_made_to_cost_ends_soon() {
    let n = 1 << 20;
    let rep = |s: &str| s.repeat(n / s.len());
    let cases: Vec<(&str, String)> = vec![
        ("brackets", rep("[")),
        ("dashes", rep("- ")),
        ("questions", rep("? ")),
        ("plain", rep("a")),
        ("plain lines", rep("a\n")),
        ("colons", rep("a: ")),
        ("quote", rep("\"")),
        ("dquoted long", format!("\"{}\"", "a".repeat(n - 2))),
        ("squoted lines", format!("'{}'", "a\n ".repeat(n / 3 - 2))),
        ("literal", format!("a: |\n{}", "  x\n".repeat(n / 4 - 4))),
        ("literal empty", format!("a: |\n{}", "\n".repeat(n - 8))),
        ("comments", rep("# x\n")),
        ("newlines", rep("\n")),
        ("spaces", rep(" ")),
        ("docs", rep("---\n")),
        ("flow list one line", format!("[{}]", "1,".repeat(50_000))),
        ("flow list many", format!("[{}]", "1,".repeat(n / 2 - 2))),
        ("keys", (0..50_000).map(|i| format!("k{i}: 1\n")).collect()),
        ("keys flow", format!("{{{}}}", (0..50_000).map(|i| format!("k{i}: 1,")).collect::<String>())),
        ("anchors", (0..40_000).map(|i| format!("- &a{i} x\n")).collect()),
        ("aliases", format!("- &a x\n{}", "- *a\n".repeat(n / 5 - 4))),
        (
            "merge",
            format!(
                "a: &a {{{}}}\nb:\n{}",
                (0..200).map(|i| format!("k{i}: 1,")).collect::<String>(),
                "  - <<: *a\n".repeat(100_000)
            ),
        ),
        ("merge list same", format!("a: &a {{k: 1}}\nb:\n  <<: [{}]\n", "*a,".repeat(100_000))),
        ("tags", rep("!a ")),
        ("percent", rep("%TAG !a! b\n")),
        ("tabs", rep("\t")),
        ("cr", rep("\r")),
        (
            "env keys dup",
            format!(
                "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: a}}\nspec:\n  image: a.io/x\n  env:\n{}",
                (0..40_000).map(|i| format!("    K{i}: x\n")).collect::<String>()
            ),
        ),
        (
            "unknown fields",
            format!(
                "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: a}}\nspec:\n  image: a.io/x\n{}",
                (0..40_000).map(|i| format!("  imag{i}: x\n")).collect::<String>()
            ),
        ),
        (
            "caps",
            format!(
                "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: a}}\nspec: {{image: a.io/x, securityContext: {{capabilities: {{add: [{}]}}}}}}\n",
                "NET_ADMN,".repeat(40_000)
            ),
        ),
    ];
    for (name, text) in cases {
        let mut text = text.into_bytes();
        text.truncate(n);
        for file_name in ["a.yaml", "a.json"] {
            let start = std::time::Instant::now();
            let parsed = parse(&[file(file_name, text.clone())], &ParseOptions::default());
            let shown: usize = parsed.diagnostics.iter().map(|finding| finding.render(false).len()).sum();
            assert!(shown < 100_000, "{name}: {shown} bytes of findings");
            // Unoptimised and on a busy machine; what grows with the square takes minutes.
            assert!(start.elapsed() < std::time::Duration::from_secs(10), "{name} {file_name}: {:?}", start.elapsed());
        }
    }
}
