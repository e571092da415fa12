//! Many containers in many hands, while shims and the daemon are killed: whoever waits for an exit gets it, once and
//! as it was, nothing leaks, and the database knows what is there and nothing else.
//!
//! `BAYPLAN_CROWD=200` is the full size; `BAYPLAN_TEST_SEED` repeats the choices of a run.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bayplan::api::{
    Client, CreateEvent, CreateRequest, Item, KillRequest, Phase, Query, RemoveContainerRequest, Service as _,
    StartRequest, Status, StopRequest, WaitExitRequest,
};
use bayplan::error::{Class, Fault};
use bayplan::manifest::Kind;
use futures_util::StreamExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::{Connection, OpenFlags};

use crate::image::Image;
use crate::leaks;
use crate::node::{Run, TestNode};
use crate::wait::{eventually, patience};

const IMAGE: &str = "registry.local/box:1";
const CLIENTS: usize = 16;
/// Status of what a signal 9 ended.
const KILLED: u32 = 137;

/// xorshift: random enough to choose by, and a seed gives the choices again.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// Which attempt of a container is waited for.
struct Attempt {
    uid: String,
    number: u32,
    /// Whether its start was answered.
    sure: bool,
}

/// What all of them share.
struct Crowd {
    socket: PathBuf,
    deadline: Instant,
    /// Containers whose shim was killed: they may have ended by signal 9.
    orphaned: Mutex<HashSet<String>>,
    /// What came of each attempt, as often as it was told.
    exits: Mutex<HashMap<(String, u32), Vec<u32>>>,
    done: AtomicUsize,
    over: AtomicBool,
}

/// Whether its start is under way: it may be given up yet, and then there is no exit to wait for.
fn is_beginning(phase: Phase) -> bool {
    matches!(phase, Phase::Pending | Phase::Pulling | Phase::Created)
}

/// Whether a fault says that the daemon went away in the middle, so that nobody knows what was done.
fn is_lost(fault: &Fault) -> bool {
    ["ended the conversation", "cut short", "ended its report", "does not answer", "goes down"]
        .iter()
        .any(|words| fault.message.contains(words))
}

