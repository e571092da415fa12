//! Names are taken and given again while others are: each keeps what it was given, and is free when it is free.

use std::process::Command;

use bayplan::api::{Client, CreateEvent, CreateRequest, RemoveContainerRequest, Service as _};
use bayplan::error::{Class, Fault, Result};
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use crate::image::Image;
use crate::node::TestNode;

const IMAGE: &str = "registry.local/box:1";

#[test]
fn what_is_imported_keeps_its_name_while_others_are_imported() {
    let mut node = TestNode::new();
    node.start_daemon();
    let tar = node.dir().join("root.tar");
    let made = Command::new("tar").arg("-cf").arg(&tar).args(["-C", "/", "--no-recursion", "etc"]).status().unwrap();
    assert!(made.success());
    let name = |client: usize, at: usize| format!("registry.local/i{client}:{at}");
    // A plan that was made between a name and its declaration would take the name away again.
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (node, tar) = (&node, tar.to_str().unwrap());
            scope.spawn(move || {
                for at in 0..8 {
                    node.bayplan(&["image", "import", "--rootfs", tar, &name(client, at)]).ok();
                }
            });
        }
    });
    node.converged();
    let mut names: Vec<String> =
        node.get("images").iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    let mut wanted: Vec<String> = (0..4).flat_map(|client| (0..8).map(move |at| name(client, at))).collect();
    wanted.sort();
    assert_eq!(names, wanted);
    node.close();
}

/// Makes it and starts it.
async fn create(node: &Client, name: &str) -> Result<String> {
    let spec = serde_json::json!({"image": IMAGE, "command": ["sleep", "1000"], "restart": "Never"});
    let request = CreateRequest {
        namespace: "default".into(),
        id: name.to_owned(),
        spec: serde_json::from_value(spec).unwrap(),
        labels: Default::default(),
        start: true,
        remove_after_exit: false,
        stdio: None,
    };
    let mut events = node.create(request).await?;
    while let Some(event) = events.next().await {
        if let CreateEvent::Created(made) = event? {
            return Ok(made.uid);
        }
    }
    Err(Fault::new(Class::Bug, "the report ended early"))
}

#[test]
fn a_name_is_free_as_soon_as_its_container_is_gone() {
    let mut node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().oci_archive(&archive, Some(IMAGE));
    node.start_daemon();
    node.bayplan(&["load", "-q", archive.to_str().unwrap()]).ok();
    let client = Client::connect(&node.state().join("bayplan.sock")).unwrap().unwrap();
    let client = &client;
    // Several side by side: the plans for one are made while another is on its way out.
    let reuse = |name: String| async move {
        let mut before = String::new();
        for turn in 0..8 {
            let uid = create(client, &name).await.unwrap_or_else(|fault| panic!("{name}, turn {turn}: {fault:?}"));
            assert_ne!(uid, before, "{name} is another container");
            before = uid;
            let request = RemoveContainerRequest { namespace: "default".into(), name: name.clone(), force: true };
            client.remove_container(request).await.unwrap_or_else(|fault| panic!("{name}, turn {turn}: {fault:?}"));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(join_all((0..4).map(|at| reuse(format!("again{at}")))));
    node.converged();
    node.close();
}
