//! `bayplan top`, `bayplan task ps`.

use super::args::Output;
use super::context::Context;
use super::render;
use super::render::json::Listing;
use super::render::table::Table;
use super::render::time;
use crate::api::{ProcessInfo, Service as _, TopRequest};
use crate::error::{Class, Fault, Result};

/// The processes of a container
///
/// PID is the number on the node, as other tools there take it; nspid is the one inside. Columns are named as ps(1) names
/// them: pid, nspid, ppid, user, uid, %cpu, stat, etime, time, tty, rss, vsz, nlwp, comm, args; execid is the id of
/// what exec began.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Container
    #[arg(value_name = "ID")]
    pub name: String,
    /// Columns, after a comma or a word each
    #[arg(value_name = "COLUMN", trailing_var_arg = true, allow_hyphen_values = true)]
    pub columns: Vec<String>,
}

/// A column by its words, its header, and what stands in it.
type Column = (&'static [&'static str], &'static str, fn(&ProcessInfo) -> String);

const COLUMNS: [Column; 17] = [
    (&["user", "euser", "uname"], "USER", |one| one.user.clone().unwrap_or_else(|| one.uid.to_string())),
    (&["uid", "euid"], "UID", |one| one.uid.to_string()),
    (&["pid", "hpid"], "PID", |one| one.pid.to_string()),
    (&["nspid"], "NSPID", |one| one.inner_pid.to_string()),
    (&["ppid", "hppid"], "PPID", |one| one.parent.to_string()),
    (&["%cpu", "pcpu", "c"], "%CPU", |one| {
        let tenths = one.cpu_ms.saturating_mul(1000).checked_div(one.age_ms).unwrap_or(0);
        format!("{}.{}", tenths / 10, tenths % 10)
    }),
    (&["stat", "state", "s"], "STAT", |one| one.state.clone()),
    (&["etime", "elapsed"], "ELAPSED", |one| time::span(i64::try_from(one.age_ms / 1000).unwrap_or(i64::MAX))),
    (&["stime", "start"], "STIME", |one| time::span(i64::try_from(one.age_ms / 1000).unwrap_or(i64::MAX)) + " ago"),
    (&["tty", "tt", "tname"], "TTY", |one| one.terminal.clone().unwrap_or_else(|| "?".into())),
    (&["time", "cputime"], "TIME", |one| {
        let seconds = one.cpu_ms / 1000;
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }),
    (&["rss", "rssize"], "RSS", |one| render::size(one.resident)),
    (&["vsz", "vsize"], "VSZ", |one| render::size(one.virtual_size)),
    (&["nlwp", "thcount"], "NLWP", |one| one.threads.to_string()),
    (&["comm", "ucmd", "ucomm"], "COMMAND", |one| one.program.clone()),
    (&["execid"], "EXEC ID", |one| one.exec_id.clone().unwrap_or_else(|| "-".into())),
    (&["args", "cmd", "command"], "COMMAND", |one| one.command.clone()),
];

/// podman's choice.
const DEFAULT: [&str; 8] = ["user", "pid", "ppid", "%cpu", "etime", "tty", "time", "args"];

/// Runs it.
pub async fn run(args: Args, context: &mut Context) -> Result<u8> {
    let columns = columns(&args.columns)?;
    let node = context.node().await?;
    let name = args.name.strip_prefix("container/").unwrap_or(&args.name).to_owned();
    let processes = node.top(TopRequest { namespace: context.namespace(), name }).await?;
    let text = match context.output() {
        Output::Json => render::json::pretty(&Listing::of(&processes))?,
        Output::Yaml => render::yaml::document(&Listing::of(&processes))?,
        Output::Name => processes.iter().map(|one| format!("process/{}\n", one.pid)).collect(),
        Output::Table | Output::Wide => {
            let mut table = Table::new(columns.iter().map(|(_, header, _)| *header));
            for one in &processes {
                table.row(columns.iter().map(|(_, _, shown)| shown(one)));
            }
            table.render("")
        }
    };
    context.ui.bytes(text.as_bytes());
    Ok(0)
}

/// The columns asked for: podman's words, or docker's options of ps as far as they name columns.
fn columns(words: &[String]) -> Result<Vec<&'static Column>> {
    let mut names: Vec<&str> = Vec::new();
    for word in words {
        let word = match word.trim_start_matches('-') {
            // ps -eo pid,args: all processes are meant anyway.
            "o" | "eo" | "e" | "format" | "A" => continue,
            "ef" | "f" | "aux" => {
                names.extend(["user", "pid", "ppid", "%cpu", "stime", "tty", "time", "args"]);
                continue;
            }
            word => word,
        };
        names.extend(word.split(',').filter(|name| !name.is_empty()));
    }
    if names.is_empty() {
        names.extend(DEFAULT);
    }
    let find = |name: &str| {
        let lower = name.to_ascii_lowercase();
        COLUMNS.iter().find(|(words, ..)| words.contains(&lower.as_str())).ok_or_else(|| {
            let known: Vec<&str> = COLUMNS.iter().map(|(words, ..)| words[0]).collect();
            Fault::new(Class::Usage, format!("{name:?} is no column")).help(format!("columns are {}", known.join(", ")))
        })
    };
    names.into_iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_ps_columns_in_podmans_and_dockers_way() {
        let headers = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            columns(&words).unwrap().iter().map(|(_, header, _)| *header).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(headers(&[]), "USER PID PPID %CPU ELAPSED TTY TIME COMMAND");
        assert_eq!(headers(&["hpid,user", "comm"]), "PID USER COMMAND");
        assert_eq!(headers(&["-eo", "pid,cmd"]), "PID COMMAND");
        assert_eq!(columns(&["nonsense".to_owned()]).unwrap_err().class, Class::Usage);
    }
}
