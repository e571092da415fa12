//! Many containers in many hands, while shims and the daemon are killed: whoever waits for an exit gets it, once and
//! as it was, nothing leaks, and the database knows what is there and nothing else.
//!
//! `BAYPLAN_CROWD=200` is the full size; `BAYPLAN_TEST_SEED` repeats the choices of a run. Deaths are dealt by what the
//! clients have been answered, not by the clock: on a slow machine a run takes longer, and is no harder.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bayplan::api::{
    Client, CreateEvent, CreateRequest, ExecRequest, Item, KillRequest, Phase, Query, RemoveContainerRequest,
    Service as _, StartRequest, Status, StopRequest, TaskRequest, WaitExecRequest, WaitExitRequest,
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
/// Between two looks at what has lost its daemon.
const POLL: Duration = Duration::from_millis(50);
/// Status of what a signal 9 ended.
const KILLED: u32 = 137;

/// SplitMix64: random enough to choose by, from seeds however alike, and a seed gives the choices again.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
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
    /// The same of each further process, by its container's unique id and its own.
    execs: Mutex<HashMap<(String, String), Vec<u32>>>,
    /// Waits that ended with a fault, because what was waited for lost its daemon or its shim.
    unseen: AtomicUsize,
    /// Daemons killed so far.
    daemons: AtomicUsize,
    /// What was answered so far.
    steps: AtomicUsize,
    done: AtomicUsize,
}

