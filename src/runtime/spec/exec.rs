//! A further process of a running container: the container's own process, with what was asked laid over it.

use indexmap::IndexMap;
use oci_spec::runtime as oci;

use super::{Problem, RootFiles, SpecError, Warnings, capabilities, user};
use crate::manifest::ContainerSpec;
use crate::runtime::HostFacts;

/// What is asked of a further process; what is absent is as the container has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables over the container's.
    pub env: IndexMap<String, String>,
    /// Absolute path.
    pub cwd: Option<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Further supplementary groups.
    pub groups: Vec<String>,
    /// Every capability of the node, no seccomp-like restraint on gaining more.
    pub privileged: bool,
    /// Capabilities more.
    pub cap_add: Vec<String>,
    /// Capabilities less.
    pub cap_drop: Vec<String>,
    /// It gets a terminal,
    pub terminal: bool,
    /// of this many columns and rows.
    pub size: Option<(u16, u16)>,
}

/// The process for the runtime, and what is not as asked for. `own` is that of the container's `config.json`; names of
/// users and groups are looked up in `files`, the container's root as it is now.
pub fn exec(
    own: &oci::Process,
    container: &ContainerSpec,
    asked: &ExecSpec,
    files: &dyn RootFiles,
    host: &HostFacts,
) -> Result<(oci::Process, Warnings), SpecError> {
    Ok(exec_inner(own, container, asked, files, host)?)
}

