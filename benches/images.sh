#!/usr/bin/env bash
# Makes the images that benches/pull.sh pulls, each an OCI layout under DIRECTORY, once: images.sh DIRECTORY
#
#   real   4 layers, some 160 MB in gzip: files of Debian packages as apt brings them
#   small  6 layers of 5,000 files of some hundred bytes to 4 KB
#   large  1 layer of 400 MB
set -euo pipefail
export LC_ALL=C
mkdir -p "${1:?where to}"
cd "$1"
say() { echo "bench: $*" >&2; }

pack() { tar --sort=name --numeric-owner --owner=0 --group=0 --mtime=@1700000000 -C "$1" -cf - . ; }

# layer LAYOUT: a tar on standard input becomes a blob; prints its descriptor and its diff ID.
layer() {
  local layout=$1 tar packed diff digest
  tar=$(mktemp -p .) packed=$(mktemp -p .)
  cat >"$tar"
  diff=$(sha256sum "$tar" | cut -d' ' -f1)
  gzip -n -6 <"$tar" >"$packed"
  digest=$(sha256sum "$packed" | cut -d' ' -f1)
  mkdir -p "$layout/blobs/sha256"
  chmod 644 "$packed"
  mv "$packed" "$layout/blobs/sha256/$digest"
  rm "$tar"
  echo "$digest $diff" >>"$layout/layers"
}

# seal LAYOUT: configuration, manifest and index over the layers so far, named "bench".
seal() {
  local layout=$1 config manifest
  put() { local digest; cat >"$layout/doc"; digest=$(sha256sum "$layout/doc" | cut -d' ' -f1); mv "$layout/doc" "$layout/blobs/sha256/$digest"; echo "$digest"; }
  size() { stat -c %s "$layout/blobs/sha256/$1"; }
  config=$(jq -Rcn '{architecture: "amd64", os: "linux", config: {}, rootfs: {type: "layers", diff_ids: [inputs | "sha256:" + (split(" ")[1])]}}' <"$layout/layers" | put)
  manifest=$(while read -r digest _; do echo "$digest $(size "$digest")"; done <"$layout/layers" |
    jq -Rcn --arg config "sha256:$config" --argjson size "$(size "$config")" '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $config, size: $size},
      layers: [inputs | split(" ") | {mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: ("sha256:" + .[0]), size: (.[1] | tonumber)}]}' | put)
  jq -cn --arg digest "sha256:$manifest" --argjson size "$(size "$manifest")" '{schemaVersion: 2, manifests: [{mediaType: "application/vnd.oci.image.manifest.v1+json",
    digest: $digest, size: $size, annotations: {"org.opencontainers.image.ref.name": "bench"}}]}' >"$layout/index.json"
  echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
}

# Packages that the roots need and that no earlier layer has, unpacked into the directory $1.
packages() {
  local into=$1; shift
  mkdir -p debs "$into"
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
    # Virtual packages have nothing to show.
    grep '^[a-z0-9]' | sort -u | xargs apt-cache show --no-all-versions 2>/dev/null | sed -n 's/^Package: //p' | sort -u >wanted
  touch had
  sort -u had -o had
  comm -23 wanted had >fresh
  while read -r name; do ls debs/"$name"_*.deb >/dev/null 2>&1 || echo "$name"; done <fresh >missing
  (cd debs && xargs -r apt-get download -q -o APT::Sandbox::User=root <../missing >/dev/null)
  while read -r name; do dpkg-deb -x "$(ls debs/"$name"_*.deb | head -n 1)" "$into"; done <fresh
  cat fresh >>had
}

if [ ! -e real/oci-layout ]; then
  say "making the image of Debian packages"
  rm -rf real roots had && mkdir -p roots
  packages roots/1 bash coreutils apt dpkg login passwd mount procps util-linux tar gzip perl ca-certificates
  packages roots/2 git nginx-light curl openssh-client python3
  packages roots/3 gcc
  packages roots/4 redis-server sqlite3 rsync
  for n in 1 2 3 4; do pack "roots/$n" | layer real; done
  seal real
fi
if [ ! -e small/oci-layout ]; then
  say "making the image of small files"
  rm -rf small few
  for n in 1 2 3 4 5 6; do
    rm -rf few
    for dir in $(seq 50); do
      mkdir -p "few/srv/$n/$dir"
      # Base 64 of noise, so that the inflater has work; another length in each directory.
      length=$((dir * 80))
      head -c $((length * 100)) /dev/urandom | base64 -w 76 >noise
      split -a 2 -d -n 100 noise "few/srv/$n/$dir/file-"
    done
    pack few | layer small
  done
  seal small
fi
if [ ! -e large/oci-layout ]; then
  say "making the image of one large layer"
  rm -rf large one && mkdir -p one/srv
  # What programs are made of, without the cost of many files: 16 files of 25 MB.
  (for digest in $(cut -d" " -f1 real/layers); do gzip -dc "real/blobs/sha256/$digest"; done 2>/dev/null || true) | head -c 400000000 | split -a 2 -d -b 25000000 - one/srv/part-
  [ "$(du -sb one | cut -f1)" -ge 400000000 ] || { echo "bench: the layers of the first are too few for 400 MB" >&2; exit 1; }
  pack one | layer large
  seal large
fi
rm -rf few one noise roots debs wanted fresh missing had
