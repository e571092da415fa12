//! Columns: upper-case headers, three spaces between, nothing behind the last.

use unicode_width::UnicodeWidthStr as _;

use super::prose;

/// What stands for nothing.
pub(in crate::cli) const NONE: &str = "<none>";

/// A table in the making.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headers.
    pub(in crate::cli) fn new<'a>(headers: impl IntoIterator<Item = &'a str>) -> Self {
        Self { rows: vec![headers.into_iter().map(str::to_owned).collect()] }
    }

    /// One more row; empty cells are shown as [`NONE`].
    pub(in crate::cli) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { NONE.to_owned() } else { prose(&cell) };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Its lines, each behind `indent`.
    pub(in crate::cli) fn render(&self, indent: &str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            text.push_str(indent);
            for (column, cell) in row.iter().enumerate() {
                text.push_str(cell);
                if column + 1 < row.len() {
                    text.extend(std::iter::repeat_n(' ', widths[column] - cell.width() + 3));
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_escapes_stay_visible() {
        let mut table = Table::new(["NAME", "IMAGE"]);
        table.row(["wäb".into(), "x".into()]);
        table.row(["longer".into(), String::new()]);
        table.row(["\u{1b}[31m".into(), "y".into()]);
        insta::assert_snapshot!(table.render(""), @r"
        NAME         IMAGE
        wäb          x
        longer       <none>
        \u{1b}[31m   y
        ");
    }
}
