//! How far images are: bars, lines, JSON, percent.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::gate::Gate;
use crate::image::Image;
use crate::node::TestNode;
use crate::registry::TestRegistry;
use crate::wait::eventually;

/// busybox with a second layer of 4 MB that no compression shrinks.
pub fn heavy(seed: u32) -> Image {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let noise: Vec<u8> = (0..4 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        })
        .collect();
    Image::busybox().script("exec sleep 100000").layer(|layer| layer.file("noise", 0o644, &noise))
}

/// What a terminal of 80 columns shows after these bytes, without the empty lines at its end.
fn screen(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let (mut lines, mut row, mut column) = (vec![String::new()], 0_usize, 0_usize);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(String::new());
                }
            }
            '\x1b' => {
                assert_eq!(rest.next(), Some('['), "an escape that is no control sequence");
                let mut count = String::new();
                let action = loop {
                    match rest.next().expect("a sequence has an end") {
                        digit if digit.is_ascii_digit() => count.push(digit),
                        other => break other,
                    }
                };
                match action {
                    'A' => row -= count.parse::<usize>().unwrap(),
                    'K' => lines[row].truncate(column),
                    'J' => {
                        lines[row].truncate(column);
                        lines.truncate(row + 1);
                    }
                    other => panic!("CSI {count}{other} is none of those that bars need"),
                }
            }
            c => {
                // Bars are ASCII: a column is a byte.
                if column < lines[row].len() {
                    lines[row].replace_range(column..=column, &c.to_string());
                } else {
                    lines[row].push(c);
                }
                column += 1;
                assert!(column < 80, "a line is wider than the terminal: {}", lines[row]);
            }
        }
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

#[test]
fn bars_move_on_a_terminal_and_leave_nothing_behind() {
    let registry = TestRegistry::new();
    let node = TestNode::new();
    let gate = Gate::before(&registry.host());
    registry.push(&heavy(1), "lab/heavy:1");
    gate.hold_after(2 << 20);
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(Some(&size), None).unwrap();
    let reference = gate.reference("lab/heavy:1");
    let mut command = node.command(&["pull", &reference]);
    command.env("TERM", "xterm").stdout(Stdio::piped()).stderr(File::from(pty.slave));
    let child = command.spawn().unwrap();
    // The slave must be closed here for the end to be seen.
    drop(command);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let reader = {
        let (seen, mut master) = (Arc::clone(&seen), File::from(pty.master.try_clone().unwrap()));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is how the end of the other side reads.
            while let Ok(count @ 1..) = master.read(&mut buffer) {
                seen.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        })
    };
    let shown = || screen(&seen.lock().unwrap().clone());
    let frame = eventually("a bar with half of the layer", 30, || {
        // A frame that is half read may end within a sequence.
        let bytes = seen.lock().unwrap().clone();
        let lines = bytes.ends_with(b"\x1b[J").then(|| screen(&bytes))?;
        lines.iter().any(|line| line.contains("[====")).then_some(lines)
    });
    assert!(frame[0].starts_with(&reference) && frame[0].contains("% ") && frame[0].contains(" of "), "{frame:#?}");
    // Another size: the next frames fit it.
    let narrow = rustix::termios::Winsize { ws_row: 24, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&pty.master, narrow).unwrap();
    eventually("frames of less than 40 columns", 30, || {
        let bytes = seen.lock().unwrap().clone();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let last = text.rsplit("A\r").next()?.split("\x1b[J").next()?.to_owned();
        let lines: Vec<&str> = last.split("\x1b[K").map(|line| line.trim_matches(['\r', '\n'])).collect();
        (lines.len() > 2 && lines.iter().all(|line| line.chars().count() < 40)).then_some(())
    });
    gate.open();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}\n{}", output.status, shown().join("\n"));
    reader.join().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.starts_with(&reference) && out.lines().count() == 1, "the data is apart: {out}");
    let all = String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
    assert!(all.ends_with("\x1b[J"), "what was drawn is taken away at the end: {:?}", &all[all.len() - 80..]);
    assert!(!all.contains("\x1b[?25"), "the cursor is never hidden");
    assert!(!all.contains("\x1b[3") && !all.contains("\x1b[1m"), "no colours with NO_COLOR");
    node.close();
}

