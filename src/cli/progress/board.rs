//! What moves → lines. Pure: the time and the size of the terminal are given.

use std::collections::VecDeque;
use std::time::Duration;

use unicode_width::UnicodeWidthStr as _;

use super::{Moved, Stage, Way};
use crate::api::Portion;
use crate::cli::render::{Paint, size};

/// The span that a rate is measured over.
const SPAN: Duration = Duration::from_secs(4);
/// The shortest span that gives a rate worth reading.
const SHORTEST: Duration = Duration::from_millis(500);
/// The widest bar, in columns.
const BAR: usize = 30;

/// All that moves, in the order in which it was first heard of.
#[derive(Default)]
pub(super) struct Board {
    wholes: Vec<Whole>,
}

/// An image or an archive.
struct Whole {
    name: String,
    parts: Vec<Part>,
    /// How far all of it is, where that is not the sum of its parts. A total of 0 is not known.
    portion: Option<Portion>,
    /// Bytes that moved, at moments of the last few seconds.
    samples: VecDeque<(Duration, u64)>,
}

struct Part {
    name: String,
    stage: Stage,
    done: u64,
    total: u64,
    /// Bytes that were done when it began to move: of one that is taken up where it broke.
    from: Option<u64>,
    /// Its plain line was given.
    told: bool,
}

impl Part {
    fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Moving | Stage::Unpacking(_))
    }

    /// How it came to where it belongs.
    fn way(&self) -> Option<&Way> {
        match &self.stage {
            Stage::There(way) | Stage::Unpacking(way) => Some(way),
            Stage::Waiting | Stage::Moving => None,
        }
    }
}

impl Whole {
    fn portion(&self) -> Portion {
        self.portion.unwrap_or_else(|| {
            self.parts.iter().fold(Portion { done: 0, total: 0 }, |sum, part| Portion {
                done: sum.done + part.done,
                total: sum.total + part.total,
            })
        })
    }

    /// Bytes that moved.
    fn moved(&self) -> u64 {
        let parts = || self.parts.iter().filter_map(|part| Some(part.done - part.from?.min(part.done))).sum();
        self.portion.map_or_else(parts, |portion| portion.done)
    }

    fn is_moving(&self) -> bool {
        self.parts.iter().any(|part| part.stage == Stage::Moving)
            || self.portion.is_some_and(|portion| portion.total == 0 || portion.done < portion.total)
    }

    fn sample(&mut self, now: Duration) {
        let moved = self.moved();
        while self.samples.len() > 1 && self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= SPAN) {
            self.samples.pop_front();
        }
        match self.samples.back_mut() {
            // Ten samples a second are plenty, however many moves there are.
            Some((at, bytes)) if now.saturating_sub(*at) < SPAN / 40 => *bytes = moved,
            _ => self.samples.push_back((now, moved)),
        }
    }

    /// Bytes a second over the last few seconds; `None` where nothing moves.
    fn rate(&self, now: Duration) -> Option<u64> {
        let (at, bytes) = *self.samples.front()?;
        let span = now.saturating_sub(at);
        if !self.is_moving() || span < SHORTEST {
            return None;
        }
        let came = u128::from(self.moved().saturating_sub(bytes));
        u64::try_from(came * 1000 / span.as_millis().max(1)).ok()
    }
}

impl Board {
    /// Nothing moves.
    pub(super) fn is_empty(&self) -> bool {
        self.wholes.is_empty()
    }

    /// The whole of this name, which is there from now on.
    fn known(&mut self, name: &str, now: Duration) -> &mut Whole {
        let at = self.wholes.iter().position(|whole| whole.name == name).unwrap_or_else(|| {
            let samples = VecDeque::from([(now, 0)]);
            self.wholes.push(Whole { name: name.to_owned(), parts: Vec::new(), portion: None, samples });
            self.wholes.len() - 1
        });
        &mut self.wholes[at]
    }

    /// Takes a move over. Gives the part's plain line when it is where it belongs.
    pub(super) fn hear(&mut self, moved: &Moved, now: Duration) -> Option<String> {
        let whole = self.known(&moved.of, now);
        let at = whole.parts.iter().position(|part| part.name == moved.part).unwrap_or_else(|| {
            whole.parts.push(Part {
                name: moved.part.clone(),
                stage: Stage::Waiting,
                done: 0,
                total: 0,
                from: None,
                told: false,
            });
            whole.parts.len() - 1
        });
        let part = &mut whole.parts[at];
        part.stage = moved.stage.clone();
        part.total = part.total.max(moved.total);
        if part.stage == Stage::Moving || matches!(part.way(), Some(Way::Moved(_))) {
            part.from.get_or_insert(moved.done);
        }
        part.done = if part.way().is_some() { part.total } else { moved.done.min(part.total) };
        let what = part.way().filter(|_| !part.told).map(|way| match way {
            Way::Moved(word) => format!("{} {word}", size(part.total)).trim_end().to_owned(),
            Way::Spared(how) => how.clone(),
        });
        part.told |= what.is_some();
        let line = what.map(|what| format!("{}: {} {what}", moved.of, moved.part));
        whole.sample(now);
        line
    }

