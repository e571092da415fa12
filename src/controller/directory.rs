//! The directory source: what the manifest directory declares. Pure: snapshots in, resources and reports out.
//!
//! Invariants: a file that is bad, emptied, half-written or out of sight keeps its last good resources; of a
//! resource declared twice no new version is taken; what vanishes by what may be an accident (all of
//! several files at once, or the directory itself) stays declared until a person confirms. All of it
//! outlives a restart: [`Persist`] is what the caller stores, [`DirectorySource::restore`] takes it back.
//!
//! In: [`Scan`]s and a [`Parser`]. Out: [`Outcome`]; the state is read through methods. No I/O, no clock.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::scan::{Content, RootIdentity, RootState, Scan};
use crate::manifest::{Diagnostic, ResourceKey};
use crate::oci::Digest;
use crate::plan::Declared;

pub use report::{Held, HeldReason};

/// Turns text into resources. The real one is `manifest::parse` and `manifest::check_set`.
pub trait Parser {
    /// The resources of one file, each with [`crate::plan::Source::Directory`] of `file` and its place, or
    /// everything that is wrong with the file. `path` is absolute: relative archives and binds start there.
    fn parse(&self, file: &str, path: &Path, text: &[u8]) -> Result<Vec<Declared>, Vec<Diagnostic>>;

    /// What is wrong with a resource only in view of the others (a tag that points at nothing, a cycle of
    /// tags). `set` has each key once.
    fn check(&self, set: &[&Declared]) -> Vec<(ResourceKey, Diagnostic)>;
}

/// What a file declared when it was last good. Stored by the caller, one row a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastGood {
    /// Its path relative to the directory.
    pub file: String,
    /// The SHA-256 of its text.
    pub hash: Digest,
    /// It is gone, and its removal waits for a person.
    #[serde(default)]
    pub held: bool,
    /// What it declared.
    pub resources: Vec<Declared>,
}

/// The rest of what is stored, as one value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Which directory was read.
    #[serde(default)]
    pub root: Option<RootIdentity>,
    /// Why files are held, if any are.
    #[serde(default)]
    pub held: Option<HeldReason>,
    /// Versions in force that the rows do not give: the newest declarations are refused.
    #[serde(default)]
    pub kept: Vec<Declared>,
    /// Keys that the rows give and that are not in force: refused, with no version before.
    #[serde(default)]
    pub left_out: BTreeSet<ResourceKey>,
}

/// What to store, in one transaction, before the outcome is acted on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Persist {
    /// Rows to insert or replace.
    pub save: Vec<LastGood>,
    /// Rows to delete, by file.
    pub delete: Vec<String>,
    /// The new memory, if it changed.
    pub memory: Option<Memory>,
}

impl Persist {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.save.is_empty() && self.delete.is_empty() && self.memory.is_none()
    }

    /// Stores what `later` wants after this, in one go: for what could not be stored when it was due.
    pub fn and_then(&mut self, later: Persist) {
        self.save.retain(|row| !later.delete.contains(&row.file) && later.save.iter().all(|new| new.file != row.file));
        self.delete.retain(|file| later.save.iter().all(|new| new.file != *file) && !later.delete.contains(file));
        self.save.extend(later.save);
        self.delete.extend(later.delete);
        self.memory = later.memory.or(self.memory.take());
    }
}

/// What an update changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The resources differ from before: plan again.
    pub changed: bool,
    /// Problems that were not there before; each is given once.
    pub reports: Vec<Diagnostic>,
    /// Files whose problems are gone.
    pub mended: Vec<String>,
    /// A removal that was held just now, or whose files changed.
    pub held: Option<Held>,
    /// What to store.
    pub persist: Persist,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Present,
    /// Absent, but events go on: not yet taken for removed.
    Vanishing,
    /// Absent, and a person must confirm.
    Held,
}

/// What a file was when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(Digest),
    Bad(String),
    /// Nothing yet: known from the store only, or being written since it appeared.
    Nothing,
}

#[derive(Debug, Clone)]
struct Good {
    hash: Digest,
    resources: Vec<Declared>,
}

#[derive(Debug, Clone)]
struct FileState {
    seen: Seen,
    good: Option<Good>,
    problems: Vec<Diagnostic>,
    presence: Presence,
    /// It was there when events last paused.
    settled: bool,
}

