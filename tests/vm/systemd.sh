#!/bin/bash
# In the guest: bayplan as a service, from `make install` through restart, reload, kill and stop to two reboots,
# the second of them a crash.
set -euo pipefail
step() { echo "--- boot $BOOT, $(cut -d. -f1 /proc/uptime) s: $*"; }
fail() { echo "NOT TRUE: $*"; systemctl status --no-pager -n 40 bayplan || true; bayplan status || true; exit 1; }
wait_for() { local what=$1 end=$((SECONDS + 120)); shift; until "$@"; do [ $SECONDS -lt $end ] || fail "$what"; sleep 0.2; done; }
field() { bayplan -n "$1" get "container/$2" -o json 2>/dev/null | jq -r "(.items[0]? // .).status.$3"; }
is() { [ "$(field "$1" "$2" "$3")" = "$4" ]; }
everything_runs() { is shop web phase Running && is shop api phase Running && is office desk phase Running; }
pids() { echo "$(field shop web pid) $(field shop api pid) $(field office desk pid)"; }
active() { systemctl is-active --quiet bayplan; }
converged() { bayplan status >/dev/null 2>&1; }

if [ "$BOOT" -gt 1 ]; then
  step "everything declared runs again after the reboot"
  wait_for "the service is active" active
  wait_for "all containers run" everything_runs
  wait_for "status says converged" converged
  [ "$(cat /var/boot-id)" != "$(cat /proc/sys/kernel/random/boot_id)" ] || fail "this was a real reboot"
  cat /proc/sys/kernel/random/boot_id >/var/boot-id
  if [ "$BOOT" = 2 ]; then
    step "the reboot waited for no container and no shim, and each container heard its own stop signal"
    took=$(($(date +%s) - $(cut -d. -f1 /proc/uptime) - $(cat /var/asked-for-reboot)))
    [ "$took" -lt 60 ] || fail "the machine went down within a minute: $took s"
    [ "$(cat /srv/desk/heard)" = heard ] || fail "desk ended by SIGUSR1"
    step "the power goes out"
    sync
    echo b >/proc/sysrq-trigger
    sleep 60
  fi
  step "the manifest goes, and everything with it"
  rm /etc/bayplan/manifests/shop.yaml
  nothing() { [ -z "$(bayplan get containers -A -o name)" ]; }
  wait_for "nothing is left" nothing
  no_shim() { ! pgrep -x bayplan-shim >/dev/null; }
  wait_for "no shim is left" no_shim
  if grep -q ' /run/bayplan/' /proc/self/mountinfo; then fail "no mount is left: $(grep ' /run/bayplan/' /proc/self/mountinfo)"; fi
  step "make uninstall"
  (cd /project && make uninstall BIN_DIR=bin >/dev/null)
  [ ! -e /usr/local/bin/bayplan ] && [ -e /etc/bayplan/config.toml ] || fail "uninstall leaves the configuration only"
  echo "systemd: all passed"
  exit 0
fi

step "make install, enable --now"
cd /project
make install BIN_DIR=bin >/dev/null
bayplan config check
systemctl enable --now --quiet bayplan
active || fail "the service is active as soon as systemctl returns"
[ "$(stat -c %a /run/bayplan/bayplan.sock)" = 600 ] || fail "the socket is root's alone"
lsmod | grep -q ^overlay || fail "overlay is loaded"

step "a manifest dropped into /etc/bayplan/manifests runs"
mkdir -p /srv/images /srv/desk
sh image.sh /srv/images/busybox.tar registry.local/busybox:1.35
cat >/etc/bayplan/manifests/.new <<'MANIFEST'
apiVersion: bayplan.dev/v1
kind: BayPlan
metadata: {name: shop}
spec:
  namespaces:
    shop:
      images: [{archive: /srv/images/busybox.tar, reference: registry.local/busybox:1.35}]
      containers:
        web:
          image: registry.local/busybox:1.35
          command: [sleep, "1000000"]
          stopSignal: SIGKILL
          resources: {limits: {memory: 64Mi, cpu: 250m, pids: 30}}
        api: {image: registry.local/busybox:1.35, command: [sleep, "1000000"], stopSignal: SIGKILL}
    office:
      images: [{archive: /srv/images/busybox.tar, reference: registry.local/busybox:1.35}]
      containers:
        desk:
          image: registry.local/busybox:1.35
          command: [sh, -c, "trap 'echo heard >>/out/heard; exit 0' USR1; while :; do sleep 0.2; done"]
          mounts: ["/srv/desk:/out"]
          stopSignal: SIGUSR1
MANIFEST
mv /etc/bayplan/manifests/.new /etc/bayplan/manifests/shop.yaml
wait_for "all containers run" everything_runs
wait_for "status says converged" converged
bayplan get containers -A

step "limits, as the kernel has them"
cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(field shop web pid)/cgroup")
echo "$cgroup"
[ "$(cat "$cgroup/memory.max")" = $((64 << 20)) ] || fail "memory.max is 64 MiB: $(cat "$cgroup/memory.max")"
[ "$(cat "$cgroup/cpu.max")" = "25000 100000" ] || fail "cpu.max is a quarter: $(cat "$cgroup/cpu.max")"
[ "$(cat "$cgroup/pids.max")" = 30 ] || fail "pids.max is 30: $(cat "$cgroup/pids.max")"

before=$(pids)
main() { systemctl show -p MainPID --value bayplan; }
undisturbed() { wait_for "the service is active after $1" active; wait_for "all containers are known after $1" everything_runs
  [ "$(pids)" = "$before" ] || fail "$1 disturbs no container: $before, then $(pids)"; }
step "systemctl restart"
systemctl restart bayplan; undisturbed "a restart"
step "systemctl reload"
daemon=$(main); systemctl reload bayplan; undisturbed "a reload"
[ "$(main)" = "$daemon" ] || fail "a reload keeps the daemon"
step "kill -9 of the daemon"
kill -9 "$daemon"
another() { [ "$(main)" != 0 ] && [ "$(main)" != "$daemon" ]; }
wait_for "systemd starts another daemon" another; undisturbed "kill -9"
step "systemctl stop, start"
systemctl stop bayplan
for pid in $before; do kill -0 "$pid" || fail "containers go on while the service is stopped"; done
systemctl start bayplan; undisturbed "a stop and start"

cat /proc/sys/kernel/random/boot_id >/var/boot-id
step "reboot"
date +%s >/var/asked-for-reboot
exit 194
