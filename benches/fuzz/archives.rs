//! Archives of images: whatever is taken from one is whole, and the archive that is written of it is a tar file to
//! others, the same each time, and gives the same images. Of a refused one nothing half-made stays.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bayplan::image::descriptor::Descriptor;
use bayplan::image::{ExportOptions, Format, ImageError, Images, Packing, Part, RegistryConfig, RootfsConfig, Sweep};
use bayplan::oci::{Digest, Platform, Reference};

use super::layers::{self, BLOCK};
use super::{OWN, Target};

const WORDS: &[&str] = &[
    "blobs/sha256/",
    "index.json",
    "manifest.json",
    "repositories",
    "oci-layout",
    "../",
    "/etc/passwd",
    "a.local/app:1",
    "latest",
    "sha256:",
    "\"manifests\":",
    "\"layers\":",
    "\"size\":1",
    "\"RepoTags\":null",
    "\"diff_ids\":[]",
    "application/vnd.oci.image.index.v1+json",
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    "null",
    "18446744073709551615",
];

/// Imported, exported, imported again.
pub const ARCHIVE: Target = Target {
    name: "archive",
    seeds,
    words: WORDS,
    longest: 256 << 10,
    mend,
    make: || {
        let mut porter = Porter::new(&Path::new(OWN).join("archives"));
        Box::new(move |input| porter.carry(input))
    },
};

const NAME: &str = "a.local/app:1";

fn registries() -> RegistryConfig {
    RegistryConfig { auth_files: Vec::new(), ..RegistryConfig::with_certs("") }
}

fn options(format: Format, packing: Packing) -> ExportOptions {
    ExportOptions { part: Part::Here, format, packing }
}

/// What we write of a small image, as one kind of archive and as the other.
fn seeds() -> Vec<Vec<u8>> {
    let root = tempfile::tempdir_in(OWN).unwrap();
    let images = Images::open(root.path(), registries()).unwrap();
    let config = RootfsConfig {
        platform: Platform::host(),
        entrypoint: None,
        cmd: Some(vec!["sh".into()]),
        env: vec!["A=b".into()],
        workdir: None,
        user: None,
        labels: [("a".to_owned(), "b".to_owned())].into(),
        stop_signal: None,
        expose: Vec::new(),
    };
    let layer = &layers::seeds()[0];
    let image = images.import_rootfs("seed", &layer[..], &config).unwrap();
    let two = [(NAME, &image), ("b.local/app:2", &image)].map(|(name, image)| (name.parse().unwrap(), image.clone()));
    [(Format::Oci, Packing::Plain), (Format::Docker, Packing::Plain), (Format::Oci, Packing::Zstd)]
        .map(|(format, packing)| written(&images, &two, &options(format, packing)).unwrap())
        .to_vec()
}

fn written(images: &Images, named: &[(Reference, Descriptor)], options: &ExportOptions) -> Option<Vec<u8>> {
    let export = images.export(named, options).ok()?;
    let mut bytes = Vec::new();
    export.write(&mut bytes).ok()?;
    Some(bytes)
}

/// Names blobs anew by what they hold now, wherever they are named, from the layers up; then the checksums.
fn mend(input: &mut [u8]) {
    const PLACE: &[u8] = b"blobs/sha256/";
    for _ in 0..3 {
        let mut at = 0;
        while at + BLOCK <= input.len() {
            let header = &input[at..at + BLOCK];
            let size = std::str::from_utf8(&header[124..135]).ok().and_then(|text| u64::from_str_radix(text, 8).ok());
            let hex = header.strip_prefix(PLACE).map(|rest| rest[..64].to_vec());
            at += BLOCK;
            let Some(size) = size.and_then(|size| usize::try_from(size).ok()).filter(|_| header_like(header)) else {
                continue;
            };
            let Some(body) = input.get(at..at.saturating_add(size)) else { break };
            if let Some(old) = hex {
                let new = Digest::of(body);
                replace(input, &old, new.hex().as_bytes());
            }
            at += size.next_multiple_of(BLOCK);
        }
    }
    layers::mend(input);
}

