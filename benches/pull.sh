#!/usr/bin/env bash
# Measures pull and unpacking from a registry on this machine beside `tar -xz` of the same layers in one run, and prints a
# Markdown table of medians: pull.sh DIRECTORY-OF-THE-BINARIES IMAGES   (`make bench` builds and calls it).
#
# IMAGES is where the images are made at the first run (benches/images.sh), and kept. ROUNDS (default 5) is how often each
# thing is measured. PEERS=1 measures containerd and podman too, where they are installed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "${1:?where the binaries are}" && pwd)
mkdir -p "${2:?where the images are}"
images=$(cd "$2" && pwd)
PATH=$bin:$PATH:/usr/sbin:/sbin
export LC_ALL=C
rounds=${ROUNDS:-5}
[ "$(id -u)" = 0 ] || { echo "bench: needs root" >&2; exit 1; }
for tool in docker-registry skopeo jq; do command -v $tool >/dev/null || { echo "bench: $tool is missing" >&2; exit 1; }; done
"$here/images.sh" "$images"

work=$(mktemp -d /tmp/bayplan-bench.XXXXXX)
cd "$work"
mkdir -p m s
registry='' containerd='' daemon=''
# Daemons that clean up when they are asked to, and are waited for.
finish() { local pid; for pid in "$@"; do kill "$pid" && while kill -0 "$pid"; do sleep 0.02; done; done 2>/dev/null || true; }
cleanup() {
  trap - EXIT INT TERM
  set +e
  finish $daemon $containerd $registry
  for target in $(awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do umount -l "$target"; done
  cd / && rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

port=$((20000 + $$ % 10000))
cat >registry.yml <<YAML
version: 0.1
log: {level: info, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: '127.0.0.1:$port'}
YAML
docker-registry serve registry.yml >registry.log 2>&1 &
registry=$!
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do kill -0 $registry || { cat registry.log >&2; exit 1; }; sleep 0.05; done
for name in real small large; do
  skopeo --insecure-policy copy --quiet --preserve-digests --dest-tls-verify=false "oci:$images/$name:bench" "docker://127.0.0.1:$port/bench/$name:1"
done

# Milliseconds of a command, its output thrown away.
took() {
  local from=${EPOCHREALTIME/./}
  "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || { echo "bench: $*: $(cat "$work/stderr")" >&2; exit 1; }
  local to=${EPOCHREALTIME/./}
  awk -v us=$((to - from)) 'BEGIN { printf "%.1f\n", us / 1000 }'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
rows=()
row() { # row WHAT VALUE FLOOR TARGET
  local ratio=''
  [ -z "$3" ] || ratio=$(awk -v a="$2" -v b="$3" 'BEGIN { printf "%.2f", a / b }')
  rows+=("| $1 | $2 | ${3:-–} | ${ratio:-–} | $4 |")
  echo "bench: $1: $2 (floor ${3:-none}, ratio ${ratio:-none}; target $4)" >&2
}
layers() { cut -d' ' -f1 "$images/$1/layers"; }

# The floors: two at a time, each layer into a directory of its own; and one inflated into one file.
floor_tar() {
  local digest
  for digest in $(layers "$1"); do echo "$digest"; done |
    xargs -P 2 -I '{}' sh -c 'mkdir "d/floor/$2" && tar -xzf "$1/$2" -C "d/floor/$2" --numeric-owner -p' sh "$images/$1/blobs/sha256" '{}'
}
floor_write() { gzip -dc "$images/$1/blobs/sha256/$(layers "$1")" >d/floor/one; }
# A new directory each time, and nothing removed before the end: where many files were removed within the last minutes,
# ext4 looks for a free inode for milliseconds (`recently_deleted`), whoever asks.
turn=0
fresh() {
  turn=$((turn + 1))
  mkdir -p "$turn/floor"
  ln -sfn "$turn" d
  sync -f "$work"
}

# begin: a daemon with nothing in its root.
begin() {
  bayplan --manifests "$work/m" --root "$work/$turn/r" --state "$work/s" daemon >daemon.log 2>&1 &
  daemon=$!
  until [ -S s/bayplan.sock ]; do kill -0 $daemon || { cat daemon.log >&2; exit 1; }; sleep 0.02; done
}
end() { finish $daemon; daemon=''; rm -f s/bayplan.sock; }
ours() { bayplan --manifests "$work/m" --root "$work/$turn/r" --state "$work/s" pull -q "127.0.0.1:$port/bench/$1:${2:-1}"; }
measure() { # measure IMAGE FLOOR WHAT TARGET
  : >floor.ms; : >ours.ms
  for _ in $(seq "$rounds"); do
    fresh
    took "$2" "$1" >>floor.ms
    fresh
    begin
    took ours "$1" >>ours.ms
    end
  done
  row "$3" "$(median <ours.ms)" "$(median <floor.ms)" "$4"
}
measure real floor_tar "pull and unpack 4 layers of Debian, $(cd "$images/real/blobs/sha256" && cat $(layers real) | wc -c | awk '{ printf "%.0f", $1 / 1e6 }') MB packed (ms); floor: two \`tar -xz\` at a time" "≤ 0.65 ×"
real=$(median <ours.ms)
measure small floor_tar "the same, 6 layers of 5,000 small files (ms)" "≤ 1.0 ×"
measure large floor_write "the same, one layer of 400 MB (ms); floor: \`gzip -dc\` into a file" "≤ 1.2 ×"

# Peak memory of a daemon that pulled all three, one after the other.
fresh
begin
for name in real small large; do ours $name >/dev/null; done
row "peak memory of the daemon over the three (MB)" "$(awk '$1 == "VmHWM:" { printf "%.1f", $2 / 1024 }' /proc/$daemon/status)" "" "≤ 64 MB"
before=$(grep -c '"[A-Z]* /v2/bench/real' registry.log)
for _ in 1 2 3 4 5 6 7 8 9; do took ours real; done | median >again.ms
row "the same tag again, process start included (ms); requests: $((($(grep -c '"[A-Z]* /v2/bench/real' registry.log) - before) / 9))" "$(cat again.ms)" "" "≤ 10 ms, one HEAD"
end

# Ten pulls at once of images that share their layers, into an empty root: how often each blob crosses the wire.
# Each is the first one under a configuration of its own.
target() { jq -r "$1" "$2" | cut -d: -f2; }
put() { jq -c "$@" >doc; local digest; digest=$(sha256sum doc | cut -d' ' -f1); mv doc "shared/blobs/sha256/$digest"; echo "$digest $(stat -c %s "shared/blobs/sha256/$digest")"; }
mkdir -p shared/blobs/sha256
ln -s "$images"/real/blobs/sha256/* shared/blobs/sha256/
cp "$images/real/oci-layout" shared/
for n in 1 2 3 4 5 6 7 8 9 10; do
  manifest=$images/real/blobs/sha256/$(target '.manifests[0].digest' "$images/real/index.json")
  read -r digest size < <(put --arg n "$n" '.config.Labels.n = $n' "$images/real/blobs/sha256/$(target .config.digest "$manifest")")
  point='|= . + {digest: ("sha256:" + $digest), size: $size}'
  read -r digest size < <(put --arg digest "$digest" --argjson size "$size" ".config $point" "$manifest")
  jq -c --arg digest "$digest" --argjson size "$size" ".manifests[0] $point" "$images/real/index.json" >shared/index.json
  skopeo --insecure-policy copy --quiet --preserve-digests --dest-tls-verify=false "oci:shared:bench" "docker://127.0.0.1:$port/bench/shared:$n"
done
fresh
begin
before=$(wc -l <registry.log)
pulls=()
for n in 1 2 3 4 5 6 7 8 9 10; do ours shared "$n" >/dev/null & pulls+=($!); done
for pull in "${pulls[@]}"; do wait "$pull"; done
tail -n "+$((before + 1))" registry.log | sed -n 's|.*"GET /v2/bench/shared/blobs/\(sha256:[0-9a-f]*\) .*" 20[06] .*|\1|p' | sort | uniq -c | awk '{ print $1 }' >times
row "ten cold pulls at once of images of these 4 layers: times that each of $(wc -l <times) blobs crosses the wire, at most" "$(sort -n times | tail -n 1)" "" "1"
end

if [ "${PEERS:-0}" = 1 ] && command -v containerd >/dev/null && command -v ctr >/dev/null; then
  : >peer.ms
  for n in $(seq "$rounds"); do
    fresh
    containerd --root "$work/$turn/c" --state "$work/c/state" --address "$work/c/sock" >/dev/null 2>&1 &
    containerd=$!
    until ctr -a c/sock version >/dev/null 2>&1; do sleep 0.1; done
    took ctr -a c/sock images pull --plain-http "127.0.0.1:$port/bench/real:1" >>peer.ms
    finish $containerd
    containerd=''
  done
  row "containerd $(containerd --version | awk '{ print $3 }'): \`ctr pull\` of the first (ms); ratio: its time by ours" "$(median <peer.ms)" "$real" "≥ 3 ×"
fi
if [ "${PEERS:-0}" = 1 ] && command -v podman >/dev/null; then
  : >peer.ms
  for n in $(seq "$rounds"); do
    fresh
    podman="podman --root $work/$turn/p --runroot $work/p/run"
    took $podman pull -q --tls-verify=false "127.0.0.1:$port/bench/real:1" >>peer.ms
    $podman rmi -af >/dev/null 2>&1 || true
    rm -rf p
  done
  row "podman $(podman --version | awk '{ print $3 }'): \`podman pull\` of the first (ms); ratio: its time by ours" "$(median <peer.ms)" "$real" "for comparison"
fi

{
  echo "Medians of $rounds, $(date -u +%Y-%m-%d), $(nproc) processors, Linux $(uname -r), registry on the same machine."
  echo
  echo "| work | bayplan | floor | ratio | target |"
  echo "| --- | --- | --- | --- | --- |"
  printf '%s\n' "${rows[@]}"
} | tee "${BENCH_OUT:-/dev/null}"