/// The state of the source.
#[derive(Debug, Clone, Default)]
pub struct DirectorySource {
    files: BTreeMap<String, FileState>,
    writing: BTreeSet<String>,
    accepted: BTreeMap<ResourceKey, Declared>,
    /// Keys whose newest declarations are refused, and why.
    refused: BTreeMap<ResourceKey, Diagnostic>,
    /// What is wrong with the directory itself or its parts.
    tree: BTreeMap<String, Diagnostic>,
    held: Option<HeldReason>,
    root: Option<RootIdentity>,
    stored: Memory,
}

impl DirectorySource {
    /// The state as it was stored. Nothing is reported or parsed: the first scan does that.
    pub fn restore(rows: Vec<LastGood>, memory: Memory) -> Self {
        let mut source = Self { held: memory.held, root: memory.root, ..Self::default() };
        for row in rows {
            let presence = if row.held { Presence::Held } else { Presence::Present };
            let good = Some(Good { hash: row.hash, resources: row.resources });
            let state = FileState { seen: Seen::Nothing, good, problems: Vec::new(), presence, settled: true };
            source.files.insert(row.file, state);
        }
        let mut accepted = source.given_by_rows();
        accepted.retain(|key, _| !memory.left_out.contains(key));
        accepted.extend(memory.kept.iter().map(|declared| (declared.resource.key(), declared.clone())));
        source.accepted = accepted;
        source.stored = memory;
        if source.files.values().any(|state| state.presence == Presence::Held) {
            source.held.get_or_insert(HeldReason::AllVanished);
        }
        source
    }

    /// Takes a snapshot of the tree. `quiet`: events had paused before it, so what is absent is gone.
    pub fn update(&mut self, scan: &Scan, quiet: bool, parser: &dyn Parser) -> Outcome {
        let mut outcome = Outcome::default();
        self.look_at_tree(scan, &mut outcome);
        match scan.root {
            RootState::Present(identity) => {
                let fresh = self.take_files(scan, parser, &mut outcome);
                self.take_absences(scan, identity, quiet, &fresh, &mut outcome);
            }
            RootState::Missing | RootState::Unreadable(_) => {
                self.writing.clear();
                self.hold(HeldReason::DirectoryGone, |_| true, &mut outcome);
            }
        }
        self.settle(parser, &mut outcome);
        outcome
    }

    /// Removes what is held: a person confirmed.
    pub fn confirm_removal(&mut self, parser: &dyn Parser) -> Outcome {
        let mut outcome = Outcome::default();
        self.drop_files(|state| state.presence == Presence::Held, &mut outcome);
        self.settle(parser, &mut outcome);
        outcome
    }

    /// What is wanted, by key.
    pub fn desired(&self) -> &BTreeMap<ResourceKey, Declared> {
        &self.accepted
    }

    /// Files that are being written, and are acted on when their writers close them.
    pub fn writing(&self) -> &BTreeSet<String> {
        &self.writing
    }

    /// How many files declare something, held ones included.
    pub fn len(&self) -> usize {
        self.files.values().filter(|state| state.good.is_some()).count()
    }

    /// Whether no file declares anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Problems of the tree and its parts, reported when they are new.
    fn look_at_tree(&mut self, scan: &Scan, outcome: &mut Outcome) {
        let now = report::tree(scan);
        for (name, diagnostic) in &now {
            if self.tree.get(name) != Some(diagnostic) {
                outcome.reports.push(diagnostic.clone());
            }
        }
        outcome.mended.extend(self.tree.keys().filter(|name| !now.contains_key(*name)).cloned());
        self.tree = now;
    }

    /// Takes what is there. Returns the files that were not known by these names before, by hash.
    fn take_files(&mut self, scan: &Scan, parser: &dyn Parser, outcome: &mut Outcome) -> BTreeMap<Digest, String> {
        let mut fresh = BTreeMap::new();
        self.writing.clear();
        for (name, file) in &scan.files {
            let known = self.files.contains_key(name);
            let state = self.files.entry(name.clone()).or_insert_with(|| FileState {
                seen: Seen::Nothing,
                good: None,
                problems: Vec::new(),
                presence: Presence::Present,
                settled: false,
            });
            let was_held = std::mem::replace(&mut state.presence, Presence::Present) == Presence::Held;
            let mut store = was_held && state.good.is_some();
            match &file.content {
                Content::Writing => {
                    self.writing.insert(name.clone());
                }
                Content::Bad(why) => {
                    if state.seen != Seen::Bad(why.clone()) {
                        state.seen = Seen::Bad(why.clone());
                        state.complain(vec![report::file(name, why)], outcome);
                    }
                }
                Content::Read { hash, text } => {
                    if let Some(text) = text
                        && state.seen != Seen::Text(hash.clone())
                    {
                        state.seen = Seen::Text(hash.clone());
                        match parser.parse(name, &file.path, text) {
                            Ok(_) if text.is_empty() && state.declares() => {
                                state.complain(vec![report::emptied(name)], outcome);
                            }
                            Ok(resources) => {
                                store |= state
                                    .good
                                    .as_ref()
                                    .is_none_or(|good| good.hash != *hash || good.resources != resources);
                                state.good = Some(Good { hash: hash.clone(), resources });
                                state.mend(name, outcome);
                            }
                            Err(problems) => state.complain(problems, outcome),
                        }
                    } else if state.good.as_ref().is_some_and(|good| good.hash == *hash) {
                        // Back to what it was when it was good, or bad for a reason that has gone.
                        state.seen = Seen::Text(hash.clone());
                        state.mend(name, outcome);
                    }
                    if !known {
                        fresh.insert(hash.clone(), name.clone());
                    }
                }
            }
            if store {
                outcome.persist.save.extend(row(name, state));
            }
        }
        fresh
    }

