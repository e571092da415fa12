//! The loop of the daemon: plan, carry out what is ready, wait for something to happen.
//!
//! Idle costs nothing: it wakes for a change of the node or of what is desired, for the end of a back-off, and
//! where something became garbage. What failed is tried again by its own back-off, behind nobody else's.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::config::Config;
use crate::engine::Freshness;
use crate::manifest::{Kind, ResourceKey};
use crate::plan::{Action, Severity, Step, Target};

use super::Node;
use super::backoff::Backoff;
use super::pace::Pace;
use super::queue::{Class, Limits, Phase, Work, WorkQueue};
use super::reconcile::Outcome;

/// After so long without anything to do, memory that is free is given back.
const QUIET: Duration = Duration::from_secs(2);

/// Runs until it is dropped.
pub(super) async fn run(node: Arc<Node>) {
    let mut config = node.engine.config();
    let mut queue: WorkQueue<ResourceKey> = WorkQueue::new(limits(&config), backoff(&config));
    let mut pace = Pace::default();
    let mut changes = node.engine.changes();
    let (ended, mut ends) = mpsc::unbounded_channel::<Outcome>();
    let asking = Arc::new(AtomicBool::new(false));
    let mut told: BTreeSet<(ResourceKey, String)> = BTreeSet::new();
    // Whatever a crash left is collected one grace period after the start.
    let mut garbage_since = Some(Instant::now());
    loop {
        if let Some(at) = pace.pause(Instant::now()) {
            tokio::time::sleep_until(at.into()).await;
        }
        // Ends come in crowds; each round plans once for all of them.
        while let Ok(outcome) = ends.try_recv() {
            note(&node, &mut queue, &outcome);
        }
        changes.mark_unchanged();
        let now = node.engine.config();
        if !Arc::ptr_eq(&now, &config) {
            queue.configure(limits(&now), backoff(&now));
            // What failed under the old settings may go well under the new ones.
            queue.hurry_all();
            config = now;
        }
        let began = Instant::now();
        round(&node, &mut queue, &ended, &mut told).await;
        pace.planned(node.desired().resources.len(), began, Instant::now());
        ask_in_background(&node, &asking);
        if node.engine.take_garbage() {
            garbage_since.get_or_insert_with(Instant::now);
        }
        let collect_at = garbage_since.filter(|_| config.gc.enabled).map(|since| since + config.gc.grace.duration());
        let wakeup = [queue.next_wakeup(), collect_at].into_iter().flatten().min();
        let timer = async {
            match wakeup {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(timer);
        let mut trimmed = false;
        loop {
            tokio::select! {
                () = node.wake.notified() => {}
                () = tokio::time::sleep(QUIET), if !trimmed => {
                    crate::heap::trim();
                    trimmed = true;
                    continue;
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                outcome = ends.recv() => {
                    if let Some(outcome) = outcome {
                        note(&node, &mut queue, &outcome);
                    }
                }
                () = &mut timer => {
                    if collect_at.is_some_and(|at| at <= Instant::now()) {
                        // Again when something more is given up: an idle node is not walked.
                        garbage_since = None;
                        let (node, engine) = (Arc::clone(&node), Arc::clone(&node.engine));
                        let grace = config.gc.grace.duration();
                        tokio::spawn(async move {
                            let freed = engine.collect_garbage(grace).await;
                            if freed.items() > 0 {
                                tracing::info!(items = freed.items(), bytes = freed.blob_bytes(), "garbage collected");
                            }
                            node.relieve_disk().await;
                        });
                    }
                }
            }
            break;
        }
    }
}

/// Four times as many steps as there are places: a place that comes free between two plans has something to take it.
/// Those that wait look again whether they are still wanted ([`Node::carry_out`]).
fn limits(config: &Config) -> Limits {
    Limits {
        pulls: usize::try_from(config.controller.pulls).unwrap_or(3).max(1),
        steps: 4 * config.controller.workers(),
    }
}

fn backoff(config: &Config) -> Backoff {
    Backoff { initial: config.controller.backoff_initial.duration(), max: config.controller.backoff_max.duration() }
}

async fn round(
    node: &Arc<Node>,
    queue: &mut WorkQueue<ResourceKey>,
    ended: &mpsc::UnboundedSender<Outcome>,
    told: &mut BTreeSet<(ResourceKey, String)>,
) {
    let _planning = node.planning.lock().await;
    let stale = node.claims_now();
    let desired = node.desired();
    let plan = node.plan_for(&desired, Freshness::Known).await;
    node.forget_failures(|key| plan.step(key).is_some() || desired.resources.contains_key(key));
    let mut impossible = BTreeSet::new();
    for problem in &plan.problems {
        let said = (problem.key.clone(), problem.message.clone());
        if !told.contains(&said) {
            let place = problem.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
            let kind = crate::store::EventType::Warning;
            let reason = if problem.severity == Severity::Error { "Impossible" } else { "Notice" };
            node.engine.event(&problem.key, kind, reason, format!("{place}{}", problem.message));
        }
        impossible.insert(said);
    }
    *told = impossible;
    queue.replace(plan.steps.iter().map(|step| (step.key.clone(), work(step))));
    // A start that is under way for what is to go, or to be another, is in the way of it.
    let in_the_way = |step: &Step| match step.action {
        _ if step.key.kind != Kind::Container || !stale.contains_key(&step.key) => false,
        Action::Remove => true,
        Action::Replace => queue.is_overtaken(&step.key),
        _ => false,
    };
    let in_the_way: BTreeSet<&ResourceKey> =
        plan.steps.iter().filter(|step| in_the_way(step)).map(|step| &step.key).collect();
    node.give_up_starts(&in_the_way);
    for key in queue.ready(Instant::now()) {
        let Some(step) = plan.step(&key) else {
            queue.done(&key, true, Instant::now(), 0.5);
            continue;
        };
        let claim = if stale.contains_key(&key) { None } else { node.claim(&key) };
        match claim {
            Some(claim) => {
                let (node, step, ended) = (Arc::clone(node), step.clone(), ended.clone());
                let planned_for = Arc::clone(&desired);
                tokio::spawn(async move {
                    let outcome = node.carry_out(step, claim, Some(planned_for)).await;
                    let _ = ended.send(outcome);
                });
            }
            // A command has it under way; its end wakes the loop.
            None => queue.done(&key, true, Instant::now(), 0.5),
        }
    }
}

fn note(node: &Arc<Node>, queue: &mut WorkQueue<ResourceKey>, outcome: &Outcome) {
    let now = Instant::now();
    queue.done(&outcome.step.key, outcome.result.is_ok(), now, random());
    if let Some(Phase::BackOff { until, .. }) = queue.phase(&outcome.step.key) {
        let wait = until.saturating_duration_since(now);
        if let Ok(wait) = jiff::SignedDuration::try_from(wait) {
            node.note_next_try(&outcome.step.key, jiff::Timestamp::now() + wait);
        }
    }
    if matches!(outcome.step.target, Some(Target::Pull { .. } | Target::Import { .. })) {
        let node = Arc::clone(node);
        tokio::spawn(async move { node.relieve_disk().await });
    }
}

fn work(step: &Step) -> Work<ResourceKey> {
    let class = match &step.target {
        Some(Target::Pull { reference, .. }) => Class::Pull(reference.host().to_owned()),
        _ => Class::Step,
    };
    let mut hasher = std::hash::DefaultHasher::new();
    serde_json::to_string(step).unwrap_or_default().hash(&mut hasher);
    Work { class, fingerprint: hasher.finish(), needs: step.needs.clone() }
}

/// Registries answer when they like; the loop goes on meanwhile, and is woken by a new answer.
fn ask_in_background(node: &Arc<Node>, asking: &Arc<AtomicBool>) {
    let desired = node.desired();
    if !node.engine.has_questions(&desired) || asking.swap(true, Ordering::AcqRel) {
        return;
    }
    let (node, asking) = (Arc::clone(node), Arc::clone(asking));
    tokio::spawn(async move {
        node.engine.ask(&desired, Freshness::Recent, None).await;
        asking.store(false, Ordering::Release);
        node.engine.touch();
    });
}

/// Between 0 and 1, for jitter.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    // 53 bits fit a double exactly.
    #[allow(clippy::cast_precision_loss)]
    let value = bits as f64 / (1_u64 << 53) as f64;
    value
}

/// How long the end of the daemon may take.
pub(super) const GOODBYE: Duration = Duration::from_millis(500);
