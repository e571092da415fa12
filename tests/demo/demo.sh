#!/usr/bin/env bash
# The main job, shown and proved in under a minute: demo.sh DIRECTORY-OF-THE-BINARIES   (`make demo` builds and calls it)
#
# It works in a directory of its own under /tmp, prints each command before it runs it, and ends with what was
# proved. Every line of that list was a check; one that is false ends the demo with status 1.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "${1:?where the binaries are}" && pwd)
PATH=$bin:$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo "demo: containers need root; make demo asks for it through sudo" >&2; exit 1; }

work=$(mktemp -d /tmp/bayplan-demo.XXXXXX)
cd "$work"
mkdir m r s
dirs="--manifests ./m --root ./r --state ./s"
socket="-a ./s/bayplan.sock"
daemon=''
proofs=()
started=$SECONDS

# ---- showing

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
chapter() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; }
run() { show "$@"; "$@"; }
proved() { proofs+=("$*"); }
fail() { printf '\ndemo: NOT TRUE: %s\n' "$*" >&2; exit 1; }

# ---- asking

# ask CONTAINER FIELD: one field of `get`'s JSON. CONTAINER is namespace/name.
ask() {
  bayplan $where -n "${1%%/*}" get "container/${1#*/}" -o json 2>/dev/null | tr ',{}' '\n\n\n' \
    | sed -n "s/^[[:space:]]*\"$2\":[[:space:]]*\"\{0,1\}\([^\"]*\)\"\{0,1\}[[:space:]]*\$/\1/p" | head -n 1
}
# wait_for SECONDS WHAT COMMAND…: until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2; shift 2
  until "$@"; do [ $SECONDS -lt $deadline ] || fail "$what"; sleep 0.05; done
}
is() { [ "$(ask "$1" "$2")" = "$3" ]; }
at_least() { local now; now=$(ask "$1" "$2"); [ "${now:-0}" -ge "$3" ] 2>/dev/null; }
alive() { kill -0 "$1" 2>/dev/null; }
dead() { ! alive "$1"; }
variable() { tr '\0' '\n' <"/proc/$1/environ" | sed -n "s/^$2=//p"; }
has_variable() { local pid; pid=$(ask "$1" pid); [ -n "$pid" ] && [ "$(variable "$pid" "$2" 2>/dev/null)" = "$3" ]; }
nothing_listed() { [ -z "$(bayplan $where get containers -A -o name 2>/dev/null)" ]; }
ready() { bayplan $socket version >/dev/null 2>&1 && [ -S s/bayplan.sock ]; }
where=$socket

start_daemon() {
  show "bayplan daemon $dirs &"
  bayplan $dirs daemon >>daemon.log 2>&1 &
  daemon=$!
  disown "$daemon"
  wait_for 20 "the daemon answers" ready
}
kill_daemon() {
  show "kill -9 \$!    # the daemon"
  kill -9 "$daemon"
  wait_for 10 "the daemon is dead" dead "$daemon"
  daemon=''
}

# What is on the machine because of this demo: processes, mounts, network namespaces, cgroups.
mark=$(printf %s "$(pwd -P)/r" | sha256sum | cut -c1-8)
leftovers() {
  local pid
  for pid in $(pgrep -f "$work|bayplan-shim" || true); do
    if [ "$pid" != $$ ] && { [ "$(readlink "/proc/$pid/cwd" 2>/dev/null | cut -c1-${#work})" = "$work" ] \
      || tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$work"; }; then
      case $(cat "/proc/$pid/comm" 2>/dev/null) in bayplan*|runc*|sh|httpd|busybox) echo "process $pid" ;; esac
    fi
  done
  awk -v dir="$work/" 'index($5, dir) == 1 { print "mount " $5 }' /proc/self/mountinfo
  find s/netns -type f -printf 'network namespace %p\n' 2>/dev/null || true
  find r/content/ingest -type f -printf 'half-written blob %p\n' 2>/dev/null || true
  find /sys/fs/cgroup -maxdepth 3 -type d -name "*$mark*" 2>/dev/null \
    | while read -r parent; do find "$parent" -mindepth 1 -type d -printf 'cgroup %p\n'; done
}