    fn take_absences(
        &mut self,
        scan: &Scan,
        identity: RootIdentity,
        quiet: bool,
        fresh: &BTreeMap<Digest, String>,
        outcome: &mut Outcome,
    ) {
        let unseen = |name: &str| {
            scan.blind.iter().any(|blind| {
                blind.dir.is_empty() || name.strip_prefix(&blind.dir).is_some_and(|rest| rest.starts_with('/'))
            })
        };
        let (mut there, mut absent) = (0_usize, BTreeSet::new());
        for (name, state) in &mut self.files {
            if state.presence == Presence::Held {
                continue;
            }
            there += usize::from(state.settled);
            if !scan.files.contains_key(name) && !unseen(name) {
                state.presence = Presence::Vanishing;
                absent.insert(name.clone());
            }
        }
        if !quiet {
            return;
        }
        absent.retain(|name| !self.is_renamed(name, fresh, outcome));
        let replaced = self.root.is_some_and(|root| root != identity);
        let settled = absent.iter().filter(|name| self.files.get(*name).is_some_and(|state| state.settled)).count();
        if replaced {
            self.hold(HeldReason::DirectoryReplaced, |state| state.presence == Presence::Vanishing, outcome);
        } else if settled >= 2 && settled == there {
            self.hold(HeldReason::AllVanished, |state| state.presence == Presence::Vanishing, outcome);
        }
        self.drop_files(|state| state.presence == Presence::Vanishing, outcome);
        for state in self.files.values_mut() {
            state.settled = true;
        }
        self.root = Some(identity);
    }

    /// A file that was renamed is not gone: its new name takes over its last good resources if it has none,
    /// because it is as broken as before.
    fn is_renamed(&mut self, name: &str, fresh: &BTreeMap<Digest, String>, outcome: &mut Outcome) -> bool {
        let Some(state) = self.files.get(name) else { return false };
        let hash = match (&state.seen, &state.good) {
            (Seen::Text(hash), _) => hash,
            (_, Some(good)) => &good.hash,
            _ => return false,
        };
        let Some(to) = fresh.get(hash) else { return false };
        let good = state.good.clone();
        if let Some(heir) = self.files.get_mut(to)
            && heir.good.is_none()
            && good.is_some()
        {
            heir.good = good;
            outcome.persist.save.extend(row(to, heir));
        }
        self.drop_file(name, outcome);
        true
    }

    /// Holds files for which `which` says so. Files that declare nothing have nothing to hold.
    fn hold(&mut self, reason: HeldReason, which: impl Fn(&FileState) -> bool, outcome: &mut Outcome) {
        let mut any = false;
        for (name, state) in &mut self.files {
            if state.declares() && state.presence != Presence::Held && which(state) {
                state.presence = Presence::Held;
                outcome.persist.save.extend(row(name, state));
                any = true;
            }
        }
        if any {
            self.held = Some(reason);
            outcome.held = self.held();
        }
        if reason == HeldReason::DirectoryGone {
            self.drop_files(|state| state.presence != Presence::Held, outcome);
        }
    }

    fn drop_files(&mut self, which: impl Fn(&FileState) -> bool, outcome: &mut Outcome) {
        let gone: Vec<String> =
            self.files.iter().filter(|(_, state)| which(state)).map(|(name, _)| name.clone()).collect();
        gone.iter().for_each(|name| self.drop_file(name, outcome));
    }

    fn drop_file(&mut self, name: &str, outcome: &mut Outcome) {
        let Some(mut state) = self.files.remove(name) else { return };
        state.mend(name, outcome);
        if state.good.is_some() {
            outcome.persist.save.retain(|row| row.file != name);
            outcome.persist.delete.push(name.to_owned());
        }
    }

