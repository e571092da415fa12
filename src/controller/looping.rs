//! The loop of the daemon: plan, carry out what is ready, wait for something to happen.
//!
//! Idle costs nothing: it wakes for a change of the node or of what is desired, and for the end of a
//! back-off. What failed is tried again by its own back-off, behind nobody else's.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::engine::Freshness;
use crate::manifest::ResourceKey;
use crate::plan::{Severity, Step, Target};

use super::Node;
use super::backoff::Backoff;
use super::queue::{Class, Limits, Phase, Work, WorkQueue};
use super::reconcile::Outcome;

/// Runs until it is dropped.
pub(super) async fn run(node: Arc<Node>) {
    let config = node.engine.config();
    let limits = Limits {
        pulls: usize::try_from(config.controller.pulls).unwrap_or(3).max(1),
        steps: config.controller.workers(),
    };
    let backoff = Backoff {
        initial: config.controller.backoff_initial.duration(),
        max: config.controller.backoff_max.duration(),
    };
    let mut queue: WorkQueue<ResourceKey> = WorkQueue::new(limits, backoff);
    let mut changes = node.engine.changes();
    let (ended, mut ends) = mpsc::unbounded_channel::<Outcome>();
    let asking = Arc::new(AtomicBool::new(false));
    let mut told: BTreeSet<(ResourceKey, String)> = BTreeSet::new();
    let mut collect_at: Option<Instant> = config.gc.enabled.then(|| Instant::now() + config.gc.grace.duration());
    loop {
        changes.mark_unchanged();
        round(&node, &mut queue, &ended, &mut told).await;
        ask_in_background(&node, &asking);
        let wakeup = [queue.next_wakeup(), collect_at].into_iter().flatten().min();
        let timer = async {
            match wakeup {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = node.wake.notified() => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            outcome = ends.recv() => {
                if let Some(outcome) = outcome {
                    note(&node, &mut queue, &outcome);
                    // Whatever was changed may have left something unneeded.
                    if outcome.result.is_ok() && node.engine.config().gc.enabled {
                        collect_at.get_or_insert_with(|| Instant::now() + node.engine.config().gc.grace.duration());
                    }
                    if matches!(outcome.step.target, Some(Target::Pull { .. } | Target::Import { .. })) {
                        let node = Arc::clone(&node);
                        tokio::spawn(async move { node.relieve_disk().await });
                    }
                }
            }
            () = timer => {
                if collect_at.is_some_and(|at| at <= Instant::now()) {
                    // Again when something was taken away: an idle node is not walked.
                    collect_at = None;
                    let (node, engine) = (Arc::clone(&node), Arc::clone(&node.engine));
                    tokio::spawn(async move {
                        let freed = engine.collect_garbage(engine.config().gc.grace.duration()).await;
                        if freed.items() > 0 {
                            tracing::info!(items = freed.items(), bytes = freed.blob_bytes(), "garbage collected");
                        }
                        node.relieve_disk().await;
                    });
                }
            }
        }
        // Ends come in crowds; each round plans once for all of them.
        while let Ok(outcome) = ends.try_recv() {
            note(&node, &mut queue, &outcome);
        }
    }
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
    for key in queue.ready(Instant::now()) {
        let Some(step) = plan.step(&key) else {
            queue.done(&key, true, Instant::now(), 0.5);
            continue;
        };
        let claim = if stale.contains_key(&key) { None } else { node.claim(&key) };
        match claim {
            Some(claim) => {
                let (node, step, ended) = (Arc::clone(node), step.clone(), ended.clone());
                tokio::spawn(async move {
                    let outcome = node.carry_out(step, claim, None).await;
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