fn exec_inner(
    own: &oci::Process,
    container: &ContainerSpec,
    asked: &ExecSpec,
    files: &dyn RootFiles,
    host: &HostFacts,
) -> Result<(oci::Process, Warnings), Problem> {
    let mut warnings = Warnings::new();
    let mut process = own.clone();
    match asked.command.first() {
        None => return Err(Problem::NothingToExecute),
        Some(program) if program.is_empty() => return Err(Problem::EmptyProgram),
        Some(_) => {}
    }
    if let Some(word) = asked.command.iter().find(|word| word.contains('\0')) {
        return Err(Problem::Word(word.clone()));
    }
    process.set_args(Some(asked.command.clone()));
    process.set_terminal(Some(asked.terminal));
    process.set_console_size(asked.size.filter(|_| asked.terminal).map(|size| console(size.0, size.1)).transpose()?);
    if let Some(cwd) = &asked.cwd {
        if !cwd.starts_with('/') || cwd.contains('\0') {
            return Err(Problem::WorkingDir(cwd.clone()));
        }
        process.set_cwd(cwd.into());
    }
    let mut home = None;
    if let Some(written) = &asked.user {
        let resolved = user::resolve_written(written, files)?;
        process.set_user(resolved.spec()?);
        home = Some(resolved.home);
    }
    if !asked.groups.is_empty() {
        let mut ids = process.user().additional_gids().clone().unwrap_or_default();
        for id in user::group_ids(&asked.groups, files)? {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let mut user = process.user().clone();
        user.set_additional_gids(Some(ids));
        process.set_user(user);
    }
    process.set_env(Some(environment(own.env().as_deref().unwrap_or_default(), asked, home, container)?));
    if asked.privileged || !asked.cap_add.is_empty() || !asked.cap_drop.is_empty() {
        let mut context = container.security_context.clone();
        context.privileged |= asked.privileged;
        context.capabilities.add.extend(asked.cap_add.iter().cloned());
        context.capabilities.drop.extend(asked.cap_drop.iter().cloned());
        if asked.privileged {
            // What the container dropped for itself is not dropped for this one.
            context.capabilities.drop.clone_from(&asked.cap_drop);
        }
        let bits = capabilities::bits(&context, host, &mut warnings)?;
        process.set_capabilities(Some(capabilities::spec(bits)));
    }
    if asked.privileged {
        process.set_no_new_privileges(Some(false));
        process.set_apparmor_profile(None);
    }
    Ok((process, warnings))
}

/// The container's variables, those asked for over them in place. Another user has another home, unless the manifest
/// says where it is.
fn environment(
    own: &[String],
    asked: &ExecSpec,
    home: Option<String>,
    container: &ContainerSpec,
) -> Result<Vec<String>, Problem> {
    let mut env: IndexMap<&str, &str> = own.iter().filter_map(|pair| pair.split_once('=')).collect();
    if let Some(home) = home.as_deref().filter(|_| !container.env.contains_key("HOME")) {
        env.insert("HOME", home);
    }
    for (name, value) in &asked.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Problem::EnvName(name.clone()));
        }
        env.insert(name, value);
    }
    if asked.terminal {
        env.entry("TERM").or_insert("xterm");
    }
    Ok(env.iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// Columns and rows as the runtime spec writes them.
pub(crate) fn console(width: u16, height: u16) -> Result<oci::Box, Problem> {
    oci::BoxBuilder::default().width(u64::from(width)).height(u64::from(height)).build().map_err(Problem::oci)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spec::tests::{Files, container, host};

    fn own() -> oci::Process {
        oci::ProcessBuilder::default()
            .args(vec!["init".to_owned()])
            .env(vec!["PATH=/bin".to_owned(), "A=1".to_owned(), "HOME=/root".to_owned()])
            .cwd("/srv")
            .user(oci::UserBuilder::default().uid(0u32).gid(0u32).additional_gids(vec![0]).build().unwrap())
            .no_new_privileges(true)
            .capabilities(capabilities::spec(1))
            .build()
            .unwrap()
    }

    fn files() -> Files {
        Files::of(&[
            ("/etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"),
            ("/etc/group", "app:x:1000:\nvideo:x:44:app\nwheel:x:10:\n"),
        ])
    }

    fn made(change: impl FnOnce(&mut ExecSpec)) -> Result<oci::Process, SpecError> {
        let mut asked = ExecSpec { command: vec!["sh".into(), "-c".into(), "id".into()], ..ExecSpec::default() };
        change(&mut asked);
        exec(&own(), &container(), &asked, &files(), &host()).map(|(process, _)| process)
    }

    #[test]
    fn what_is_not_asked_for_is_the_containers_own() {
        let process = made(|_| {}).unwrap();
        assert_eq!(process.args().as_deref().unwrap(), ["sh", "-c", "id"]);
        assert_eq!(process.cwd().to_str(), Some("/srv"));
        assert_eq!(process.env(), own().env());
        assert_eq!(process.capabilities(), own().capabilities());
        assert_eq!(process.no_new_privileges(), Some(true));
        assert_eq!((process.terminal(), process.console_size()), (Some(false), None));
    }

    #[test]
    fn what_is_asked_for_lies_over_it() {
        let process = made(|asked| {
            asked.env = [("A".into(), "2".into()), ("B".into(), "3".into())].into();
            asked.cwd = Some("/tmp".into());
            asked.user = Some("app".into());
            asked.groups = vec!["wheel".into(), "77".into()];
            asked.terminal = true;
            asked.size = Some((132, 43));
        })
        .unwrap();
        let env = process.env().as_deref().unwrap();
        assert_eq!(env, ["PATH=/bin", "A=2", "HOME=/home/app", "B=3", "TERM=xterm"]);
        assert_eq!(process.cwd().to_str(), Some("/tmp"));
        let user = process.user();
        assert_eq!((user.uid(), user.gid()), (1000, 1000));
        assert_eq!(user.additional_gids().as_deref().unwrap(), [1000, 44, 10, 77]);
        let size = process.console_size().unwrap();
        assert_eq!((size.width(), size.height()), (132, 43));
    }

    #[test]
    fn privileged_has_what_the_node_has() {
        let process = made(|asked| asked.privileged = true).unwrap();
        assert_eq!(process.no_new_privileges(), Some(false));
        assert_eq!(process.capabilities(), &Some(capabilities::spec(host().capabilities)));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (change, message) in [
            (Box::new(|asked: &mut ExecSpec| asked.command.clear()) as Box<dyn FnOnce(&mut ExecSpec)>, "no command"),
            (Box::new(|asked| asked.command = vec![String::new()]), "empty word"),
            (Box::new(|asked| asked.cwd = Some("tmp".into())), "\"tmp\" is not absolute"),
            (Box::new(|asked| asked.user = Some("ghost".into())), "user \"ghost\" is not in"),
            (Box::new(|asked| asked.groups = vec!["ghosts".into()]), "group \"ghosts\" is not in"),
            (Box::new(|asked| asked.env = [("A=B".into(), String::new())].into()), "A=B"),
            (Box::new(|asked| asked.cap_add = vec!["NET_ADMNI".into()]), "NET_ADMNI"),
        ] {
            let error = made(change).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
