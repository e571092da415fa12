//! Who the process is: ids, supplementary groups and home, from the image's own passwd and group.
//!
//! By containerd's rules for Kubernetes: a number is an id and never a name; a uid without a group takes the
//! group of its passwd entry; the groups that list the user are supplementary, also beside an explicit
//! group; the primary group is among them (CVE-2022-36109).

use oci_spec::runtime::{User, UserBuilder};

use super::{Problem, RootFiles};
use crate::manifest::ContainerSpec;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// The user of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory; `/` when the image does not say.
    pub home: String,
}

impl ResolvedUser {
    pub(super) fn spec(&self) -> Result<User, Problem> {
        let user = UserBuilder::default().uid(self.uid).gid(self.gid).additional_gids(self.groups.clone());
        user.build().map_err(Problem::oci)
    }
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Resolves the user of a container: `runAsUser`/`runAsGroup`, then `user`, then the image's USER, then root.
pub fn resolve(
    container: &ContainerSpec,
    image_user: Option<&str>,
    files: &dyn RootFiles,
) -> Result<ResolvedUser, Problem> {
    let context = &container.security_context;
    let written = container.user.as_deref().or(image_user).unwrap_or_default();
    resolve_parts(written, context.run_as_user, context.run_as_group, files)
}

fn resolve_parts(
    written: &str,
    run_as_user: Option<u32>,
    run_as_group: Option<u32>,
    files: &dyn RootFiles,
) -> Result<ResolvedUser, Problem> {
    let written = written.trim();
    let (user, group) = match written.split_once(':') {
        Some((_, "")) | Some(("", _)) => return Err(Problem::UserForm(written.to_owned())),
        Some((_, group)) if group.contains(':') => return Err(Problem::UserForm(written.to_owned())),
        Some((user, group)) => (user, Some(group)),
        None => (written, None),
    };
    // A user given by id brings its own group along, not the one written for another user.
    let (user, group) = match run_as_user {
        Some(uid) => (uid.to_string(), None),
        None => (user.to_owned(), group),
    };
    let group = run_as_group.map(|gid| gid.to_string()).or(group.map(str::to_owned));

    let accounts = accounts(&read(files, PASSWD)?);
    let groups = groups(&read(files, GROUP)?);
    let (uid, account) = match number(&user)? {
        None if user.is_empty() => (0, accounts.iter().find(|account| account.uid == 0)),
        Some(uid) => (uid, accounts.iter().find(|account| account.uid == uid)),
        None => {
            let account = accounts.iter().find(|account| account.name == user);
            let account = account.ok_or_else(|| Problem::UnknownUser(user.clone()))?;
            (account.uid, Some(account))
        }
    };
    let gid = match group {
        None => account.map_or(0, |account| account.gid),
        Some(written) => match number(&written)? {
            Some(gid) => gid,
            None => {
                let group = groups.iter().find(|group| group.name == written);
                group.ok_or(Problem::UnknownGroup(written))?.gid
            }
        },
    };
    let mut all = vec![gid];
    if let Some(account) = account {
        for group in groups.iter().filter(|group| group.members.contains(&account.name)) {
            if !all.contains(&group.gid) {
                all.push(group.gid);
            }
        }
    }
    let home = account.map(|account| account.home.clone()).filter(|home| home.starts_with('/'));
    Ok(ResolvedUser { uid, gid, groups: all, home: home.unwrap_or_else(|| "/".into()) })
}

/// Resolves a user that is asked for by itself.
pub(super) fn resolve_written(written: &str, files: &dyn RootFiles) -> Result<ResolvedUser, Problem> {
    if written.trim().is_empty() {
        return Err(Problem::UserForm(written.to_owned()));
    }
    resolve_parts(written, None, None, files)
}

/// Ids of groups, each written as an id or a name.
pub(super) fn group_ids(written: &[String], files: &dyn RootFiles) -> Result<Vec<u32>, Problem> {
    let groups = groups(&read(files, GROUP)?);
    let id = |written: &String| match number(written)? {
        Some(id) => Ok(id),
        None => {
            let group = groups.iter().find(|group| group.name == *written);
            Ok(group.ok_or_else(|| Problem::UnknownGroup(written.clone()))?.gid)
        }
    };
    written.iter().map(id).collect()
}

fn read(files: &dyn RootFiles, path: &'static str) -> Result<String, Problem> {
    let content = files.read(path).map_err(|source| Problem::ImageFile { path, source })?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// An id when every character is a digit; a name otherwise.
fn number(text: &str) -> Result<Option<u32>, Problem> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse::<i32>().ok().and_then(|id| u32::try_from(id).ok());
    id.map(Some).ok_or_else(|| Problem::IdRange(text.to_owned()))
}

/// passwd(5): `name:password:uid:gid:comment:home:shell`; lines that are not so are skipped.
fn accounts(text: &str) -> Vec<Account> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Account {
            name: fields.first().filter(|name| !name.is_empty())?.to_string(),
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).unwrap_or(&"").trim_end().to_string(),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// group(5): `name:password:gid:member,member`.
fn groups(text: &str) -> Vec<Group> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let members = fields.get(3).unwrap_or(&"").split(',').map(|member| member.trim().to_owned());
        Some(Group {
            name: fields.first().filter(|name| !name.is_empty())?.to_string(),
            gid: fields.get(2)?.trim_end().parse().ok()?,
            members: members.filter(|member| !member.is_empty()).collect(),
        })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spec::tests::{Files, container};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:100:App:/home/app:/bin/sh\nbroken line\n\
                          1234:x:77:77::/odd:\nnohome:x:5:5\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:app\nwheel:x:10:root,app\nvideo:x:44: app \n";

