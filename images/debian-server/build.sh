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
# `openssl passwd -6 -salt collective` of "collective" and "person": a demo appliance, its passwords are in its notes.
root_hash='$6$collective$L8Q/G44nXyFGfwJhnR/iGbcXLWLDx/mf0Mdz7zkC/FCY2E/tucuiBaLRFRPzhdf9fC3SN4B4bjcqGekEuKv6o1'
person_hash='$6$collective$GA7o5K0EZi.41kd9J24gq8eczuIs1v4amcxFwrlLdEyge3uFH3uq7a6gH9SRFJLgUdCuXzCkspTcrJ09EEC2p.'

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
# What the guest's files are packed by; those of the initrd must be there before the kernel is installed.
pack() { tar -C "$here/guest" --sort=name --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' --mtime="@$SOURCE_DATE_EPOCH" -cf "$work/$1.tar" "$2"; }
pack guest .
pack initrd etc/tiny-initramfs
options=()
while read -r line; do [[ -z $line ]] || options+=("--aptopt=$line"); done < <(apt_options)
while read -r line; do [[ $line == \#* || -z $line ]] || options+=("--dpkgopt=$line"); done <"$here/guest/etc/dpkg/dpkg.cfg.d/20appliance"
{ apt_options image; } >"$work/90sources"
# The hooks run outside the new root, which is "$1" to them.
cat >"$work/finish" <<'HOOK'
set -eu
root="$1"
in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" "$@"; }
in_root groupadd -g 1000 person
in_root useradd -u 1000 -g 1000 -G sudo,systemd-journal -m -s /bin/bash -p "$PERSON_HASH" person
in_root usermod -p "$ROOT_HASH" root
in_root systemctl enable systemd-networkd.service systemd-resolved.service ephemeral.service
in_root systemctl disable systemd-networkd-wait-online.service
# Work that a system which is thrown away at each start, or a virtual machine, does not need.
in_root systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer systemd-random-seed.service systemd-machine-id-commit.service systemd-journal-flush.service \
  systemd-pstore.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
  systemd-network-generator.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service >/dev/null
in_root ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
in_root mkdir -p /ephemeral
# apt works before the ephemeral disk is there, too.
in_root install -d /ephemeral/apt/cache/archives /ephemeral/apt/lists
in_root install -d -o _apt -m 0700 /ephemeral/apt/cache/archives/partial /ephemeral/apt/lists/partial
# Nothing of this build, and nothing that two machines must not share.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed" "$root/etc/apt/apt.conf.d/99mmdebstrap" \
  "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root"/etc/*- "$root"/var/lib/dpkg/*-old "$root"/var/cache/debconf/*-old "$root/etc/.pwd.lock"
rm -rf "$root"/var/lib/apt/lists "$root"/var/cache/apt "$root"/var/cache/ldconfig "$root"/etc/ssh/ssh_host_* "$root"/tmp/* "$root"/var/tmp/*
mkdir -p "$root/var/lib/apt/lists" "$root/var/cache/apt/archives"
find "$root/var/log" -type f -delete
# systemd compares these with /usr to see whether it was updated offline: it was not.
touch "$root/etc/.updated" "$root/var/.updated"
HOOK
ROOT_HASH="$root_hash" PERSON_HASH="$person_hash" mmdebstrap --mode="$mode" --variant=minbase --components=main \
  --include="$(IFS=,; echo "${packages[*]}")" --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
  "${options[@]}" \
  --essential-hook="tar-in \"$work/initrd.tar\" /" \
  --customize-hook="tar-in \"$work/guest.tar\" /" \
  --customize-hook="upload \"$work/90sources\" /etc/apt/apt.conf.d/90sources" \
  --customize-hook="$(<"$work/finish")" \
  "$release" - - <<<"$sources" >"$work/root.tar"

say "making the disks"
# fakeroot lets tar and mke2fs see owners and modes that this user may not set.
mbr_disk "$work/system.raw" "$system_bytes" 83
# shellcheck disable=SC2016 # expanded by the inner shell
SYSTEM_BYTES="$system_bytes" USER_BYTES="$user_bytes" SYSTEM_UUID="$system_uuid" USER_UUID="$user_uuid" fakeroot bash -euc '
  cd "$1"
  mkdir root home
  tar -C root --numeric-owner --exclude="./dev/*" -xpf root.tar
  mv root/home/person home/
  chmod 755 root/home
  make_fs() {
    mke2fs -q -F -t ext4 -b 4096 -I 256 -O ^metadata_csum_seed,^orphan_file -m 1 -L "$3" -U "$4" -d "$5" \
      -E "offset=$6,hash_seed=$4,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard" "$1" "$2"
  }
  make_fs system.raw "$((SYSTEM_BYTES / 1024 - 1024))k" system "$SYSTEM_UUID" root 1048576
  truncate -s "$USER_BYTES" user.raw
  make_fs user.raw "$((USER_BYTES / 1024))k" home "$USER_UUID" home 0
' bash "$work"
grub_bios "$work/system.raw" ext2
fallocate --dig-holes "$work/system.raw"
fallocate --dig-holes "$work/user.raw"
cp "$here/appliance.json" "$work/appliance.json"

"$here/verify.sh" "$work"
mv -f "$work/system.raw" "$work/user.raw" "$work/appliance.json" "$out/"
echo "$digest" >"$out/.stamp"
say "done: $(du -h --apparent-size "$out/system.raw" | cut -f1) system disk ($(du -h "$out/system.raw" | cut -f1) used) in $out"
