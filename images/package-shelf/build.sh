#!/usr/bin/env bash
# Builds a disk of Debian packages that a debian-server guest can install from without any network:
#
#   images/package-shelf/build.sh OUTDIR SYSTEM_RAW [--rebuild]
#
# SYSTEM_RAW is the system disk of images/debian-server: what it has installed decides what is missing. OUTDIR gets
#
#   shelf.raw      ext4 without partitions, label `shelf`: the .debs and their `Packages` index (`deb [trusted=yes] copy:/… ./`)
#   contents.md5   what the packages contain: "PACKAGE  MD5  /path" of every regular file, taken from the .debs by md5sum.
#                  It judges a guest from outside; it is not on the disk.
#
# No root, no mount. The packages come from this machine's own Debian sources.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=images/tools/common.sh
. "$here/../tools/common.sh"

# Small and large packages, many files and few, with and without maintainer scripts; fio is a judge of its own.
packages=(fio git vim python3-minimal build-essential sqlite3)
shelf_uuid=c0111ec7-1e5e-4d15-8b00-000000000005

usage() { die "usage: build.sh OUTDIR SYSTEM_RAW [--rebuild]"; }
out='' system='' rebuild=''
while (($#)); do
  case "$1" in
    --rebuild) rebuild=yes ;;
    -*) usage ;;
    *) if [[ -z $out ]]; then out="$1"; elif [[ -z $system ]]; then system="$1"; else usage; fi ;;
  esac
  shift
done
[[ -n $out && -r $system ]] || usage
need_packages e2fsprogs dpkg

mkdir -p "$out"
one_build_of "$out"
out="$(cd "$out" && pwd)"
digest="$(inputs_digest "$here" "$here/../tools/common.sh")-$(stat -c '%s-%Y' "$system")"
if [[ -z $rebuild ]] && up_to_date "$out" "$digest" shelf.raw contents.md5; then
  say "up to date: $out"
  exit 0
fi
rm -f "$out/.stamp"
work="$(mktemp -d "$out/.build-XXXXXX")"
trap 'rm -rf "$work"' EXIT

# What the guest has: its dpkg status, out of the partition that starts at 1 MiB.
dd if="$system" of="$work/partition.raw" bs=1M skip=1 conv=sparse status=none
debugfs -R "dump /var/lib/dpkg/status $work/status" "$work/partition.raw" 2>"$work/log"
rm "$work/partition.raw"
[[ -s $work/status ]] || die "no dpkg status in $system: $(<"$work/log")"

say "fetching ${packages[*]} and what they need"
mkdir -p "$work/shelf" "$work/archives/partial"
apt-get -qq -o "Dir::State::status=$work/status" -o "Dir::Cache::archives=$work/archives" -o Debug::NoLocking=1 \
  -o APT::Install-Recommends=false -o APT::Sandbox::User= --download-only -y install "${packages[@]}" >"$work/log" 2>&1 \
  || { tail -n 20 "$work/log" >&2; die "apt-get failed"; }
mv "$work"/archives/*.deb "$work/shelf/"

say "indexing $(find "$work/shelf" -name '*.deb' | wc -l) packages"
cd "$work/shelf"
for deb in *.deb; do
  dpkg-deb -f "$deb"
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
  mkdir "$work/tree"
  # Unpacked as whoever runs this: only names and contents count here.
  dpkg-deb --fsys-tarfile "$deb" | tar -C "$work/tree" --no-same-owner --no-same-permissions -xf -
  package="$(dpkg-deb -f "$deb" Package)"
  (cd "$work/tree" && find . -type f -print0 | sort -z | xargs -0 -r md5sum) | sed "s|^|$package  |; s|  \./|  /|" >>"$work/contents.md5"
  rm -rf "$work/tree"
done >Packages
find . -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
cd "$work"

mib=$(($(du -sm --apparent-size shelf | cut -f1) * 11 / 10 + 16))
truncate -s "${mib}M" shelf.raw
mke2fs -q -F -t ext4 -b 4096 -O ^metadata_csum_seed,^orphan_file,^has_journal -m 0 -L shelf -U "$shelf_uuid" \
  -E lazy_itable_init=0,root_owner=0:0,hash_seed="$shelf_uuid" -d shelf shelf.raw
e2fsck -fn shelf.raw >/dev/null 2>&1 || die "e2fsck finds errors on the new disk"
mv -f shelf.raw contents.md5 "$out/"
echo "$digest" >"$out/.stamp"
say "done: $(du -h --apparent-size "$out/shelf.raw" | cut -f1) in $out, $(wc -l <"$out/contents.md5") files"
