//! Plans and has steps carried out: the one road from desired to done.
//!
//! Invariant: a step is planned and claimed in one breath, under one lock, and its claim ends after its
//! effect is recorded; so no step is ever carried out on a node other than the one it was planned for, and
//! no resource is worked on twice at a time, whoever asks (the loop, `apply`, a command by hand).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

use crate::api::ApplyEvent;
use crate::engine::{Freshness, GivenUp, Move};
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, Resource, ResourceKey, Spec};
use crate::oci::Reference;
use crate::plan::{Action, Desired, IMAGE_DIGEST, Plan, Severity, Step, Target};

use super::Node;
use super::pace::Pace;

/// How long a start is waited for before it is given up for the sake of an end that was asked for by hand.
const START_PATIENCE: Duration = Duration::from_millis(500);

/// Which part of a plan somebody cares for.
#[derive(Debug, Clone)]
pub enum Scope {
    /// The node.
    All,
    /// These resources and what they need.
    Keys(BTreeSet<ResourceKey>),
}

impl Scope {
    /// One resource.
    pub fn one(key: ResourceKey) -> Self {
        Scope::Keys(BTreeSet::from([key]))
    }

    /// The same with what follows the names in it: tags of tags, and containers that get another image by that.
    pub fn with_followers(self, plan: &Plan) -> Self {
        let Scope::Keys(mut keys) = self else { return self };
        loop {
            let follows = |step: &&Step| match &step.target {
                Some(Target::Tag { source, .. }) if step.action == Action::Update => {
                    names(&keys, &step.key.namespace, source)
                }
                Some(Target::Container { resource, .. }) if step.action == Action::Replace => {
                    let image = resource.container().map(|spec| &spec.image);
                    image.is_some_and(|image| names(&keys, &step.key.namespace, image))
                        && step.changes.iter().any(|change| change.field == IMAGE_DIGEST)
                }
                _ => false,
            };
            let more: Vec<ResourceKey> = plan.steps.iter().filter(follows).map(|step| step.key.clone()).collect();
            let before = keys.len();
            keys.extend(more);
            if keys.len() == before {
                return Scope::Keys(keys);
            }
        }
    }

    /// The part of a plan that is in scope, in the plan's order.
    pub fn narrow(&self, plan: Plan) -> Plan {
        let Scope::Keys(keys) = self else { return plan };
        let by_key: BTreeMap<&ResourceKey, &Step> = plan.steps.iter().map(|step| (&step.key, step)).collect();
        let mut wanted: BTreeSet<ResourceKey> = BTreeSet::new();
        let mut todo: Vec<ResourceKey> = keys.iter().cloned().collect();
        while let Some(key) = todo.pop() {
            if let Some(step) = by_key.get(&key)
                && wanted.insert(key)
            {
                todo.extend(step.needs.iter().cloned());
            }
        }
        // What a container implied goes with it.
        for step in &plan.steps {
            if step.action == Action::Remove
                && step.key.kind == Kind::Image
                && !step.needs.is_empty()
                && step.needs.iter().all(|need| wanted.contains(need))
            {
                wanted.insert(step.key.clone());
            }
        }
        Plan {
            steps: plan.steps.into_iter().filter(|step| wanted.contains(&step.key)).collect(),
            problems: plan.problems.into_iter().filter(|problem| keys.contains(&problem.key)).collect(),
        }
    }
}

/// Whether a reference is what one of these declares.
fn names(keys: &BTreeSet<ResourceKey>, namespace: &str, reference: &Reference) -> bool {
    let name = reference.to_string();
    [Kind::Image, Kind::Tag].into_iter().any(|kind| keys.contains(&ResourceKey::new(kind, namespace, name.as_str())))
}

/// Steps under way, by key; the receiver turns true at the end.
#[derive(Default)]
pub(super) struct Claims {
    under_way: HashMap<ResourceKey, UnderWay>,
}

/// A step under way.
struct UnderWay {
    done: watch::Receiver<bool>,
    /// It is in the way of what is wanted now. Gone with the claim: whoever has the key next, and be it a new container of
    /// the same name, is not meant.
    given_up: Option<GivenUp>,
}

