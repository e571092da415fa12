//! The words that manifests may use: names, labels, signals, capabilities, limits, mount options, and
//! the nearest of them to a wrong one.

/// The nearest candidate to a wrong word, if one is near enough to be meant.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain = |text: &str| -> String {
        text.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).take(64).collect()
    };
    let word = plain(word);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let plain = plain(candidate);
            let distance = strsim::damerau_levenshtein(&word, &plain);
            (distance <= (word.len().max(plain.len()) / 3).max(1)).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn alphanumeric_ends(text: &str) -> bool {
    let ok = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    ok(text.bytes().next()) && ok(text.bytes().last())
}

/// RFC 1123 label: what is wrong with it, if anything.
pub(super) fn label_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > 63 {
        Some("it is longer than 63 characters")
    } else if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        Some("only lower-case letters, digits and - may stand in it")
    } else if !alphanumeric_ends(name) {
        Some("it must begin and end with a letter or digit")
    } else {
        None
    }
}

/// A namespace: labels joined by dots, 63 characters together.
pub(super) fn namespace_fault(name: &str) -> Option<&'static str> {
    if name.len() > 63 {
        return Some("it is longer than 63 characters");
    }
    name.split('.').find_map(label_fault)
}

/// A name made as near as possible to `text` that is a label; `None` when nothing of it is left.
pub(super) fn as_label(text: &str) -> Option<String> {
    let mapped: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(63).collect();
    let label = mapped.trim_matches('-').to_owned();
    label_fault(&label).is_none().then_some(label)
}

/// Kubernetes' rule for environment names.
pub(super) fn env_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.bytes().next().is_some_and(|b| b.is_ascii_digit()) {
        Some("it begins with a digit")
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        Some("only letters, digits, _ - and . may stand in it")
    } else {
        None
    }
}

/// Kubernetes' qualified name, `[prefix/]name`: keys of labels and annotations.
pub(super) fn key_fault(key: &str) -> Option<&'static str> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|prefix| {
        prefix.is_empty() || prefix.len() > 253 || prefix.split('.').any(|l| label_fault(l).is_some())
    }) {
        return Some("what stands before / must be a DNS name");
    }
    if name.is_empty() {
        return Some("its name is empty");
    }
    word_fault(name)
}

/// Kubernetes' label value: at most 63 of letters, digits, `-_.`, or nothing.
pub(super) fn word_fault(value: &str) -> Option<&'static str> {
    if value.is_empty() {
        None
    } else if value.len() > 63 {
        Some("it is longer than 63 characters")
    } else if !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        Some("only letters, digits, - _ and . may stand in it")
    } else if !alphanumeric_ends(value) {
        Some("it must begin and end with a letter or digit")
    } else {
        None
    }
}

/// Linux signals by number (x86 and arm), from 1.
pub(super) const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The canonical name of a signal: from `term`, `SIGTERM`, `15`, `RTMIN+3`.
pub(super) fn signal(text: &str) -> Option<String> {
    if let Ok(number) = text.parse::<usize>() {
        return match number {
            1..=31 => Some(SIGNALS[number - 1].to_owned()),
            34 => Some("SIGRTMIN".into()),
            35..=64 => Some(format!("SIGRTMIN+{}", number - 34)),
            _ => None,
        };
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let alias = match bare {
        "POLL" => "IO",
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        other => other,
    };
    if let Some(name) = SIGNALS.iter().find(|name| name[3..] == *alias) {
        return Some((*name).to_owned());
    }
    // The kernel's 34 to 64, counted from either end, as kill(1) does.
    let offset = |rest: &str, sign: char| -> Option<u8> {
        match rest.strip_prefix(sign) {
            Some(digits) => digits.parse().ok(),
            None => rest.is_empty().then_some(0),
        }
    };
    let number = if let Some(rest) = alias.strip_prefix("RTMIN") {
        34_u8.checked_add(offset(rest, '+')?)?
    } else {
        64_u8.checked_sub(offset(alias.strip_prefix("RTMAX")?, '-')?)?
    };
    match number {
        34 => Some("SIGRTMIN".into()),
        35..=64 => Some(format!("SIGRTMIN+{}", number - 34)),
        _ => None,
    }
}

/// capabilities(7), as of Linux 6.x.
pub(super) const CAPABILITIES: [&str; 41] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// getrlimit(2).
pub(super) const RLIMITS: [&str; 16] = [
    "RLIMIT_AS",
    "RLIMIT_CORE",
    "RLIMIT_CPU",
    "RLIMIT_DATA",
    "RLIMIT_FSIZE",
    "RLIMIT_LOCKS",
    "RLIMIT_MEMLOCK",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_NOFILE",
    "RLIMIT_NPROC",
    "RLIMIT_RSS",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
    "RLIMIT_SIGPENDING",
    "RLIMIT_STACK",
];

/// The canonical name with its prefix, if the word is in the table with or without it.
pub(super) fn prefixed(table: &[&'static str], prefix: &str, text: &str) -> Option<&'static str> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix(prefix).unwrap_or(&upper);
    table.iter().find(|name| name[prefix.len()..] == *bare).copied()
}

/// Mount options without a value, for bind and tmpfs mounts.
pub(super) const MOUNT_FLAGS: [&str; 28] = [
    "bind",
    "rbind",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "diratime",
    "nodiratime",
    "sync",
    "async",
    "dirsync",
    "ro",
    "rw",
];

/// tmpfs(5) options with a value.
pub(super) const TMPFS_OPTIONS: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