    fn resolved(
        user: Option<&str>,
        image: Option<&str>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> (u32, u32, Vec<u32>, String) {
        let user = try_resolve(user, image, uid, gid).unwrap();
        (user.uid, user.gid, user.groups, user.home)
    }

    fn try_resolve(
        user: Option<&str>,
        image: Option<&str>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<ResolvedUser, Problem> {
        let mut spec = container();
        spec.user = user.map(str::to_owned);
        spec.security_context.run_as_user = uid;
        spec.security_context.run_as_group = gid;
        let files = Files::of(&[("/etc/passwd", PASSWD), ("/etc/group", GROUP)]);
        resolve(&spec, image, &files)
    }

    #[test]
    fn users_and_groups_are_the_images_own() {
        let app = |gid: u32, groups: &[u32]| (1000, gid, groups.to_vec(), "/home/app".to_owned());
        for (user, image, expected) in [
            (None, None, (0, 0, vec![0, 10], "/root".to_owned())),
            (None, Some(""), (0, 0, vec![0, 10], "/root".to_owned())),
            (None, Some("app"), app(100, &[100, 10, 44])),
            (Some("root"), Some("app"), (0, 0, vec![0, 10], "/root".to_owned())),
            (Some("1000"), None, app(100, &[100, 10, 44])),
            (Some("app:wheel"), None, app(10, &[10, 100, 44])),
            (Some("1000:7"), None, app(7, &[7, 100, 10, 44])),
            (Some("4000"), None, (4000, 0, vec![0], "/".to_owned())),
            (Some("4000:4000"), None, (4000, 4000, vec![4000], "/".to_owned())),
            // All digits are an id, also where an account has that name.
            (Some("1234"), None, (1234, 0, vec![0], "/".to_owned())),
            (Some("nohome"), None, (5, 5, vec![5], "/".to_owned())),
        ] {
            assert_eq!(resolved(user, image, None, None), expected, "{user:?} {image:?}");
        }
    }

    #[test]
    fn run_as_user_and_group_win() {
        assert_eq!(resolved(Some("root:wheel"), None, Some(1000), None).1, 100);
        assert_eq!(resolved(None, Some("app"), Some(0), Some(3)), (0, 3, vec![3, 10], "/root".into()));
        assert_eq!(resolved(Some("app"), None, None, Some(3)).0, 1000);
        // What is overridden need not even exist.
        assert_eq!(resolved(None, Some("ghost:ghosts"), Some(9), None).0, 9);
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        for (user, message) in [
            ("ghost", "user \"ghost\" is not in the image's /etc/passwd"),
            ("app:ghosts", "group \"ghosts\" is not in the image's /etc/group"),
            ("app:", "user \"app:\" is not of the form user[:group]"),
            ("a:b:c", "user \"a:b:c\" is not of the form user[:group]"),
            ("4294967295", "user or group id \"4294967295\" is out of range: 0 to 2147483647 is expected"),
        ] {
            assert_eq!(try_resolve(Some(user), None, None, None).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn an_image_without_passwd_runs_by_number() {
        let mut spec = container();
        spec.user = Some("65532:65532".into());
        let user = resolve(&spec, None, &Files::of(&[])).unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (65532, 65532, "/"));
        spec.user = None;
        assert_eq!(resolve(&spec, None, &Files::of(&[])).unwrap().uid, 0);
    }
}
