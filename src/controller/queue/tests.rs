use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { pulls: 2, steps: 3 };
const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60) };

type Queue = WorkQueue<&'static str>;

fn queue() -> (Queue, Instant) {
    (WorkQueue::new(LIMITS, BACKOFF), Instant::now())
}

fn step(fingerprint: u64, needs: &[&'static str]) -> Work<&'static str> {
    Work { class: Class::Step, fingerprint, needs: needs.to_vec() }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn what_failed_waits_longer_each_time_and_nothing_waits_behind_it() {
    let (mut queue, t0) = queue();
    queue.offer("bad", step(1, &[]));
    queue.offer("good", step(1, &[]));
    assert_eq!(queue.ready(t0), ["bad", "good"]);
    queue.done(&"bad", false, t0, 0.5);
    queue.done(&"good", true, t0, 0.5);
    assert_eq!(queue.next_wakeup(), Some(t0 + seconds(1)));
    assert_eq!(queue.phase(&"bad"), Some(Phase::BackOff { until: t0 + seconds(1), failures: 1 }));
    assert_eq!(queue.phase(&"good"), None);

    // The same step of the next plan does not shorten its wait; a newcomer runs at once.
    queue.replace([("bad", step(1, &[])), ("new", step(1, &[]))]);
    assert_eq!(queue.ready(t0), ["new"]);
    assert_eq!(queue.ready(t0 + seconds(1)), ["bad"]);
    queue.done(&"bad", false, t0 + seconds(1), 0.5);
    assert_eq!(queue.next_wakeup(), Some(t0 + seconds(3)));
}

#[test]
fn what_changed_runs_at_once_and_its_failures_are_forgotten() {
    let (mut queue, t0) = queue();
    queue.offer("a", step(1, &[]));
    for _ in 0..5 {
        queue.hurry(&"a");
        assert_eq!(queue.ready(t0), ["a"]);
        queue.done(&"a", false, t0, 0.5);
    }
    assert_eq!(queue.ready(t0), [""; 0]);
    queue.offer("a", step(2, &[]));
    assert_eq!(queue.ready(t0), ["a"]);
    queue.done(&"a", false, t0, 0.5);
    assert_eq!(queue.phase(&"a"), Some(Phase::BackOff { until: t0 + seconds(1), failures: 1 }));
}

#[test]
fn what_changes_while_it_runs_runs_again_afterwards_never_twice_at_a_time() {
    let (mut queue, t0) = queue();
    queue.offer("a", step(1, &[]));
    assert_eq!(queue.ready(t0), ["a"]);
    queue.offer("a", step(2, &[]));
    assert_eq!(queue.ready(t0), [""; 0]);
    queue.done(&"a", false, t0, 0.5);
    assert_eq!(queue.ready(t0), ["a"]);
    // Back to what runs: nothing more to do.
    queue.offer("a", step(3, &[]));
    queue.offer("a", step(2, &[]));
    queue.done(&"a", true, t0, 0.5);
    assert!(queue.is_empty());
}

#[test]
fn what_is_no_longer_wanted_goes_even_when_its_last_run_failed() {
    let (mut queue, t0) = queue();
    queue.offer("runs", step(1, &[]));
    assert_eq!(queue.ready(t0), ["runs"]);
    queue.offer("waits", step(1, &[]));
    queue.replace([]);
    assert_eq!(queue.phase(&"waits"), None);
    assert_eq!(queue.phase(&"runs"), Some(Phase::Running));
    queue.done(&"runs", false, t0, 0.5);
    assert!(queue.is_empty());
}

#[test]
fn needs_are_waited_for_without_counting_as_failures() {
    let (mut queue, t0) = queue();
    queue.offer("container", step(1, &["image", "not queued"]));
    queue.offer("image", Work { class: Class::Pull("host".into()), ..step(1, &[]) });
    assert_eq!(queue.ready(t0), ["image"]);
    queue.done(&"image", false, t0, 0.5);
    assert_eq!(queue.ready(t0), [""; 0]);
    assert_eq!(queue.phase(&"container"), Some(Phase::Waiting));
    assert_eq!(queue.ready(t0 + seconds(1)), ["image"]);
    queue.done(&"image", true, t0 + seconds(1), 0.5);
    assert_eq!(queue.ready(t0 + seconds(1)), ["container"]);
}

#[test]
fn each_class_has_its_own_places() {
    let (mut queue, t0) = queue();
    for key in ["p1", "p2", "p3"] {
        queue.offer(key, Work { class: Class::Pull("host".into()), ..step(1, &[]) });
    }
    for key in ["s4", "s3", "s2", "s1"] {
        queue.offer(key, step(1, &[]));
    }
    assert_eq!(queue.ready(t0), ["p1", "p2", "s4", "s3", "s2"], "in plan order");
    queue.done(&"p2", true, t0, 0.5);
    assert_eq!(queue.ready(t0), ["p3"]);
    queue.done(&"s4", true, t0, 0.5);
    assert_eq!(queue.ready(t0), ["s1"]);
    assert_eq!(queue.running(), 5);
}

#[test]
fn a_sync_by_hand_ends_every_wait() {
    let (mut queue, t0) = queue();
    queue.offer("a", step(1, &[]));
    queue.ready(t0);
    queue.done(&"a", false, t0, 0.5);
    queue.hurry_all();
    assert_eq!(queue.next_wakeup(), None);
    assert_eq!(queue.ready(t0), ["a"]);
}

#[derive(Debug, Clone)]
enum Op {
    Offer { key: u8, fingerprint: u64, needs: Vec<u8>, pull: bool },
    Ready,
    Done { pick: usize, succeeded: bool },
    Pass { millis: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0_u8..8, 0_u64..3, prop::collection::vec(0_u8..8, 0..3), any::<bool>()).prop_map(
            // Needs point downwards only: plans have no cycles.
            |(key, fingerprint, needs, pull)| Op::Offer {
                key,
                fingerprint,
                needs: needs.into_iter().filter(|need| *need < key).collect(),
                pull
            }
        ),
        Just(Op::Ready),
        (any::<usize>(), any::<bool>()).prop_map(|(pick, succeeded)| Op::Done { pick, succeeded }),
        (0_u64..5000).prop_map(|millis| Op::Pass { millis }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn never_too_many_never_twice_and_in_the_end_everything_is_done(ops in prop::collection::vec(op(), 0..80)) {
        let mut queue: WorkQueue<u8> = WorkQueue::new(LIMITS, BACKOFF);
        let mut now = Instant::now();
        let mut running: BTreeSet<u8> = BTreeSet::new();
        for op in ops {
            match op {
                Op::Offer { key, fingerprint, needs, pull } => {
                    let class = if pull { Class::Pull("host".into()) } else { Class::Step };
                    queue.offer(key, Work { class, fingerprint, needs });
                }
                Op::Ready => {
                    for key in queue.ready(now) {
                        prop_assert!(running.insert(key), "{key} runs twice");
                    }
                    prop_assert!(running.len() <= LIMITS.pulls + LIMITS.steps);
                    prop_assert!(queue.next_wakeup().is_none_or(|at| at > now), "a caller would spin");
                }
                Op::Done { pick, succeeded } => {
                    if let Some(key) = running.iter().nth(pick % running.len().max(1)).copied() {
                        running.remove(&key);
                        queue.done(&key, succeeded, now, 0.5);
                    }
                }
                Op::Pass { millis } => now += Duration::from_millis(millis),
            }
            prop_assert_eq!(queue.running(), running.len());
        }
        // From here on everything succeeds: the queue must drain, by its own wake-ups alone.
        for _ in 0..100 {
            for key in std::mem::take(&mut running) {
                queue.done(&key, true, now, 0.5);
            }
            if let Some(at) = queue.next_wakeup() {
                now = now.max(at);
            }
            running.extend(queue.ready(now));
        }
        prop_assert!(queue.is_empty(), "{queue:?}");
    }
}

#[test]
fn a_registry_that_does_not_answer_keeps_no_other_waiting() {
    let (mut queue, t0) = queue();
    for key in ["p1", "p2", "p3"] {
        queue.offer(key, Work { class: Class::Pull("silent".into()), ..step(1, &[]) });
    }
    queue.offer("p4", Work { class: Class::Pull("other".into()), ..step(1, &[]) });
    assert_eq!(queue.ready(t0), ["p1", "p2", "p4"]);
}