/// Whether it is on its way: a start may be given up yet, and then there is no exit to wait for.
fn is_beginning(phase: Phase) -> bool {
    matches!(phase, Phase::Pending | Phase::Pulling | Phase::Created | Phase::Removing)
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

    /// Something was done, and answered.
    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn is_orphaned(&self, name: &str) -> bool {
        self.orphaned.lock().unwrap().contains(name)
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
            Some(Err(fault)) if !self.is_orphaned(name) => {
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
                if status.attempt > 0 && !is_beginning(status.phase) && status.phase != Phase::Failed {
                    return Attempt { uid: item.metadata.uid, number: status.attempt, sure: false };
                }
                let request = || StartRequest { namespace: "default".into(), name: name.to_owned(), stdio: None };
                match self.ask(name, |node| async move { node.start(request()).await }).await {
                    Some(Ok(made)) => return Attempt { uid: made.uid, number: made.attempt, sure: true },
                    // The plan of the new daemon is about to begin it, or has.
                    Some(Err(fault)) if matches!(fault.class, Class::Refused | Class::NotFound) => {}
                    Some(Err(_)) if self.is_orphaned(name) => {}
                    Some(Err(fault)) => panic!("{name} cannot be started: {fault:?}"),
                    None => {}
                }
                tokio::time::sleep(POLL).await;
            }
        })
    }

    /// Waits for the exit of an attempt, however often the daemon goes away meanwhile.
    async fn exit(&self, name: &str, attempt: &Attempt) -> Option<u32> {
        let Attempt { uid, number: attempt, sure } = attempt;
        let request = || WaitExitRequest {
            namespace: "default".into(),
            name: name.to_owned(),
            uid: Some(uid.clone()),
            attempt: Some(*attempt),
            removed: false,
        };
        let what = format!("{name}, exit of attempt {attempt}");
        let ended = self.insist(&what, |node| async move { node.wait_exit(request()).await }).await;
        self.step();
        match ended {
            Ok(ended) => {
                let code = ended.exit.code;
                self.exits.lock().unwrap().entry((uid.clone(), *attempt)).or_default().push(code);
                Some(code)
            }
            // Nobody was told that it began.
            Err(fault) if !sure && ["never ran", "ended unseen"].iter().any(|words| fault.message.contains(words)) => {
                self.unseen.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(fault) => panic!("{name}, attempt {attempt}: {fault:?}"),
        }
    }

    /// Runs a further process, and waits for its exit twice over. A fault is an answer only where its shim died, or a
    /// daemon that may have been told the exit.
    async fn exec(&self, name: &str, uid: &str, random: &mut Random) {
        let (code, takes) = (random.below(100) + 100, random.below(4));
        let exec_id = format!("{:08x}", random.below(1 << 32));
        let daemons = self.daemons.load(Ordering::Relaxed);
        let request = || ExecRequest {
            namespace: "default".into(),
            name: name.to_owned(),
            exec_id: Some(exec_id.clone()),
            command: ["sh", "-c", &format!("sleep 0.{takes}; exit {code}")].map(str::to_owned).to_vec(),
            ..ExecRequest::default()
        };
        let excused = || self.is_orphaned(name) || self.daemons.load(Ordering::Relaxed) > daemons;
        let begun = self.insist(name, |node| async move { node.exec(request()).await }).await;
        self.step();
        if let Err(fault) = begun {
            assert!(excused(), "{name}: no further process: {fault:?}");
            return;
        }
        let wait = || async {
            let request =
                || WaitExecRequest { namespace: "default".into(), name: name.to_owned(), exec_id: exec_id.clone() };
            let what = format!("{name}, exit of process {exec_id}");
            match self.insist(&what, |node| async move { node.wait_exec(request()).await }).await {
                Ok(ended) => {
                    let told = u64::from(ended.exit.code);
                    let killed = self.is_orphaned(name) && ended.exit.code == KILLED;
                    assert!(told == code || killed, "{what}: {told} instead of {code}");
                    let key = (uid.to_owned(), exec_id.clone());
                    self.execs.lock().unwrap().entry(key).or_default().push(ended.exit.code);
                }
                Err(fault) => {
                    assert!(excused(), "{what}: {fault:?}");
                    self.unseen.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        tokio::join!(wait(), wait());
        self.step();
    }

    /// Freezes a container for a while. `leave`: whoever ends it meets it frozen.
    async fn pause(&self, name: &str, leave: bool, random: &mut Random) {
        let request = || TaskRequest { namespace: "default".into(), name: name.to_owned() };
        let paused = self.insist(name, |node| async move { node.pause(request()).await }).await;
        self.gone(name, paused);
        tokio::time::sleep(random.millis(150)).await;
        if !leave {
            // One that was answered by a daemon that died over it is not paused any more.
            self.gone(name, self.insist(name, |node| async move { node.resume(request()).await }).await);
        }
        self.step();
    }

    /// One that may have ended by itself, or by the end of its shim, needs nothing more.
    fn gone(&self, name: &str, result: Result<(), Fault>) {
        match result {
            Err(fault) if matches!(fault.class, Class::NotFound | Class::Refused) => {}
            Err(_) if self.is_orphaned(name) => {}
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

    /// Lives of one name: in every third case another container gets it as soon as it is free.
    async fn lives(&self, name: String, mut random: Random) {
        tokio::time::sleep(random.millis(1_000)).await;
        loop {
            let uid = self.life(&name, &mut random).await;
            self.remove(&name, random.below(2) == 0).await;
            if random.below(3) > 0 {
                break;
            }
            // Of whoever has the name next it is not known.
            self.orphaned.lock().unwrap().remove(&name);
            assert!(self.find(&name).await.is_none_or(|item| item.metadata.uid != uid), "{name} is there again");
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// A life of one container: begun, looked into, frozen, ended in one of the ways there are, perhaps once more. Its
    /// unique id.
    async fn life(&self, name: &str, random: &mut Random) -> String {
        let code = u32::try_from(random.below(80)).unwrap() + 10;
        let obeys = format!("trap 'exit {code}' TERM; while :; do sleep 0.05; done");
        let way = random.below(4);
        let script = match way {
            0 => format!("sleep 0.{}; exit {code}", random.below(9)),
            1 | 2 => obeys,
            _ => "exec sleep 100000".into(),
        };
        let mut attempt = self.run(name, &script).await;
        self.step();
        loop {
            let (uid, mut choices) = (attempt.uid.clone(), Random(random.next()));
            let act = async {
                tokio::time::sleep(choices.millis(300)).await;
                // A start that lost its daemon may be undone at any moment.
                if way > 0 && attempt.sure {
                    for _ in 0..choices.below(3) {
                        match choices.below(2) {
                            0 => self.exec(name, &uid, &mut choices).await,
                            _ => self.pause(name, false, &mut choices).await,
                        }
                    }
                    // What ends it for good thaws it.
                    if way > 1 && choices.below(4) == 0 {
                        self.pause(name, true, &mut choices).await;
                    }
                }
                match way {
                    0 => {}
                    1 => self.signal(name, Signal::SIGTERM).await,
                    2 => self.stop(name).await,
                    _ => self.signal(name, Signal::SIGKILL).await,
                }
            };
            let wait = || self.exit(name, &attempt);
            let ((), one, other) = tokio::join!(act, wait(), wait());
            assert_eq!(one, other, "two who waited for {name} were told different exits");
            let expected = if way == 3 { KILLED } else { code };
            let orphaned = self.is_orphaned(name);
            // A signal may come before the shell has set its trap.
            let early = matches!(way, 1 | 2) && one == Some(128 + Signal::SIGTERM as u32);
            // A start that lost its daemon is undone by the next one, and begun anew.
            let undone = (orphaned || !attempt.sure) && one.is_none_or(|one| one == KILLED);
            assert!(
                one == Some(expected) || early || undone,
                "{name} was to end by {expected} and ended by {one:?}; its shim was killed: {orphaned}"
            );
            if random.below(3) > 0 || undone {
                return attempt.uid;
            }
            let request = || StartRequest { namespace: "default".into(), name: name.to_owned(), stdio: None };
            let begun = self.ask(name, |node| async move { node.start(request()).await }).await;
            self.step();
            let before = (attempt.number, one);
            attempt = match begun {
                Some(Ok(made)) => Attempt { uid: made.uid, number: made.attempt, sure: true },
                Some(Err(fault)) if !self.is_orphaned(name) => panic!("{name} cannot be started again: {fault:?}"),
                _ => {
                    // Whether it was begun is not known; one that was is waited for, as who begins it would.
                    let (uid, phase, number) = loop {
                        let Some(item) = self.find(name).await else { panic!("{name} is gone") };
                        let Status::Container(status) = &item.status else { unreachable!() };
                        if !is_beginning(status.phase) {
                            break (item.metadata.uid, status.phase, status.attempt);
                        }
                        assert!(Instant::now() < self.deadline, "{name} is {phase:?} for ever", phase = status.phase);
                        tokio::time::sleep(POLL).await;
                    };
                    if number <= attempt.number || phase == Phase::Failed {
                        return attempt.uid;
                    }
                    Attempt { uid, number, sure: false }
                }
            };
            // The attempt before is told as it was, also by a task that has gone on.
            let earlier = Attempt { uid: uid.clone(), number: before.0, sure: true };
            let again = self.insist(name, |node| {
                let request = WaitExitRequest {
                    namespace: "default".into(),
                    name: name.to_owned(),
                    uid: Some(earlier.uid.clone()),
                    attempt: Some(earlier.number),
                    removed: false,
                };
                async move { node.wait_exit(request).await }
            });
            let again = again.await.unwrap_or_else(|fault| panic!("{name}, attempt {}: {fault:?}", before.0));
            assert_eq!(Some(again.exit.code), before.1, "{name}, attempt {} is told as another", before.0);
        }
    }

    async fn remove(&self, name: &str, force: bool) {
        let request = |force| RemoveContainerRequest { namespace: "default".into(), name: name.to_owned(), force };
        let mut removed = self.insist(name, |node| async move { node.remove_container(request(force)).await }).await;
        // A shim that is killed in the middle of it may fail it; who asks again gets it done.
        for _ in 0..5 {
            let Err(fault) = removed.as_ref() else { break };
            if fault.class != Class::Runtime {
                break;
            }
            println!("{name} is removed again: {fault:?}");
            tokio::time::sleep(POLL).await;
            removed = self.insist(name, |node| async move { node.remove_container(request(force)).await }).await;
        }
        match removed {
            Ok(_) => {}
            Err(fault) if fault.class == Class::NotFound => {}
            // One whose second start was begun after all by who was killed over it.
            Err(fault) if fault.class == Class::Refused => {
                let removed = self.insist(name, |node| async move { node.remove_container(request(true)).await }).await;
                assert!(
                    removed.as_ref().is_ok() || removed.as_ref().is_err_and(|fault| fault.class == Class::NotFound),
                    "{name} cannot be removed: {removed:?}"
                );
            }
            Err(fault) => panic!("{name} cannot be removed: {fault:?}"),
        }
        self.step();
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

/// What is there beside the image: rows of the database, and what containers have on the disk.
fn remains(node: &TestNode) -> Vec<String> {
    let mut found = Vec::new();
    for (table, column, wanted) in [
        ("container", "name", ""),
        ("declared", "kind || ' ' || name", "image registry.local/box:1"),
        ("reference", "reference", IMAGE),
    ] {
        let rows = rows(node, table, column);
        assert!(wanted.is_empty() || rows.iter().any(|row| row == wanted), "{table} has lost {wanted}: {rows:?}");
        found.extend(rows.into_iter().filter(|row| row != wanted).map(|row| format!("{table}: {row}")));
    }
    for directory in directories(node) {
        let here = directory.display().to_string();
        found.extend(entries(directory).into_iter().map(|name| format!("{here}: {name}")));
    }
    found
}

/// Where each container has something.
fn directories(node: &TestNode) -> [PathBuf; 4] {
    let (root, state) = (node.root(), node.state());
    [root.join("snapshots/w"), state.join("tasks/default"), state.join("runtime/default"), state.join("netns")]
}

fn write(node: &TestNode, statement: &str) {
    Connection::open(node.root().join("bayplan.db")).unwrap().execute_batch(statement).unwrap();
}

/// One of each that a container may leave. The directories among it.
fn plant(node: &TestNode) -> Vec<Option<PathBuf>> {
    write(node, "INSERT INTO container VALUES ('default', 'ghost', '{}')");
    write(node, "INSERT INTO declared VALUES ('default', 'container', 'ghost', '{}')");
    write(node, "INSERT INTO reference VALUES ('default', 'registry.local/ghost:1', '{}')");
    let made = directories(node).map(|directory| {
        let ghost = directory.join("ghost");
        fs::create_dir_all(&ghost).unwrap();
        Some(ghost)
    });
    [None, None, None].into_iter().chain(made).collect()
}

fn sweep(node: &TestNode, ghosts: &[Option<PathBuf>]) {
    write(node, "DELETE FROM container; DELETE FROM declared WHERE name = 'ghost'");
    write(node, "DELETE FROM reference WHERE reference LIKE '%ghost%'");
    for ghost in ghosts.iter().flatten() {
        fs::remove_dir(ghost).unwrap();
        // The namespace's own, where nothing else is in it.
        if ghost.parent().is_some_and(|parent| parent.ends_with("default")) {
            fs::remove_dir(ghost.parent().unwrap()).ok();
        }
    }
}

#[test]
fn every_exit_is_delivered_once_while_shims_and_the_daemon_are_killed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let size = number("BAYPLAN_CROWD").map_or(48, |size| size as usize);
    let seed = number("BAYPLAN_TEST_SEED").unwrap_or_else(|| {
        u64::from(std::process::id()) << 32 | std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 & 0xffff_ffff
    });
    eprintln!("BAYPLAN_TEST_SEED={seed} BAYPLAN_CROWD={size} repeats the choices of this run");
    let mut random = Random(seed);
    let mut node = TestNode::alone();
    let archive = node.dir().join("box.tar");
    Image::busybox().oci_archive(&archive, Some(IMAGE));
    node.start_daemon();
    node.bayplan(&["load", "-q", archive.to_str().unwrap()]).ok();

    let began = Instant::now();
    let crowd = Arc::new(Crowd {
        socket: node.state().join("bayplan.sock"),
        deadline: Instant::now() + Duration::from_secs(60 + 2 * size as u64) * patience(),
        orphaned: Mutex::default(),
        exits: Mutex::default(),
        execs: Mutex::default(),
        unseen: AtomicUsize::new(0),
        daemons: AtomicUsize::new(0),
        steps: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
    });
    // Each client has a thread and containers of its own, all of them at once.
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (crowd, mut random) = (Arc::clone(&crowd), Random(random.next()));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let lives: Vec<_> =
                    (client..size).step_by(CLIENTS).map(|at| (format!("c{at}"), Random(random.next()))).collect();
                runtime.block_on(async {
                    let lives = lives.into_iter().map(|(name, random)| crowd.lives(name, random));
                    futures_util::future::join_all(lives).await;
                });
            })
        })
        .collect();

    // Death among them, until all have had their lives: about forty times, whatever the size.
    let (mut daemons, mut killed) = (0, 0);
    let pace = (size as u64 / 4).max(4);
    let are_busy = || clients.iter().any(|client| !client.is_finished());
    while are_busy() {
        let next = crowd.steps.load(Ordering::Relaxed) + 1 + random.below(pace) as usize;
        while crowd.steps.load(Ordering::Relaxed) < next && are_busy() {
            std::thread::sleep(Duration::from_millis(2));
        }
        // Not waiting for anything: the length of this nap is the random instant itself.
        std::thread::sleep(random.millis(60));
        if random.below(4) == 0 {
            daemons += 1;
            crowd.daemons.store(daemons, Ordering::Relaxed);
            node.kill_daemon();
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
    let failed: Vec<String> = clients
        .into_iter()
        .filter_map(|client| client.join().err())
        .map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a client panicked".into()))
        .collect();
    assert!(failed.is_empty(), "seed {seed}, {daemons} daemons and {killed} shims killed:\n{}", failed.join("\n"));
    assert_eq!(crowd.done.load(Ordering::Relaxed), size);
    let exits = crowd.exits.lock().unwrap();
    let execs = crowd.execs.lock().unwrap();
    let unseen = crowd.unseen.load(Ordering::Relaxed);
    eprintln!(
        "{} attempts and {} further processes in containers of {size} names; {daemons} daemons and {killed} shims were \
         killed, {unseen} exits were not seen; {:.1} s",
        exits.len(),
        execs.len(),
        began.elapsed().as_secs_f64()
    );
    assert!(exits.len() >= size);
    for (attempt, codes) in exits.iter() {
        assert!(codes.len() == 2 && codes[0] == codes[1], "{attempt:?}: {codes:?}");
    }
    for (process, codes) in execs.iter() {
        assert!(codes.len() <= 2 && codes.iter().all(|code| *code == codes[0]), "{process:?}: {codes:?}");
    }
    assert!(daemons > 0 && killed > 0 && !execs.is_empty(), "a run that shows nothing");

    // Only a foreground command by the real command line stands between here and an empty node.
    let last = Run::of(&mut node.command(&["run", "--rm", IMAGE, "last", "sh", "-c", "exit 33"]));
    assert_eq!(last.status, 33, "{}", last.stderr);
    node.converged();
    let shims = eventually("shims end", 20, || Some(shims(&node)).filter(Vec::is_empty));
    assert!(shims.is_empty());
    node.stop_daemon();
    assert_eq!(remains(&node), [""; 0]);
    // And what would be left would be found.
    let ghosts = plant(&node);
    assert_eq!(remains(&node).iter().filter(|what| what.contains("ghost")).count(), ghosts.len());
    sweep(&node, &ghosts);
    assert_eq!(remains(&node), [""; 0]);
    node.close();
}
