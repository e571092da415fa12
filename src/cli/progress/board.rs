//! Images on their way → lines. Pure: the time and the size of the terminal are given.

use std::collections::VecDeque;
use std::time::Duration;

use unicode_width::UnicodeWidthStr as _;

use crate::api::{BlobState, Portion, Transfer};
use crate::cli::render::{Paint, size};
use crate::manifest::ResourceKey;
use crate::oci::Digest;

/// The span that a rate is measured over.
const SPAN: Duration = Duration::from_secs(4);
/// The shortest span that gives a rate worth reading.
const SHORTEST: Duration = Duration::from_millis(500);
/// The widest bar, in columns.
const BAR: usize = 30;

/// Every image on its way, in the order in which they were first heard of.
#[derive(Default)]
pub(super) struct Board {
    images: Vec<Image>,
}

struct Image {
    key: ResourceKey,
    blobs: Vec<Blob>,
    /// Bytes here at moments of the last few seconds.
    samples: VecDeque<(Duration, u64)>,
}

struct Blob {
    digest: Digest,
    state: BlobState,
    done: u64,
    total: u64,
    /// Bytes of it came over the wire.
    fetched: bool,
    /// Its plain line was given.
    told: bool,
}

impl Blob {
    fn is_active(&self) -> bool {
        matches!(self.state, BlobState::Downloading | BlobState::Unpacking)
    }

    fn is_here(&self) -> bool {
        matches!(self.state, BlobState::Done | BlobState::Unpacking)
    }
}

impl Image {
    fn portion(&self) -> Portion {
        self.blobs.iter().fold(Portion { done: 0, total: 0 }, |sum, blob| Portion {
            done: sum.done + blob.done,
            total: sum.total + blob.total,
        })
    }

    /// Bytes that came over the wire.
    fn fetched(&self) -> u64 {
        self.blobs.iter().filter(|blob| blob.fetched).map(|blob| blob.done).sum()
    }

    fn sample(&mut self, now: Duration) {
        let fetched = self.fetched();
        while self.samples.len() > 1 && self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= SPAN) {
            self.samples.pop_front();
        }
        match self.samples.back_mut() {
            // Ten samples a second are plenty, however many moves there are.
            Some((at, bytes)) if now.saturating_sub(*at) < SPAN / 40 => *bytes = fetched,
            _ => self.samples.push_back((now, fetched)),
        }
    }

    /// Bytes a second over the last few seconds; `None` where nothing is being fetched.
    fn rate(&self, now: Duration) -> Option<u64> {
        let (at, bytes) = *self.samples.front()?;
        let span = now.saturating_sub(at);
        let downloading = self.blobs.iter().any(|blob| blob.state == BlobState::Downloading);
        if !downloading || span < SHORTEST {
            return None;
        }
        let came = u128::from(self.fetched().saturating_sub(bytes));
        u64::try_from(came * 1000 / span.as_millis().max(1)).ok()
    }
}

impl Board {
    /// Nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Takes a move over. Gives the blob's plain line when it is here.
    pub(super) fn hear(&mut self, transfer: &Transfer, now: Duration) -> Option<String> {
        let at = match self.images.iter().position(|image| image.key == transfer.key) {
            Some(at) => at,
            None => {
                let samples = VecDeque::from([(now, 0)]);
                self.images.push(Image { key: transfer.key.clone(), blobs: Vec::new(), samples });
                self.images.len() - 1
            }
        };
        let image = &mut self.images[at];
        let at = match image.blobs.iter().position(|blob| blob.digest == transfer.digest) {
            Some(at) => at,
            None => {
                image.blobs.push(Blob {
                    digest: transfer.digest.clone(),
                    state: transfer.state,
                    done: 0,
                    total: 0,
                    fetched: false,
                    told: false,
                });
                image.blobs.len() - 1
            }
        };
        let blob = &mut image.blobs[at];
        blob.state = transfer.state;
        blob.fetched |= transfer.state == BlobState::Downloading;
        blob.total = blob.total.max(transfer.total);
        blob.done = if blob.is_here() { blob.total } else { transfer.done.min(blob.total) };
        let line = (blob.is_here() && !blob.told).then(|| {
            blob.told = true;
            let what = if blob.fetched { size(blob.total) } else { "was here".to_owned() };
            format!("{}: {} {what}", image.key.name, blob.digest.short())
        });
        image.sample(now);
        line
    }

    /// Time has passed: a stall shows in the rates.
    pub(super) fn tick(&mut self, now: Duration) {
        for image in &mut self.images {
            image.sample(now);
        }
    }

    /// Forgets an image. Whether it was known.
    pub(super) fn end(&mut self, key: &ResourceKey) -> bool {
        let before = self.images.len();
        self.images.retain(|image| image.key != *key);
        self.images.len() < before
    }

    /// What is shown now on a terminal of so many columns and rows: a line for each image, and beneath it its
    /// blobs. None is wider than the terminal, and there are fewer of them than it has rows; where they do not
    /// all fit, what moves goes before what waits and what is done.
    pub(super) fn lines(&self, now: Duration, (columns, rows): (usize, usize), paint: Paint) -> Vec<String> {
        let columns = columns.saturating_sub(1).max(1);
        let room = rows.saturating_sub(1).max(1);
        let all: usize = self.images.iter().map(|image| 1 + image.blobs.len()).sum();
        let mut left = room.saturating_sub(self.images.len());
        let mut lines = Vec::new();
        for image in &self.images {
            lines.push(heading(image, now, columns, paint));
            let blobs: Vec<&Blob> = match all <= room {
                true => image.blobs.iter().collect(),
                false => {
                    let active: Vec<&Blob> = image.blobs.iter().filter(|blob| blob.is_active()).collect();
                    let keep = active.len().min(left);
                    left -= keep;
                    active[..keep].to_vec()
                }
            };
            lines.extend(blobs.into_iter().map(|blob| line(blob, columns, paint)));
        }
        lines.truncate(room);
        lines
    }
}

