//! cgroup limits, by Kubernetes' conversions (millicores to quota and shares).

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxPidsBuilder, LinuxResources};

use super::Warnings;
use crate::manifest::{Quantity, Resources};
use crate::runtime::{CgroupMode, HostFacts};

/// The CFS period that Kubernetes and Docker use, in microseconds.
const PERIOD: u64 = 100_000;
/// The kernel takes no smaller quota, in microseconds.
const MIN_QUOTA: i64 = 1000;
/// The kernel's bounds of `cpu.shares`.
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;
/// What a cgroup has that nobody set.
const DEFAULT_SHARES: u64 = 1024;
const DEFAULT_WEIGHT: &str = "100";

/// The limits of a new container: only what was asked for.
pub(super) fn for_create(wanted: &Resources, host: &HostFacts, warnings: &mut Warnings) -> LinuxResources {
    build(wanted, host, warnings, false)
}

/// The limits as the runtime spec of a new container has them, without a word about those that are not in force.
pub fn limits(wanted: &Resources, host: &HostFacts) -> LinuxResources {
    build(wanted, host, &mut Vec::new(), false)
}

/// The limits of a container that exists, for `runc update --resources -`: a limit that is no longer asked
/// for is lifted explicitly, since `runc` leaves alone what is not mentioned.
pub fn resources(wanted: &Resources, host: &HostFacts) -> LinuxResources {
    build(wanted, host, &mut Vec::new(), true)
}

fn build(wanted: &Resources, host: &HostFacts, warnings: &mut Warnings, lift: bool) -> LinuxResources {
    let mut resources = LinuxResources::default();
    let mut has = |controller: &'static str, asked: bool| {
        let there = host.controllers.contains(controller);
        if asked && !there {
            warnings.push(format!("the {controller} limit is not in force: this node has no {controller} controller"));
        }
        there
    };
    let limits = &wanted.limits;
    if has("memory", limits.memory.is_some()) {
        resources.set_memory(memory(limits.memory, host, lift));
    }
    let weight = wanted.requests.cpu.or(limits.cpu);
    if has("cpu", limits.cpu.is_some()) {
        resources.set_cpu(cpu(limits.cpu, weight, lift, host.cgroup));
        if lift && weight.is_none() && host.cgroup == CgroupMode::V2 {
            // No value of `shares` becomes the default weight in every version of runc.
            resources.set_unified(Some(HashMap::from([("cpu.weight".to_owned(), DEFAULT_WEIGHT.to_owned())])));
        }
    }
    if has("pids", limits.pids.is_some()) {
        resources.set_pids(pids(limits.pids, lift));
    }
    resources
}

fn memory(limit: Option<Quantity>, host: &HostFacts, lift: bool) -> Option<LinuxMemory> {
    let bytes = match limit {
        Some(limit) => limit.value(),
        None if lift => -1,
        None => return None,
    };
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(bytes));
    if host.swap_accounting {
        // Memory and swap together, so no swap: what Kubernetes does.
        memory.set_swap(Some(bytes));
    }
    Some(memory)
}

fn cpu(limit: Option<Quantity>, weight: Option<Quantity>, lift: bool, mode: CgroupMode) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    match limit {
        Some(limit) => {
            cpu.set_quota(Some(limit.milli().saturating_mul(100).max(MIN_QUOTA))).set_period(Some(PERIOD));
        }
        None if lift => {
            cpu.set_quota(Some(-1)).set_period(Some(PERIOD));
        }
        None => {}
    }
    match weight {
        Some(weight) => {
            let shares = weight.milli().saturating_mul(1024) / 1000;
            cpu.set_shares(u64::try_from(shares.clamp(*SHARES.start(), *SHARES.end())).ok());
        }
        None if lift && mode != CgroupMode::V2 => {
            cpu.set_shares(Some(DEFAULT_SHARES));
        }
        None => {}
    }
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn pids(limit: Option<i64>, lift: bool) -> Option<LinuxPids> {
    // To runc 0 means "not set" and anything below "no limit".
    let limit = match limit {
        Some(limit) if limit > 0 => limit,
        _ if lift => -1,
        _ => return None,
    };
    LinuxPidsBuilder::default().limit(limit).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Limits;
    use crate::runtime::spec::tests::host;

    fn wanted(memory: Option<&str>, cpu: Option<&str>, request: Option<&str>, pids: Option<i64>) -> Resources {
        let quantity = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        Resources {
            limits: Limits { memory: quantity(memory), cpu: quantity(cpu), pids },
            requests: Limits { cpu: quantity(request), ..Limits::default() },
        }
    }

    #[test]
    fn cpu_becomes_quota_and_shares_as_kubernetes_converts_them() {
        for (limit, request, quota, shares) in [
            (Some("500m"), None, Some(50_000), Some(512)),
            (Some("2"), Some("250m"), Some(200_000), Some(256)),
            (Some("1m"), None, Some(1000), Some(2)),
            (None, Some("1"), None, Some(1024)),
            (None, Some("1m"), None, Some(2)),
            (None, Some("1000"), None, Some(262_144)),
        ] {
            let built = for_create(&wanted(None, limit, request, None), &host(), &mut Vec::new());
            let cpu = built.cpu().as_ref().unwrap();
            assert_eq!((cpu.quota(), cpu.shares()), (quota, shares), "{limit:?} {request:?}");
            assert_eq!(cpu.period(), quota.map(|_| 100_000));
        }
    }

    #[test]
    fn memory_leaves_no_swap_where_swap_is_counted() {
        let mut node = host();
        for accounting in [true, false] {
            node.swap_accounting = accounting;
            let built = for_create(&wanted(Some("64Mi"), None, None, None), &node, &mut Vec::new());
            let memory = built.memory().unwrap();
            assert_eq!(memory.limit(), Some(64 << 20));
            assert_eq!(memory.swap(), accounting.then_some(64 << 20));
        }
    }

    #[test]
    fn what_is_not_asked_for_is_not_mentioned_on_creation_and_lifted_on_update() {
        let created = for_create(&Resources::default(), &host(), &mut Vec::new());
        assert_eq!(serde_json::to_string(&created).unwrap(), "{}");
        let mut node = host();
        let updated = serde_json::to_value(resources(&Resources::default(), &node)).unwrap();
        assert_eq!(
            updated,
            serde_json::json!({"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1, "period": 100_000},
                "pids": {"limit": -1}, "unified": {"cpu.weight": "100"}})
        );
        node.cgroup = CgroupMode::V1;
        let updated = resources(&Resources::default(), &node);
        assert_eq!(updated.cpu().as_ref().unwrap().shares(), Some(1024));
        assert_eq!(updated.unified(), &None);
    }

    #[test]
    fn a_limit_without_its_controller_is_a_warning() {
        let mut node = host();
        node.controllers.remove("memory");
        let mut warnings = Vec::new();
        let built = for_create(&wanted(Some("64Mi"), None, None, Some(5)), &node, &mut warnings);
        assert!(built.memory().is_none());
        assert_eq!(built.pids().unwrap().limit(), 5);
        assert_eq!(warnings, ["the memory limit is not in force: this node has no memory controller"]);
    }
}