    /// So much of the whole is done.
    pub(super) fn whole(&mut self, name: &str, done: u64, total: u64, now: Duration) {
        let whole = self.known(name, now);
        whole.portion = Some(Portion { done, total });
        whole.sample(now);
    }

    /// Time has passed: a stall shows in the rates.
    pub(super) fn tick(&mut self, now: Duration) {
        for whole in &mut self.wholes {
            whole.sample(now);
        }
    }

    /// Forgets a whole. Whether it was known.
    pub(super) fn end(&mut self, name: &str) -> bool {
        let before = self.wholes.len();
        self.wholes.retain(|whole| whole.name != name);
        self.wholes.len() < before
    }

    /// What is shown now on a terminal of so many columns and rows: a line for each whole, and beneath it its
    /// parts. None is wider than the terminal, and there are fewer of them than it has rows; where they do not
    /// all fit, what moves goes before what waits and what is done.
    pub(super) fn lines(&self, now: Duration, (columns, rows): (usize, usize), paint: Paint) -> Vec<String> {
        let columns = columns.saturating_sub(1).max(1);
        let room = rows.saturating_sub(1).max(1);
        let all: usize = self.wholes.iter().map(|whole| 1 + whole.parts.len()).sum();
        let mut left = room.saturating_sub(self.wholes.len());
        let mut lines = Vec::new();
        for whole in &self.wholes {
            lines.push(heading(whole, now, columns, paint));
            let parts: Vec<&Part> = match all <= room {
                true => whole.parts.iter().collect(),
                false => {
                    let active: Vec<&Part> = whole.parts.iter().filter(|part| part.is_active()).collect();
                    let keep = active.len().min(left);
                    left -= keep;
                    active[..keep].to_vec()
                }
            };
            lines.extend(parts.into_iter().map(|part| line(part, columns, paint)));
        }
        lines.truncate(room);
        lines
    }
}

/// `registry.local/web:1   42%  66.4 MB of 158 MB  31 MB/s`.
fn heading(whole: &Whole, now: Duration, columns: usize, paint: Paint) -> String {
    let portion = whole.portion();
    let mut facts = match whole.portion {
        Some(Portion { done, total: 0 }) => size(done),
        _ => format!("{:3}%  {} of {}", portion.percent(), size(portion.done), size(portion.total)),
    };
    if let Some(rate) = whole.rate(now) {
        facts.push_str(&format!("  {}/s", size(rate)));
    } else if whole.parts.iter().any(|part| matches!(part.stage, Stage::Unpacking(_)))
        && whole.parts.iter().all(|part| part.way().is_some())
    {
        facts.push_str("  unpacking");
    }
    let room = columns.saturating_sub(facts.width() + 2);
    let name = shortened(&whole.name, room);
    match name.is_empty() {
        true => shortened(&facts, columns),
        false => format!("{}  {facts}", paint.bold(&name)),
    }
}

/// `  a1b2c3d4e5f6  [=====>     ]  12.3 MB of 30 MB`.
fn line(part: &Part, columns: usize, paint: Paint) -> String {
    let facts = match &part.stage {
        Stage::Waiting => "waiting".to_owned(),
        Stage::Moving => format!("{} of {}", size(part.done), size(part.total)),
        Stage::Unpacking(_) => format!("unpacking {}", size(part.total)),
        Stage::There(Way::Moved(word)) => {
            format!("{} {}", if word.is_empty() { "done" } else { word }, size(part.total))
        }
        Stage::There(Way::Spared(how)) => how.clone(),
    };
    let head = format!("  {}  ", part.name);
    let room = columns.saturating_sub(head.width() + facts.width() + 4);
    if part.stage != Stage::Moving || room < 8 {
        let text = shortened(&format!("{head}{facts}"), columns);
        return if part.is_active() { text } else { paint.faint(&text) };
    }
    let width = room.min(BAR);
    let portion = Portion { done: part.done, total: part.total };
    let full = width * usize::try_from(portion.percent()).unwrap_or(100) / 100;
    let tip = if full < width { ">" } else { "" };
    let rest = " ".repeat(width - full - tip.len());
    format!("{head}[{}]  {facts}", paint.green(&format!("{}{tip}{rest}", "=".repeat(full))))
}

