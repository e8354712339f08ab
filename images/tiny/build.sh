#!/usr/bin/env bash
# Builds the tiny test appliance: kernel and busybox in an initrd on a bootable disk. No root, no installation.
#
#   images/tiny/build.sh OUTDIR [--firmware bios|uefi] [--rebuild]
#
# OUTDIR gets system.raw, user.raw (mounted at /home) and appliance.json. The disk starts by BIOS and by UEFI, from
# virtio, SATA and IDE; --firmware only says which firmware appliance.json asks for. When nothing has changed since
# the last build, nothing is done; --rebuild takes the packages of today.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=images/tools/common.sh
. "$here/../tools/common.sh"

release=bookworm
system_bytes=$((48 << 20))
user_bytes=$((64 << 20))

usage() { die "usage: build.sh OUTDIR [--firmware bios|uefi] [--rebuild]"; }
out='' rebuild='' firmware=bios
while (($#)); do
  case "$1" in
    --rebuild) rebuild=yes ;;
    --firmware) firmware="${2:-}"; shift || usage ;;
    -*) usage ;;
    *) [[ -z $out ]] || usage; out="$1" ;;
  esac
  shift
done
[[ -n $out && $firmware =~ ^(bios|uefi)$ ]] || usage

need_packages e2fsprogs fdisk mtools cpio zstd kmod fakeroot grub-common grub-pc-bin grub-efi-amd64-bin debian-archive-keyring

mkdir -p "$out"
one_build_of "$out"
out="$(cd "$out" && pwd)"
sources="$(debian_sources "$release")"
digest="$(inputs_digest "$here" "$here/../tools/common.sh")-$firmware-$(sha256sum <<<"$sources$SOURCE_DATE_EPOCH" | cut -c1-16)"
if [[ -z $rebuild ]] && up_to_date "$out" "$digest" system.raw user.raw appliance.json; then
  say "up to date: $out"
  exit 0
fi
rm -f "$out/.stamp"
work="$(mktemp -d "$out/.build-XXXXXX")"
trap 'rm -rf "$work"' EXIT

# unpack PACKAGE FOLDER: the newest version of a package that this machine's apt knows, not installed.
unpack() {
  mkdir -p "$work/deb" "$2"
  # apt's download user may not be allowed into the folder, which apt only notes.
  (cd "$work/deb" && apt-get -qq -o APT::Sandbox::User=root -t "$release" download "$1" >/dev/null) || die "apt-get download $1 failed"
  dpkg-deb -x "$work/deb/$1"_*.deb "$2"
  rm -f "$work/deb/$1"_*.deb
}

# initrd FLAVOUR MODULE…: kernel and initrd of linux-image-FLAVOUR into $work/disk.
initrd() {
  local flavour="$1" name="${1%-amd64}" package version root="$work/root-$1"
  name="${name/amd64/generic}"
  shift
  package="$(apt-cache depends "linux-image-$flavour" | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')"
  version="${package#linux-image-}"
  say "$package"
  unpack "$package" "$work/$flavour"
  depmod -b "$work/$flavour" "$version"
  cp -r "$here/guest" "$root"
  mkdir -p "$root/bin" "$root/modules"
  cp "$busybox" "$root/bin/busybox"
  ln -s busybox "$root/bin/sh"
  # What is built into one flavour's kernel may be a module of the other: modprobe knows.
  modprobe -d "$work/$flavour" -S "$version" --ignore-install --show-depends -a "$@" \
    | sed -n 's/^insmod //; s/ *$//p' | awk '!seen[$0]++' | while IFS= read -r file; do
      cp "$file" "$root/modules/"
      basename "$file"
    done >"$root/modules/order"
  cp "$work/$flavour/boot/vmlinuz-$version" "$work/disk/vmlinuz-$name"
  chmod -R u=rwX,go=rX "$root"
  chmod 755 "$root/init" "$root/etc/rc" "$root/etc/acpi/PWRF/00000080" "$root/etc/udhcpc.script" "$root/bin/busybox"
  find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  (cd "$root" && find . ! -name . -print0 | sort -z | cpio --null -o --quiet --reproducible -R 0:0 -H newc) \
    | zstd -q -19 >"$work/disk/initrd-$name"
}

unpack busybox-static "$work/busybox"
busybox="$work/busybox/bin/busybox"
mkdir -p "$work/disk/boot/grub" "$work/disk/EFI/BOOT"
initrd cloud-amd64 virtio_pci virtio_blk virtio_net virtio_console virtio_rng ata_piix sd_mod button evdev
initrd amd64 virtio_pci virtio_blk virtio_net virtio_console virtio_rng crc32c_generic ext4 ahci ata_piix sd_mod e1000 e1000e button evdev
cp "$here/grub.cfg" "$work/disk/boot/grub/grub.cfg"
grub-mkimage -O x86_64-efi -p /boot/grub -o "$work/disk/EFI/BOOT/BOOTX64.EFI" part_msdos fat normal configfile linux setpci test
find "$work/disk" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

say "making the disks"
mbr_disk "$work/system.raw" "$system_bytes" ef
mformat -i "$work/system.raw@@1M" -T $(((system_bytes - (1 << 20)) / 512)) -h 64 -s 32 -H 2048 -c 4 -N 434f4c4c -v TINY ::
# The kernels first and one after the other, so that each lies in one piece.
mcopy -i "$work/system.raw@@1M" -s -m "$work"/disk/{vmlinuz-cloud,initrd-cloud,boot,EFI,vmlinuz-generic,initrd-generic} ::/
grub_bios "$work/system.raw" fat setpci test
mkdir "$work/home"
truncate -s "$user_bytes" "$work/user.raw"
touch -d "@$SOURCE_DATE_EPOCH" "$work/home"
fakeroot mke2fs -q -F -t ext4 -b 4096 -I 256 -O ^metadata_csum_seed,^orphan_file -m 0 -L home -U c0111ec7-1e5e-4d15-8b00-000000000003 \
  -E "hash_seed=c0111ec7-1e5e-4d15-8b00-000000000003,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard" -d "$work/home" "$work/user.raw"
fallocate --dig-holes "$work/system.raw"
fallocate --dig-holes "$work/user.raw"
cp "$here/appliance.json" "$work/appliance.json"
# GRUB for UEFI finds no room for the generic kernel in 256 MiB.
[[ $firmware == bios ]] || sed -i 's/"firmware": "bios"/"firmware": "uefi"/; s/"memoryBytes": 268435456/"memoryBytes": 536870912/' "$work/appliance.json"

mv -f "$work/system.raw" "$work/user.raw" "$work/appliance.json" "$out/"
echo "$digest" >"$out/.stamp"
say "done: $(du -h --apparent-size "$out/system.raw" | cut -f1) system disk ($(du -h "$out/system.raw" | cut -f1) used) in $out"
