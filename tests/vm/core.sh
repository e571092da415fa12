#!/bin/sh
# In the guest: end-to-end tests, then the shim's own. core.sh v1|v2 FILTER… [-- FILTER…]
set -eu
wanted=$1; shift
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then cgroup=v2; else cgroup=v1; fi
[ "$cgroup" = "$wanted" ] || { echo "booted with cgroup $cgroup, not $wanted"; exit 1; }
modprobe overlay
echo "kernel $(uname -r), cgroup $cgroup, $(runc --version | head -n 1)"
# Emulated processors are slow; two tests at a time keep deadlines honest.
export BAYPLAN_BIN=/usr/local/bin/bayplan BAYPLAN_TEST_PATIENCE=8
tests=/e2e; failed=''
while [ $# -gt 0 ]; do
  filters=''
  while [ $# -gt 0 ] && [ "$1" != -- ]; do filters="$filters $1"; shift; done
  [ $# = 0 ] || shift
  "$tests" --test-threads=2 $filters || failed="$failed $tests"
  tests=/shim
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