    /// What [`DirectorySource::restore`] would find in the rows alone.
    fn given_by_rows(&self) -> BTreeMap<ResourceKey, Declared> {
        self.candidates(|presence| presence == Presence::Held).0
    }

    /// What the files declare: keys with one version, and keys with several and where.
    ///
    /// What is there wins over what is `absent`: a renamed and edited file is no duplicate of itself.
    fn candidates(
        &self,
        absent: impl Fn(Presence) -> bool,
    ) -> (BTreeMap<ResourceKey, Declared>, BTreeMap<ResourceKey, Diagnostic>) {
        let (mut taken, mut twice) = (BTreeMap::<ResourceKey, Declared>::new(), BTreeMap::new());
        let mut of_the_absent = BTreeSet::new();
        let mut states: Vec<&FileState> = self.files.values().collect();
        states.sort_by_key(|state| absent(state.presence));
        for state in states {
            for declared in state.good.iter().flat_map(|good| &good.resources) {
                let key = declared.resource.key();
                let absent = absent(state.presence);
                match taken.get(&key) {
                    None => {
                        if absent {
                            of_the_absent.insert(key.clone());
                        }
                        taken.insert(key, declared.clone());
                    }
                    Some(_) if absent && !of_the_absent.contains(&key) => {}
                    Some(first) => {
                        twice.entry(key).or_insert_with_key(|key| report::twice(key, first, declared));
                    }
                }
            }
        }
        taken.retain(|key, _| !twice.contains_key(key));
        (taken, twice)
    }

    /// Decides which versions are in force, and what is to be stored.
    fn settle(&mut self, parser: &dyn Parser, outcome: &mut Outcome) {
        self.release(outcome);
        let (mut taken, mut refused) = self.candidates(|presence| presence != Presence::Present);
        let set: Vec<&Declared> = taken.values().collect();
        refused.extend(parser.check(&set));
        for key in refused.keys() {
            taken.remove(key);
            if let Some(previous) = self.accepted.get(key) {
                taken.insert(key.clone(), previous.clone());
            }
        }
        for (key, diagnostic) in &refused {
            if self.refused.get(key) != Some(diagnostic) {
                outcome.reports.push(diagnostic.clone());
            }
        }
        self.refused = refused;
        outcome.changed = self.accepted != taken;
        self.accepted = taken;
        let given = self.given_by_rows();
        let kept = self.accepted.iter().filter(|(key, version)| given.get(*key) != Some(*version));
        let memory = Memory {
            root: self.root,
            held: self.held,
            kept: kept.map(|(_, version)| version.clone()).collect(),
            left_out: given.into_keys().filter(|key| !self.accepted.contains_key(key)).collect(),
        };
        if memory != self.stored {
            self.stored = memory.clone();
            outcome.persist.memory = Some(memory);
        }
    }

    /// Lets go of held files whose every resource is declared elsewhere by now.
    fn release(&mut self, outcome: &mut Outcome) {
        if self.held.is_none() {
            return;
        }
        let declared: BTreeSet<ResourceKey> = self
            .files
            .values()
            .filter(|state| state.presence == Presence::Present)
            .flat_map(|state| state.good.iter().flat_map(|good| &good.resources))
            .map(|declared| declared.resource.key())
            .collect();
        self.drop_files(
            |state| {
                state.presence == Presence::Held
                    && state
                        .good
                        .as_ref()
                        .is_none_or(|good| good.resources.iter().all(|one| declared.contains(&one.resource.key())))
            },
            outcome,
        );
        if !self.files.values().any(|state| state.presence == Presence::Held) {
            self.held = None;
        }
        outcome.held = outcome.held.take().and_then(|_| self.held());
    }
}

impl FileState {
    fn declares(&self) -> bool {
        self.good.as_ref().is_some_and(|good| !good.resources.is_empty())
    }

    fn complain(&mut self, problems: Vec<Diagnostic>, outcome: &mut Outcome) {
        outcome.reports.extend(problems.iter().cloned());
        self.problems = problems;
    }

    fn mend(&mut self, name: &str, outcome: &mut Outcome) {
        if !self.problems.is_empty() {
            self.problems.clear();
            outcome.mended.push(name.to_owned());
        }
    }
}

fn row(name: &str, state: &FileState) -> Option<LastGood> {
    state.good.as_ref().map(|good| LastGood {
        file: name.to_owned(),
        hash: good.hash.clone(),
        held: state.presence == Presence::Held,
        resources: good.resources.clone(),
    })
}

#[cfg(test)]
pub(in crate::controller) mod tests;
