//! The commented default file, as `bayplan config default` prints it and `make install` puts it in place.

use super::Config;

impl Config {
    /// Every key with its meaning, unit and default; parses back to exactly the defaults.
    pub fn default_text() -> &'static str {
        include_str!("default.toml")
    }
}
