//! `bayplan daemon`: the node, its loop, its directory and its socket, until a signal ends it.
//!
//! It owns no container: its end, however it comes, disturbs none.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::api::{Listener, Service};
use crate::config::Config;
use crate::error::{Class, Fault, Result};

use super::backoff::Backoff;
use super::follow::{Follow, Snapshot};
use super::reload::{self, Reload};
use super::{Node, NodeService, looping};

/// Runs until SIGTERM or SIGINT. SIGHUP reads the configuration and the directory again.
pub async fn run(config: Config, reload: Reload) -> Result<()> {
    let runtime = |error: std::io::Error| Fault::new(Class::Runtime, format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(runtime)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(runtime)?;
    protect_from_oom();
    let node = Node::open(config, true).await?;
    let config = node.engine.config();
    for warning in node.warnings() {
        tracing::warn!("{warning}");
    }
    let stop = CancellationToken::new();
    let listener = Listener::bind(&config.address())?;
    let service: Arc<dyn Service> = Arc::new(NodeService(Arc::clone(&node)));
    let serving = tokio::spawn(crate::api::serve(listener, service, stop.clone()));
    // What the directory says is known before anything is brought about: a start removes nothing by mistake.
    let controller = &config.controller;
    let mut follow = Follow::start(&config.manifests, controller.debounce.duration(), controller.poll.duration());
    take(&node, follow.next().await).await;
    let watching = tokio::spawn(watch(Arc::clone(&node), follow));
    let working = tokio::spawn(looping::run(Arc::clone(&node)));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let watchdog = watchdog();
    tracing::info!(
        manifests = %config.manifests.display(), root = %config.root.display(), address = %config.address().display(),
        "the daemon is ready"
    );
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
                reload::read_again(&node, &reload).await;
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            }
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("the daemon ends; containers go on");
    watching.abort();
    working.abort();
    if let Some(watchdog) = watchdog {
        watchdog.abort();
    }
    stop.cancel();
    let _ = tokio::time::timeout(looping::GOODBYE, serving).await;
    Ok(())
}

/// Takes over what the directory says whenever it may say something else, or somebody asks.
async fn watch(node: Arc<Node>, mut follow: Follow) {
    let looks = node.asked_looks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let Some(mut looks) = looks else { return };
    let mut waiting: Vec<tokio::sync::oneshot::Sender<()>> = Vec::new();
    let mut failures = u32::from(node.source.lock().await.is_behind());
    loop {
        let retry = async {
            match failures {
                0 => std::future::pending().await,
                failures => {
                    let controller = &node.engine.config().controller;
                    let backoff = Backoff {
                        initial: controller.backoff_initial.duration(),
                        max: controller.backoff_max.duration(),
                    };
                    tokio::time::sleep(backoff.delay(failures, 0.5)).await;
                }
            }
        };
        let well = tokio::select! {
            snapshot = follow.next() => {
                let quiet = snapshot.quiet;
                let well = take(&node, snapshot).await;
                if quiet {
                    // Who asked and no longer listens is no loss.
                    waiting.drain(..).for_each(|asked| asked.send(()).unwrap_or_default());
                }
                well
            }
            asked = looks.recv() => {
                // A reload asks too.
                let controller = &node.engine.config().controller;
                follow.configure(controller.debounce.duration(), controller.poll.duration());
                follow.look_soon();
                waiting.extend(asked);
                continue;
            }
            () = retry => told(&node, node.source.lock().await.bring_into_force(&node)),
        };
        failures = if well { 0 } else { failures.saturating_add(1) };
    }
}

/// Takes a snapshot over; `false` when it could not be stored and is to be tried again.
async fn take(node: &Arc<Node>, snapshot: Snapshot) -> bool {
    let taken = node.source.lock().await.take(node, &snapshot.scan, snapshot.quiet, true);
    told(node, taken)
}

fn told(node: &Node, taken: Result<()>) -> bool {
    if let Err(fault) = &taken {
        tracing::error!(%fault, "the manifest directory could not be taken over");
    }
    node.wake.notify_one();
    taken.is_ok()
}

/// Tells systemd that the daemon lives, as often as its unit asks.
fn watchdog() -> Option<tokio::task::JoinHandle<()>> {
    let interval = sd_notify::watchdog_enabled()?;
    Some(tokio::spawn(async move {
        let mut tick = tokio::time::interval(interval / 2);
        loop {
            tick.tick().await;
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }))
}

/// Best effort: without CAP_SYS_RESOURCE the kernel refuses, and the warning of the host facts says so.
fn protect_from_oom() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
}
