#!/bin/sh
# In the guest: end-to-end tests. core.sh v1|v2 FILTER…
set -eu
wanted=$1; shift
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then cgroup=v2; else cgroup=v1; fi
[ "$cgroup" = "$wanted" ] || { echo "booted with cgroup $cgroup, not $wanted"; exit 1; }
modprobe overlay
echo "kernel $(uname -r), cgroup $cgroup, $(runc --version | head -n 1)"
# Emulated processors are slow; two tests at a time keep deadlines honest.
BAYPLAN_BIN=/usr/local/bin/bayplan BAYPLAN_TEST_PATIENCE=8 exec /e2e --test-threads=2 "$@"