/// Held while a step is under way.
pub(super) struct Claim {
    node: Arc<Node>,
    key: ResourceKey,
    done: watch::Sender<bool>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.node.claims().under_way.remove(&self.key));
        let _ = self.done.send(true);
        // Whoever looked while it was claimed looks again.
        self.node.engine.touch();
    }
}

/// How a step ended.
pub(super) struct Outcome {
    pub step: Step,
    pub result: Result<()>,
    pub millis: u64,
}

impl Node {
    /// The whole plan for what is desired now.
    pub(super) async fn plan_for(self: &Arc<Self>, desired: &Desired, freshness: Freshness) -> Plan {
        let observed = self.engine.observe(desired, freshness).await;
        crate::plan::plan(desired, &observed)
    }

    /// Claims a step if nobody has it. Only under the planning lock, and only what was not claimed when the
    /// plan began.
    pub(super) fn claim(self: &Arc<Self>, key: &ResourceKey) -> Option<Claim> {
        let mut claims = self.claims();
        if claims.under_way.contains_key(key) {
            return None;
        }
        let (done, receiver) = watch::channel(false);
        claims.under_way.insert(key.clone(), UnderWay { done: receiver, given_up: None });
        Some(Claim { node: Arc::clone(self), key: key.clone(), done })
    }

    /// Claims a key for a person, behind whoever has it.
    pub(super) async fn claim_when_free(self: &Arc<Self>, key: &ResourceKey) -> Claim {
        loop {
            let claim = {
                let _planning = self.planning.lock().await;
                self.claim(key)
            };
            if let Some(claim) = claim {
                return claim;
            }
            if let Some(mut other) = self.claimed(key) {
                let _ = other.wait_for(|done| *done).await;
            }
        }
    }

    /// Claims a key for the end of its container. A start under way that is not over soon is given up: its runtime may
    /// hang for a minute.
    pub(super) async fn claim_for_the_end(self: &Arc<Self>, key: &ResourceKey) -> Claim {
        if let Ok(claim) = tokio::time::timeout(START_PATIENCE, self.claim_when_free(key)).await {
            return claim;
        }
        let _given_up = self.engine.give_up(&(key.namespace.clone(), key.name.clone()));
        self.claim_when_free(key).await
    }

    /// Gives up the starts that are in the way of a plan, and no others any more. Only under the planning lock under which
    /// that plan was made.
    pub(super) fn give_up_starts(&self, in_the_way: &BTreeSet<&ResourceKey>) {
        for (key, one) in &mut self.claims().under_way {
            if !in_the_way.contains(key) {
                one.given_up = None;
            } else if one.given_up.is_none() {
                one.given_up = Some(self.engine.give_up(&(key.namespace.clone(), key.name.clone())));
            }
        }
    }

    /// Whether a step of this key is under way.
    pub(super) fn is_claimed(&self, key: &ResourceKey) -> bool {
        self.claims().under_way.contains_key(key)
    }

    /// Every claim there is. A plan made after this may still hold the steps of these, carried out or not:
    /// such a step is stale, and is not taken from that plan.
    pub(super) fn claims_now(&self) -> HashMap<ResourceKey, watch::Receiver<bool>> {
        self.claims().under_way.iter().map(|(key, one)| (key.clone(), one.done.clone())).collect()
    }

    fn claimed(&self, key: &ResourceKey) -> Option<watch::Receiver<bool>> {
        self.claims().under_way.get(key).map(|one| one.done.clone())
    }

