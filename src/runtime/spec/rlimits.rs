//! `setrlimit` limits: what the manifest wants, as far as this process may give it.

use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use super::{Problem, Warnings};
use crate::manifest::Rlimit;
use crate::runtime::HostFacts;

/// Names as setrlimit(2) has them without `RLIMIT_`.
const TABLE: [(&str, PosixRlimitType, Resource); 16] = [
    ("AS", PosixRlimitType::RlimitAs, Resource::RLIMIT_AS),
    ("CORE", PosixRlimitType::RlimitCore, Resource::RLIMIT_CORE),
    ("CPU", PosixRlimitType::RlimitCpu, Resource::RLIMIT_CPU),
    ("DATA", PosixRlimitType::RlimitData, Resource::RLIMIT_DATA),
    ("FSIZE", PosixRlimitType::RlimitFsize, Resource::RLIMIT_FSIZE),
    ("LOCKS", PosixRlimitType::RlimitLocks, Resource::RLIMIT_LOCKS),
    ("MEMLOCK", PosixRlimitType::RlimitMemlock, Resource::RLIMIT_MEMLOCK),
    ("MSGQUEUE", PosixRlimitType::RlimitMsgqueue, Resource::RLIMIT_MSGQUEUE),
    ("NICE", PosixRlimitType::RlimitNice, Resource::RLIMIT_NICE),
    ("NOFILE", PosixRlimitType::RlimitNofile, Resource::RLIMIT_NOFILE),
    ("NPROC", PosixRlimitType::RlimitNproc, Resource::RLIMIT_NPROC),
    ("RSS", PosixRlimitType::RlimitRss, Resource::RLIMIT_RSS),
    ("RTPRIO", PosixRlimitType::RlimitRtprio, Resource::RLIMIT_RTPRIO),
    ("RTTIME", PosixRlimitType::RlimitRttime, Resource::RLIMIT_RTTIME),
    ("SIGPENDING", PosixRlimitType::RlimitSigpending, Resource::RLIMIT_SIGPENDING),
    ("STACK", PosixRlimitType::RlimitStack, Resource::RLIMIT_STACK),
];

/// The limits in the spec's form. Without CAP_SYS_RESOURCE a hard limit above the one this process has
/// (shims and containers inherit it) cannot be had: it is lowered to that, with a warning.
pub(super) fn rlimits(
    wanted: &[Rlimit],
    host: &HostFacts,
    warnings: &mut Warnings,
) -> Result<Vec<PosixRlimit>, Problem> {
    build(wanted, warnings, |resource| {
        if host.can_raise_rlimits {
            return u64::MAX;
        }
        getrlimit(resource).map_or(u64::MAX, |(_, hard)| hard)
    })
}

fn build(
    wanted: &[Rlimit],
    warnings: &mut Warnings,
    ceiling: impl Fn(Resource) -> u64,
) -> Result<Vec<PosixRlimit>, Problem> {
    let mut limits: Vec<PosixRlimit> = Vec::with_capacity(wanted.len());
    for limit in wanted {
        let upper = limit.kind.to_ascii_uppercase();
        let plain = upper.strip_prefix("RLIMIT_").unwrap_or(&upper);
        let Some((name, kind, resource)) = TABLE.iter().find(|(name, ..)| *name == plain) else {
            let near = TABLE.iter().map(|(name, ..)| *name).min_by_key(|name| strsim::levenshtein(name, plain));
            return Err(Problem::UnknownRlimit { name: limit.kind.clone(), near: near.unwrap_or("NOFILE") });
        };
        if limit.soft > limit.hard {
            return Err(Problem::RlimitOrder { name: limit.kind.clone(), soft: limit.soft, hard: limit.hard });
        }
        if limits.iter().any(|other| other.typ() == *kind) {
            return Err(Problem::RlimitTwice(limit.kind.clone()));
        }
        let most = ceiling(*resource);
        if limit.hard > most {
            warnings.push(format!(
                "RLIMIT_{name} is {} in place of {}: bayplan runs without CAP_SYS_RESOURCE, so it cannot raise its own limit",
                most.min(limit.hard),
                limit.hard
            ));
        }
        let built =
            PosixRlimitBuilder::default().typ(*kind).hard(limit.hard.min(most)).soft(limit.soft.min(most)).build();
        limits.push(built.map_err(Problem::oci)?);
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(kind: &str, soft: u64, hard: u64) -> Rlimit {
        Rlimit { kind: kind.into(), soft, hard }
    }

    #[test]
    fn names_come_with_or_without_prefix_in_any_case() {
        let wanted = [limit("RLIMIT_NOFILE", 1, 2), limit("nproc", 3, 4), limit("Rlimit_Core", 0, u64::MAX)];
        let built = build(&wanted, &mut Vec::new(), |_| u64::MAX).unwrap();
        let shown: Vec<_> = built.iter().map(|l| (l.typ().to_string(), l.soft(), l.hard())).collect();
        assert_eq!(
            shown,
            [
                ("RLIMIT_NOFILE".to_owned(), 1, 2),
                ("RLIMIT_NPROC".to_owned(), 3, 4),
                ("RLIMIT_CORE".to_owned(), 0, u64::MAX)
            ]
        );
    }

    #[test]
    fn what_cannot_be_raised_is_lowered_with_one_warning() {
        let mut warnings = Vec::new();
        let built = build(&[limit("nofile", 4096, 8192)], &mut warnings, |_| 1000).unwrap();
        assert_eq!((built[0].soft(), built[0].hard()), (1000, 1000));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("RLIMIT_NOFILE is 1000 in place of 8192"), "{warnings:?}");
    }

    #[test]
    fn wrong_limits_are_refused() {
        for (wanted, expected) in [
            (vec![limit("nofiles", 1, 1)], "rlimit \"nofiles\" does not exist"),
            (vec![limit("nofile", 2, 1)], "rlimit nofile has a soft limit of 2 above its hard limit of 1"),
            (vec![limit("nofile", 1, 1), limit("RLIMIT_NOFILE", 1, 1)], "rlimit RLIMIT_NOFILE is given twice"),
        ] {
            assert_eq!(build(&wanted, &mut Vec::new(), |_| u64::MAX).unwrap_err().to_string(), expected);
        }
    }
}
