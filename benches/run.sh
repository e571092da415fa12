#!/usr/bin/env bash
# Measures bayplan beside what it stands on, runc, in one run on this machine, and prints a Markdown table of
# medians: run.sh DIRECTORY-OF-THE-BINARIES   (`make bench` builds and calls it). Only ratios within one run count.
#
# ROUNDS (default 20) is how often each thing is measured. PEERS=1 measures containerd and podman too, where they are
# installed, in directories of their own.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "${1:?where the binaries are}" && pwd)
PATH=$bin:$PATH:/usr/sbin:/sbin
export LC_ALL=C
rounds=${ROUNDS:-20}
source "$here/tasks.sh"
[ "$(id -u)" = 0 ] || { echo "bench: needs root" >&2; exit 1; }
for tool in runc jq busybox; do command -v $tool >/dev/null || { echo "bench: $tool is missing" >&2; exit 1; }; done

work=$(mktemp -d /tmp/bayplan-bench.XXXXXX)
cd "$work"
mkdir -p m r s marks bundle runc
# As /run is on every node: what is lost at reboot, ours and runc's, is in memory.
for dir in s runc; do mount -t tmpfs -o mode=0755 bench "$work/$dir"; done
image=registry.local/bench:1
dirs="--manifests $work/m --root $work/r --state $work/s"
socket="-a $work/s/bayplan.sock"
daemon='' containerd=''
cleanup() {
  trap - EXIT INT TERM
  set +e
  [ -z "$daemon" ] || { kill "$daemon"; while kill -0 "$daemon"; do sleep 0.05; done; } 2>/dev/null
  local id
  for id in $(bayplan $dirs get containers -o name 2>/dev/null); do bayplan $dirs rm -f "${id#*/}"; done >/dev/null 2>&1
  for id in $(runc --root "$work/runc" list -q 2>/dev/null); do runc --root "$work/runc" delete -f "$id"; done 2>/dev/null
  [ -z "$containerd" ] || kill "$containerd" 2>/dev/null
  local target
  for target in $(awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do umount -l "$target"; done
  find /sys/fs/cgroup -maxdepth 3 -type d -name "bayplan-bench-$$" -exec find {} -depth -type d -exec rmdir {} + \; 2>/dev/null
  cd / && rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Milliseconds of a command, its output thrown away.
took() {
  local from=${EPOCHREALTIME/./}
  "$@" >/dev/null 2>"$work/stderr" </dev/null || { echo "bench: $*: $(cat "$work/stderr")" >&2; exit 1; }
  local to=${EPOCHREALTIME/./}
  awk -v us=$((to - from)) 'BEGIN { printf "%.2f\n", us / 1000 }'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
# each COMMAND…: median over the rounds; `N` among the words becomes the round's number.
each() {
  local n
  for n in $(seq "$rounds"); do took "${@//@N/$n}"; done | median
}
rows=()
# row WHAT VALUE FLOOR TARGET: target is a ratio to the floor, or a bound in words.
row() {
  local ratio=''
  [ -z "$3" ] || ratio=$(awk -v a="$2" -v b="$3" 'BEGIN { printf "%.2f", a / b }')
  rows+=("| $1 | $2 | ${3:-–} | ${ratio:-–} | $4 |")
  echo "bench: $1: $2 (floor ${3:-none}, ratio ${ratio:-none}; target $4)" >&2
}
tick() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

echo "bench: preparing" >&2
"$here/../tests/demo/image.sh" "$work/bench.tar" "$image"
bayplan $dirs daemon >daemon.log 2>&1 &
daemon=$!
disown "$daemon"
until bayplan $socket version >/dev/null 2>&1 && [ -S s/bayplan.sock ]; do
  kill -0 "$daemon" || { cat daemon.log >&2; exit 1; }
  sleep 0.05
done
bayplan $socket load bench.tar >/dev/null

# ---- the floor: runc on the very bundle that bayplan makes, with its root file system as a plain directory
bayplan $socket run -d $image model sleep 100000 >/dev/null
config=$(find s/tasks -name config.json | head -n 1)
[ -n "$config" ] || { echo "bench: no bundle under $work/s/tasks" >&2; exit 1; }
tar -xf bench.tar -C marks --wildcards 'blobs/*'
mkdir rootfs
tar -xf "$(find marks/blobs -type f -size +500k | head -n 1)" -C rootfs
rm -rf marks/blobs
# bundle DIR COMMAND…: the model's configuration with another command, cgroup, and, as each of ours has it, a network
# namespace of its own.
bundle() {
  local dir=$1; shift
  mkdir -p "$dir"
  local words
  words=$(printf '%s\n' "$@" | jq -R . | jq -s .)
  jq --arg root "$work/rootfs" --arg cgroup "/bayplan-bench-$$/$(basename "$dir")" --argjson words "$words" \
    '.root.path = $root | .process.args = $words | .linux.cgroupsPath = $cgroup
      | del(.linux.namespaces[] | select(.type == "network").path)' "$config" >"$dir/config.json"
}
for n in $(seq 40); do bundle "bundle/$n" sleep 100000; done
bundle bundle/true true
runc_start() { runc --root "$work/runc" run -d --bundle "bundle/$1" "floor$1"; }
runc_clear() { local id; for id in $(runc --root "$work/runc" list -q); do runc --root "$work/runc" delete -f "$id" 2>/dev/null & done; wait; }
bayplan_clear() { bayplan $socket rm -f "$@" >/dev/null; }

# Taken in turns, so that a busy moment of the machine meets both.
echo "bench: detached starts" >&2
: >floor.ms; : >ours.ms
for n in $(seq "$rounds"); do
  took runc_start "$((n % 40 + 1))" >>floor.ms
  took bayplan $socket run -d $image "d$n" sleep 100000 >>ours.ms
  runc --root "$work/runc" delete -f "floor$((n % 40 + 1))"
  bayplan_clear "d$n"
done
row "start of a detached container, one at a time (ms)" "$(median <ours.ms)" "$(median <floor.ms)" "≤ 1.25 ×"

eight() { local n; for n in 1 2 3 4 5 6 7 8; do "$@" "$n" & done; wait; }
ours_eighth() { bayplan $socket run -d $image "e$1" sleep 100000; }
: >floor.ms; : >ours.ms
for n in 1 2 3 4 5; do
  took eight runc_start | awk '{ print $1 / 8 }' >>floor.ms
  took eight ours_eighth | awk '{ print $1 / 8 }' >>ours.ms
  runc_clear
  bayplan_clear e1 e2 e3 e4 e5 e6 e7 e8
done
row "the same, 8 at a time, per container (ms)" "$(median <ours.ms)" "$(median <floor.ms)" "≤ 1.25 ×"

echo "bench: one-shot runs" >&2
: >floor.ms; : >ours.ms
for n in $(seq "$rounds"); do
  took runc --root "$work/runc" run --bundle bundle/true "one$n" >>floor.ms
  took bayplan $socket run --rm $image "one$n" true >>ours.ms
done
row "one-shot run of \`true\` to its exit status (ms)" "$(median <ours.ms)" "$(median <floor.ms)" "≤ 1.5 ×"

echo "bench: further processes" >&2
runc_start 1; bayplan $socket run -d $image inside sleep 100000 >/dev/null
: >floor.ms; : >ours.ms
for n in $(seq "$rounds"); do
  took runc --root "$work/runc" exec floor1 true >>floor.ms
  took bayplan $socket exec inside true >>ours.ms
done
runc --root "$work/runc" delete -f floor1; bayplan_clear inside
row "\`exec\` of \`true\` in a running container, to its exit status (ms)" "$(median <ours.ms)" "$(median <floor.ms)" "≤ 1.3 ×"

# ---- a manifest renamed into the directory, until its container's process has made a file
echo "bench: manifests" >&2
: >floor.ms; : >ours.ms
say=': >/marks/up; exec sleep 100000'
up() { local turn; for turn in $(seq 5000); do [ ! -e marks/up ] || { rm marks/up; return; }; sleep 0.001; done; echo "the container is not up" >&2; return 1; }
bundle bundle/up sh -c "$say"
jq --arg marks "$work/marks" '.mounts += [{destination: "/marks", type: "bind", source: $marks, options: ["rbind"]}]' \
  bundle/up/config.json >bundle/up/new && mv bundle/up/new bundle/up/config.json
floor_up() { runc --root "$work/runc" run -d --bundle bundle/up up; up; }
ours_up() { mv "$work/next.yaml" "$work/m/up.yaml"; up; }
for n in $(seq "$rounds"); do
  took floor_up >>floor.ms
  runc --root "$work/runc" delete -f up
  cat >next.yaml <<MANIFEST
apiVersion: bayplan.dev/v1
kind: Container
metadata: {name: up$n}
spec: {image: '$image', command: [sh, -c, '$say'], mounts: ['$work/marks:/marks'], terminationGracePeriodSeconds: 0}
MANIFEST
  took ours_up >>ours.ms
  rm -f m/up.yaml
  bayplan $socket wait "container/up$n" --for deleted --timeout 60s >/dev/null 2>&1 || true
done
# A rename is acted on 10 ms after its event; the debounce of 50 ms is for files written in place.
row "manifest renamed into the directory → process running (ms)" "$(median <ours.ms)" "$(median <floor.ms)" \
  "≤ 50 ms debounce + 1.5 ×"

bench_stop
bench_restart
bench_log

# ---- forty containers
echo "bench: forty containers" >&2
for n in $(seq 40); do bayplan $socket run -d $image "f$n" sleep 100000 >/dev/null; done
row "\`get containers\` of 41, process start included (ms)" "$(each bayplan $socket get containers)" "" "≤ 10 ms"
memory() { awk -v key="$2:" '$1 == key { print $2 / 1024 }' "/proc/$1/$3"; }
row "daemon resident with 41 containers (MB)" "$(memory "$daemon" VmRSS status)" "" "≤ 25 MB"
shims=$(for pid in $(pgrep -x bayplan-shim); do case $(readlink "/proc/$pid/cwd") in "$work"/*) echo "$pid" ;; esac; done)
pss=$(for pid in $shims; do memory "$pid" Pss smaps_rollup; done | awk '{ sum += $1 } END { if (NR) printf "%.3f", sum / NR }')
ticks() { local pid sum=0; for pid in $daemon $shims; do sum=$((sum + $(tick "$pid"))); done; echo $sum; }
sleep 3
before=$(ticks) own=$(tick "$daemon")
sleep 20
row "processor ticks of daemon and shims in 20 idle seconds" "$(($(ticks) - before)) (daemon $(($(tick "$daemon") - own)))" "" "0"
bench_shims

# ---- peers, where they are installed
if [ "${PEERS:-0}" = 1 ] && command -v containerd >/dev/null && command -v ctr >/dev/null; then
  containerd --root "$work/c/root" --state "$work/c/state" --address "$work/c/sock" >/dev/null 2>&1 &
  containerd=$!
  ctr="ctr -a $work/c/sock"
  until $ctr version >/dev/null 2>&1; do sleep 0.1; done
  $ctr images import bench.tar >/dev/null
  row "containerd $(containerd --version | awk '{ print $3 }'): detached start (ms)" "$(each $ctr run -d $image "p@N" sleep 100000)" "" "for comparison"
  for n in $(seq "$rounds"); do $ctr tasks kill -s 9 "p$n"; done 2>/dev/null || true
  for n in $(seq "$rounds"); do $ctr tasks rm -f "p$n"; $ctr containers rm "p$n"; done >/dev/null 2>&1 || true
fi
if [ "${PEERS:-0}" = 1 ] && command -v podman >/dev/null; then
  podman="podman --root $work/p/root --runroot $work/p/run --runtime runc"
  $podman load -q -i bench.tar >/dev/null
  row "podman $(podman --version | awk '{ print $3 }'): detached start (ms)" \
    "$(each $podman run -d --network none --name "p@N" $image sleep 100000)" "" "for comparison"
  $podman rm -f -t 0 -a >/dev/null 2>&1 || true
fi

{
  echo "Medians of $rounds, $(date -u +%Y-%m-%d), $(nproc) processors, Linux $(uname -r), runc $(runc --version | awk 'NR == 1 { print $3 }'), cgroup $([ -e /sys/fs/cgroup/cgroup.controllers ] && echo v2 || echo v1)."
  echo
  echo "| work | bayplan | floor: runc | ratio | target |"
  echo "| --- | --- | --- | --- | --- |"
  printf '%s\n' "${rows[@]}"
} | tee "${BENCH_OUT:-/dev/null}"