fn header_like(header: &[u8]) -> bool {
    header[257..].starts_with(b"ustar")
}

fn replace(input: &mut [u8], old: &[u8], new: &[u8]) {
    if old == new || !old.iter().all(u8::is_ascii_hexdigit) {
        return;
    }
    let places: Vec<_> = input.windows(old.len()).enumerate().filter(|(_, w)| *w == old).map(|(at, _)| at).collect();
    places.into_iter().for_each(|at| input[at..at + new.len()].copy_from_slice(new));
}

struct Porter {
    roots: [PathBuf; 2],
    images: [Images; 2],
}

impl Porter {
    fn new(own: &Path) -> Self {
        let roots = [own.join("1"), own.join("2")];
        roots.iter().for_each(|root| fs::create_dir_all(root).unwrap());
        let images = [&roots[0], &roots[1]].map(|root| Images::open(root, registries()).unwrap());
        Self { roots, images }
    }

    fn carry(&mut self, input: &[u8]) -> String {
        let [here, there] = &self.images;
        let outcome = match here.import("a.tar", input) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.len() < 4096, "{} bytes of words", text.len());
                // What stands before is theirs.
                text.rsplit(": ").next().unwrap_or_default().to_owned()
            }
            Ok(imported) => {
                let unnamed: Reference = NAME.parse().unwrap();
                let named: Vec<(Reference, Descriptor)> = imported
                    .into_iter()
                    .map(|image| {
                        let platforms = here.platforms(&image.target.digest);
                        assert!(!platforms.is_empty(), "an image of no platform: {}", image.target.digest);
                        (image.reference.unwrap_or_else(|| unnamed.clone()), image.target)
                    })
                    .collect();
                format!("images {}{}", oci(here, there, &named), docker(here, there, &named))
            }
        };
        for (root, images) in self.roots.iter().zip(&self.images) {
            assert_eq!(fs::read_dir(root.join("content/ingest")).unwrap().count(), 0, "left on its way");
            images.gc(&HashSet::new(), Sweep::older_than(Duration::ZERO)).unwrap();
            assert_eq!(fs::read_dir(root).unwrap().count(), 1, "something was made beside the store");
        }
        outcome
    }
}

/// A layout of them is readable to others, is the same bytes each time, and gives the same images.
fn oci(here: &Images, there: &Images, named: &[(Reference, Descriptor)]) -> String {
    let export = match here.export(named, &options(Format::Oci, Packing::Plain)) {
        Ok(export) => export,
        // An index says another platform of it than its configuration.
        Err(ImageError::Platform { .. }) => return "elsewhere ".into(),
        Err(error) => panic!("{error}"),
    };
    let mut archive = Vec::new();
    export.write(&mut archive).unwrap();
    let mut read = tar::Archive::new(&archive[..]);
    for entry in read.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let path = entry.path().unwrap().into_owned();
        if let Some(hex) = path.strip_prefix("blobs/sha256").ok().and_then(|hex| hex.to_str()).filter(|h| !h.is_empty())
        {
            assert_eq!(Digest::of(&bytes).hex(), hex);
        }
    }
    let again = there.import("again.tar", &archive[..]).unwrap();
    let again: Vec<_> = again.into_iter().map(|image| (image.reference.unwrap(), image.target)).collect();
    let contents: Vec<_> = again.iter().map(|(name, target)| (name.clone(), target.digest.clone())).collect();
    assert_eq!(contents, export.contents());
    let packed = written(there, &again, &options(Format::Oci, Packing::Plain)).unwrap();
    assert!(packed == archive, "an archive of the same images is not the same");
    format!("{} ", contents.len())
}

/// A Docker archive of them, where their layers can be unpacked, is read by us.
fn docker(here: &Images, there: &Images, named: &[(Reference, Descriptor)]) -> &'static str {
    let Some(archive) = written(here, named, &options(Format::Docker, Packing::Gzip)) else { return "not for Docker" };
    assert!(!there.import("docker.tar", &archive[..]).unwrap().is_empty());
    "for Docker"
}
