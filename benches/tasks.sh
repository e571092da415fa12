# What a running task costs: its end, its restart, its output, its shim. Read by run.sh, whose functions and variables
# these are.

# The process of a container of ours, or the shim's: what the shim last wrote down.
state_of() { cat "$work/s/tasks/default/$1/state.json"; }
gone() { local turn; for turn in $(seq 20000); do [ -e "/proc/$1" ] || return 0; sleep 0.001; done; return 1; }
# Until the container's state has each of the words.
until_state() {
  local name=$1 state turn word; shift
  for turn in $(seq 20000); do
    state=$(<"$work/s/tasks/default/$name/state.json")
    for word; do case $state in *"$word"*) ;; *) state=''; break ;; esac; done
    [ -z "$state" ] || return 0
    sleep 0.001
  done
  return 1
}

# A task that obeys SIGTERM at once: the signal alone against the whole verb.
bench_stop() {
  echo "bench: stops" >&2
  local n obeys='trap "exit 0" TERM; sleep 100000 & wait'
  floor_end() { kill -TERM "$1" && gone "$1"; }
  : >floor.ms; : >ours.ms
  for n in $(seq "$rounds"); do
    bayplan $socket run -d $image "s$n" sh -c "$obeys" >/dev/null
    bayplan $socket run -d $image "t$n" sh -c "$obeys" >/dev/null
    sleep 0.1
    took floor_end "$(state_of "s$n" | jq .pid)" >>floor.ms
    took bayplan $socket stop "t$n" >>ours.ms
    bayplan_clear "s$n" "t$n"
  done
  row "stop of a task that obeys (ms); floor: from the signal to the end of its process" "$(median <ours.ms)" "$(median <floor.ms)" "≤ its own exit + 20 ms"
}

# A process that is killed, until the next attempt runs, back-off of 10 ms included.
bench_restart() {
  echo "bench: restarts" >&2
  local n
  floor_end() { kill -9 "$1" && until_state "r$n" '"phase":"Running"' '"restarts":1,'; }
  : >floor.ms; : >ours.ms
  for n in $(seq "$rounds"); do
    took runc_start "$((n % 40 + 1))" >>floor.ms
    runc --root "$work/runc" delete -f "floor$((n % 40 + 1))"
    bayplan $socket run -d --restart always $image "r$n" sleep 100000 >/dev/null
    took floor_end "$(state_of "r$n" | jq .pid)" >>ours.ms
    bayplan_clear "r$n"
  done
  row "process killed → the next attempt runs (ms); floor: \`runc run -d\`" "$(median <ours.ms)" "$(median <floor.ms)" "≤ 10 ms back-off + 1.3 ×"
}

# A gigabyte of output from busybox's cat, into a file by coreutils' cat and into the log, in lines of several lengths. (The
# log has 40 bytes more for each of them.)
bench_log() {
  echo "bench: gigabytes of output" >&2
  local n shim before length what
  mkdir -p output
  # User and system time of the writer beside it, in milliseconds: times' second line is that of the children.
  floor_output() { busybox cat output/lines | { cat >output/copy; times >output/times; }; }
  ours_output() { : >marks/go; local turn; for turn in $(seq 20000); do [ ! -e marks/done ] || return 0; sleep 0.002; done; return 1; }
  spent() { awk 'NR == 2 { split($1, u, /[ms]/); split($2, s, /[ms]/); print (u[1] * 60 + u[2] + s[1] * 60 + s[2]) * 1000 }' output/times; }
  local say='while ! [ -e /marks/go ]; do sleep 0.01; done; cat /output/lines; : >/marks/done; exec sleep 100000'
  for length in 80 100 200 8192 none; do
    what="lines of $length bytes"
    if [ $length = none ]; then what="no line at all"; head -c 1000000000 /dev/zero | tr '\0' x
    else busybox yes "$(printf "%0$((length - 1))d" 0)" | head -c 1000000000 || true; fi >output/lines
    cat output/lines >/dev/null
    : >floor.ms; : >ours.ms; : >floor.cpu; : >ours.cpu
    for n in 1 2 3 4 5; do
      took floor_output >>floor.ms
      spent >>floor.cpu
      rm -f output/copy marks/go marks/done
      bayplan $socket run -d --mount "$work/output:/output:ro" --mount "$work/marks:/marks" $image "g$n" sh -c "$say" >/dev/null
      sleep 0.2
      shim=$(state_of "g$n" | jq .shimPid)
      before=$(tick "$shim")
      took ours_output >>ours.ms
      sleep 0.5
      echo $((($(tick "$shim") - before) * 10)) >>ours.cpu
      bayplan_clear "g$n"
    done
    row "1 GB in $what into the log, which is rotated (ms); floor: \`cat > file\`" "$(median <ours.ms)" "$(median <floor.ms)" "≤ 1.25 × (80 % of its speed)"
    row "the same, processor time of the shim and of \`cat\` (ms)" "$(median <ours.cpu)" "$(median <floor.cpu)" "≤ 1.5 ×"
  done
  rm -rf output
}

# Forty containers are up, and $shims are their shims.
bench_shims() {
  local pid before most=0 now floor='' id
  turns() { awk '/ctxt_switches/ { sum += $2 } END { print sum }' "/proc/$1/status"; }
  before=$(for pid in $shims; do echo "$pid $(turns "$pid")"; done)
  sleep 60
  while read -r pid now; do
    now=$(($(turns "$pid") - now))
    [ "$now" -le "$most" ] || most=$now
  done <<<"$before"
  row "wake-ups of a shim in an idle minute, the most of 41" "$most" "" "0"
  if command -v podman >/dev/null && command -v conmon >/dev/null; then
    local podman="podman --root $work/p40/root --runroot $work/p40/run --runtime runc"
    $podman load -q -i bench.tar >/dev/null
    # Its own limits need rights that not every node gives.
    for id in $(seq 40); do $podman run -d --network none --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --name "c$id" $image sleep 100000 >/dev/null; done
    floor=$(for pid in $(pgrep -x conmon); do
      ! grep -qz "$work/p40" "/proc/$pid/cmdline" || memory "$pid" Pss smaps_rollup
    done | awk '{ sum += $1 } END { if (NR) printf "%.3f", sum / NR }')
    $podman rm -f -t 0 -a >/dev/null 2>&1 || true
  fi
  row "memory of a shim (MB, PSS, mean of 41); floor: conmon's, under podman with 40 beside" "${pss:-?}" "$floor" "≤ 1 ×"
}
