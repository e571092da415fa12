//! Reads `config.toml` and its drop-ins, merges them, and says where what is wrong was written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{Config, DEFAULT_PATH, Overrides, Runtime, VERSION};
use crate::error::{Class, Fault, Result};

/// Larger files are no configuration.
const MAX: u64 = 1 << 20;

impl Config {
    /// Reads the file (`None`: [`DEFAULT_PATH`], which may be missing) and `conf.d/*.toml` beside it in
    /// sorted order, merges them (tables merge, values override), and lays the flags over the result.
    ///
    /// Errors are of class `Invalid`, and name `file:line:column` wherever there is one.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self> {
        let main = path.unwrap_or(Path::new(DEFAULT_PATH));
        let mut merged = Merged::default();
        match read(main) {
            Ok(text) => merged.add(main, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.is_none() => {}
            Err(error) => return Err(unreadable(main, &error)),
        }
        for file in drop_ins(main)? {
            let text = read(&file).map_err(|error| unreadable(&file, &error))?;
            merged.add(&file, &text)?;
        }
        let mut config = merged.table.try_into::<Config>().map_err(|error| {
            Fault::new(
                Class::Invalid,
                format!("the configuration of {}: {}", main.display(), error.message().trim_end()),
            )
        })?;
        config.apply(overrides);
        if let Some(finding) = config.check().into_iter().next() {
            let mut fault = Fault::new(Class::Invalid, finding.message).help(finding.help);
            if let Some(place) = merged.places.get(&finding.key).filter(|_| !overrides.set(&finding.key)) {
                fault = fault.at(place);
            }
            return Err(fault);
        }
        Ok(config)
    }

    /// One file's text alone over the defaults; `file` is shown in errors. Values are not checked.
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        let config = toml::from_str::<Config>(text).map_err(|error| located(file, text, &error))?;
        Ok(config.complete())
    }

    fn apply(&mut self, overrides: &Overrides) {
        let set = |value: &mut PathBuf, flag: &Option<PathBuf>| {
            if let Some(flag) = flag {
                value.clone_from(flag);
            }
        };
        set(&mut self.root, &overrides.root);
        set(&mut self.state, &overrides.state);
        set(&mut self.manifests, &overrides.manifests);
        if overrides.address.is_some() {
            self.address.clone_from(&overrides.address);
        } else if overrides.state.is_some() {
            // `--address` follows `--state`: a second instance must not take the first one's socket.
            self.address = None;
        }
        self.log.level = overrides.log_level.unwrap_or(self.log.level);
        let complete = std::mem::take(self).complete();
        *self = complete;
        self.make_absolute();
    }

    /// `runc` is there whatever else `[runtimes]` names.
    fn complete(mut self) -> Self {
        self.runtimes.entry("runc".into()).or_insert_with(|| Runtime { path: "runc".into() });
        self
    }
}

impl Overrides {
    fn set(&self, key: &str) -> bool {
        match key {
            "root" => self.root.is_some(),
            "state" => self.state.is_some(),
            "manifests" => self.manifests.is_some(),
            "address" => self.address.is_some() || self.state.is_some(),
            _ => false,
        }
    }
}

/// Files laid over each other, with the place of each key's last value.
#[derive(Default)]
struct Merged {
    table: toml::Table,
    places: BTreeMap<String, String>,
}

impl Merged {
    /// Lays a file over what is there. It must be valid by itself, so that errors have its places.
    fn add(&mut self, file: &Path, text: &str) -> Result<()> {
        let spans = DeTable::parse(text).map_err(|error| located(file, text, &error))?;
        // Asked first: a file of a later version has keys that would only be reported as unknown.
        if let Some(version) = spans.get_ref().get("version")
            && let DeValue::Integer(number) = version.get_ref()
            && number.as_str() != VERSION.to_string()
        {
            let message = format!("version {} of the configuration is not known", number.as_str());
            return Err(Fault::new(Class::Invalid, message).help("this bayplan reads version = 1").at(place(
                file,
                text,
                version.span(),
            )));
        }
        Config::parse(file, text)?;
        self.remember(file, text, "", spans.get_ref());
        let table = text.parse::<toml::Table>().map_err(|error| located(file, text, &error))?;
        merge(&mut self.table, table);
        Ok(())
    }

    fn remember(&mut self, file: &Path, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = format!("{prefix}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => self.remember(file, text, &format!("{path}."), inner),
                _ => {
                    self.places.insert(path, place(file, text, value.span()));
                }
            }
        }
    }
}

fn merge(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn drop_ins(main: &Path) -> Result<Vec<PathBuf>> {
    let dir = main.parent().unwrap_or(Path::new("")).join("conf.d");
    let dir = if dir.starts_with("conf.d") { Path::new(".").join(dir) } else { dir };
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(&dir, &error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(&dir, &error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> std::io::Result<String> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    if metadata.len() > MAX {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    std::fs::read_to_string(path)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    let fault = Fault::new(Class::Invalid, format!("the configuration {} cannot be read: {error}", path.display()));
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            fault.help(format!("write one with: bayplan config default > {}", path.display()))
        }
        std::io::ErrorKind::PermissionDenied => fault.help("run bayplan as root, or give another file with --config"),
        _ => fault,
    }
}

/// A TOML error with its place, and a suggestion where a key is unknown.
fn located(file: &Path, text: &str, error: &toml::de::Error) -> Fault {
    let message = error.message().trim_end();
    let at = place(file, text, error.span().unwrap_or(0..0));
    let Some((unknown, known)) = unknown_field(message) else {
        return Fault::new(Class::Invalid, message.replace('\n', ", ")).at(at);
    };
    let closest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&unknown, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4);
    let help = match closest {
        Some((_, name)) => format!("did you mean {name}?"),
        None => format!("known here: {}", known.join(", ")),
    };
    Fault::new(Class::Invalid, format!("unknown key {unknown}")).at(at).help(help)
}

/// serde's "unknown field `x`, expected one of `a`, `b`" (or "variant"), taken apart.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let mut quoted = rest.split('`');
    let unknown = quoted.next()?.to_owned();
    // Between two back-quotes: names and separators by turns.
    Some((unknown, quoted.skip(1).step_by(2).map(str::to_owned).collect()))
}

/// `file:line:column` of a byte range; columns count characters.
fn place(file: &Path, text: &str, span: Range<usize>) -> String {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    format!("{}:{line}:{column}", file.display())
}
