//! Gzip, zstd or plain, told by the first bytes: media types lie more often than magic numbers.

use std::io::{self, BufRead, BufReader, Read, Write};

/// Read buffer in front of the inflaters, in bytes.
const BUFFER: usize = 128 << 10;
/// The largest zstd window accepted, as a power of two: 128 MiB, what `zstd -d` accepts by itself.
const MAX_WINDOW_LOG: u32 = 27;

/// How bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// RFC 1952; several members are one stream.
    Gzip,
    /// RFC 8878; several frames, skippable ones too, are one stream.
    Zstd,
}

impl Compression {
    /// By the first bytes of a stream.
    pub fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame: zstd:chunked puts its table of contents into those.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// The suffix of an OCI layer's media type.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// The unpacked bytes of `reader`, whatever it is packed by, in bounded memory.
pub fn reader<'a>(reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let (kind, whole) = look(reader)?;
    unpacked(kind, whole)
}

/// How `reader` is packed, and all of its bytes.
pub fn look<R: Read>(reader: R) -> io::Result<(Compression, impl BufRead + use<R>)> {
    let mut buffered = BufReader::with_capacity(BUFFER, reader);
    // A pipe may give one byte at first; the magic number needs four.
    let mut first = [0u8; 4];
    let mut got = 0;
    while got < first.len() {
        match buffered.read(&mut first[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    // What tar knows beside, and neither layers nor archives of images may be packed by.
    let foreign = match &first[..got] {
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X'] => Some("xz"),
        [0x04, 0x22, 0x4d, 0x18] => Some("lz4"),
        _ => None,
    };
    if let Some(name) = foreign {
        let why = format!("it is packed by {name}, and gzip and zstd are what images are packed by");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let kind = Compression::of(&first[..got]);
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(first).take(got as u64).chain(buffered));
    Ok((kind, whole))
}

/// The unpacked bytes of what is packed so.
pub fn unpacked<'a>(kind: Compression, reader: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match kind {
        Compression::Plain => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// How something is to be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// Gzip without a name and a time, so that the same bytes give the same bytes.
    Gzip,
    /// Zstd with a checksum.
    Zstd,
}

/// A writer that packs. Without [`Packer::finish`] what it writes is cut short.
pub enum Packer<W: Write> {
    /// As it is.
    Plain(W),
    /// By gzip.
    Gzip(flate2::write::GzEncoder<W>),
    /// By zstd.
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

/// Packs what is written into `to`.
pub fn writer<W: Write>(packing: Packing, to: W) -> io::Result<Packer<W>> {
    Ok(match packing {
        Packing::Plain => Packer::Plain(to),
        Packing::Gzip => Packer::Gzip(flate2::write::GzEncoder::new(to, flate2::Compression::default())),
        Packing::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(to, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            encoder.include_checksum(true)?;
            Packer::Zstd(encoder)
        }
    })
}

impl<W: Write> Packer<W> {
    /// Writes what is left.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(to) => Ok(to),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }?
        .flush()
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(to) => to.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(to) => to.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn members_and_frames_are_one_stream_and_plain_is_left_alone() {
        let members = [gzip(b"one "), gzip(b"two")].concat();
        let frames = [zstd::encode_all(&b"one "[..], 1).unwrap(), zstd::encode_all(&b"two"[..], 1).unwrap()].concat();
        for packed in [members, frames, b"one two".to_vec()] {
            let mut out = String::new();
            reader(&packed[..]).unwrap().read_to_string(&mut out).unwrap();
            assert_eq!(out, "one two");
        }
    }

    #[test]
    fn other_packers_are_named() {
        for (first, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz"), (b"\x04\x22\x4d\x18", "lz4")] {
            let Err(error) = reader(first) else { panic!("{name} was taken") };
            assert!(error.to_string().starts_with(&format!("it is packed by {name}, ")), "{error}");
        }
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        let packed = gzip(&[7; 100_000]);
        let mut out = Vec::new();
        assert!(reader(&packed[..packed.len() - 9]).unwrap().read_to_end(&mut out).is_err());
    }
}
