//! Which machine an image is for, as image-spec "Image Index: platform" defines it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `os/architecture[/variant]` in Go's names, such as `linux/amd64` or `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v7` for arm, `v8` for arm64; absent elsewhere.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this binary was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(Into::into) }
    }
}

impl FromStr for Platform {
    type Err = String;
    /// `os/architecture[/variant]`, or one of the first two alone, which means this node's other; with the spellings
    /// of `uname` for Go's, as containerd reads it.
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let new = |os: &str, (architecture, variant): (&str, Option<&str>)| Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.map(Into::into),
        };
        let whole = parts.iter().all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.')
        });
        match parts.as_slice() {
            [os] if SYSTEMS.contains(os) => Ok(Self { os: (*os).into(), ..Self::host() }),
            [architecture] if ARCHITECTURES.contains(&canonical(architecture).0) => {
                Ok(new("linux", canonical(architecture)))
            }
            [os, architecture] if whole => Ok(new(os, canonical(architecture))),
            [os, architecture, variant] if whole => {
                let (architecture, implied) = canonical(architecture);
                let numbered = format!("v{variant}");
                let variant = if variant.bytes().all(|b| b.is_ascii_digit()) { &numbered } else { *variant };
                Ok(new(os, (architecture, implied.or(Some(variant)))))
            }
            _ => Err(format!("{text:?} is not a platform: os/architecture[/variant] is expected, such as linux/amd64")),
        }
    }
}

/// Systems and architectures that need no other word beside them.
const SYSTEMS: [&str; 4] = ["linux", "windows", "darwin", "freebsd"];
const ARCHITECTURES: [&str; 10] =
    ["386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm"];

/// Go's name of an architecture, and the variant that another spelling of it means.
fn canonical(architecture: &str) -> (&str, Option<&str>) {
    match architecture {
        "x86_64" | "x86-64" => ("amd64", None),
        "i386" | "i486" | "i586" | "i686" => ("386", None),
        "aarch64" => ("arm64", None),
        "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v6")),
        other => (other, None),
    }
}

impl TryFrom<String> for Platform {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> String {
        platform.to_string()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl schemars::JsonSchema for Platform {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Platform".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "examples": ["linux/amd64", "linux/arm64/v8"]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_platform_is_one_name() {
        let shown = |text: &str| text.parse::<Platform>().map(|platform| platform.to_string());
        let rows = [
            ("linux/amd64", "linux/amd64"),
            ("Linux/X86_64", "linux/amd64"),
            ("amd64", "linux/amd64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64/v8"),
            ("armhf", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
        ];
        for (text, expected) in rows {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(shown("linux"), Ok(Platform::host().to_string()));
        for wrong in ["", "/", "linux/", "/amd64", "pdp11", "linux/arm/v7/x", "linux/a b", "linux,amd64"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }
}