# Whatever happens, the machine is left as it was.
cleanup() {
  local status=$?
  trap - EXIT INT TERM
  if [ $status != 0 ]; then echo "demo: the daemon's last words:" >&2; tail -n 20 daemon.log >&2 2>/dev/null || true; fi
  [ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true
  local parent pid target
  # A clean end has nothing left to end; after a failure shims go first, so that none starts anything again.
  for pid in $(pgrep -x bayplan-shim || true); do
    case $(readlink "/proc/$pid/cwd") in "$work"/*) kill -9 "$pid" 2>/dev/null || true ;; esac
  done
  for parent in $(find /sys/fs/cgroup -maxdepth 3 -type d -name "*$mark*" 2>/dev/null); do
    for pid in $(cat $(find "$parent" -name cgroup.procs) 2>/dev/null); do kill -9 "$pid" 2>/dev/null || true; done
  done
  for target in $(awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do
    umount -l "$target" 2>/dev/null || true
  done
  for parent in $(find /sys/fs/cgroup -maxdepth 3 -type d -name "*$mark*" 2>/dev/null); do
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      find "$parent" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [ -d "$parent" ] || break
      sleep 0.1
    done
  done
  cd /
  rm -rf "$work"
  exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# ---- the demo

chapter "An image without a registry: an archive, made from this machine's static busybox"
mkdir m/images
show "image.sh m/images/busybox.tar registry.local/busybox:1.35"
"$here/image.sh" m/images/busybox.tar registry.local/busybox:1.35

chapter "A daemon that watches a directory, and a manifest that arrives there"
start_daemon
run cp "$here/../../manifests/shop.yaml" m/
wait_for 20 "shop/web runs" is shop/web phase Running
wait_for 20 "office/desk runs" is office/desk phase Running
wait_for 20 "shop/till was restarted by its shim" at_least shop/till restarts 1
run bayplan $socket get containers -A
show "bayplan $socket status"
bayplan $socket status || true
proved "a manifest dropped into a directory became three running containers in two namespaces"
proved "the image came from an archive beside the manifest: no registry, no network"
web=$(ask shop/web pid) desk=$(ask office/desk pid)
has_log() { bayplan $where -n shop logs web 2>/dev/null | grep -q "$1"; }
wait_for 10 "web's log holds what it said" has_log UTC
run bayplan $socket -n shop logs web
proved "what a container says is in its log"

chapter "An edit replaces the container that it is about, and no other"
run sed -i 's/TZ: UTC/TZ: CET/' m/shop.yaml
wait_for 20 "shop/web runs with TZ=CET" has_variable shop/web TZ CET
run bayplan $socket -n shop get containers
[ "$(ask shop/web pid)" != "$web" ] || fail "shop/web has a new process"
[ "$(ask office/desk pid)" = "$desk" ] || fail "office/desk kept its process"
proved "a changed env.TZ replaced shop/web only; office/desk kept pid $desk"
web=$(ask shop/web pid)

chapter "diff shows the very steps that apply takes"
cat >new.yaml <<'MANIFEST'
apiVersion: bayplan.dev/v1
kind: BayPlan
metadata: {name: extra}
spec:
  namespaces:
    extra:
      images: [{archive: m/images/busybox.tar, reference: registry.local/busybox:1.35}]
      containers:
        lamp: {image: registry.local/busybox:1.35, command: [sleep, "100000"], stopSignal: SIGKILL}
        bell: {image: registry.local/busybox:1.35, command: [sleep, "100000"], stopSignal: SIGKILL}
MANIFEST
run cat new.yaml
show "bayplan $socket diff -f new.yaml; echo \$?"
status=0
bayplan $socket diff -f new.yaml >diff.txt || status=$?
cat diff.txt; echo $status
[ $status = 1 ] || fail "diff exits 1 where there are differences"
show "bayplan $socket apply -f new.yaml"
bayplan $socket apply -f new.yaml | tee apply.txt
steps() { awk '$1 ~ /^(\+|-|~|>|-\/\+)$/ && $2 ~ /^(namespace|image|tag|container)$/ { sub(/:$/, "", $3); print $1, $2, $3 }' "$1"; }
[ -n "$(steps diff.txt)" ] || fail "diff lists steps"
[ "$(steps diff.txt)" = "$(steps apply.txt)" ] || fail "apply took the steps that diff listed, in that order"
wait_for 20 "extra/lamp runs" is extra/lamp phase Running
show "bayplan $socket diff -f new.yaml; echo \$?"
bayplan $socket diff -f new.yaml || fail "a second diff finds nothing"
echo 0
proved "apply took exactly the $(steps diff.txt | wc -l) steps that diff had listed, and a second diff was empty"
run bayplan $socket delete -f new.yaml

chapter "The daemon owns no container: kill -9 it"
till=$(ask shop/till restarts)
kill_daemon
alive "$web" && alive "$desk" || fail "containers go on without the daemon"
where="$dirs"
wait_for 20 "shop/till is restarted with no daemon" at_least shop/till restarts $((till + 2))
till=$(ask shop/till restarts)
proved "after kill -9 of the daemon, containers went on and a crashing one was restarted by its shim"
where=$socket
start_daemon
wait_for 20 "shop/web is adopted" is shop/web phase Running
run bayplan $socket get containers -A
[ "$(ask shop/web pid)" = "$web" ] && [ "$(ask office/desk pid)" = "$desk" ] || fail "the next daemon adopted the same processes"
at_least shop/till restarts "$till" || fail "the restart count went on"
proved "the next daemon adopted everything: same pids ($web, $desk), restart count at least $till"

chapter "The manifest goes, and so does everything it declared"
run rm m/shop.yaml
wait_for 40 "all containers are gone" nothing_listed
dead "$web" && dead "$desk" || fail "their processes are gone"
run bayplan $socket get all -A
proved "removing the manifest removed its containers, tags and images"
show "kill \$!    # the daemon, politely"
kill "$daemon"
wait_for 10 "the daemon ended on SIGTERM" dead "$daemon"
daemon=''

chapter "No daemon at all: apply does the same, and the container lives on"
where=$dirs
cat >one.yaml <<'MANIFEST'
apiVersion: bayplan.dev/v1
kind: Image
metadata: {name: busybox}
spec: {archive: m/images/busybox.tar, reference: registry.local/busybox:1.35}
---
apiVersion: bayplan.dev/v1
kind: Container
metadata: {name: one}
spec: {image: registry.local/busybox:1.35, command: [sleep, "100000"], stopSignal: SIGKILL}
MANIFEST
run bayplan $dirs apply -f one.yaml
wait_for 20 "default/one runs" is default/one phase Running
one=$(ask default/one pid)
alive "$one" || fail "the container outlives the command"
run bayplan $dirs get containers
proved "apply without a daemon: the container (pid $one) lives on after the command"
run bayplan $dirs run --rm registry.local/busybox:1.35 greeter echo "hello from a one-shot container"
run bayplan $dirs delete -f one.yaml
dead "$one" || fail "deleted means gone"

chapter "Nothing is left behind"
clean() { [ -z "$(leftovers)" ]; }
wait_for 10 "no process, mount, network namespace, cgroup or temporary file is left: $(leftovers)" clean
proved "nothing was left behind: no process, mount, network namespace, cgroup or temporary file"

chapter "Proved, in $((SECONDS - started)) seconds"
printf '  ✓ %s\n' "${proofs[@]}"
