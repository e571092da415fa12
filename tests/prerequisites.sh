#!/usr/bin/env bash
# Installs what is missing on a Debian 12 that has Rust: what builds, demonstrates, tests, boots and compares.
# Does nothing, and asks nobody, where everything is there already.
#
#   prerequisites.sh [build] [demo] [test] [vm] [bench]
#
# Packages come from apt (as root, or through sudo); cargo-deny, which Debian does not have, from cargo.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:$HOME/.cargo/bin

say() { printf 'prerequisites: %s\n' "$*" >&2; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# One word each: the command that must exist, and the package that brings it.
build="cc:gcc ld:binutils make:make"
demo="runc:runc busybox:busybox-static tar:tar ip:iproute2 mount:mount ps:procps"
test="$demo docker-registry:docker-registry skopeo:skopeo umoci:umoci podman:podman ctr:containerd htpasswd:apache2-utils jq:jq strace:strace setfattr:attr zstd:zstd"
vm="qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap mke2fs:e2fsprogs"
bench="$demo jq:jq docker-registry:docker-registry skopeo:skopeo"

missing_packages() {
  local pair
  for pair in $*; do command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"; done
  # A C compiler without the C library's headers builds nothing.
  case " $* " in *" cc:gcc "*) [ -e /usr/include/stdlib.h ] || echo libc6-dev ;; esac
  # The distribution's other busybox is dynamically linked and cannot be an image by itself.
  case " $* " in *" busybox:busybox-static "*)
    if command -v busybox >/dev/null && ldd "$(command -v busybox)" >/dev/null 2>&1; then echo busybox-static; fi ;; esac
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 "$@"; }

install_packages() {
  say "installing: $*"
  # The package docker-registry would start a registry on port 5000; tests start their own where they want it.
  case " $* " in *" docker-registry "*)
    if [ -d /run/systemd/system ]; then as_root systemctl mask --quiet docker-registry.service || true
      say "docker-registry.service is masked, so that no registry runs by itself (systemctl unmask brings it back)"; fi ;; esac
  apt update >/dev/null || apt update >/dev/null || say "apt-get update failed; trying with the lists as they are"
  local log; log=$(mktemp)
  if apt install --no-install-recommends "$@" >"$log" 2>&1; then rm -f "$log"; return; fi
  # A qemu-utils from backports is newer than bookworm's qemu-system-x86 and breaks it: bring both to one version.
  case " $* " in *" qemu-system-x86 "*)
    if apt install --no-install-recommends --allow-downgrades "$@" qemu-utils/bookworm >"$log" 2>&1; then rm -f "$log"; return; fi ;; esac
  tail -n 20 "$log" >&2; rm -f "$log"
  say "apt-get could not install: $*"
  exit 1
}

[ $# -gt 0 ] || set -- build test
wanted=()
for group in "$@"; do
  case $group in
    build|demo|test|vm|bench) wanted+=($(missing_packages ${!group})) ;;
    *) say "unknown group $group: one of build demo test vm bench"; exit 2 ;;
  esac
done
if [ ${#wanted[@]} -gt 0 ]; then
  mapfile -t wanted < <(printf '%s\n' "${wanted[@]}" | sort -u)
  install_packages "${wanted[@]}"
fi

case " $* " in *" build "*|*" test "*)
  command -v cargo >/dev/null || { say "cargo is not installed; https://rustup.rs installs Rust"; exit 1; }
  [ -z "$(command -v rustup)" ] || for part in rustfmt clippy; do
    cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$part" >/dev/null
  done ;;
esac

case " $* " in *" test "*)
  # Unoptimised it checks this project in seconds and is built in a third of the time.
  if ! cargo deny --version >/dev/null 2>&1; then
    say "installing: cargo-deny (built from source, once)"
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug cargo-deny
  fi ;;
esac
