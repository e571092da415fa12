#!/usr/bin/env bash
# Prints the directory that holds the guest's base: disk, kernel, initrd. Builds it first where there is none
# (about two minutes, once; as root). Another list of packages, or another agent, is another base.
#
# BAYPLAN_VM_CACHE is where bases are kept, BAYPLAN_VM_PACKAGES adds Debian packages to this one.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
suite=bookworm
packages="systemd systemd-sysv dbus udev kmod linux-image-cloud-amd64 initramfs-tools apparmor procps iproute2 attr \
 runc containerd busybox-static docker-registry containernetworking-plugins skopeo umoci apache2-utils zstd jq strace make ca-certificates ${BAYPLAN_VM_PACKAGES:-}"

cache=${BAYPLAN_VM_CACHE:-${XDG_CACHE_HOME:-/var/tmp}/bayplan-test-vm}
id=$({ echo "$suite" $packages; cat "$here/guest/agent" "$here/guest/agent.service" "${BASH_SOURCE[0]}"; } | sha256sum | cut -c1-12)
base=$cache/$id
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ -d "$base" ]; then echo "$base"; exit; fi

echo "vm: building the guest's base, once (about two minutes)" >&2
[ "$(id -u)" = 0 ] || { echo "vm: building the base needs root" >&2; exit 1; }
made=$(mktemp -d "$cache/making.XXXXXX")
trap 'rm -rf "$made"' EXIT
root=$made/root

# The mirror and proxy that apt uses on this machine, else Debian's own.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null \
  | awk -v suite="$suite" '$2 == suite && $3 == "main" && $1 ~ /^http/ { print $1; exit }' || true)
eval "$(apt-config shell proxy Acquire::http::Proxy 2>/dev/null || true)"
[ -z "${proxy:-}" ] || export http_proxy=$proxy
if ! debootstrap --variant=minbase --include="$(echo $packages | tr ' ' ,)" "$suite" "$root" \
  ${mirror:+"$mirror"} >"$made/log" 2>&1; then
  tail -n 15 "$made/log" "$root/debootstrap/debootstrap.log" >&2 || true
  exit 1
fi

rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
echo '/dev/vda / ext4 rw,noatime 0 1' >"$root/etc/fstab"
echo bay >"$root/etc/hostname"
echo '127.0.0.1 localhost bay' >"$root/etc/hosts"
mkdir -p "$root/var/log/journal"
for unit in containerd.service docker-registry.service serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer \
  e2scrub_all.timer fstrim.timer systemd-timesyncd.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
install -m 0755 "$here/guest/agent" "$root/usr/local/sbin/agent"
install -m 0644 "$here/guest/agent.service" "$root/etc/systemd/system/agent.service"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../agent.service "$root/etc/systemd/system/multi-user.target.wants/agent.service"

mkdir "$made/base"
cp "$root"/boot/vmlinuz-* "$made/base/kernel"
cp "$root"/boot/initrd.img-* "$made/base/initrd"
mke2fs -q -t ext4 -m 1 -E lazy_itable_init=1 -d "$root" "$made/base/disk" 8G >/dev/null
mv "$made/base" "$base"
# Bases of older lists that nothing has used for a week.
find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime +7 ! -name "$id" -exec rm -rf {} + || true
echo "$base"
