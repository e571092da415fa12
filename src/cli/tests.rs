//! Every verb on a node in memory: exact output, exact exit status.

mod declared;
mod manual;
mod moving;
mod running;
mod tree;
mod upkeep;

use std::path::PathBuf;
use std::sync::Arc;

use super::args::Cli;
use super::ui::tests::Caught;
use super::{Context, dispatch};
use crate::api::fake::{self, Fake, State};
use crate::api::{Client, Service};

/// A node, and a directory for files.
struct Bench {
    node: Arc<Fake>,
    directory: tempfile::TempDir,
}

/// What a command line did.
struct Ran {
    status: u8,
    out: String,
    err: String,
}

impl Ran {
    /// Everything at once, for snapshots.
    fn all(&self) -> String {
        let part = |name: &str, text: &str| if text.is_empty() { String::new() } else { format!("--- {name}\n{text}") };
        format!("{}{}=== exit {}", part("out", &self.out), part("err", &self.err), self.status)
    }
}

impl Bench {
    fn new(change: impl FnOnce(&mut State)) -> Self {
        Self { node: Fake::with(change), directory: tempfile::tempdir().unwrap() }
    }

    /// The shop: a namespace, an image, a tag, two containers.
    fn shop() -> Self {
        Self::new(|node| {
            let mut crashing = fake::container("shop", "crashing");
            if let crate::api::Status::Container(status) = &mut crashing.status {
                status.phase = crate::api::Phase::BackOff;
                (status.ready, status.pid, status.exit_code, status.restarts) = (false, None, Some(1), 7);
            }
            node.items = vec![
                fake::namespace("shop"),
                fake::image("shop", "registry.local/web:1"),
                fake::tag("shop", "registry.local/web:stable", "registry.local/web:1"),
                crashing,
                fake::container("shop", "web"),
            ];
        })
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `bayplan LINE…`; words are cut at spaces.
    fn run(&self, line: &str) -> Ran {
        self.run_words(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn run_words(&self, words: &[String]) -> Ran {
        let state = format!("--state={}", self.directory.path().display());
        let line = ["bayplan".to_owned(), state].into_iter().chain(words.iter().cloned()).map(Into::into);
        let caught = Caught::default();
        let cli = match Cli::of(line) {
            Ok(cli) => cli,
            Err(error) => return Ran { status: 2, out: String::new(), err: error.to_string() },
        };
        let node: Arc<dyn Service> = self.node.clone();
        let mut context = Context::with_node(cli.global, caught.ui(), Client::in_process(node), fake::now());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = runtime.block_on(dispatch(cli.command, &mut context)).unwrap_or_else(|fault| {
            context.ui.fault(&fault);
            fault.class.exit_status()
        });
        context.ui.finish().unwrap();
        let (out, err) = caught.text();
        let place = self.directory.path().display().to_string();
        Ran { status, out: out.replace(&place, "DIR"), err: err.replace(&place, "DIR") }
    }

    fn calls(&self) -> Vec<String> {
        self.node.state().calls.clone()
    }
}