#[test]
fn without_a_terminal_each_layer_has_a_line_and_json_is_json() {
    let registry = TestRegistry::new();
    let node = TestNode::new();
    let reference = registry.push(&heavy(2), "lab/plain:1");
    let layers: Vec<String> = heavy(2).layer_blobs().iter().map(|hex| hex[..12].to_owned()).collect();
    let plain = node.bayplan(&["pull", &reference]).ok();
    for layer in &layers {
        let lines: Vec<&str> = plain.stderr.lines().filter(|line| line.contains(layer.as_str())).collect();
        assert_eq!(lines.len(), 1, "one line for {layer}:\n{}", plain.stderr);
        assert!(lines[0].starts_with(&format!("{reference}: {layer} ")), "{}", lines[0]);
    }
    assert!(!plain.stderr.contains('\x1b'));
    assert_eq!(plain.stdout.lines().count(), 1);
    for quiet in [vec!["pull", "-q", &reference], vec!["pull", "--progress", "none", &reference]] {
        assert_eq!(node.bayplan(&quiet).ok().stderr, "");
    }
    node.bayplan(&["rmi", &reference]).ok();
    let json = node.bayplan(&["pull", "--progress", "json", "-o", "json", &reference]).ok();
    let events: Vec<Value> = json.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for layer in heavy(2).layer_blobs() {
        let of_layer: Vec<&Value> =
            events.iter().filter(|event| event["digest"] == format!("sha256:{layer}")).collect();
        assert!(of_layer.len() >= 2, "{events:#?}");
        assert_eq!(of_layer[0]["state"], "waiting");
        let last = of_layer.last().unwrap();
        assert_eq!((&last["key"]["name"], last["done"] == last["total"]), (&Value::from(reference.as_str()), true));
    }
    let data: Value = serde_json::from_str(json.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&data["event"], json.stdout.contains("\"blob\"")), (&Value::from("pulled"), false));
    // `run` tells of an image that it pulls, however soon that is done.
    node.bayplan(&["rmi", &reference]).ok();
    let run = node.bayplan(&["run", "--rm", &reference, "c", "true"]).ok();
    for layer in &layers {
        assert!(run.stderr.contains(&format!("{reference}: {layer} ")), "no line for {layer}:\n{}", run.stderr);
    }
    assert!(!run.stderr.contains("was here"), "{}", run.stderr);
    node.close();
}

/// Percent of an image and its container in a listing; `None` while there is none between 1 and 99.
fn percent(node: &TestNode, kind: &str) -> Option<(u64, Value)> {
    let item = node.get(kind).into_iter().find(|item| item["status"]["progress"].is_object())?;
    let progress = &item["status"]["progress"];
    let percent = progress["done"].as_u64()? * 100 / progress["total"].as_u64()?;
    (1..100).contains(&percent).then_some((percent, item))
}

