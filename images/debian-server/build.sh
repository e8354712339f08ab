#!/usr/bin/env bash
# Builds the Debian 12 server appliance from Debian's packages, without root (and also as root):
#
#   images/debian-server/build.sh OUTDIR [--rebuild] [--mode root|unshare|fakechroot]
#
# OUTDIR gets system.raw (the system disk, MBR, boots by BIOS), user.raw (the initial user disk, for /home) and
# appliance.json (machine description and disks). The ephemeral disk is formatted by the guest at its first start.
# When the recipe and this machine's package sources are those of the last build, nothing is done; --rebuild takes
# the packages of today.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=images/tools/common.sh
. "$here/../tools/common.sh"

release=bookworm
system_bytes=$((2 << 30))
user_bytes=$((1 << 30))
# grub.cfg names the system's file system by this UUID, fstab the user's by its label.
system_uuid=c0111ec7-1e5e-4d15-8b00-000000000001
user_uuid=c0111ec7-1e5e-4d15-8b00-000000000002
packages=(
  linux-image-amd64 tiny-initramfs
  systemd systemd-sysv systemd-resolved udev dbus libpam-systemd qemu-guest-agent
  apt ca-certificates e2fsprogs iproute2 iputils-ping kmod less login nano netbase passwd procps sudo tzdata
)

usage() { die "usage: build.sh OUTDIR [--rebuild] [--mode root|unshare|fakechroot]"; }
out='' rebuild='' mode=''
while (($#)); do
  case "$1" in
    --rebuild) rebuild=yes ;;
    --mode) mode="${2:-}"; shift || usage ;;
    -*) usage ;;
    *) [[ -z $out ]] || usage; out="$1" ;;
  esac
  shift
done
[[ -n $out ]] || usage

need_packages mmdebstrap fakeroot e2fsprogs fdisk grub-common grub-pc-bin debian-archive-keyring

# The whole of mmdebstrap needs to look like root to the packages' scripts. As root it is root (a chroot). Otherwise a
# user namespace does it exactly, when newuidmap and a range in /etc/subuid are there; fakechroot needs neither.
if [[ -n $mode ]]; then why='as asked'
elif ((EUID == 0)); then mode=root why='run as root'
elif command -v newuidmap >/dev/null && grep -q "^$(id -un):" /etc/subuid 2>/dev/null && unshare -U true 2>/dev/null; then
  mode=unshare why='user namespaces and a range in /etc/subuid'
else mode=fakechroot why='no root, and no newuidmap or range in /etc/subuid'
fi
[[ $mode != fakechroot ]] || need_packages fakechroot
[[ $mode != unshare ]] || need_packages uidmap

mkdir -p "$out"
one_build_of "$out"
out="$(cd "$out" && pwd)"
sources="$(debian_sources "$release")"
digest="$(inputs_digest "$here" "$here/../tools/common.sh")-$(sha256sum <<<"$sources$SOURCE_DATE_EPOCH" | cut -c1-16)"
if [[ -z $rebuild ]] && up_to_date "$out" "$digest" system.raw user.raw appliance.json; then
  say "up to date: $out"
  exit 0
fi

rm -f "$out/.stamp"
work="$(mktemp -d "$out/.build-XXXXXX")"
trap 'rm -rf "$work"' EXIT

say "installing packages (mmdebstrap --mode=$mode: $why)"
tar -C "$here/guest" --sort=name --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' --mtime="@$SOURCE_DATE_EPOCH" \
  --exclude=./etc/apt -cf "$work/guest.tar" .
options=()
while read -r line; do [[ -z $line ]] || options+=("--aptopt=$line"); done < <(apt_options)
while read -r line; do [[ $line == \#* || -z $line ]] || options+=("--dpkgopt=$line"); done <"$here/guest/etc/dpkg/dpkg.cfg.d/20appliance"
# The guest's own files come before the kernel (whose initrd they describe) and again after the packages, whose
# defaults they replace. Its apt settings wait until mmdebstrap has ended, and so does every removal: mmdebstrap's
# apt is steered by files in the new root, without which its clean-up would empty this machine's package lists.
mmdebstrap --mode="$mode" --variant=minbase --components=main \
  --include="$(IFS=,; echo "${packages[*]}")" --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
  "${options[@]}" --essential-hook="tar-in \"$work/guest.tar\" /" --customize-hook="tar-in \"$work/guest.tar\" /" \
  --customize-hook="$(<"$here/customize.sh")" "$release" - - <<<"$sources" >"$work/root.tar" 2>"$work/log" \
  || { cp "$work/log" "$out/build.log"; tail -n 40 "$work/log" >&2; die "mmdebstrap failed; all of its output is in $out/build.log"; }

say "making the disks"
mbr_disk "$work/system.raw" "$system_bytes" 83
truncate -s "$user_bytes" "$work/user.raw"
apt_options image >"$work/90sources"
export here system_bytes system_uuid user_bytes user_uuid
# fakeroot lets tar and mke2fs see owners and modes that this user may not set.
fakeroot "$here/disks.sh" "$work"
grub_bios "$work/system.raw" ext2 setpci test
fallocate --dig-holes "$work/system.raw"
fallocate --dig-holes "$work/user.raw"
cp "$here/appliance.json" "$work/appliance.json"

"$here/verify.sh" "$work"
mv -f "$work/system.raw" "$work/user.raw" "$work/appliance.json" "$out/"
echo "$digest" >"$out/.stamp"
say "done: $(du -h --apparent-size "$out/system.raw" | cut -f1) system disk ($(du -h "$out/system.raw" | cut -f1) used) in $out"
