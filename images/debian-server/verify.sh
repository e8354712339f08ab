#!/usr/bin/env bash
# verify.sh DIR: reads DIR/system.raw and DIR/user.raw without mounting them and fails when something is in them that
# machines must not share or that a build leaves behind, or when the file systems are not sound.
set -euo pipefail
dir="${1:?usage: verify.sh DIR}"
PATH="$PATH:/usr/sbin:/sbin"
system="$dir/system.raw?offset=1048576"
failures=0

fail() {
  echo "verify: $*" >&2
  failures=$((failures + 1))
}
ask() { debugfs -R "$1" "$system" 2>/dev/null; }
# Names in a folder (of regular files only, with -f), one a line.
names() { ask "ls -p $1" | awk -F/ -v only="$2" '$6 != "" && $6 != "." && $6 != ".." && (only != "-f" || $3 ~ /^10/) { print $6 }'; }
# All regular files below a folder.
below() {
  local name
  for name in $(names "$1" -f); do echo "$1/$name"; done
  for name in $(ask "ls -p $1" | awk -F/ '$3 ~ /^04/ && $6 != "." && $6 != ".." { print $6 }'); do below "$1/$name"; done
}

ask 'stat /vmlinuz' | grep -q symlink || fail 'no /vmlinuz: is system.raw a system disk?'
ask 'stat /etc/machine-id' | grep -q 'Project:.*Size: 0$' || fail '/etc/machine-id is missing or not empty'
for path in /var/lib/dbus/machine-id /var/lib/systemd/random-seed /etc/apt/apt.conf.d/99mmdebstrap; do
  ! ask "stat $path" | grep -q Inode || fail "$path exists"
done
for path in $(names /etc/ssh -f); do [[ $path != ssh_host_* ]] || fail "SSH host key /etc/ssh/$path"; done
for folder in /var/log /var/lib/apt/lists /var/cache/apt /ephemeral /tmp /var/tmp /root/.ssh; do
  while read -r path; do [[ -z $path ]] || fail "left behind: $path"; done < <(below "$folder")
done
ask 'cat /etc/apt/sources.list' | grep -q '//[^/ ]*@' && fail '/etc/apt/sources.list holds a password'
e2fsck -fn "$system" >/dev/null 2>&1 || fail 'e2fsck finds errors on the system disk'
e2fsck -fn "$dir/user.raw" >/dev/null 2>&1 || fail 'e2fsck finds errors on the user disk'
((failures == 0)) || exit 1
