#!/usr/bin/env bash
# The part of build.sh that runs under fakeroot: unpacks WORK/root.tar, takes out what an image must not hold, and
# makes the file systems of WORK/system.raw and WORK/user.raw from it.
set -euo pipefail
cd "$1"
: "${here:?}" "${system_bytes:?}" "${system_uuid:?}" "${user_bytes:?}" "${user_uuid:?}"

mkdir root home
tar -C root --numeric-owner --exclude='./dev/*' -xpf root.tar
rm root.tar
cd root
: >etc/machine-id
rm -rf var/lib/dbus/machine-id var/lib/systemd/random-seed etc/ssh/ssh_host_* etc/.pwd.lock etc/{passwd,shadow,group,gshadow,subuid,subgid}- \
  var/lib/dpkg/*-old var/cache/debconf/*-old var/cache/ldconfig var/cache/apt var/lib/apt/lists \
  etc/apt/apt.conf.d/99mmdebstrap etc/dpkg/dpkg.cfg.d/99mmdebstrap
find var/log -type f -delete
rm -rf var/log/journal
find tmp var/tmp run -mindepth 1 -delete
install -m 0644 "$here"/guest/etc/apt/apt.conf.d/* ../90sources etc/apt/apt.conf.d/
# apt works without the ephemeral disk, too.
mkdir -p ephemeral/apt/{cache/archives,lists}
install -d -m 0700 -o "$(awk -F: '$1 == "_apt" { print $3 }' etc/passwd)" ephemeral/apt/{cache/archives,lists}/partial
# systemd compares these with /usr to see whether it was updated offline: it was not.
touch etc/.updated var/.updated
mv home/person ../home/
chmod 0755 home
cd ..
find root home -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

# make_fs FILE KIB LABEL UUID FOLDER OFFSET. Everything is written now: nothing is left for the guest's kernel to
# initialise in the background, which would write to the overlay at every start.
make_fs() {
  mke2fs -q -F -t ext4 -b 4096 -I 256 -O ^metadata_csum_seed,^orphan_file -m 1 -L "$3" -U "$4" -d "$5" \
    -E "offset=$6,hash_seed=$4,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard" "$1" "$2k"
  settle_times "$1?offset=$6"
}
# settle_times FILESYSTEM: mke2fs copies the times of status change and access, which no build can set; here they get
# the one date, too. Inodes are handed out in ascending order, so the used ones are the first ones.
settle_times() {
  local inodes free
  inodes="$(dumpe2fs -h "$1" 2>/dev/null | sed -n 's/^Inode count: *//p')"
  free="$(dumpe2fs -h "$1" 2>/dev/null | sed -n 's/^Free inodes: *//p')"
  seq 2 $((inodes - free)) | sed "s/.*/sif <&> ctime @$SOURCE_DATE_EPOCH\nsif <&> atime @$SOURCE_DATE_EPOCH/" \
    | debugfs -w -f - "$1" >/dev/null 2>debugfs.log || { cat debugfs.log >&2; exit 1; }
}
make_fs system.raw $((system_bytes / 1024 - 1024)) system "$system_uuid" root 1048576
make_fs user.raw $((user_bytes / 1024)) home "$user_uuid" home 0