/// `registry.local/web:1   42%  66.4 MB of 158 MB  31 MB/s`.
fn heading(image: &Image, now: Duration, columns: usize, paint: Paint) -> String {
    let portion = image.portion();
    let mut facts = format!("{:3}%  {} of {}", portion.percent(), size(portion.done), size(portion.total));
    if let Some(rate) = image.rate(now) {
        facts.push_str(&format!("  {}/s", size(rate)));
    } else if image.blobs.iter().any(|blob| blob.state == BlobState::Unpacking) && image.blobs.iter().all(Blob::is_here)
    {
        facts.push_str("  unpacking");
    }
    let room = columns.saturating_sub(facts.width() + 2);
    let name = shortened(&image.key.name, room);
    match name.is_empty() {
        true => shortened(&facts, columns),
        false => format!("{}  {facts}", paint.bold(&name)),
    }
}

/// `  a1b2c3d4e5f6  [=====>     ]  12.3 MB of 30 MB`.
fn line(blob: &Blob, columns: usize, paint: Paint) -> String {
    let short = blob.digest.short();
    let facts = match blob.state {
        BlobState::Waiting => "waiting".to_owned(),
        BlobState::Downloading => format!("{} of {}", size(blob.done), size(blob.total)),
        BlobState::Unpacking => format!("unpacking {}", size(blob.total)),
        BlobState::Done if blob.fetched => format!("done {}", size(blob.total)),
        BlobState::Done => "was here".to_owned(),
    };
    let head = format!("  {short}  ");
    let room = columns.saturating_sub(head.width() + facts.width() + 4);
    if blob.state != BlobState::Downloading || room < 8 {
        let text = shortened(&format!("{head}{facts}"), columns);
        return if blob.is_active() { text } else { paint.faint(&text) };
    }
    let width = room.min(BAR);
    let portion = Portion { done: blob.done, total: blob.total };
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
    // References and digests are ASCII: a character is a column.
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    if columns == 0 { String::new() } else { format!("{kept}…") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Kind;

    fn moved(image: &str, blob: char, state: BlobState, done: u64, total: u64) -> Transfer {
        let digest = format!("sha256:{}", blob.to_string().repeat(64)).parse().unwrap();
        Transfer { key: ResourceKey::new(Kind::Image, "shop", image), digest, state, done, total }
    }

    const WEB: &str = "registry.local/team/web:1.4";

    /// Four layers, one of each state, as they are two seconds after the first byte.
    fn busy() -> Board {
        let mut board = Board::default();
        let mut hear = |transfer, at: u64| board.hear(&transfer, Duration::from_millis(at));
        for (blob, total) in [('a', 1_500), ('b', 30_000_000), ('c', 100_000_000), ('d', 28_400_000), ('e', 7_000)] {
            assert_eq!(hear(moved(WEB, blob, BlobState::Waiting, 0, total), 0), None);
        }
        assert_eq!(
            hear(moved(WEB, 'e', BlobState::Done, 7_000, 7_000), 0).unwrap(),
            format!("{WEB}: eeeeeeeeeeee was here")
        );
        hear(moved(WEB, 'a', BlobState::Downloading, 1_500, 1_500), 10);
        assert_eq!(
            hear(moved(WEB, 'a', BlobState::Done, 1_500, 1_500), 20).unwrap(),
            format!("{WEB}: aaaaaaaaaaaa 1.5 kB")
        );
        for step in 1..=20_u64 {
            hear(moved(WEB, 'b', BlobState::Downloading, step * 1_500_000, 30_000_000), step * 100);
            hear(moved(WEB, 'c', BlobState::Downloading, step * 2_000_000, 100_000_000), step * 100);
        }
        assert_eq!(
            hear(moved(WEB, 'b', BlobState::Unpacking, 0, 0), 2000).unwrap(),
            format!("{WEB}: bbbbbbbbbbbb 30 MB")
        );
        assert_eq!(hear(moved(WEB, 'b', BlobState::Unpacking, 0, 0), 2000), None, "a blob's line comes once");
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
            board.hear(&moved("registry.local/other:1", blob, BlobState::Waiting, 0, 10), Duration::from_secs(2));
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
            board.hear(&moved(WEB, 'c', BlobState::Downloading, done, 100_000_000), Duration::from_millis(tenth * 100));
        }
        assert_eq!(rate(&board, 20_000), "2 MB/s", "the stall is forgotten");
        assert!(board.images[0].samples.len() < 60, "a long pull costs no more than a short one");
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
        assert!(board.end(&ResourceKey::new(Kind::Image, "shop", WEB)));
        assert!(!board.end(&ResourceKey::new(Kind::Image, "shop", WEB)));
        assert!(board.is_empty());
        assert!(board.lines(Duration::ZERO, (80, 24), Paint(false)).is_empty());
    }
}