    /// Carries out a claimed step, and remembers how it went. With `planned_for`, a step that had to wait for a
    /// free place while something else came to be desired is given up: the next plan says what is wanted now.
    pub(super) async fn carry_out(
        self: Arc<Self>,
        step: Step,
        claim: Claim,
        planned_for: Option<Arc<Desired>>,
    ) -> Outcome {
        let places = match &step.target {
            Some(Target::Pull { reference, .. }) => self.pulls(reference.host()),
            _ => self.workers(),
        };
        let _permit = places.acquire().await;
        if planned_for.is_some_and(|desired| !Arc::ptr_eq(&desired, &self.desired())) {
            return Outcome { step, result: Ok(()), millis: 0 };
        }
        let started = Instant::now();
        let result = self.engine.execute(&step).await;
        // What was given up has not failed.
        let given_up = self.engine.is_given_up(&(step.key.namespace.clone(), step.key.name.clone()));
        self.remember(&step, result.as_ref().err().filter(|_| !given_up));
        drop(claim);
        Outcome { step, result, millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX) }
    }

    /// Brings a scope about once: every step is tried, none is tried again. Events go to `events`, those of
    /// steps in the order of the first plan. Returns the first failure, for callers that did one thing.
    pub(super) async fn drive(
        self: &Arc<Self>,
        scope: &Scope,
        freshness: Freshness,
        events: Option<mpsc::Sender<Result<ApplyEvent>>>,
    ) -> std::result::Result<Counts, Fault> {
        self.drive_from(None, scope, freshness, events).await
    }

    /// As [`Node::drive`]; what `first` planned is told as it was planned, whoever began with it.
    pub(super) async fn drive_from(
        self: &Arc<Self>,
        first: Option<&Plan>,
        scope: &Scope,
        freshness: Freshness,
        events: Option<mpsc::Sender<Result<ApplyEvent>>>,
    ) -> std::result::Result<Counts, Fault> {
        let mut report = Report::new(events);
        if let Some(first) = first {
            report.order(first);
        }
        let mut failed: HashMap<ResourceKey, Fault> = HashMap::new();
        let mut tried: HashSet<ResourceKey> = HashSet::new();
        let mut running: JoinSet<Outcome> = JoinSet::new();
        let mut pace = Pace::default();
        let mut moves = report.events.is_some().then(|| self.engine.transfers().subscribe().1);
        // Registries are asked outside the planning lock; under it, only what they answered is looked at.
        self.ask_for(&self.desired(), scope, freshness).await;
        loop {
            let mut others = Vec::new();
            let mut again = false;
            {
                let _planning = self.planning.lock().await;
                let began = Instant::now();
                let stale = self.claims_now();
                let desired = self.desired();
                let plan = scope.narrow(self.plan_for(&desired, Freshness::Known).await);
                pace.planned(desired.resources.len(), began, Instant::now());
                report.order(&plan);
                report.done_by_others(&plan, |key| stale.contains_key(key) || tried.contains(key));
                // What somebody else has under way, in the plan still or not, is waited for.
                let under_way = report.order.iter().filter(|step| !report.has(&step.key) && !tried.contains(&step.key));
                others.extend(under_way.filter_map(|step| stale.get(&step.key).cloned()));
                let pending: HashSet<&ResourceKey> = plan.steps.iter().map(|step| &step.key).collect();
                for step in &plan.steps {
                    if stale.contains_key(&step.key) {
                        continue;
                    }
                    if failed.contains_key(&step.key) || report.has(&step.key) {
                        continue;
                    }
                    if let Some(need) = step.needs.iter().find(|need| failed.contains_key(need)) {
                        let fault = Fault::new(Class::No, format!("{} was not tried: {need} failed", step.key));
                        self.remember(step, Some(&fault));
                        failed.insert(step.key.clone(), fault.clone());
                        report.ended(Outcome { step: step.clone(), result: Err(fault), millis: 0 });
                        again = true;
                        continue;
                    }
                    if step.needs.iter().any(|need| pending.contains(need)) {
                        continue;
                    }
                    if let Some(claim) = self.claim(&step.key) {
                        tried.insert(step.key.clone());
                        report.tell(ApplyEvent::Started { step: step.clone() });
                        running.spawn(Arc::clone(self).carry_out(step.clone(), claim, None));
                    }
                }
                for problem in plan.problems {
                    report.problem(problem);
                }
            }
            report.send().await;
            if again {
                continue;
            }
            if running.is_empty() {
                let Some(mut other) = others.pop() else { break };
                let _ = report.telling(&mut moves, other.wait_for(|done| *done)).await;
                continue;
            }
            let mut next = report.telling(&mut moves, running.join_next()).await;
            while let Some(ended) = next {
                match ended {
                    Ok(outcome) => {
                        if let Err(fault) = &outcome.result {
                            failed.insert(outcome.step.key.clone(), fault.clone());
                        }
                        report.ended(outcome);
                        report.send().await;
                    }
                    Err(error) => return Err(Fault::new(Class::Bug, format!("a step ended badly: {error}"))),
                }
                next = match pace.pause(Instant::now()) {
                    // What ends meanwhile is told at once, and planned for together.
                    Some(at) => tokio::time::timeout_at(at.into(), running.join_next()).await.unwrap_or(None),
                    None => running.try_join_next(),
                };
            }
        }
        report.finish();
        report.send().await;
        Ok(report.counts)
    }

    /// Tells the steps that [`Node::drive`] would take, without taking any.
    pub(super) async fn dry_run(self: &Arc<Self>, desired: &Desired, scope: &Scope, freshness: Freshness) -> Plan {
        self.ask_for(desired, scope, freshness).await;
        scope.narrow(self.plan_for(desired, Freshness::Known).await)
    }

    /// The scope of what is declared by a person, planned from what registries answer now.
    pub(super) async fn followed(self: &Arc<Self>, desired: &Desired, keys: BTreeSet<ResourceKey>) -> Scope {
        let scope = Scope::Keys(keys);
        self.ask_for(desired, &scope, Freshness::Now).await;
        scope.with_followers(&self.plan_for(desired, Freshness::Known).await)
    }

    /// Asks registries about what is in scope, and what that refers to; of the rest, nobody waits for an answer.
    async fn ask_for(self: &Arc<Self>, desired: &Desired, scope: &Scope, freshness: Freshness) {
        let Scope::Keys(keys) = scope else { return self.engine.ask(desired, freshness, None).await };
        let mut about = BTreeSet::new();
        let in_scope = desired.resources.iter().filter(|(key, _)| keys.contains(key));
        let mut todo: Vec<(String, Reference)> =
            in_scope.flat_map(|(_, declared)| references_of(&declared.resource)).collect();
        while let Some(reference) = todo.pop() {
            if !about.insert(reference.clone()) {
                continue;
            }
            todo.extend(desired.resources.values().filter_map(|declared| match &declared.resource.spec {
                Spec::Tag(tag)
                    if declared.resource.metadata.namespace == reference.0 && tag.reference == reference.1 =>
                {
                    Some((reference.0.clone(), tag.source.clone()))
                }
                _ => None,
            }));
        }
        self.engine.ask(desired, freshness, Some(&about)).await;
    }
}