impl Crowd {
    /// Asks whoever is the daemon at the moment. `None` when it went away meanwhile.
    async fn ask<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        what: &str,
        call: impl FnOnce(Arc<Client>) -> F,
    ) -> Option<Result<T, Fault>> {
        let client = loop {
            match Client::connect(&self.socket) {
                Ok(Some(client)) => break Arc::new(client),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            assert!(Instant::now() < self.deadline, "{what}: no daemon answers");
        };
        match tokio::time::timeout_at(self.deadline.into(), call(client)).await {
            Ok(Err(fault)) if is_lost(&fault) => None,
            Ok(answer) => Some(answer),
            Err(_) => panic!("{what}: there is no answer"),
        }
    }

    /// The same until it is answered, for what may be asked twice.
    async fn insist<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        what: &str,
        call: impl Fn(Arc<Client>) -> F,
    ) -> Result<T, Fault> {
        loop {
            if let Some(answer) = self.ask(what, &call).await {
                return answer;
            }
        }
    }

    async fn find(&self, name: &str) -> Option<Item> {
        let query = || Query { kinds: vec![Kind::Container], namespace: None, name: Some(name.to_owned()) };
        let found = self.insist(name, |node| async move { node.list(query()).await }).await;
        found.unwrap_or_else(|fault| panic!("{name}: {fault:?}")).into_iter().next()
    }

    /// Makes it and starts it. What a killed daemon left half done is finished.
    async fn run(&self, name: &str, script: &str) -> Attempt {
        let spec = serde_json::json!({
            "image": IMAGE, "command": ["sh", "-c", script], "restart": "Never", "stopSignal": "SIGTERM",
            "terminationGracePeriodSeconds": 10,
        });
        let request = CreateRequest {
            namespace: "default".into(),
            id: name.to_owned(),
            spec: serde_json::from_value(spec).unwrap(),
            labels: Default::default(),
            start: true,
            remove_after_exit: false,
            stdio: None,
        };
        let asked = self
            .ask(name, |node| async move {
                let mut events = node.create(request).await?;
                while let Some(event) = events.next().await {
                    if let CreateEvent::Created(made) = event? {
                        return Ok(Attempt { uid: made.uid, number: made.attempt, sure: true });
                    }
                }
                Err(Fault::new(Class::Runtime, "the daemon ended its report early"))
            })
            .await;
        match asked {
            Some(Ok(made)) => made,
            Some(Err(fault)) if !self.orphaned.lock().unwrap().contains(name) => {
                panic!("{name} cannot be made: {fault:?}")
            }
            _ => self.started(name, script).await,
        }
    }

    /// After a daemon went away in the middle of a start: how it turned out, brought to its end.
    fn started<'a>(
        &'a self,
        name: &'a str,
        script: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
        Box::pin(async move {
            loop {
                let Some(item) = self.find(name).await else { return self.run(name, script).await };
                let Status::Container(status) = &item.status else { unreachable!() };
                if status.attempt > 0 && !is_beginning(status.phase) {
                    return Attempt { uid: item.metadata.uid, number: status.attempt, sure: false };
                }
                let request = || StartRequest { namespace: "default".into(), name: name.to_owned(), stdio: None };
                match self.ask(name, |node| async move { node.start(request()).await }).await {
                    Some(Ok(made)) => return Attempt { uid: made.uid, number: made.attempt, sure: true },
                    // The plan of the new daemon is about to begin it, or has.
                    Some(Err(fault)) if matches!(fault.class, Class::Refused | Class::NotFound) => {}
                    Some(Err(_)) if self.orphaned.lock().unwrap().contains(name) => {}
                    Some(Err(fault)) => panic!("{name} cannot be started: {fault:?}"),
                    None => {}
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    /// Waits for the exit of an attempt, however often the daemon goes away meanwhile.
    async fn exit(&self, name: &str, attempt: &Attempt) -> u32 {
        let Attempt { uid, number: attempt, .. } = attempt;
        let request = || WaitExitRequest {
            namespace: "default".into(),
            name: name.to_owned(),
            uid: Some(uid.clone()),
            attempt: Some(*attempt),
            removed: false,
        };
        let what = format!("{name}, exit of attempt {attempt}");
        let ended = self.insist(&what, |node| async move { node.wait_exit(request()).await }).await;
        let code = ended.unwrap_or_else(|fault| panic!("{name}, attempt {attempt}: {fault:?}")).exit.code;
        self.exits.lock().unwrap().entry((uid.clone(), *attempt)).or_default().push(code);
        code
    }

    /// One that may have ended by itself, or by the end of its shim, needs nothing more.
    fn gone(&self, name: &str, result: Result<(), Fault>) {
        match result {
            Err(fault) if matches!(fault.class, Class::NotFound | Class::Refused) => {}
            Err(_) if self.orphaned.lock().unwrap().contains(name) => {}
            Err(fault) => panic!("{name}: {fault:?}"),
            Ok(()) => {}
        }
    }

    async fn signal(&self, name: &str, signal: Signal) {
        let request = || KillRequest {
            namespace: "default".into(),
            name: name.to_owned(),
            signal: signal as i32,
            ..KillRequest::default()
        };
        self.gone(name, self.insist(name, |node| async move { node.kill(request()).await }).await);
    }

    async fn stop(&self, name: &str) {
        let request = || StopRequest { namespace: "default".into(), name: name.to_owned(), grace_ms: Some(10_000) };
        self.gone(name, self.insist(name, |node| async move { node.stop(request()).await }).await);
    }

    /// A life of one container: begun, ended in one of the ways there are, perhaps once more, and removed.
    async fn life(&self, name: String, mut random: Random) {
        tokio::time::sleep(random.millis(2_000)).await;
        let code = u32::try_from(random.below(100)).unwrap() + 10;
        let obeys = format!("trap 'exit {code}' TERM; while :; do sleep 0.05; done");
        let way = random.below(4);
        let script = match way {
            0 => format!("sleep 0.{}; exit {code}", random.below(9)),
            1 | 2 => obeys,
            _ => "exec sleep 100000".into(),
        };
        let mut attempt = self.run(&name, &script).await;
        loop {
            let act = async {
                tokio::time::sleep(random.millis(600)).await;
                match way {
                    0 => {}
                    1 => self.signal(&name, Signal::SIGTERM).await,
                    2 => self.stop(&name).await,
                    _ => self.signal(&name, Signal::SIGKILL).await,
                }
            };
            let wait = || self.exit(&name, &attempt);
            let ((), one, other) = tokio::join!(act, wait(), wait());
            assert_eq!(one, other, "two who waited for {name} were told different exits");
            let expected = if way == 3 { KILLED } else { code };
            let orphaned = self.orphaned.lock().unwrap().contains(&name);
            // A signal may come before the shell has set its trap.
            let early = matches!(way, 1 | 2) && one == 128 + Signal::SIGTERM as u32;
            // A start that lost its daemon is undone by the next one, and begun anew.
            let undone = (orphaned || !attempt.sure) && one == KILLED;
            assert!(
                one == expected || early || undone,
                "{name} was to end by {expected} and ended by {one}; its shim was killed: {orphaned}"
            );
            if random.below(3) > 0 || undone {
                break;
            }
            let request = || StartRequest { namespace: "default".into(), name: name.clone(), stdio: None };
            let begun = self.ask(&name, |node| async move { node.start(request()).await }).await;
            attempt = match begun {
                Some(Ok(made)) => Attempt { uid: made.uid, number: made.attempt, sure: true },
                Some(Err(fault)) if !self.orphaned.lock().unwrap().contains(&name) => {
                    panic!("{name} cannot be started again: {fault:?}")
                }
                _ => {
                    // Whether it was begun is not known; one that was is waited for, as who begins it would.
                    let (uid, phase, number) = loop {
                        let Some(item) = self.find(&name).await else { panic!("{name} is gone") };
                        let Status::Container(status) = &item.status else { unreachable!() };
                        if !is_beginning(status.phase) {
                            break (item.metadata.uid, status.phase, status.attempt);
                        }
                        assert!(Instant::now() < self.deadline, "{name} is {phase:?} for ever", phase = status.phase);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    };
                    if number <= attempt.number || phase == Phase::Failed {
                        break;
                    }
                    Attempt { uid, number, sure: false }
                }
            };
        }
        let force = random.below(2) == 0;
        let request = || RemoveContainerRequest { namespace: "default".into(), name: name.clone(), force };
        let removed = self.insist(&name, |node| async move { node.remove_container(request()).await }).await;
        match removed {
            Ok(_) => {}
            Err(fault) if fault.class == Class::NotFound => {}
            // One whose second start was begun after all by who was killed over it.
            Err(fault) if fault.class == Class::Refused => {
                let request =
                    || RemoveContainerRequest { namespace: "default".into(), name: name.clone(), force: true };
                self.insist(&name, |node| async move { node.remove_container(request()).await }).await.unwrap();
            }
            Err(fault) => panic!("{name} cannot be removed: {fault:?}"),
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// The shims of a node, with the containers they look after.
fn shims(node: &TestNode) -> Vec<(i32, String)> {
    let of = |command: &str| {
        let mut words = command.split_whitespace();
        words.find(|word| *word == "-id").and_then(|_| words.next()).map(str::to_owned)
    };
    let all = leaks::processes(node.dir()).into_iter();
    all.filter(|(_, command)| command.contains("bayplan-shim"))
        .filter_map(|(pid, command)| Some((pid, of(&command)?)))
        .collect()
}

/// Rows of a table by a column.
fn rows(node: &TestNode, table: &str, column: &str) -> Vec<String> {
    let path = node.root().join("bayplan.db");
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let whole: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let mut statement = database.prepare(&format!("SELECT {column} FROM {table} ORDER BY 1")).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn entries(directory: PathBuf) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

#[test]
#[ignore = "not yet seen to pass with many seeds: cargo test --test e2e crowd -- --ignored"]
fn every_exit_is_delivered_once_while_shims_and_the_daemon_are_killed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let size = number("BAYPLAN_CROWD").map_or(48, |size| size as usize);
    let seed = number("BAYPLAN_TEST_SEED").unwrap_or_else(|| {
        u64::from(std::process::id()) << 32 | std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 & 0xffff_ffff
    });
    eprintln!("BAYPLAN_TEST_SEED={seed} BAYPLAN_CROWD={size} repeats the choices of this run");
    let mut random = Random(seed | 1);
    let mut node = TestNode::alone();
    let archive = node.dir().join("box.tar");
    Image::busybox().oci_archive(&archive, Some(IMAGE));
    node.start_daemon();
    node.bayplan(&["load", "-q", archive.to_str().unwrap()]).ok();

    let crowd = Arc::new(Crowd {
        socket: node.state().join("bayplan.sock"),
        deadline: Instant::now() + Duration::from_secs(60 + 2 * size as u64) * patience(),
        orphaned: Mutex::default(),
        exits: Mutex::default(),
        done: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    });
    // Each client has a thread and containers of its own, all of them at once.
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (crowd, mut random) = (Arc::clone(&crowd), Random(random.below(u64::MAX - 1) | 1));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let lives: Vec<_> = (client..size)
                    .step_by(CLIENTS)
                    .map(|at| (format!("c{at}"), Random(random.below(u64::MAX - 1) | 1)))
                    .collect();
                runtime.block_on(async {
                    let lives = lives.into_iter().map(|(name, random)| crowd.life(name, random));
                    futures_util::future::join_all(lives).await;
                });
            })
        })
        .collect();

    // Death among them, until all have had their lives.
    let (mut daemons, mut killed) = (0, 0);
    while clients.iter().any(|client| !client.is_finished()) {
        // Not waiting for anything: the length of this nap is the random instant itself.
        std::thread::sleep(random.millis(700) + Duration::from_millis(100));
        if clients.iter().any(|client| client.is_finished() && crowd.over.load(Ordering::Relaxed)) {
            break;
        }
        if random.below(3) == 0 {
            node.kill_daemon();
            daemons += 1;
            node.start_daemon();
            continue;
        }
        let all = shims(&node);
        if all.is_empty() {
            continue;
        }
        let (pid, name) = &all[random.below(all.len() as u64) as usize];
        // Known before it happens: who waits may hear of it at once.
        crowd.orphaned.lock().unwrap().insert(name.clone());
        if kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok() {
            killed += 1;
        }
    }
    crowd.over.store(true, Ordering::Relaxed);
    let failed: Vec<String> = clients
        .into_iter()
        .filter_map(|client| client.join().err())
        .map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a client panicked".into()))
        .collect();
    assert!(failed.is_empty(), "seed {seed}, {daemons} daemons and {killed} shims killed:\n{}", failed.join("\n"));
    assert_eq!(crowd.done.load(Ordering::Relaxed), size);
    let exits = crowd.exits.lock().unwrap();
    eprintln!("{} attempts of {size} containers; {daemons} daemons and {killed} shims were killed", exits.len());
    assert!(exits.len() >= size);
    for (attempt, codes) in exits.iter() {
        assert!(codes.len() == 2 && codes[0] == codes[1], "{attempt:?}: {codes:?}");
    }

    // Only a foreground command by the real command line stands between here and an empty node.
    let last = Run::of(&mut node.command(&["run", "--rm", IMAGE, "last", "sh", "-c", "exit 33"]));
    assert_eq!(last.status, 33, "{}", last.stderr);
    node.converged();
    let shims = eventually("shims end", 20, || Some(shims(&node)).filter(Vec::is_empty));
    assert!(shims.is_empty());
    node.stop_daemon();
    assert_eq!(rows(&node, "container", "name"), [""; 0]);
    assert_eq!(rows(&node, "declared", "kind || ' ' || name"), [format!("image {IMAGE}")]);
    assert_eq!(rows(&node, "reference", "reference"), [IMAGE]);
    for directory in [node.root().join("snapshots/w"), node.state().join("tasks/default"), node.state().join("netns")] {
        assert_eq!(entries(directory.clone()), [""; 0], "{}", directory.display());
    }
    node.close();
}