#[test]
fn what_the_daemon_pulls_is_seen_by_whoever_waits_and_in_listings() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let gate = Gate::before(&registry.host());
    for seed in [3, 4] {
        registry.push(&heavy(seed), &format!("lab/seen:{seed}"));
    }
    node.start_daemon();
    let layer = |seed: u32| heavy(seed).layer_blobs()[1][..12].to_owned();
    let held = |node: &TestNode, args: &[&str]| {
        gate.hold_after(2 << 20);
        let mut command = node.command(args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (_, image) = eventually("an image in the middle", 30, || percent(node, "images"));
        let (_, container) = eventually("its container", 30, || percent(node, "containers"));
        assert_eq!(container["status"]["phase"], "Pulling");
        let table = node.bayplan(&["get", "containers"]).ok().stdout;
        let shown = table.split("Pulling ").nth(1).and_then(|rest| rest.split('%').next()).unwrap_or_default();
        assert!(shown.parse::<u32>().is_ok_and(|percent| (1..100).contains(&percent)), "{table}");
        let images = node.bayplan(&["get", "images"]).ok().stdout;
        assert!(images.contains("% of "), "{images}");
        let name = image["metadata"]["name"].as_str().unwrap().to_owned();
        let described = node.bayplan(&["describe", "image", &name]).ok().stdout;
        assert!(described.contains("Pulling:") && described.contains("%, "), "{described}");
        gate.open();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    // Through `apply`.
    let three = gate.reference("lab/seen:3");
    let file = node.file(
        "c.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Image\nspec: {{reference: '{three}'}}\n---\n\
             apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: c}}\nspec: {{image: '{three}'}}\n"
        ),
    );
    let said = held(&node, &["apply", "-f", &file]);
    assert!(said.contains(&format!("{three}: {} ", layer(3))), "{said}");
    // Through `run`.
    node.bayplan(&["delete", "-f", &file]).ok();
    let four = gate.reference("lab/seen:4");
    gate.hold_after(2 << 20);
    let child = node.command(&["run", "-d", &four, "d"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let done = |item: &Value| item["status"]["progress"]["done"].as_u64().unwrap();
    let (_, first) = eventually("its container", 30, || percent(&node, "containers"));
    // What is done sooner than anybody would ask is not told of.
    eventually("it goes on", 30, || {
        percent(&node, "containers").filter(|(_, now)| done(now) > done(&first) + (32 << 10))
    });
    gate.open();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains(&format!("{four}: {} ", layer(4))), "{said}");
    node.running("default", "d");
    let after = node.container("default", "d").unwrap();
    assert!(after["status"].get("progress").is_none(), "{after}");
    node.close();
}

#[test]
fn archives_and_pushes_say_what_became_of_each_blob() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let image = heavy(5);
    let archive = node.dir().join("heavy.tar");
    image.oci_archive(&archive, Some("registry.local/lab/heavy:5"));
    let file = archive.to_str().unwrap().to_owned();
    let target = registry.reference("lab/heavy:5");
    for with_daemon in [false, true] {
        if with_daemon {
            node.start_daemon();
        }
        let loaded = node.bayplan(&["load", &file]).ok();
        assert!(loaded.stdout.starts_with("registry.local/lab/heavy:5  sha256:"), "{}", loaded.stdout);
        for layer in image.layer_blobs() {
            let lines: Vec<&str> = loaded.stderr.lines().filter(|line| line.contains(&layer[..12])).collect();
            assert!(
                matches!(lines[..], [line] if line.starts_with("heavy.tar: ") && line.ends_with(" MB")),
                "{lines:?}"
            );
        }
        let again = node.bayplan(&["load", &file]).ok();
        let layer = image.layer_blobs()[1][..12].to_owned();
        assert!(again.stderr.contains(&format!("heavy.tar: {layer} was here")), "{}", again.stderr);

        let told = node.bayplan(&["load", "--progress", "json", &file]).ok();
        let events: Vec<Value> = told.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let size = std::fs::metadata(&archive).unwrap().len();
        let last = events.iter().rfind(|event| event["event"] == "archive").unwrap();
        assert_eq!((last["done"].as_u64(), last["total"].as_u64()), (Some(size), Some(size)), "{events:?}");

        let name = format!("{target}-{with_daemon}");
        let pushed = node.bayplan(&["push", "registry.local/lab/heavy:5", &name]).ok();
        let how = if with_daemon { "was there" } else { "4.4 MB sent" };
        assert!(pushed.stderr.contains(&format!("{name}: {layer} {how}")), "{}", pushed.stderr);
        let told =
            node.bayplan(&["push", "--progress", "json", "registry.local/lab/heavy:5", &format!("{name}-2")]).ok();
        let last: Value = serde_json::from_str(told.stderr.lines().last().unwrap()).unwrap();
        assert_eq!((&last["reference"], &last["state"]), (&Value::from(format!("{name}-2")), &Value::from("sent")));
        node.bayplan(&["rmi", "registry.local/lab/heavy:5"]).ok();
    }
    node.close();
}