/// What a resource names itself and others by.
fn references_of(resource: &Resource) -> Vec<(String, Reference)> {
    let references = match &resource.spec {
        Spec::Image(spec) => spec.reference.iter().collect(),
        Spec::Tag(spec) => vec![&spec.reference],
        Spec::Container(spec) => vec![&spec.image],
        Spec::Namespace(_) | Spec::Registry(_) => Vec::new(),
    };
    references.into_iter().map(|reference| (resource.metadata.namespace.clone(), reference.clone())).collect()
}

/// What came of a drive.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub changed: u64,
    pub failed: u64,
    pub first_fault: Option<Fault>,
    pub touched: BTreeSet<ResourceKey>,
}

/// Tells outcomes in the order of the plan, however they come.
struct Report {
    events: Option<mpsc::Sender<Result<ApplyEvent>>>,
    order: Vec<Step>,
    next: usize,
    ended: HashMap<ResourceKey, ApplyEvent>,
    told: HashSet<ResourceKey>,
    outbox: Vec<ApplyEvent>,
    problems: BTreeSet<(ResourceKey, String)>,
    counts: Counts,
}

impl Report {
    fn new(events: Option<mpsc::Sender<Result<ApplyEvent>>>) -> Self {
        Self {
            events,
            order: Vec::new(),
            next: 0,
            ended: HashMap::new(),
            told: HashSet::new(),
            outbox: Vec::new(),
            problems: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// Whether a step of this key has ended already.
    fn has(&self, key: &ResourceKey) -> bool {
        self.told.contains(key) || self.ended.contains_key(key)
    }

    fn order(&mut self, plan: &Plan) {
        let known: HashSet<ResourceKey> = self.order.iter().map(|step| step.key.clone()).collect();
        self.order.extend(plan.steps.iter().filter(|step| !known.contains(&step.key)).cloned());
    }

    /// Steps of ours that are gone from the plan without having been tried here: somebody else did them.
    fn done_by_others(&mut self, plan: &Plan, under_way: impl Fn(&ResourceKey) -> bool) {
        let pending: HashSet<&ResourceKey> = plan.steps.iter().map(|step| &step.key).collect();
        let done: Vec<Step> = self
            .order
            .iter()
            .filter(|step| !pending.contains(&step.key) && !self.has(&step.key) && !under_way(&step.key))
            .cloned()
            .collect();
        for step in done {
            self.ended(Outcome { step, result: Ok(()), millis: 0 });
        }
    }

    fn tell(&mut self, event: ApplyEvent) {
        if self.events.is_some() {
            self.outbox.push(event);
        }
    }

    /// Sends what is to be told. Never under the planning lock: a reader that pauses holds up its own report only.
    async fn send(&mut self) {
        let Some(events) = &self.events else { return };
        for event in self.outbox.drain(..) {
            // Nobody listening stops nothing that was begun.
            let _ = events.send(Ok(event)).await;
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        let Outcome { step, result, millis } = outcome;
        // Somebody else may have done the first half of it: it is the step that was planned all the same.
        let step = self.order.iter().find(|planned| planned.key == step.key).cloned().unwrap_or(step);
        self.counts.touched.insert(step.key.clone());
        let key = step.key.clone();
        let event = match result {
            Ok(()) => {
                self.counts.changed += 1;
                ApplyEvent::Done { step, millis }
            }
            Err(fault) => {
                self.counts.failed += 1;
                self.counts.first_fault.get_or_insert_with(|| fault.clone());
                ApplyEvent::Failed { step, fault, millis }
            }
        };
        self.ended.insert(key, event);
        while let Some(step) = self.order.get(self.next) {
            let Some(event) = self.ended.remove(&step.key) else { break };
            self.told.insert(step.key.clone());
            self.next += 1;
            self.tell(event);
        }
    }

    /// Waits for something, and tells meanwhile how far the images of our steps are.
    async fn telling<T>(&self, moves: &mut Option<broadcast::Receiver<Move>>, wait: impl Future<Output = T>) -> T {
        tokio::pin!(wait);
        loop {
            let next = async {
                match moves {
                    Some(moves) => moves.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = &mut wait => {
                    // What moved before that is told before it.
                    while let Some(moved) = moves.as_mut().and_then(|moves| moves.try_recv().ok()) {
                        self.moved(moved);
                    }
                    return done;
                }
                moved = next => match moved {
                    Ok(moved) => self.moved(moved),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => *moves = None,
                },
            }
        }
    }

    fn moved(&self, moved: Move) {
        if let Some(events) = &self.events
            && self.order.iter().any(|step| step.key == moved.key)
        {
            // A slow reader misses moves, never an end.
            let _ = events.try_send(Ok(ApplyEvent::Progress { transfer: super::progress::transfer(moved) }));
        }
    }

    fn problem(&mut self, problem: crate::plan::Problem) {
        if self.problems.insert((problem.key.clone(), problem.message.clone())) {
            self.counts.touched.insert(problem.key.clone());
            if problem.severity == Severity::Error {
                self.counts.failed += 1;
                self.counts.first_fault.get_or_insert_with(|| {
                    let mut fault = Fault::new(Class::No, problem.message.clone());
                    fault.help.clone_from(&problem.help);
                    fault.place = problem.place.as_ref().map(ToString::to_string);
                    fault
                });
            }
            self.tell(ApplyEvent::Problem { problem });
        }
    }

    /// Steps that somebody else did in the meantime have no outcome of their own; the rest is told now.
    fn finish(&mut self) {
        let untried: Vec<Step> = self.order.iter().filter(|step| !self.has(&step.key)).cloned().collect();
        for step in untried {
            let fault = Fault::new(Class::No, format!("{} was not tried: what it needs is not there yet", step.key));
            self.ended(Outcome { step, result: Err(fault), millis: 0 });
        }
    }
}
