#!/bin/sh
# Writes a small OCI image archive made from this machine's static busybox: image.sh FILE REFERENCE
# Needs nothing but a shell, tar and coreutils.
set -eu
umask 022
[ $# = 2 ] || { echo "usage: image.sh FILE REFERENCE" >&2; exit 2; }
file=$1 reference=$2
busybox=$(PATH=$PATH:/bin:/usr/bin command -v busybox) || { echo "image.sh: busybox is missing; install busybox-static" >&2; exit 1; }
if ldd "$busybox" >/dev/null 2>&1; then echo "image.sh: $busybox is dynamically linked; install busybox-static" >&2; exit 1; fi
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root layout=$work/layout
mkdir -p "$root/bin" "$root/etc" "$root/dev" "$root/proc" "$root/sys" "$root/root" "$root/srv" "$layout/blobs/sha256"
mkdir -m 1777 "$root/tmp"
cp -L "$busybox" "$root/bin/busybox"
chmod 0755 "$root/bin/busybox"
for applet in $("$busybox" --list); do
  case $applet in busybox) ;; *) ln -s busybox "$root/bin/$applet" ;; esac
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
echo 'hello from the bay' >"$root/srv/index.html"

# Moves a file into the layout under its digest, and leaves that digest and the size in $digest and $size.
blob() {
  size=$(wc -c <"$1") digest=$(sha256sum <"$1" | cut -d' ' -f1)
  mv "$1" "$layout/blobs/sha256/$digest"
}
tar -C "$root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$work/layer" .
blob "$work/layer"; layer=$digest layer_size=$size
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$arch" "$layer" >"$work/config"
blob "$work/config"; config=$digest config_size=$size
oci=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":%d},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"sha256:%s","size":%d}]}' \
  $oci $oci "$config" "$config_size" $oci "$layer" "$layer_size" >"$work/manifest"
blob "$work/manifest"
printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json","digest":"sha256:%s","size":%d,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
  $oci "$digest" "$size" "$reference" "$reference" >"$layout/index.json"
tar -C "$layout" --sort=name --owner=0 --group=0 --mtime=@0 -cf "$file" oci-layout index.json blobs
