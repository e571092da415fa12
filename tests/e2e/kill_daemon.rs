//! The daemon dies at any instant; the node still ends as the manifests say, and nothing leaks.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::image::Image;
use crate::node::{TestNode, environment, pid};
use crate::wait::{eventually, patience};

const INSTANTS: u32 = 20;

/// xorshift: random enough to choose instants, and a seed gives them again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn manifest(wanted: &BTreeMap<String, u64>, labels: u64) -> String {
    let mut text =
        "apiVersion: bayplan.dev/v1\nkind: BayPlan\nmetadata: {name: churn}\nspec:\n  namespaces:\n    churn:\n      \
        images: [{archive: ../box.tar, reference: 'registry.local/box:1'}]\n      \
        tags: {'registry.local/alias:1': 'registry.local/box:1'}\n      containers:\n"
            .to_owned();
    text += "        steady: {image: 'registry.local/alias:1', terminationGracePeriodSeconds: 1}\n";
    for (name, value) in wanted {
        text += &format!(
            "        {name}: {{image: 'registry.local/box:1', env: {{N: '{value}'}}, terminationGracePeriodSeconds: 1}}\n"
        );
    }
    text += &format!(
        "---\napiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: labelled, namespace: churn, labels: {{n: '{labels}'}}}}\n\
         spec: {{image: 'registry.local/box:1', terminationGracePeriodSeconds: 1}}\n"
    );
    text
}

#[test]
fn killed_at_random_instants_the_node_still_converges() {
    let seed = std::env::var("BAYPLAN_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        u64::from(std::process::id()) << 32 | std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 & 0xffff_ffff
    });
    eprintln!("BAYPLAN_TEST_SEED={seed} repeats this run");
    let mut random = Random(seed | 1);

    let mut node = TestNode::new();
    // A shell that dies on TERM, so that replacing it takes no grace period.
    let image = Image::busybox().script("trap 'exit 0' TERM; while :; do sleep 1; done");
    image.oci_archive(&node.dir().join("box.tar"), None);
    let mut wanted: BTreeMap<String, u64> = (0..3).map(|n| (format!("c{n}"), 0)).collect();
    node.manifest("churn.yaml", manifest(&wanted, 0));
    node.start_daemon();
    let steady = node.running("churn", "steady");
    let labelled = node.running("churn", "labelled");
    node.converged();
    let mut descriptors = 0;

    for instant in 0..INSTANTS {
        match random.below(3) {
            0 => {
                wanted.insert(format!("c{}", random.below(6)), u64::from(instant) + 1);
            }
            1 => {
                let name = wanted.keys().nth(random.below(wanted.len().max(1) as u64) as usize).cloned();
                name.map(|name| wanted.remove(&name));
            }
            _ => {
                wanted.values_mut().for_each(|value| *value += 100);
            }
        }
        node.manifest("churn.yaml", manifest(&wanted, u64::from(instant)));
        // Not waiting for anything: the length of this nap is the random instant itself.
        std::thread::sleep(Duration::from_millis(random.below(400) * u64::from(patience())));
        node.kill_daemon();
        node.start_daemon();

        let context = format!("instant {instant} of seed {seed}, wanted {wanted:?}");
        eventually(&format!("the node equals the manifests at {context}\n{}", node.daemon_log()), 60, || {
            let items = node.get("containers");
            let mut names: Vec<_> =
                items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect();
            names.sort();
            let mut expected: Vec<_> = wanted.keys().cloned().chain(["steady".into(), "labelled".into()]).collect();
            expected.sort();
            let as_wanted = items.iter().all(|item| {
                let name = item["metadata"]["name"].as_str().unwrap();
                let Some(pid) = item["status"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()) else {
                    return false;
                };
                item["status"]["phase"] == "Running"
                    && wanted.get(name).is_none_or(|value| environment(pid, "N") == Some(value.to_string()))
                    && (name != "labelled" || item["metadata"]["labels"]["n"].as_str() == Some(&instant.to_string()))
            });
            (names == expected && as_wanted).then_some(())
        });
        node.converged();
        node.bayplan(&["diff"]).ok();
        assert_eq!(node.running("churn", "steady"), steady, "undisturbed at {context}");
        assert_eq!(node.running("churn", "labelled"), labelled, "changed in place at {context}");
        let open = eventually("descriptors settle", 10, || {
            let open = node.daemon_descriptors();
            (descriptors == 0 || open <= descriptors + 2 * wanted.len() + 10).then_some(open)
        });
        if descriptors == 0 {
            descriptors = open;
        }
    }
    assert_eq!(pid(&node.phase("churn", "steady", "Running")), steady);
    node.close();
}