/// At most so many columns; what is cut off shows as `…`.
fn shortened(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let (mut kept, mut width) = (String::new(), 0);
    for character in text.chars() {
        width += unicode_width::UnicodeWidthChar::width(character).unwrap_or(0);
        if width >= columns {
            break;
        }
        kept.push(character);
    }
    if columns == 0 { String::new() } else { format!("{kept}…") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(image: &str, blob: char, stage: Stage, done: u64, total: u64) -> Moved {
        Moved { of: image.to_owned(), part: blob.to_string().repeat(12), stage, done, total }
    }

    fn fetched() -> Way {
        Way::Moved("")
    }

    const WEB: &str = "registry.local/team/web:1.4";

    /// Four layers, one of each state, as they are two seconds after the first byte.
    fn busy() -> Board {
        let mut board = Board::default();
        let mut hear = |transfer, at: u64| board.hear(&transfer, Duration::from_millis(at));
        for (blob, total) in [('a', 1_500), ('b', 30_000_000), ('c', 100_000_000), ('d', 28_400_000), ('e', 7_000)] {
            assert_eq!(hear(moved(WEB, blob, Stage::Waiting, 0, total), 0), None);
        }
        assert_eq!(
            hear(moved(WEB, 'e', Stage::There(Way::Spared("was here".into())), 7_000, 7_000), 0).unwrap(),
            format!("{WEB}: eeeeeeeeeeee was here")
        );
        hear(moved(WEB, 'a', Stage::Moving, 1_500, 1_500), 10);
        assert_eq!(
            hear(moved(WEB, 'a', Stage::There(fetched()), 1_500, 1_500), 20).unwrap(),
            format!("{WEB}: aaaaaaaaaaaa 1.5 kB")
        );
        for step in 0..=20_u64 {
            hear(moved(WEB, 'b', Stage::Moving, step * 1_500_000, 30_000_000), step * 100);
            hear(moved(WEB, 'c', Stage::Moving, step * 2_000_000, 100_000_000), step * 100);
        }
        assert_eq!(
            hear(moved(WEB, 'b', Stage::Unpacking(fetched()), 0, 0), 2000).unwrap(),
            format!("{WEB}: bbbbbbbbbbbb 30 MB")
        );
        assert_eq!(hear(moved(WEB, 'b', Stage::Unpacking(fetched()), 0, 0), 2000), None, "a blob's line comes once");
        board
    }

    fn shown(board: &Board, at: u64, columns: usize, rows: usize) -> String {
        let lines = board.lines(Duration::from_millis(at), (columns, rows), Paint(false));
        assert!(lines.len() < rows, "{} lines on {rows} rows", lines.len());
        assert!(lines.iter().all(|line| line.width() < columns), "wider than {columns}: {lines:#?}");
        lines.join("\n")
    }

    #[test]
    fn each_blob_has_its_line_and_the_image_its_sum_and_rate() {
        insta::assert_snapshot!(shown(&busy(), 2000, 80, 24), @r"
        registry.local/team/web:1.4   44%  70.0 MB of 158.4 MB  35 MB/s
          aaaaaaaaaaaa  done 1.5 kB
          bbbbbbbbbbbb  unpacking 30 MB
          cccccccccccc  [============>                 ]  40 MB of 100 MB
          dddddddddddd  waiting
          eeeeeeeeeeee  was here
        ");
    }

    #[test]
    fn a_narrow_terminal_loses_bars_and_then_names_and_never_wraps() {
        let board = busy();
        insta::assert_snapshot!(shown(&board, 2000, 44, 24), @r"
        regist…   44%  70.0 MB of 158.4 MB  35 MB/s
          aaaaaaaaaaaa  done 1.5 kB
          bbbbbbbbbbbb  unpacking 30 MB
          cccccccccccc  [===>    ]  40 MB of 100 MB
          dddddddddddd  waiting
          eeeeeeeeeeee  was here
        ");
        for columns in 2..100 {
            for rows in 2..12 {
                shown(&board, 2000, columns, rows);
            }
        }
    }

    #[test]
    fn a_low_terminal_shows_what_moves() {
        let mut board = busy();
        for blob in '0'..='9' {
            board.hear(&moved("registry.local/other:1", blob, Stage::Waiting, 0, 10), Duration::from_secs(2));
        }
        insta::assert_snapshot!(shown(&board, 2000, 80, 8), @r"
        registry.local/team/web:1.4   44%  70.0 MB of 158.4 MB  35 MB/s
          bbbbbbbbbbbb  unpacking 30 MB
          cccccccccccc  [============>                 ]  40 MB of 100 MB
        registry.local/other:1    0%  0 B of 100 B
        ");
    }

    #[test]
    fn the_rate_is_of_the_last_seconds_and_a_stall_shows() {
        let mut board = busy();
        let rate = |board: &Board, at: u64| {
            let text = shown(board, at, 80, 24);
            text.lines().next().unwrap().split("  ").last().unwrap().to_owned()
        };
        assert_eq!(rate(&board, 2000), "35 MB/s");
        for tenth in 21..=120 {
            board.tick(Duration::from_millis(tenth * 100));
        }
        assert_eq!(rate(&board, 12_000), "0 B/s", "nothing has come for ten seconds");
        for tenth in 121..=200 {
            let done = 40_000_000 + (tenth - 120) * 200_000;
            board.hear(&moved(WEB, 'c', Stage::Moving, done, 100_000_000), Duration::from_millis(tenth * 100));
        }
        assert_eq!(rate(&board, 20_000), "2 MB/s", "the stall is forgotten");
        assert!(board.wholes[0].samples.len() < 60, "a long pull costs no more than a short one");
    }

    #[test]
    fn colours_change_no_width() {
        let board = busy();
        let plain = board.lines(Duration::from_secs(2), (80, 24), Paint(false));
        let coloured = board.lines(Duration::from_secs(2), (80, 24), Paint(true));
        let stripped: Vec<String> =
            coloured.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(stripped, plain);
        assert_ne!(coloured, plain);
    }

    #[test]
    fn what_has_ended_is_gone() {
        let mut board = busy();
        assert!(board.end(WEB));
        assert!(!board.end(WEB));
        assert!(board.is_empty());
        assert!(board.lines(Duration::ZERO, (80, 24), Paint(false)).is_empty());
    }

    #[test]
    fn what_came_before_a_break_does_not_count_as_speed() {
        let mut board = Board::default();
        board.hear(&moved(WEB, 'a', Stage::Waiting, 0, 100_000_000), Duration::ZERO);
        for tenth in 0..=20_u64 {
            let at = Duration::from_millis(100 + tenth * 100);
            board.hear(&moved(WEB, 'a', Stage::Moving, 50_000_000 + tenth * 100_000, 100_000_000), at);
        }
        let heading = shown(&board, 2100, 80, 24);
        assert!(heading.starts_with(&format!("{WEB}   52%  52 MB of 100 MB  952.4 kB/s")), "{heading}");
    }

    #[test]
    fn a_push_says_what_was_sent_and_what_was_spared() {
        let mut board = Board::default();
        let mut hear = |moved: Moved| board.hear(&moved, Duration::from_secs(1)).unwrap_or_default();
        let spared = |how: &str| Stage::There(Way::Spared(how.into()));
        assert_eq!(hear(moved(WEB, 'a', spared("was there"), 10, 10)), format!("{WEB}: aaaaaaaaaaaa was there"));
        hear(moved(WEB, 'b', spared("mounted from lab/base"), 10, 10));
        assert_eq!(
            hear(moved(WEB, 'c', Stage::There(Way::Moved("sent")), 10, 10)),
            format!("{WEB}: cccccccccccc 10 B sent")
        );
        hear(moved(WEB, 'd', Stage::Moving, 5, 10));
        insta::assert_snapshot!(shown(&board, 1000, 80, 24), @r"
        registry.local/team/web:1.4   87%  35 B of 40 B
          aaaaaaaaaaaa  was there
          bbbbbbbbbbbb  mounted from lab/base
          cccccccccccc  sent 10 B
          dddddddddddd  [===============>              ]  5 B of 10 B
        ");
    }

    #[test]
    fn an_archive_is_as_far_as_it_was_read() {
        let mut board = Board::default();
        for tenth in 0..=20_u64 {
            board.whole("image.tar", tenth * 3_000_000, 158_400_000, Duration::from_millis(tenth * 100));
        }
        board.hear(&moved("image.tar", 'a', Stage::Moving, 4, 10), Duration::from_secs(2));
        assert!(shown(&board, 2000, 80, 24).starts_with("image.tar   37%  60 MB of 158.4 MB  30 MB/s\n"));
        board.whole("standard input", 7_000_000, 0, Duration::from_secs(2));
        assert!(shown(&board, 2000, 80, 24).ends_with("\nstandard input  7 MB"));
    }
}
