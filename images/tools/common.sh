# shellcheck shell=bash
# What the recipes share: messages, the check for needed Debian packages, the machine's own Debian sources,
# the stamp that makes a second build quick, and the making of a disk that boots by BIOS without root.
# Source it after `set -euo pipefail`.

# One fixed date in every file and file system, so that the same packages give the same image.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1750000000}"
# mke2fs and debugfs of Debian 12 know the older name only.
export E2FSPROGS_FAKE_TIME="$SOURCE_DATE_EPOCH"
export LC_ALL=C.UTF-8 TZ=UTC
PATH="$PATH:/usr/sbin:/sbin"

say() { printf '%s: %s\n' "${0##*/images/}" "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# need_packages NAME…: stops with the command that installs what is missing.
need_packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^ii' || missing+=("$name")
  done
  ((${#missing[@]} == 0)) || die "missing Debian packages; install them with: apt-get install ${missing[*]}"
}

# debian_sources: prints the machine's own Debian sources of one release as sources.list lines. Other vendors'
# sources are left out: an image holds Debian only. The host names come from this machine, never from this script.
debian_sources() {
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg lines
  [[ -r $keyring ]] || die "missing $keyring; install it with: apt-get install debian-archive-keyring"
  # shellcheck disable=SC2016 # apt expands these names, not the shell
  lines="$(apt-get indextargets --format '$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)' 'Created-By: Packages' \
    | awk -F'|' -v release="$1" '$1 == "Debian" && ($3 == release || index($3, release "-") == 1) { print "#" $2, $3, $4 }' | sort -u)"
  grep -q " $1 " <<<"$lines" || die "apt on this machine knows no package list of Debian '$1'; run: apt-get update"
  grep -q '//[^/ ]*@' <<<"$lines" && die "a Debian source of this machine holds a password, which would end up in the image"
  printf '%s\n' "${lines//#/deb [signed-by=$keyring] }"
}

# apt_options: the machine's apt settings that reading its sources needs, as `Name "value";` lines. With `image`,
# only those that may be left in an image (a proxy is a matter of the building machine).
apt_options() {
  local wanted='Check-Valid-Until|Check-Date'
  [[ ${1:-} == image ]] || wanted="$wanted|https?::Proxy|Retries"
  apt-config dump | { grep -E "^Acquire::($wanted)[ :]" || true; }
}

# inputs_digest PATH…: one digest over the names and contents of files and folders, for the stamp.
inputs_digest() {
  find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

# up_to_date OUTDIR DIGEST FILE…: true when OUTDIR holds all the files, made from the same inputs.
up_to_date() {
  local dir="$1" digest="$2" file
  [[ -r $dir/.stamp && $(<"$dir/.stamp") == "$digest" ]] || return 1
  shift 2
  for file in "$@"; do [[ -e $dir/$file ]] || return 1; done
}

# one_build_of OUTDIR: waits until no other build of the folder is under way, and keeps others waiting until this one ends.
one_build_of() {
  local lock
  exec {lock}>"$1/.lock"
  flock "$lock"
}

# mbr_disk FILE BYTES TYPE: a sparse MBR disk with one bootable partition from 1 MiB to the end.
mbr_disk() {
  rm -f "$1"
  truncate -s "$2" "$1"
  printf 'label: dos\nlabel-id: 0x434f4c4c\nstart=2048, type=%s, bootable\n' "$3" | sfdisk --quiet "$1"
}

# grub_bios FILE MODULE…: GRUB's boot.img into sector 0 (all but the partition table) and a core.img into the gap
# behind it. It reads /boot/grub/grub.cfg of the first partition of the disk that the firmware started.
grub_bios() {
  local disk="$1" core="$1.core"
  shift
  grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$core" biosdisk part_msdos normal configfile linux "$@"
  (($(stat -c %s "$core") <= 2047 * 512)) || die "core.img does not fit before the first partition"
  dd if=/usr/lib/grub/i386-pc/boot.img of="$disk" bs=440 count=1 conv=notrunc status=none
  dd if="$core" of="$disk" bs=512 seek=1 conv=notrunc status=none
  rm -f "$core"
}
