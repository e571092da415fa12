//! A road to a registry that can be held: bytes pass up to a count, and from there they trickle.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What passes of a held connection, and how often.
const DROPS: usize = 2 << 10;
const TRICKLE: Duration = Duration::from_millis(50);

/// What passes, for every connection together.
#[derive(Default)]
struct Passage {
    /// Bytes from the registry that still may pass; `None`: all.
    left: Mutex<Option<usize>>,
    changed: Condvar,
    roads: Mutex<Vec<TcpStream>>,
}

/// Stands before a registry until it is dropped.
pub struct Gate {
    port: u16,
    passage: Arc<Passage>,
}

impl Gate {
    /// An open one before `host` (`127.0.0.1:PORT`).
    pub fn before(host: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let passage = Arc::new(Passage::default());
        let (host, shared) = (host.to_owned(), Arc::clone(&passage));
        // It ends with the test's process; nothing waits for it.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&host) else { continue };
                shared.roads.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.carry(server, client));
            }
        });
        Self { port, passage }
    }

    /// The reference of an image behind it.
    pub fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// So many bytes pass from now on at once, and the others so slowly that a test can look.
    pub fn hold_after(&self, bytes: usize) {
        *self.passage.left.lock().unwrap() = Some(bytes);
    }

    /// Everything passes.
    pub fn open(&self) {
        *self.passage.left.lock().unwrap() = None;
        self.passage.changed.notify_all();
    }

    /// Every connection breaks.
    pub fn cut(&self) {
        for road in self.passage.roads.lock().unwrap().drain(..) {
            let _ = road.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
        self.cut();
    }
}

impl Passage {
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut sent = 0;
            while sent < count {
                let mut left = self.left.lock().unwrap();
                if *left == Some(0) {
                    left = self.changed.wait_timeout(left, TRICKLE).unwrap().0;
                }
                let part = match *left {
                    None => count - sent,
                    Some(0) => DROPS.min(count - sent),
                    Some(left) => left.min(count - sent),
                };
                *left = left.map(|left| left.saturating_sub(part));
                drop(left);
                if to.write_all(&buffer[sent..sent + part]).is_err() {
                    return;
                }
                sent += part;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
